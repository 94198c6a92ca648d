package ipam

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

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
			idle := len(h.owners()) == 0 && !h.rests()
			if num != h.num || idle && (!h.inPool || !a.quarantined(h.family, num)) || h.rests() && len(h.owners()) > 0 || h.shared != nil && h.sole[0] != nil {
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
	ports, closed, namespaces := 0, int32(0), map[string]bool{}
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
	taken, sc := map[Port][]*holding{}, withinNamespace
	if key.namespace == anyNamespace {
		sc = acrossNamespaces
	}
	for _, h := range g.holdings {
		h.shared.each(func(p Port) { taken[p] = append(taken[p], h) })
		if h.shared.groups[sc] != g || h.groupKey(sc) != key {
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
