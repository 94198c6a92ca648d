package main

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-lb/berth/internal/k8s"
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
