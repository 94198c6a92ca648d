package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// The universe is small, so that everything collides with everything: eight blocks of three addresses per family, of which
// each belongs to one of three pools or to none.
const blocks, blockSize = 8, 3

var poolNames = []string{"a", "b", "c"}

func universe(f Family, i int) netip.Addr {
	from := netip.MustParseAddr("10.0.0.0")
	if f == IPv6 {
		from = netip.MustParseAddr("fd00::")
	}
	return address(f, number(from).add(u128{lo: uint64(i)}))
}

func drawPools(t *rapid.T) []Pool {
	n := rapid.IntRange(0, len(poolNames)).Draw(t, "pools")
	pools := make([]Pool, n)
	for i := range pools {
		pools[i] = drawPool(t, poolNames[i])
	}
	if n == 0 {
		return nil
	}
	for _, f := range families {
		for b := range blocks {
			p := rapid.IntRange(-1, n-1).Draw(t, fmt.Sprintf("%s block %d", f, b))
			if p < 0 {
				continue
			}
			from := b * blockSize
			pools[p].Ranges = append(pools[p].Ranges, Range{universe(f, from), universe(f, from+blockSize-1)})
			if rapid.IntRange(0, 9).Draw(t, "repeat") == 0 {
				pools[p].Ranges = append(pools[p].Ranges, Range{universe(f, from+1), universe(f, from+blockSize-1)})
			}
		}
	}
	for i := range pools {
		if len(pools[i].Ranges) > 1 {
			pools[i].Ranges = rapid.Permutation(pools[i].Ranges).Draw(t, "order")
		}
	}
	return rapid.Permutation(pools).Draw(t, "pool order")
}

func drawPool(t *rapid.T, name string) Pool {
	return Pool{
		Name:                  name,
		ShareAcrossNamespaces: rapid.IntRange(0, 3).Draw(t, "across") == 0,
		Disabled:              rapid.IntRange(0, 5).Draw(t, "disabled") == 5,
		ReuseDelay:            rapid.SampledFrom([]time.Duration{0, 0, 2 * time.Second, 5 * time.Second}).Draw(t, "delay"),
		Quota: Quota{
			Addresses: rapid.SampledFrom([]int{0, 0, 0, 1, 2, 4}).Draw(t, "quota of addresses"),
			Services:  rapid.SampledFrom([]int{0, 0, 0, 1, 2, 4}).Draw(t, "quota of Services"),
		},
	}
}

func drawOwner(t *rapid.T) Owner {
	return Owner{rapid.SampledFrom([]string{"red", "blue"}).Draw(t, "namespace"), rapid.StringMatching("[a-h]").Draw(t, "name")}
}

func drawSharing(t *rapid.T) *Sharing {
	if rapid.IntRange(0, 2).Draw(t, "unshared") == 0 {
		return nil
	}
	return (&Sharing{
		Key:     rapid.SampledFrom([]string{"k", "k", "l"}).Draw(t, "key"),
		Backend: rapid.SampledFrom([]string{"", "", "app=x"}).Draw(t, "backend"),
		Ports: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Port {
			return Port{rapid.SampledFrom([]Protocol{TCP, UDP}).Draw(t, "protocol"), rapid.Uint16Range(1, 3).Draw(t, "port")}
		}), 1, 2).Draw(t, "ports"),
		AcrossNamespaces: rapid.Bool().Draw(t, "across"),
	}).normalized()
}

func drawRequest(t *rapid.T) Request {
	req := Request{
		Owner:    drawOwner(t),
		Families: rapid.SampledFrom([][]Family{{IPv4}, {IPv6}, {IPv4, IPv6}, {IPv6, IPv4}}).Draw(t, "families"),
		Sharing:  drawSharing(t),
		Named:    rapid.IntRange(0, 2).Draw(t, "named") == 0,
		Renew:    rapid.IntRange(0, 5).Draw(t, "renew") == 5,
	}
	if len(req.Families) == 2 {
		req.Partial = rapid.Bool().Draw(t, "partial")
	}
	req.Pools = rapid.Permutation(poolNames).Draw(t, "pools")[:rapid.IntRange(0, 3).Draw(t, "how many")]
	if rapid.IntRange(0, 3).Draw(t, "asks") == 0 {
		req.Addresses = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Addr {
			return universe(rapid.SampledFrom(req.Families).Draw(t, "family"), rapid.IntRange(0, blocks*blockSize-1).Draw(t, "address"))
		}), 1, 3).Draw(t, "addresses")
	}
	return req
}

// machine runs the allocator and the model side by side.
type machine struct {
	real  *Allocator
	model *model
	// met is the last request of each owner that was met.
	met map[Owner]Request
}

func TestAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{real: New(), model: newModel(), met: map[Owner]Request{}}
		m.setPools(t)
		t.Repeat(map[string]func(*rapid.T){
			"":         m.check,
			"allocate": m.allocate,
			"again":    m.again,
			"release":  m.release,
			"pools":    m.setPools,
			"restart":  m.restart,

			"reservations": m.setReservations,
			"time":         m.passTime,
			"quarantine":   m.setQuarantine,
			"replace":      m.replace,
		})
	})
}

func (m *machine) allocate(t *rapid.T) { m.apply(t, drawRequest(t)) }

func (m *machine) apply(t *rapid.T, req Request) Result {
	before := m.holdings()
	wantAddrs, wantMissing, wantKind := m.model.allocate(req)
	res, err := m.real.Allocate(req)
	if kind := kindOf(err); kind != wantKind {
		t.Fatalf("Allocate(%+v): error %q (%v), want %q", req, kind, err, wantKind)
	}
	if d := cmp.Diff(wantAddrs, plain(res.Addresses), cmpAddr, cmp.Transformer("empty", emptyAsNil)); d != "" {
		t.Fatalf("Allocate(%+v): addresses (-want +got):\n%s", req, d)
	}
	if (res.Missing != nil) != wantMissing {
		t.Fatalf("Allocate(%+v): missing %v, want %v", req, res.Missing, wantMissing)
	}
	m.checkMoves(t, req, before, res, err)
	if err == nil {
		req.Renew = false
		m.met[req.Owner] = req
	}
	return res
}

// checkMoves holds the rule that no address moves by surprise, without recourse to the model.
func (m *machine) checkMoves(t *rapid.T, req Request, before map[Owner][]netip.Addr, res Result, err error) {
	after := m.holdings()
	mine, now := before[req.Owner], after[req.Owner]
	delete(before, req.Owner)
	delete(after, req.Owner)
	if d := cmp.Diff(before, after, cmpAddr); d != "" {
		t.Fatalf("Allocate(%+v) touched others:\n%s", req, d)
	}
	for _, a := range mine {
		wanted := slices.Contains(req.Families, FamilyOf(a))
		if (err != nil || wanted && req.Addresses == nil && !req.Named && !req.Renew) && !slices.Contains(now, a) {
			t.Fatalf("Allocate(%+v) took %s away (error %v)", req, a, err)
		}
		if slices.Contains(now, a) == slices.Contains(res.Released, a) {
			t.Fatalf("Allocate(%+v): %s is held %v and released %v", req, a, slices.Contains(now, a), slices.Contains(res.Released, a))
		}
	}
}

// again repeats a request: nothing may change.
func (m *machine) again(t *rapid.T) {
	req := drawRequest(t)
	req.Renew = false
	first := m.apply(t, req)
	again := m.apply(t, req)
	if !slices.Equal(first.Addresses, again.Addresses) || again.Freed {
		t.Fatalf("Allocate(%+v) gave %+v, then %+v", req, first, again)
	}
}

func (m *machine) release(t *rapid.T) {
	o := drawOwner(t)
	var want []netip.Addr
	if mo := m.model.owners[o]; mo != nil {
		want = mo.addrs
	}
	m.model.release(o)
	if got := m.real.Release(o); !slices.Equal(got, want) {
		t.Fatalf("Release(%s) = %v, want %v", o, got, want)
	}
}

func (m *machine) setPools(t *rapid.T) {
	before := m.holdings()
	attribution := m.attribution()
	m.model.pools = drawPools(t)
	m.model.note()
	m.model.endRests()
	moved, err := m.real.SetPools(m.model.pools)
	if err != nil {
		t.Fatalf("SetPools: %v", err)
	}
	if d := cmp.Diff(before, m.holdings(), cmpAddr); d != "" {
		t.Fatalf("SetPools moved addresses:\n%s", d)
	}
	var want []Owner
	for o, pools := range m.attribution() {
		if !slices.Equal(pools, attribution[o]) {
			want = append(want, o)
		}
	}
	slices.SortFunc(want, Owner.Compare)
	if !slices.Equal(moved, want) {
		t.Fatalf("SetPools reports %v, want %v", moved, want)
	}
}

// setReservations and what comes of it. Nobody loses an address.
func (m *machine) setReservations(t *rapid.T) {
	before := m.holdings()
	m.model.reservations = drawReservations(t)
	m.mustSetReservations(t)
	if d := cmp.Diff(before, m.holdings(), cmpAddr); d != "" {
		t.Fatalf("SetReservations moved addresses:\n%s", d)
	}
	again, changed := m.real.SetReservations(m.model.reservations)
	if changed {
		t.Fatalf("the same reservations make a difference: %+v", again)
	}
}

func (m *machine) mustSetReservations(t *rapid.T) {
	want := m.model.setReservations()
	got, _ := m.real.SetReservations(m.model.reservations)
	for i, g := range got {
		w := want[i]
		if g.Name != w.name || kindOf(g.Err) != w.kind || !slices.Equal(listed(g.Held), w.held) {
			t.Fatalf("reservation %+v: got %+v, want %+v", m.model.reservations[i], g, w)
		}
	}
}

func (m *machine) passTime(t *rapid.T) {
	m.model.now = m.model.now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second)
	want := m.model.endRests()
	if got := m.real.Expire(m.model.now); got != want {
		t.Fatalf("Expire(%v) = %v, want %v", m.model.now, got, want)
	}
}

// restart makes a new allocator of what the API server would still know, in any order.
func (m *machine) restart(t *rapid.T) {
	before := m.holdings()
	m.real = New()
	m.real.Expire(m.model.now)
	m.model.from = map[netip.Addr]string{}
	m.model.note()
	owners := slices.SortedFunc(maps.Keys(m.model.owners), Owner.Compare)
	if len(owners) > 1 {
		owners = rapid.Permutation(owners).Draw(t, "order")
	}
	restoreOwners := func() {
		for _, o := range owners {
			mo := m.model.owners[o]
			mo.named, mo.restored = nil, true
			if err := m.real.Restore(o, mo.addrs, mo.sharing); err != nil {
				t.Fatalf("Restore(%s, %v): %v", o, mo.addrs, err)
			}
		}
	}
	restoreRests := func() {
		m.mustSetPools(t)
		for _, r := range m.model.rests {
			if !m.real.RestoreRest(r.Owner, r.Address, r.Since) {
				t.Fatalf("RestoreRest(%+v) failed", r)
			}
		}
	}
	reserve := func() {
		for i := range m.model.reservations {
			m.model.reservations[i].Held = m.model.counted[m.model.reservations[i].Name].held
		}
		m.real.SetReservations(m.model.reservations)
	}
	steps := []func(){restoreOwners, restoreRests, func() { m.real.SetQuarantine(m.model.quarantine) }}
	if !m.counts() { // what a count takes depends on what is assigned and rests
		steps = append(steps, reserve)
	}
	for _, step := range rapid.Permutation(steps).Draw(t, "steps") {
		step()
	}
	reserve()
	m.model.counted = nil
	m.mustSetReservations(t)
	if d := cmp.Diff(before, m.holdings(), cmpAddr); d != "" {
		t.Fatalf("restart moved addresses:\n%s", d)
	}
}

func (m *machine) counts() bool {
	return slices.ContainsFunc(m.model.reservations, func(r Reservation) bool { return r.Count > 0 })
}

func (m *machine) mustSetPools(t *rapid.T) {
	if _, err := m.real.SetPools(m.model.pools); err != nil {
		t.Fatalf("SetPools: %v", err)
	}
}

func (m *machine) holdings() map[Owner][]netip.Addr {
	out := map[Owner][]netip.Addr{}
	for o, assigned := range m.real.All() {
		out[o] = plain(assigned)
	}
	return out
}

func (m *machine) attribution() map[Owner][]string {
	out := map[Owner][]string{}
	for o, assigned := range m.real.All() {
		for _, a := range assigned {
			out[o] = append(out[o], a.Pool)
		}
	}
	return out
}

// check holds what must be true at all times.
func (m *machine) check(t *rapid.T) {
	want := map[Owner][]netip.Addr{}
	for o, mo := range m.model.owners {
		want[o] = mo.addrs
		if d := cmp.Diff(mo.sharing, m.real.SharingOf(o)); d != "" {
			t.Fatalf("sharing of %s (-want +got):\n%s", o, d)
		}
	}
	if d := cmp.Diff(want, m.holdings(), cmpAddr); d != "" {
		t.Fatalf("holdings (-want +got):\n%s", d)
	}
	m.checkExclusive(t)
	m.checkPools(t)
	m.checkOutOfPool(t)
	checkInside(t, m.real)
}

// checkExclusive: no address is given to two owners that may not share it.
func (m *machine) checkExclusive(t *rapid.T) {
	for x, mx := range m.model.owners {
		for y, my := range m.model.owners {
			for _, a := range mx.addrs {
				if x != y && slices.Contains(my.addrs, a) && !compatible(m.real.SharingOf(x), m.real.SharingOf(y)) {
					t.Fatalf("%s is given to %s and %s", a, x, y)
				}
			}
		}
		for _, a := range mx.addrs {
			if !slices.Contains(m.real.Owners(a), x) {
				t.Fatalf("Owners(%s) = %v, without %s", a, m.real.Owners(a), x)
			}
		}
	}
}

// checkPools: statistics add up, and what is free and what is not together are the pool.
func (m *machine) checkPools(t *rapid.T) {
	for i, st := range m.real.Stats() {
		p := m.model.pools[i]
		if one, ok := m.real.StatsOf(p.Name); !ok || one != st || st.Pool != p.Name {
			t.Fatalf("StatsOf(%s) = %+v, %v; Stats has %+v", p.Name, one, ok, st)
		}
		for f, got := range map[Family]FamilyStats{IPv4: st.IPv4, IPv6: st.IPv6} {
			m.checkFamily(t, p, f, got)
		}
	}
}

func (m *machine) checkFamily(t *rapid.T, p Pool, f Family, got FamilyStats) {
	want := FamilyStats{OutOfPool: got.OutOfPool}
	free := map[Owner][]netip.Addr{}
	for _, a := range addresses(p, f) {
		want.Total = want.Total.plus(CountOf(1))
		r, rests := m.model.restOf(a)
		who, reserved := m.model.reservedFor(a)
		switch {
		case len(m.model.holders(a, Owner{})) > 0:
			want.Assigned++
		case slices.Contains(m.model.quarantine, a) && !rests:
			want.Quarantined++
		case reserved:
			want.Reserved = want.Reserved.plus(CountOf(1))
		case rests:
			want.Resting++
		default:
			want.Available = want.Available.plus(CountOf(1))
		}
		if m.model.free(a) {
			free[who] = append(free[who], a)
		}
		if name, ok := m.real.PoolOf(a); !ok || name != p.Name {
			t.Fatalf("PoolOf(%s) = %q, want %q", a, name, p.Name)
		}
		if rests && len(m.model.holders(a, Owner{})) > 0 {
			t.Fatalf("%s rests for %s and is assigned", a, r.Owner)
		}
	}
	if got != want {
		t.Fatalf("stats of pool %s %s are %+v, want %+v", p.Name, f, got, want)
	}
	sp := m.real.pools[p.Name].space(f)
	inFree := map[Owner][]netip.Addr{}
	if sp.free != nil && sp.free.tree.Len() > 0 {
		inFree[Owner{}] = freeAddresses(t, sp, sp.free, f)
	}
	for who, set := range sp.reserved {
		inFree[who] = freeAddresses(t, sp, set, f)
	}
	if d := cmp.Diff(free, inFree, cmpAddr); d != "" {
		t.Fatalf("what is free of pool %s (-want +got):\n%s", p.Name, d)
	}
}

func (m *machine) checkOutOfPool(t *rapid.T) {
	out := map[netip.Addr]bool{}
	for o, assigned := range m.real.All() {
		for _, a := range assigned {
			if a.Pool != m.model.poolOf(a.Address) {
				t.Fatalf("%s of %s is attributed to pool %q, want %q", a.Address, o, a.Pool, m.model.poolOf(a.Address))
			}
			if a.Pool == "" {
				out[a.Address] = true
			}
		}
	}
	got := m.real.OutOfPool(IPv4) + m.real.OutOfPool(IPv6)
	if got != len(out) {
		t.Fatalf("%d addresses out of pool, want %v", got, out)
	}
	var byPool int
	for _, p := range m.real.pools {
		byPool += p.spaces[0].outOfPool + p.spaces[1].outOfPool
	}
	if byPool > got {
		t.Fatalf("pools count %d addresses out of pool, of %d", byPool, got)
	}
	for _, o := range m.real.OutOfPoolAddresses() {
		if !out[o.Address] || !slices.Equal(o.Owners, m.real.Owners(o.Address)) {
			t.Fatalf("%+v is listed as out of pool", o)
		}
		delete(out, o.Address)
	}
	if len(out) > 0 {
		t.Fatalf("not listed as out of pool: %v", out)
	}
}

// listed lists the addresses of ranges.
func listed(ranges []Range) []netip.Addr {
	var out []netip.Addr
	for _, f := range families {
		out = append(out, addresses(Pool{Ranges: ranges}, f)...)
	}
	return out
}

var cmpAddr = cmp.Comparer(func(x, y netip.Addr) bool { return x == y })

func emptyAsNil(a []netip.Addr) []netip.Addr {
	if len(a) == 0 {
		return nil
	}
	return a
}

func plain(assigned []Assigned) []netip.Addr {
	var out []netip.Addr
	for _, a := range assigned {
		out = append(out, a.Address)
	}
	return out
}
