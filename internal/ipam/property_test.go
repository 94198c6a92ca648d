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
}

func TestAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{real: New(), model: newModel()}
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
	steps := []func(){restoreOwners, restoreRests}
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
		case reserved:
			want.Reserved = want.Reserved.plus(CountOf(1))
		case rests:
			want.Resting++
		default:
			want.Available = want.Available.plus(CountOf(1))
		}
		if len(m.model.holders(a, Owner{})) == 0 && !rests {
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

// freeAddresses lists a set of free positions and checks that its intervals are as large as can be.
func freeAddresses(t *rapid.T, s *space, set *freeSet, f Family) []netip.Addr {
	var out []netip.Addr
	last := interval{}
	set.tree.Ascend(func(i interval) bool {
		if i.to.less(i.from) || len(out) > 0 && !last.to.next().less(i.from) {
			t.Fatalf("interval %v follows %v", i, last)
		}
		for pos := i.from; !i.to.less(pos); pos = pos.next() {
			out = append(out, s.address(f, pos))
		}
		last = i
		return true
	})
	return out
}

// checkInside: the groups hold what they must, counted right, and the ports of an address are those of its owners.
func checkInside(t *rapid.T, a *Allocator) {
	for _, byNum := range a.addrs {
		for num, h := range byNum {
			if num != h.num || (len(h.owners()) == 0) != h.rests() || h.shared != nil && h.sole[0] != nil {
				t.Fatalf("holding %s is broken: %+v", h.addr(), h)
			}
			if h.shared == nil {
				continue
			}
			checkShared(t, h)
			for sc, g := range h.shared.groups {
				if g != nil && h.pool.space(h.family).groups[h.groupKey(scope(sc))] != g {
					t.Fatalf("%s is in a group that is no more", h.addr())
				}
			}
		}
	}
	checkUsage(t, a)
	checkRests(t, a)
	for _, p := range a.order {
		for i := range p.spaces {
			for key, g := range p.spaces[i].groups {
				checkGroup(t, key, g)
			}
		}
	}
}

// checkShared: the ports of an address are those of its owners, and it is in a group exactly if it can be shared.
func checkShared(t *rapid.T, h *holding) {
	s := h.shared
	ports, closed, namespaces := 0, 0, map[string]bool{}
	for _, al := range s.owners {
		if !al.sharing.AcrossNamespaces {
			closed++
		}
		namespaces[al.owner.Namespace] = true
		for _, p := range al.sharing.Ports {
			ports++
			if s.user(p) != al {
				t.Fatalf("%s is not known to use %s on %s", al.owner, p, h.addr())
			}
		}
	}
	if len(s.owners) > 1 && ports != len(s.ports) || s.mixed != (len(namespaces) > 1) || s.closed != closed {
		t.Fatalf("%s is broken: %+v", h.addr(), s)
	}
	for sc, g := range s.groups {
		if (g != nil) != h.joinable(scope(sc)) {
			t.Fatalf("%s is in groups %v", h.addr(), s.groups)
		}
	}
}

// checkUsage counts again what namespaces have of pools with a quota.
func checkUsage(t *rapid.T, a *Allocator) {
	for _, p := range a.order {
		want := map[string]usage{}
		addresses := map[string]map[*holding]bool{}
		for o, al := range a.owners {
			u := want[o.Namespace]
			if al.countIn(p) > 0 {
				u.services++
			}
			for _, h := range al.holdings {
				if h.inPool && h.pool == p {
					if addresses[o.Namespace] == nil {
						addresses[o.Namespace] = map[*holding]bool{}
					}
					addresses[o.Namespace][h] = true
				}
			}
			if u.addresses = len(addresses[o.Namespace]); u != (usage{}) {
				want[o.Namespace] = u
			}
		}
		if p.spec.Quota != (Quota{}) && !maps.Equal(p.usage, want) {
			t.Fatalf("usage of pool %s is %v, want %v", p.spec.Name, p.usage, want)
		}
	}
}

// checkRests: each rest has its slot, its end and its place in the list of its owner.
func checkRests(t *rapid.T, a *Allocator) {
	listed := 0
	for o, r := range a.rests.byOwner {
		for ; r != nil; r = r.next {
			listed++
			if r.owner != o || a.rests.of(r.h) != r || r.next != nil && r.next.since.After(r.since) {
				t.Fatalf("rest %+v of %s is broken", r, o)
			}
		}
	}
	used := 0
	for i, r := range a.rests.slots {
		if r == nil {
			continue
		}
		used++
		if int(r.h.slot) != i+1 || !a.rests.ends.Has(end{r.until, r.h.slot}) {
			t.Fatalf("rest %d is broken: %+v", i, r)
		}
	}
	if listed != used || a.rests.ends.Len() != used || used+len(a.rests.vacant) != len(a.rests.slots) {
		t.Fatalf("%d rests: %d are listed, %d have an end, %d slots of %d are vacant",
			used, listed, a.rests.ends.Len(), len(a.rests.vacant), len(a.rests.slots))
	}
}

func checkGroup(t *rapid.T, key groupKey, g *group) {
	taken := map[Port][]*holding{}
	for _, h := range g.holdings {
		h.shared.each(func(p Port) { taken[p] = append(taken[p], h) })
		if h.shared.groups[key.scope] != g || h.groupKey(key.scope) != key {
			t.Fatalf("group %v lists %s, which is not in it", key, h.addr())
		}
	}
	sorted := slices.IsSortedFunc(g.holdings, func(x, y *holding) int { return x.pos.compare(y.pos) })
	if len(g.holdings) == 0 || !sorted {
		t.Fatalf("group %v is broken: %+v", key, g)
	}
	if g.byPort == nil && len(g.holdings) > smallGroup {
		t.Fatalf("group %v of %d has no index", key, len(g.holdings))
	}
	if g.byPort != nil && !maps.EqualFunc(g.byPort, taken, slices.Equal) {
		t.Fatalf("group %v has ports %v, want %v", key, g.byPort, taken)
	}
}

// TestFit compares the search in a large group with one that looks at every address.
func TestFit(t *testing.T) {
	t.Parallel()
	drawPorts := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]uint16{1, 1, 1, 2, 2, 3, 4}), 1, 3), func(numbers []uint16) []Port {
		var ports []Port
		for _, n := range numbers {
			ports = append(ports, Port{TCP, n})
		}
		return ports
	})
	rapid.Check(t, func(t *rapid.T) {
		a := New()
		pool := Pool{Name: "pool", Ranges: []Range{{universe(IPv4, 20), universe(IPv4, 39)}, {universe(IPv4, 0), universe(IPv4, 19)}}}
		if _, err := a.SetPools([]Pool{pool}); err != nil {
			t.Fatal(err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				odd := func(h *holding) bool { return h.num.lo%2 == 1 }
				if rapid.Bool().Draw(t, "all") {
					odd = func(*holding) bool { return true }
				}
				for key, g := range a.pools["pool"].space(IPv4).groups {
					checkGroup(t, key, g)
					ports := drawPorts.Draw(t, "wanted ports")
					if got, want := g.fit(ports, odd), g.scan(ports, odd); got != want {
						t.Fatalf("fit(%v) = %v, want %v", ports, got, want)
					}
				}
			},
			"allocate": func(t *rapid.T) {
				req := Request{Owner: benchOwner(rapid.IntRange(0, 99).Draw(t, "owner")), Families: []Family{IPv4}, Pools: []string{"pool"}}
				req.Sharing = &Sharing{Key: "k", Ports: drawPorts.Draw(t, "ports")}
				if rapid.Bool().Draw(t, "asks") {
					req.Addresses = []netip.Addr{universe(IPv4, rapid.IntRange(0, 39).Draw(t, "address"))}
				}
				if _, err := a.Allocate(req); kindOf(err) != "" && kindOf(err) != "in use" && kindOf(err) != "exhausted" {
					t.Fatal(err)
				}
			},
			"release": func(t *rapid.T) { a.Release(benchOwner(rapid.IntRange(0, 99).Draw(t, "owner"))) },
		})
	})
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
