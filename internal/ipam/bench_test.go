package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// The allocator must cost the same whatever the size and the fill of a pool; the first-fit scan beside it, which is what
// comes to mind first, shows what that is worth.

func benchOwner(i int) Owner { return Owner{Namespace: "bench", Name: fmt.Sprintf("service-%07d", i)} }

func benchPool(b testing.TB, name string, ranges ...string) Pool {
	p := Pool{Name: name}
	for _, s := range ranges {
		r, err := ParseRange(s)
		if err != nil {
			b.Fatal(err)
		}
		p.Ranges = append(p.Ranges, r)
	}
	return p
}

func benchAllocator(b testing.TB, pools ...Pool) *Allocator {
	a := New()
	if _, err := a.SetPools(pools); err != nil {
		b.Fatal(err)
	}
	return a
}

// pooled is a pool in some state, and how to ask for one of its addresses.
type pooled struct {
	name   string
	prefix string
	// fill is how many addresses are assigned; of them holes are released again, picked at random.
	fill, holes int
}

var benchPools = []pooled{
	{name: "empty24", prefix: "10.0.0.0/24"},
	{name: "2^20_99%full", prefix: "10.0.0.0/12", fill: 1 << 20, holes: 1 << 20 / 100},
	{name: "2^20_full_but_1", prefix: "10.0.0.0/12", fill: 1<<20 - 1},
	{name: "empty64", prefix: "2001:db8::/64"},
	{name: "64_with_100000", prefix: "2001:db8::/64", fill: 100_000, holes: 1000},
}

func (p pooled) request() Request {
	return Request{
		Families: []Family{FamilyOf(netip.MustParsePrefix(p.prefix).Addr())},
		Pools:    []string{"pool"},
	}
}

// survivors returns the numbers of the owners that have an address once the holes are made.
func (p pooled) survivors() (released, left []int) {
	order := rand.New(rand.NewPCG(1, 2)).Perm(p.fill)
	return order[:p.holes], order[p.holes:]
}

func (p pooled) allocator(b *testing.B) (*Allocator, []int) {
	a := benchAllocator(b, benchPool(b, "pool", p.prefix))
	req := p.request()
	for i := range p.fill {
		req.Owner = benchOwner(i)
		if _, err := a.Allocate(req); err != nil {
			b.Fatal(err)
		}
	}
	released, left := p.survivors()
	for _, i := range released {
		a.Release(benchOwner(i))
	}
	runtime.GC() // of what the preparation left, not of what is measured
	return a, left
}

// BenchmarkAllocateRelease is one Allocate and one Release of a new Service.
func BenchmarkAllocateRelease(b *testing.B) {
	for _, p := range benchPools {
		b.Run("pool="+p.name, func(b *testing.B) {
			a, _ := p.allocator(b)
			req := p.request()
			req.Owner = Owner{"bench", "new"}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Allocate(req); err != nil {
					b.Fatal(err)
				}
				a.Release(req.Owner)
			}
		})
	}
}

// BenchmarkChurn is one Release of a Service picked at random and one Allocate of another: what is touched is in no
// processor cache.
func BenchmarkChurn(b *testing.B) {
	for _, p := range []pooled{
		{name: "24_half_full", prefix: "10.0.0.0/24", fill: 128},
		benchPools[1], benchPools[4],
	} {
		b.Run("pool="+p.name, func(b *testing.B) {
			a, left := p.allocator(b)
			owners := make([]Owner, len(left))
			for i, n := range left {
				owners[i] = benchOwner(n)
			}
			req := p.request()
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				req.Owner = owners[i%len(owners)]
				a.Release(req.Owner)
				if _, err := a.Allocate(req); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

// BenchmarkAllocateAgain is what the controller does for every Service that has not changed.
func BenchmarkAllocateAgain(b *testing.B) {
	a, left := benchPools[4].allocator(b)
	req := benchPools[4].request()
	req.Owner = benchOwner(left[0])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Allocate(req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkShared is one Allocate and one Release of a Service whose key 10,000 others have. They use one of two ports, so
// they have 5,000 addresses between them on which no third fits, beside which the last has a free port.
func BenchmarkShared(b *testing.B) {
	for _, port := range []uint16{80, 443, 8080} {
		b.Run(fmt.Sprintf("others=10000/port=%d", port), func(b *testing.B) {
			a := benchAllocator(b, benchPool(b, "pool", "10.0.0.0/12"))
			req := Request{Families: []Family{IPv4}, Pools: []string{"pool"}}
			for i := range 10_001 {
				req.Owner = benchOwner(i)
				req.Sharing = &Sharing{Key: "k", Ports: []Port{{TCP, []uint16{80, 443}[i%2]}}}
				if _, err := a.Allocate(req); err != nil {
					b.Fatal(err)
				}
			}
			req.Owner, req.Sharing = Owner{"bench", "new"}, &Sharing{Key: "k", Ports: []Port{{TCP, port}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Allocate(req); err != nil {
					b.Fatal(err)
				}
				a.Release(req.Owner)
			}
		})
	}
}

// crowded is a pool of 2^20 addresses half of which are assigned, with a quota, 10,000 reservations (one in four is for the
// namespace of the benchmark) and 100,000 resting addresses; or, to compare, the same without all that.
func crowded(b *testing.B, really bool) (*Allocator, []Owner) {
	pool := benchPool(b, "pool", "10.0.0.0/12")
	if really {
		pool.ReuseDelay, pool.Quota = time.Hour, Quota{Addresses: 1 << 20, Services: 1 << 20}
	}
	a := benchAllocator(b, pool)
	a.Expire(time.Unix(0, 0))
	if really {
		a.SetReservations(manyReservations(10_000))
	}
	req := Request{Families: []Family{IPv4}, Pools: []string{"pool"}}
	owners := make([]Owner, 1<<19)
	for i := range owners {
		owners[i] = benchOwner(i)
		req.Owner = owners[i]
		if _, err := a.Allocate(req); err != nil {
			b.Fatal(err)
		}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(owners), func(i, j int) { owners[i], owners[j] = owners[j], owners[i] })
	for i, o := range owners[:100_000] {
		a.Expire(time.Unix(0, 0).Add(time.Duration(i) * time.Millisecond))
		a.Release(o)
	}
	runtime.GC()
	return a, owners[100_000:]
}

// manyReservations hold every eighth block of 8 addresses of 10.0.0.0/12.
func manyReservations(n int) []Reservation {
	out := make([]Reservation, n)
	for i := range out {
		from := number(netip.MustParseAddr("10.0.0.0")).add(u128{lo: uint64(i) * 64})
		out[i] = Reservation{
			Name: fmt.Sprintf("reservation-%05d", i), Namespace: fmt.Sprintf("tenant-%04d", i%1000), Service: fmt.Sprintf("service-%05d", i),
			Addresses: []Range{{address(IPv4, from), address(IPv4, from.add(u128{lo: 7}))}},
		}
		if i%4 == 0 {
			out[i].Namespace, out[i].Service = "bench", ""
		}
	}
	return out
}

// BenchmarkCrowded is BenchmarkAllocateRelease and BenchmarkChurn beside reservations, rests and a quota, and without them:
// a Service gets an address (again and again the one that rests for it); and one picked at random gives up its address for
// good, another rest ends, and a new Service gets an address.
func BenchmarkCrowded(b *testing.B) {
	for _, really := range []bool{false, true} {
		name := map[bool]string{false: "nothing", true: "all"}[really]
		b.Run("beside="+name+"/allocate+release", func(b *testing.B) {
			a, _ := crowded(b, really)
			req := Request{Owner: Owner{"bench", "new"}, Families: []Family{IPv4}, Pools: []string{"pool"}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Allocate(req); err != nil {
					b.Fatal(err)
				}
				a.Release(req.Owner)
			}
		})
		b.Run("beside="+name+"/churn", func(b *testing.B) { churnCrowded(b, really) })
	}
}

func churnCrowded(b *testing.B, really bool) {
	a, owners := crowded(b, really)
	req := Request{Families: []Family{IPv4}, Pools: []string{"pool"}}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		old := owners[i%len(owners)]
		a.Release(old)
		next, _ := a.NextExpiry()
		a.Expire(next)
		req.Owner = Owner{"churn", old.Name}
		if i/len(owners)%2 == 1 {
			req.Owner.Namespace = "bench"
		}
		owners[i%len(owners)] = req.Owner
		if _, err := a.Allocate(req); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkSetReservations sets 10,000 reservations of which one changes each time, and a /64 that comes and goes.
func BenchmarkSetReservations(b *testing.B) {
	b.Run("one-of-10000", func(b *testing.B) {
		a, _ := crowded(b, true)
		many := manyReservations(10_000)
		for i := 0; b.Loop(); i++ {
			a.SetReservations(many[:len(many)-i%2])
		}
	})
	b.Run("64", func(b *testing.B) {
		a, _ := benchPools[4].allocator(b)
		free := mustRange(b, "2001:db8::1:0:0:0-2001:db8::ffff:ffff:ffff:ffff")
		one := []Reservation{{Name: "half", Namespace: "x", Addresses: []Range{free}}}
		for i := 0; b.Loop(); i++ {
			a.SetReservations(one[:i%2])
		}
	})
}

// firstFit is the straightforward allocator: it walks the range from its first address until one is free.
type firstFit struct {
	from   Range
	holder map[netip.Addr]Owner
	addrs  map[Owner]netip.Addr
}

func (f *firstFit) allocate(o Owner) bool {
	for a := f.from.From; a.Compare(f.from.To) <= 0; a = a.Next() {
		if _, used := f.holder[a]; !used {
			f.holder[a], f.addrs[o] = o, a
			return true
		}
	}
	return false
}

func (f *firstFit) release(o Owner) {
	delete(f.holder, f.addrs[o])
	delete(f.addrs, o)
}

// BenchmarkFirstFit is BenchmarkAllocateRelease on the straightforward allocator. Random holes are kind to it, as the
// first is met soon; a pool with only its last address free is not.
func BenchmarkFirstFit(b *testing.B) {
	for _, p := range benchPools {
		b.Run("pool="+p.name, func(b *testing.B) {
			f := &firstFit{from: benchPool(b, "", p.prefix).Ranges[0], holder: map[netip.Addr]Owner{}, addrs: map[Owner]netip.Addr{}}
			addr := f.from.From
			for i := range p.fill {
				f.holder[addr], f.addrs[benchOwner(i)] = benchOwner(i), addr
				addr = addr.Next()
			}
			released, _ := p.survivors()
			for _, i := range released {
				f.release(benchOwner(i))
			}
			owner := Owner{"bench", "new"}
			b.ReportAllocs()
			for b.Loop() {
				if !f.allocate(owner) {
					b.Fatal("no address")
				}
				f.release(owner)
			}
		})
	}
}

// BenchmarkMemory reports what 100,000 Services take, with their names.
func BenchmarkMemory(b *testing.B) {
	for _, kind := range []string{"unshared", "dual-stack", "pairs", "own-key"} {
		b.Run("services=100000/"+kind, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				a := benchAllocator(b, benchPool(b, "pool", "10.0.0.0/12", "2001:db8::/64"))
				fillAllocator(b, a, kind, 100_000)
				b.ReportMetric(float64(heap()-before)/1e6, "MB")
				runtime.KeepAlive(a)
			}
		})
	}
}

func fillAllocator(b *testing.B, a *Allocator, kind string, n int) {
	for i := range n {
		req := Request{Owner: benchOwner(i), Families: []Family{IPv4}, Pools: []string{"pool"}}
		switch kind {
		case "pairs": // two Services on each address
			req.Sharing = &Sharing{Key: fmt.Sprintf("key-%06d", i/2), Ports: []Port{{TCP, uint16(i%2 + 1)}, {UDP, uint16(i%2 + 1)}}}
		case "own-key": // each is ready to share, but has nobody to share with
			req.Sharing = &Sharing{Key: fmt.Sprintf("key-%06d", i), Ports: []Port{{TCP, 80}, {UDP, 80}}}
		case "dual-stack":
			req.Families = []Family{IPv4, IPv6}
		}
		if _, err := a.Allocate(req); err != nil {
			b.Fatal(err)
		}
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkSetPools edits the pool that all of 100,000 allocations are in, another one, and nothing.
func BenchmarkSetPools(b *testing.B) {
	big, grown := benchPool(b, "pool", "10.0.0.0/12"), benchPool(b, "pool", "10.0.0.0/12", "10.32.0.0/24")
	other, edited := benchPool(b, "other", "10.64.0.0/24"), benchPool(b, "other", "10.65.0.0/24")
	for _, c := range []struct {
		name string
		even []Pool
		odd  []Pool
	}{
		{"full", []Pool{big, other}, []Pool{grown, other}},
		{"other", []Pool{big, other}, []Pool{big, edited}},
		{"none", []Pool{big, other}, []Pool{big, other}},
	} {
		b.Run("services=100000/edit="+c.name, func(b *testing.B) {
			a := benchAllocator(b, big, other)
			fillAllocator(b, a, "unshared", 100_000)
			for i := 0; b.Loop(); i++ {
				pools := c.even
				if i%2 == 0 {
					pools = c.odd
				}
				if _, err := a.SetPools(pools); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRestore restores Services in random order into a new allocator.
func BenchmarkRestore(b *testing.B) {
	for _, n := range []int{5_000, 100_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			pool := benchPool(b, "pool", "10.0.0.0/12")
			owners, addrs := make([]Owner, n), make([][]netip.Addr, n)
			for k, i := range rand.New(rand.NewPCG(3, 4)).Perm(n) {
				owners[k] = benchOwner(i)
				addrs[k] = []netip.Addr{address(IPv4, number(pool.Ranges[0].From).add(u128{lo: uint64(i)}))}
			}
			b.ReportAllocs()
			for b.Loop() {
				a := benchAllocator(b, pool)
				for i, o := range owners {
					if err := a.Restore(o, addrs[i], nil); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
