package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// townSeeds is how many random histories a test run has.
const townSeeds = 40

// atRest is how long after the last thing that happened all has come to rest.
const atRest = formingPatience + minorityHold

// Whatever becomes of nodes and speakers: when it has come to rest, one and only one
// answers a client for each address as long as there is anybody who can; and when
// all is well again, each address has one owner.
func TestTownFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(townSeeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newFaults(t, seed).run() })
		})
	}
}

// faults is a town to which things happen.
type faults struct {
	*town
	rng     *rand.Rand
	history []string
	drained map[string]bool
	values  int // of the annotation that asks for a rebalance
}

func newFaults(t *testing.T, seed uint64) *faults {
	rng := rand.New(rand.NewPCG(seed, 0))
	return &faults{town: newTown(t, 2+rng.IntN(4), 1+rng.IntN(12)), rng: rng, drained: map[string]bool{}}
}

func (f *faults) run() {
	for range 15 {
		for range 1 + f.rng.IntN(3) {
			f.step()
			f.rest(time.Duration(f.rng.IntN(500)) * time.Millisecond)
		}
		f.rest(atRest)
		f.check()
	}
	f.split()
	for _, r := range f.residents {
		r.power(true)
		if !r.running {
			r.start()
		}
	}
	f.log("all is well")
	f.rest(atRest)
	f.check()
	f.owners()
	if f.t.Failed() {
		f.t.Logf("after: %s", strings.Join(f.history, ", "))
	}
}

func (f *faults) log(format string, args ...any) {
	f.history = append(f.history, fmt.Sprintf(format, args...))
}

// step has one thing happen.
func (f *faults) step() {
	r := f.residents[f.rng.IntN(len(f.residents))]
	switch f.rng.IntN(8) {
	case 0, 1:
		if r.running {
			f.log("kill %s", r.name)
			r.kill()
		} else if !r.off {
			f.log("start %s", r.name)
			r.start()
		}
	case 2, 3:
		f.log("power %s %v", r.name, r.off)
		r.power(r.off)
	case 4:
		var names []string
		for _, o := range f.residents {
			if f.rng.IntN(2) == 0 {
				names = append(names, o.name)
			}
		}
		f.log("split %v", names)
		f.split(names...)
	case 5:
		f.log("heal")
		f.split()
	case 6:
		f.drained[r.name] = !f.drained[r.name]
		f.log("drain %s %v", r.name, f.drained[r.name])
		f.drain(r.name, f.drained[r.name])
	case 7:
		f.values++
		f.log("rebalance")
		f.rebalance(fmt.Sprint(f.values))
	}
}

// dump says what each resident thinks of an address.
func (f *faults) dump(a netip.Addr) {
	for _, r := range f.residents {
		c, claims := r.said.claims.Get(a)
		_, answers := r.answers[a]
		f.t.Logf("%s running %v off %v side %d drained %v, claims %v %+v, answers %v %+v, judges %+v", r.name, r.running, r.off, r.side,
			f.drained[r.name], claims, c, answers, r.answers[a], r.judged)
		for name, h := range r.heard {
			c, claims := h.claims.Get(a)
			f.t.Logf("   of %s abstains %v, claims %v %+v", name, h.info.Abstains, claims, c)
		}
	}
}

// check looks at what a client sees.
func (f *faults) check() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	living, orphans := 0, 0
	for _, r := range f.residents {
		switch {
		case r.off || r.side != 0:
		case r.running:
			living++
		default:
			orphans++
		}
	}
	somebody := living > 1 || living == 1 && orphans < 2 // one that hears no speaker stands in for none
	for a, tr := range f.trouble {
		if !tr.many.IsZero() {
			f.t.Errorf("several answer for %s: %s", a, f.history[max(0, len(f.history)-6):])
		}
		if somebody && !tr.none.IsZero() {
			f.dump(a)
			f.t.Errorf("nobody answers for %s: %s", a, f.history[max(0, len(f.history)-6):])
		}
	}
}
