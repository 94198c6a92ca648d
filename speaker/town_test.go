package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
)

// lossless is for how long several may answer while an address moves, and how long
// nobody may when a process ends.
const lossless = 50 * time.Millisecond

// New addresses go to all nodes evenly, and stay.
func TestTownSpreads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 3, 0)
		w.addServices(30)
		w.change(k8s.Key{Kind: k8s.KindNode, Name: "a"}, func(*apiObjects) {})
		for _, svc := range w.objects.services {
			for _, r := range w.residents {
				r.cache.Add(k8s.Key{Kind: k8s.KindEndpointSlice, Namespace: "default", Name: svc.Name})
				r.cache.Add(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: svc.Name})
			}
		}
		w.rest(time.Second)
		if loads := w.loads(); loads["a"] != 10 || loads["b"] != 10 || loads["c"] != 10 {
			t.Errorf("spread as %v", loads)
		}
		w.forget()
		w.rest(time.Hour)
		w.wantTrouble(0, 0)
		w.wantStill()
	})
}

// Speakers that all have lost everything wait for each other, so that the first takes
// no more than its share, but not for ever.
func TestTownStartsCold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		starters string
		first    int
	}{{"abc", 10}, {"ab", 15}, {"a", 30}} {
		t.Run(c.starters, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t, 3, 30)
				for _, r := range w.residents {
					r.kill()
				}
				w.rest(time.Second)
				for _, n := range c.starters {
					w.resident(string(n)).start()
					w.rest(time.Second)
				}
				w.rest(formingPatience)
				w.mu.Lock()
				defer w.mu.Unlock()
				owned := 0
				for _, a := range w.resident("a").answers {
					if a.StandIn == nil {
						owned++
					}
				}
				if owned != c.first {
					t.Errorf("the first has %d addresses, want %d", owned, c.first)
				}
			})
		})
	}
}

// A node that fails loses its addresses and gets none back; the others keep theirs.
func TestTownLosesANode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 3, 30)
		before := w.owners()
		w.forget()
		w.resident("b").power(false)
		w.rest(time.Second)
		w.wantTrouble(silentDelay+lossless, 0)
		w.resident("b").power(true)
		w.rest(10 * time.Second)
		w.wantTrouble(silentDelay+lossless, lossless)
		after := w.owners()
		for a, owner := range before {
			if owner != "b" && after[a] != owner {
				t.Errorf("%s went from %s to %s", a, owner, after[a])
			}
		}
		if loads := w.loads(); loads["a"] != 15 || loads["c"] != 15 {
			t.Errorf("spread as %v", loads)
		}
	})
}

// Nothing moves while speakers are killed and started again, one after the other,
// and two at a time.
func TestTownRestartsSpeakers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 4, 30)
		before := w.owners()
		w.forget()
		for _, names := range []string{"a", "b", "c", "d", "ab", "cd", "bc"} {
			for _, n := range names {
				w.resident(string(n)).kill()
			}
			w.rest(3 * time.Second)
			for _, n := range names {
				w.resident(string(n)).start()
			}
			w.rest(time.Second)
		}
		w.wantTrouble(lossless, 0)
		w.wantStill()
		if after := w.owners(); !maps.Equal(before, after) {
			t.Errorf("owners were %v, are %v", before, after)
		}
	})
}

// A speaker that is killed while nobody has heard of its last claims, or whose node
// fails meanwhile, comes back to what is left for it.
func TestTownLosesAnOrphan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 3, 30)
		w.forget()
		b := w.resident("b")
		b.kill()
		w.rest(time.Second)
		w.wantTrouble(lossless, 0)
		b.power(false)
		w.rest(time.Second)
		w.wantTrouble(silentDelay+lossless, 0)
		b.power(true)
		b.start()
		w.rest(time.Second)
		if loads := w.loads(); loads["b"] != 0 {
			t.Errorf("spread as %v", loads)
		}
		w.wantTrouble(silentDelay+lossless, lossless)
	})
}

func TestTownDrains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 3, 30)
		w.forget()
		for _, n := range []string{"a", "b", "c"} {
			w.drain(n, true)
			w.rest(time.Second)
			if loads := w.loads(); loads[n] != 0 {
				t.Errorf("%s is drained, and addresses are spread as %v", n, loads)
			}
			w.drain(n, false)
			w.rest(time.Second)
		}
		w.wantTrouble(0, lossless)
		before := w.owners()
		for _, n := range []string{"a", "b", "c"} {
			w.drain(n, true)
		}
		w.rest(time.Second)
		w.wantTrouble(0, lossless)
		if len(before) != len(w.owners()) {
			t.Error("all are drained, and something is lost")
		}
	})
}

// A node that should take addresses over and does not, whatever the reason, holds
// nothing up for long.
func TestTownPassesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 3, 30)
		w.rebalance("even")
		w.rest(10 * time.Second)
		w.resident("b").l2.waits = true
		w.forget()
		w.drain("a", true)
		w.rest(time.Second)
		if claims := w.resident("a").said.claims.Len(); claims != 5 {
			t.Errorf("a claims %d addresses a second after it was drained, want the five that b should take", claims)
		}
		w.rest(successorPatience)
		w.wantTrouble(0, lossless)
		if loads := w.loads(); loads["a"] != 0 || loads["c"] != 20 {
			t.Errorf("spread as %v", loads)
		}
		w.next()
		w.resident("b").l2.waits = false
		w.resident("b").l2.finish()
		w.rest(2 * passedFor)
		w.wantTrouble(0, lossless)
		w.drain("c", true)
		w.rest(time.Second)
		if loads := w.loads(); loads["b"] != 30 {
			t.Errorf("b takes again, and addresses are spread as %v", loads)
		}
		w.wantTrouble(0, lossless)
	})
}

// A node whose socket fails, or whose packets do not leave, says so: what it owns
// moves, and it takes nothing until it has worked for a while.
func TestTownMovesWhereSocketsFail(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]func() l2.InterfaceState{
		"no socket": func() l2.InterfaceState { return l2.InterfaceState{Err: errors.New("no memory"), Since: time.Now()} },
		"nothing leaves": func() l2.InterfaceState {
			return l2.InterfaceState{Unsent: l2.Unsent{First: time.Now().Add(-unsentGrace), Last: time.Now(), Err: errors.New("no buffer")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newTown(t, 3, 30).failAt(failing) })
		})
	}
}

// failAt has the interface of b fail for a moment.
func (w *town) failAt(fail func() l2.InterfaceState) {
	w.rebalance("even")
	w.rest(10 * time.Second)
	b := w.resident("b").l2
	failing := fail()
	failing.Name, failing.Protocol = "eth0", l2.ARP
	w.next()
	b.fare(failing)
	w.rest(failureGrace + 2*checkInterval)
	if loads := w.loads(); loads["b"] != 0 {
		w.t.Errorf("b cannot answer, and addresses are spread as %v", loads)
	}
	w.next()
	b.fare(l2.InterfaceState{Name: "eth0", Protocol: l2.ARP, Since: time.Now()})
	w.rest(recoveryGrace / 2)
	w.drain("c", true)
	w.rest(checkInterval)
	if loads := w.loads(); loads["a"] != 30 {
		w.t.Errorf("b can answer since a moment ago, and addresses are spread as %v", loads)
	}
	w.rest(recoveryGrace)
	w.drain("a", true)
	w.rest(checkInterval)
	if loads := w.loads(); loads["b"] != 30 {
		w.t.Errorf("b can answer, and addresses are spread as %v", loads)
	}
}

// A Node that is deleted while its speaker goes on hands over as one that is
// drained; when it is there again nothing moves. If its speaker ends it is not
// waited for.
func TestTownDeletesNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 3, 30)
		w.rebalance("even")
		w.rest(10 * time.Second)
		w.forget()
		nodes := w.objects.nodes
		key := k8s.Key{Kind: k8s.KindNode, Name: "b"}
		w.change(key, func(o *apiObjects) { o.nodes = []*corev1.Node{nodes[0], nodes[2]} })
		w.rest(time.Second)
		w.wantTrouble(0, lossless)
		if loads := w.loads(); loads["b"] != 0 {
			t.Errorf("the Node b is deleted, and addresses are spread as %v", loads)
		}
		w.change(key, func(o *apiObjects) { o.nodes = nodes })
		w.rest(time.Second)
		w.drain("a", true)
		w.drain("c", true)
		w.rest(time.Second)
		w.wantTrouble(0, lossless)
		before := w.resident("a").heard["b"].claims
		if before.Len() != 30 {
			t.Fatalf("b claims %d addresses", before.Len())
		}
		w.resident("b").kill()
		w.change(key, func(o *apiObjects) { o.nodes = []*corev1.Node{o.nodes[0], o.nodes[2]} })
		w.rest(time.Second)
		w.owners()
		for a, c := range before.All() {
			if mine, _ := w.resident("a").said.claims.Get(a); mine.Term <= c.Term {
				if other, _ := w.resident("c").said.claims.Get(a); other.Term <= c.Term {
					t.Errorf("%s is claimed by terms %d and %d; b had %d", a, mine.Term, other.Term, c.Term)
				}
			}
		}
		w.wantTrouble(lossless, lossless)
	})
}

// After a partition there is one owner within a second of its end.
func TestTownParts(t *testing.T) {
	t.Parallel()
	for _, sides := range [][]string{{"a"}, {"c"}, {"a", "b"}, {"b", "c"}} {
		t.Run(fmt.Sprint(sides), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t, 3, 30)
				for range 3 {
					w.split(sides...)
					w.rest(2 * time.Second)
					w.split()
					w.rest(100 * time.Millisecond)
					w.forget()
					w.rest(900 * time.Millisecond)
					w.wantTrouble(0, 0)
				}
				w.rest(minorityHold)
				w.wantTrouble(0, 0)
				w.owners()
			})
		})
	}
}

// Where the membership is blocked though all nodes hear each other, those that have
// lost others take over what these had once the limit of stand-ins is over; and of
// two that answer, the minority falls silent. When it is over each address has one
// owner.
func TestTownUnheard(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		nodes int
		lost  []string
	}{{3, []string{"a"}}, {3, []string{"c"}}, {2, []string{"a"}}, {2, []string{"b"}}, {5, []string{"a", "b"}}, {5, []string{"d", "e"}}, {4, []string{"a", "b"}}} {
		t.Run(fmt.Sprint(tt.nodes, tt.lost), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t, tt.nodes, 30)
				w.rebalance("even")
				w.rest(10 * time.Second)
				w.forget()
				w.unhear(tt.lost...)
				w.rest(townLimit / 2)
				w.wantTrouble(0, 0)
				w.rest(townLimit/2 + 4*time.Second)
				w.wantTrouble(0, time.Second)
				w.forget()
				w.rest(time.Minute)
				w.wantTrouble(0, 0)
				w.unhear()
				w.rest(minorityHold + time.Second)
				w.wantTrouble(0, lossless)
				w.owners()
			})
		})
	}
}

// One that is unheard comes back to what those that it left its addresses to do not
// have any more.
func TestTownUnheardRemains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 3, 30)
		w.unhear("c")
		w.rest(2 * townLimit)
		w.forget()
		w.resident("a").power(false)
		w.resident("b").power(false)
		w.rest(2 * overheardRecheck)
		w.wantTrouble(silentDelay+overheardRecheck+2*overheardFirst, 0)
		for _, a := range w.answered("c") {
			delete(w.trouble, a)
		}
		if len(w.trouble) > 0 {
			t.Errorf("c, the only one that is left, does not answer for %v", slices.Collect(maps.Keys(w.trouble)))
		}
	})
}

// A rebalance ends with an even spread, and loses nothing.
func TestTownRebalances(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 4, 30)
		w.resident("b").power(false)
		w.resident("c").power(false)
		w.rest(time.Second)
		w.resident("b").power(true)
		w.resident("c").power(true)
		w.rest(10 * time.Second)
		if loads := w.loads(); loads["b"] != 0 || loads["c"] != 0 {
			t.Fatalf("spread as %v", loads)
		}
		w.forget()
		w.rebalance("1")
		w.rest(10 * time.Second)
		w.wantTrouble(0, lossless)
		loads := w.loads()
		counts := slices.Sorted(maps.Values(loads))
		if len(counts) != 4 || counts[0] < 7 || counts[3] > 8 {
			t.Errorf("spread as %v", loads)
		}
		before := w.owners()
		w.rest(time.Minute)
		if !maps.Equal(before, w.owners()) {
			t.Error("something has moved after the rebalance")
		}
	})
}
