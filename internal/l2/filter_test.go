package l2

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/netnstest"
)

// A program is a filter in the virtual machine.
type program struct {
	t     testing.TB
	vm    *bpf.VM
	frame []byte
	at    int // where the target is in frame
}

func load(t testing.TB, frame []byte, at int, filter []bpf.Instruction) program {
	t.Helper()
	vm, err := bpf.NewVM(filter)
	if err != nil {
		t.Fatalf("program of %d instructions: %v", len(filter), err)
	}
	return program{t: t, vm: vm, frame: slices.Clone(frame), at: at}
}

// accepts reports whether a request for addr passes.
func (p program) accepts(addr netip.Addr) bool {
	copy(p.frame[p.at:], addr.AsSlice())
	n, err := p.vm.Run(p.frame)
	if err != nil {
		p.t.Fatal(err)
	}
	return n > 0
}

func addr4(w uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], w)
	return netip.AddrFrom4(b)
}

func addr6(network byte, w uint32) netip.Addr {
	b := [16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 7: network}
	binary.BigEndian.PutUint32(b[12:], w)
	return netip.AddrFrom16(b)
}

// words draws addresses as users have them, in ranges, and as they do not.
func words() *rapid.Generator[[]uint32] {
	return rapid.Custom(func(t *rapid.T) []uint32 {
		set := make(map[uint32]bool)
		for range rapid.IntRange(1, 40).Draw(t, "runs") {
			start, n := rapid.Uint32().Draw(t, "start"), rapid.IntRange(1, 60).Draw(t, "length")
			step := rapid.SampledFrom([]uint32{1, 1, 2, 3, 1000}).Draw(t, "step")
			for i := range uint32(n) {
				set[start+i*step] = true
			}
		}
		out := make([]uint32, 0, len(set))
		for w := range set {
			out = append(out, w)
		}
		slices.Sort(out)
		return out
	})
}

func TestFilterARPProperties(t *testing.T) {
	t.Parallel()
	frame := arpFrame{}.bytes(t)
	rapid.Check(t, func(r *rapid.T) {
		owned := words().Draw(r, "owned")
		limit := rapid.SampledFrom([]int{minProgram, 200, 1000, maxProgram}).Draw(r, "limit")
		filter := FilterARP(addrs4(owned), nil, limit)
		if len(filter) > limit {
			r.Fatalf("%d instructions exceed the limit of %d", len(filter), limit)
		}
		checkSearch(r, owned, limit == maxProgram && len(intervals(slices.Clone(owned))) < 1000, func(w uint32) bool {
			return load(t, frame, offARPTarget, filter).accepts(addr4(w))
		})
	})
}

// TestFilterARPWatchesSenders: requests pass by target, and all else, and what is
// not asked for, by sender.
func TestFilterARPWatchesSenders(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		asked := words().Draw(r, "asked")
		var owned []uint32
		for _, w := range asked {
			if rapid.Bool().Draw(r, "owned") {
				owned = append(owned, w)
			}
		}
		limit := rapid.SampledFrom([]int{minProgram, 200, 1000, maxProgram}).Draw(r, "limit")
		filter := FilterARP(addrs4(asked), addrs4(owned), limit)
		if len(filter) > limit {
			r.Fatalf("%d instructions exceed the limit of %d", len(filter), limit)
		}
		exact := limit == maxProgram && len(asked) < 600
		vm, err := bpf.NewVM(filter)
		if err != nil {
			r.Fatal(err)
		}
		frame := arpFrame{}.bytes(t)
		some := rapid.OneOf(rapid.SampledFrom(append(asked, 1)), rapid.Uint32(), rapid.Map(rapid.SampledFrom(asked), func(w uint32) uint32 { return w + 1 }))
		for range 20 {
			op := rapid.SampledFrom([]byte{1, 2, 8}).Draw(r, "operation")
			sender, target := some.Draw(r, "sender"), some.Draw(r, "target")
			frame[offARPOperation+1] = op
			binary.BigEndian.PutUint32(frame[offARPSender:], sender)
			binary.BigEndian.PutUint32(frame[offARPTarget:], target)
			_, isAsked := slices.BinarySearch(asked, target)
			_, isOwned := slices.BinarySearch(owned, sender)
			want := isAsked && op == 1 || isOwned
			n, err := vm.Run(frame)
			if err != nil {
				r.Fatal(err)
			}
			if got := n > 0; got != want && (want || exact) {
				r.Fatalf("operation %d from %s to %s: accepted %t, want %t", op, addr4(sender), addr4(target), got, want)
			}
		}
	})
}

func addrs4(words []uint32) []netip.Addr {
	out := make([]netip.Addr, len(words))
	for i, w := range words {
		out[i] = addr4(w)
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestFilterARPIsExactForAShareOfAPool: what one of several nodes owns of a pool
// is told apart from what the others do, by target and by sender.
func TestFilterARPIsExactForAShareOfAPool(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		pool, asked, owned int // every asked-th, every owned-th
		exact              bool
	}{
		{10000, 1, 1, true},
		{30000, 1, 3, true}, // three nodes, each armed for the two others
		{20000, 2, 2, true},
		{40000, 2, 4, false},
	} {
		r := rand.New(rand.NewPCG(1, uint64(tc.pool)))
		var asked, owned []netip.Addr
		role := make(map[netip.Addr]int)
		for i := range uint32(tc.pool) {
			a := addr4(0x0a000010 + i)
			if r.IntN(tc.asked) == 0 {
				asked = append(asked, a)
				role[a] = 1
				if r.IntN(tc.owned/tc.asked) == 0 {
					owned = append(owned, a)
					role[a] = 2
				}
			}
		}
		filter := FilterARP(asked, owned, maxProgram)
		target := load(t, arpFrame{}.bytes(t), offARPTarget, filter)
		sender := load(t, arpFrame{op: 2}.bytes(t), offARPSender, filter)
		foreign, byTarget, bySender := 0, 0, 0
		for i := range uint32(tc.pool + 100) {
			a := addr4(0x0a000000 + i)
			if got, want := target.accepts(a), role[a] > 0; want && !got || got && !want && tc.exact {
				t.Fatalf("%+v: %s as target: accepted %t, want %t", tc, a, got, want)
			} else if got && !want {
				byTarget++
			}
			if got, want := sender.accepts(a), role[a] > 1; want && !got || got && !want && tc.exact {
				t.Fatalf("%+v: %s as sender: accepted %t, want %t", tc, a, got, want)
			} else if got && !want {
				bySender++
			}
			if role[a] == 0 {
				foreign++
			}
		}
		t.Logf("pool of %d, %d asked for, %d owned: %d instructions, of %d foreign addresses %d pass as target; %d pass as sender",
			tc.pool, len(asked), len(owned), len(filter), foreign, byTarget, bySender)
	}
}

// checkSearch checks which words a filter for owned accepts: all of owned; if
// exact, no other; if not, whole gaps, each smaller than any that is rejected.
func checkSearch(r *rapid.T, owned []uint32, exact bool, accepts func(uint32) bool) {
	for _, w := range owned {
		if !accepts(w) {
			r.Fatalf("owned %s is rejected", addr4(w))
		}
	}
	if lo := owned[0]; lo > 0 && (accepts(lo-1) || accepts(0)) {
		r.Fatalf("accepts below %s", addr4(lo))
	}
	if hi := owned[len(owned)-1]; hi < 1<<32-1 && (accepts(hi+1) || accepts(1<<32-1)) {
		r.Fatalf("accepts above %s", addr4(hi))
	}
	var widest, narrowest uint32 = 0, 1<<32 - 1 // accepted, rejected
	for i := 1; i < len(owned); i++ {
		lo, hi := owned[i-1], owned[i]
		if hi-lo < 2 {
			continue
		}
		got := accepts(lo + 1)
		if accepts(hi-1) != got || accepts(lo+(hi-lo)/2) != got {
			r.Fatalf("the gap after %s is accepted in part", addr4(lo))
		}
		if got {
			widest = max(widest, hi-lo)
		} else {
			narrowest = min(narrowest, hi-lo)
		}
	}
	if exact && widest > 0 {
		r.Fatalf("a foreign address in a gap of %d is accepted", widest)
	}
	if widest > narrowest {
		r.Fatalf("a gap of %d is accepted and one of %d is not", widest, narrowest)
	}
}

func TestFilterNDPProperties(t *testing.T) {
	t.Parallel()
	frame := nsFrame{}.bytes(t)
	rapid.Check(t, func(r *rapid.T) {
		owned := words().Draw(r, "owned")
		networks := rapid.IntRange(1, 30).Draw(r, "networks")
		limit := rapid.SampledFrom([]int{minProgram, 200, 1000, maxProgram}).Draw(r, "limit")
		addrs := make([]netip.Addr, len(owned))
		for i, w := range owned {
			addrs[i] = addr6(byte(i%networks), w)
		}
		filter := FilterNDP(addrs, limit)
		if len(filter) > limit {
			r.Fatalf("%d instructions exceed the limit of %d", len(filter), limit)
		}
		p := load(t, frame, offNSTarget, filter)
		for _, a := range addrs {
			if !p.accepts(a) {
				r.Fatalf("owned %s is rejected", a)
			}
		}
		// At most five instructions for an address, and fifteen for a network.
		if len(addrs)*5+networks*15 < limit {
			for i, a := range addrs {
				if foreign := addr6(byte(i%networks)+100, owned[i]); p.accepts(foreign) {
					r.Fatalf("%s is accepted, which has the last 32 bits of %s", foreign, a)
				}
				if next := a.Next(); !slices.Contains(addrs, next) && p.accepts(next) {
					r.Fatalf("foreign %s is accepted", next)
				}
			}
			return
		}
		// When coarse it is as FilterARP's on the last 32 bits, unless exact.
		if p.accepts(addr6(200, owned[0])) {
			checkSearch(r, owned, false, func(w uint32) bool { return p.accepts(addr6(200, w)) })
		}
	})
}

// TestFilterNDPIsExactForPools: one pool is one network, however many addresses.
func TestFilterNDPIsExactForPools(t *testing.T) {
	t.Parallel()
	var addrs []netip.Addr
	for i := range uint32(10000) {
		addrs = append(addrs, addr6(1, 0x1000+i))
	}
	p := load(t, nsFrame{}.bytes(t), offNSTarget, FilterNDP(addrs, maxProgram))
	for _, a := range addrs {
		if !p.accepts(a) {
			t.Fatalf("owned %s is rejected", a)
		}
	}
	for _, a := range []netip.Addr{addr6(1, 0xfff), addr6(1, 0x1000+10000), addr6(2, 0x1000), ip("2001:db8::10")} {
		if p.accepts(a) {
			t.Errorf("foreign %s is accepted", a)
		}
	}
}

func TestFiltersRejectOtherPackets(t *testing.T) {
	t.Parallel()
	addrs := []netip.Addr{ip("192.0.2.10"), ip("2001:db8::10")}
	arpFilter, armedFilter := FilterARP(addrs, addrs, maxProgram), FilterARP(addrs, nil, maxProgram)
	ownFilter := FilterARP(nil, addrs, maxProgram)
	ndpFilter := FilterNDP([]netip.Addr{ip("192.0.2.10"), ip("2001:db8::10")}, maxProgram)
	request, solicitation := arpFrame{}.bytes(t), nsFrame{}.bytes(t)
	claim := arpFrame{sender: ip("192.0.2.10"), target: ip("192.0.2.99")}.bytes(t)
	patch := func(frame []byte, off int, value byte) []byte {
		frame = slices.Clone(frame)
		frame[off] = value
		return frame
	}
	for _, tc := range []struct {
		name   string
		filter []bpf.Instruction
		frame  []byte
		want   bool
	}{
		{"ARP request", arpFilter, request, true},
		{"ARP reply to an address of ours", arpFilter, patch(request, 21, 2), false},
		{"ARP request by an address of ours", arpFilter, claim, true},
		{"ARP reply by an address of ours", arpFilter, patch(claim, 21, 2), true},
		{"inverse ARP by an address of ours", arpFilter, patch(claim, 21, 8), true},
		{"ARP request, armed", armedFilter, request, true},
		{"ARP request by an address that is armed", armedFilter, claim, false},
		{"ARP reply by an address that is armed", armedFilter, patch(claim, 21, 2), false},
		{"ARP request, watching only", ownFilter, request, false},
		{"ARP request by an address of ours, watching only", ownFilter, claim, true},
		{"claim with other lengths", arpFilter, patch(claim, 19, 16), false},
		{"claim of another protocol", arpFilter, patch(claim, 16, 0x86), false},
		{"claim cut short", arpFilter, claim[:31], false},
		{"ARP of another protocol", arpFilter, patch(request, 16, 0x86), false},
		{"ARP with other lengths", arpFilter, patch(request, 19, 16), false},
		{"ARP cut short", arpFilter, request[:41], false},
		{"nothing owned", FilterARP(nil, nil, maxProgram), request, false},
		{"solicitation", ndpFilter, solicitation, true},
		{"advertisement", ndpFilter, patch(solicitation, 54, 136), true},
		{"redirect", ndpFilter, patch(solicitation, 54, 137), false},
		{"solicitation with a code", ndpFilter, patch(solicitation, 55, 1), false},
		{"solicitation from beyond the link", ndpFilter, patch(solicitation, 21, 254), false},
		{"UDP", ndpFilter, patch(solicitation, 20, 17), false},
		{"solicitation cut short", ndpFilter, solicitation[:77], false},
		{"nothing owned, NDP", FilterNDP(nil, maxProgram), solicitation, false},
	} {
		vm, err := bpf.NewVM(tc.filter)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := vm.Run(tc.frame); err != nil || (n > 0) != tc.want {
			t.Errorf("%s: accepted %t, want %t (%v)", tc.name, n > 0, tc.want, err)
		}
	}
}

// scattered returns n addresses with gaps between all of them, the worst case.
func scattered(proto Protocol, n int) []netip.Addr {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	seen := make(map[netip.Addr]bool)
	var out []netip.Addr
	for len(out) < n {
		a := addr4(r.Uint32() &^ 1)
		if proto == NDP {
			a = addr6(byte(r.Uint32()), r.Uint32()&^1)
		}
		if !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out
}

// TestKernelAcceptsFilters swaps programs on one socket, since the kernel charges
// the old and the new at once.
func TestKernelAcceptsFilters(t *testing.T) {
	t.Parallel()
	ns := netnstest.New(t)
	link := netif.Link{Index: 1, Name: "lo"}
	for _, proto := range []Protocol{ARP, NDP} {
		ns.MustDo(func() error {
			conn, err := PacketWire{}.Open(link, proto, filterFor(proto, nil, nil, maxProgram))
			if err != nil {
				return err
			}
			p := &port{key: portKey{"lo", proto}, conn: conn, limit: maxProgram}
			for _, n := range []int{1, 1000, 20000, 20000, 1000, 20000} {
				p.held = make(map[netip.Addr]role)
				for _, a := range scattered(proto, n) {
					p.held[a] = owner
				}
				if err := p.setFilter(); err != nil {
					return fmt.Errorf("%s, %d addresses: %w", proto, n, err)
				}
			}
			t.Logf("%s: 20,000 scattered addresses with at most %d instructions", proto, p.limit)
			return conn.Close()
		})
	}
}

func TestFilterShrinksToWhatTheSocketTakes(t *testing.T) {
	t.Parallel()
	w := &FakeWire{FilterLimit: 500}
	conn, err := w.Open(testLink(2, "eth0"), ARP, FilterARP(nil, nil, maxProgram))
	if err != nil {
		t.Fatal(err)
	}
	p := &port{key: portKey{"eth0", ARP}, conn: conn, limit: maxProgram, held: make(map[netip.Addr]role)}
	for _, a := range scattered(ARP, 3000) {
		p.held[a] = owner
	}
	if err := p.setFilter(); err != nil {
		t.Fatal(err)
	}
	for a := range p.held {
		if !w.Deliver("eth0", arpFrame{target: a}.bytes(t)) {
			t.Fatalf("owned %s is rejected", a)
		}
	}
}

func BenchmarkFilter(b *testing.B) {
	for _, proto := range []Protocol{ARP, NDP} {
		for _, n := range []int{1, 1000, 10000} {
			addrs := scattered(proto, n)
			b.Run(fmt.Sprintf("%s/%d", proto, n), func(b *testing.B) {
				for b.Loop() {
					filterFor(proto, addrs, addrs, maxProgram)
				}
			})
		}
	}
}
