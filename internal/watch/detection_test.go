package watch

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestDetection holds how long it takes until a node that was cut off is Down for all others, and what watching costs.
func TestDetection(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		nodes  int
		loss   float64
		trials uint64
		limit  time.Duration // for nine in ten
	}{
		{2, 0, 50, 400 * ms}, {3, 0, 50, 400 * ms}, {30, 0, 8, 450 * ms}, {100, 0, 3, 450 * ms},
		{3, 0.02, 50, 500 * ms}, {30, 0.02, 8, 500 * ms}, {100, 0.02, 3, 500 * ms},
	} {
		t.Run(fmt.Sprintf("%d nodes, %.0f %% loss", c.nodes, 100*c.loss), func(t *testing.T) {
			t.Parallel()
			var all []time.Duration
			packets := 0
			for seed := range c.trials {
				s := newSim(seed, c.nodes, c.loss)
				s.run(2 * time.Second)
				before := s.packets
				s.run(time.Second)
				packets += s.packets - before
				victim := s.nodes[s.IntN(len(s.nodes))]
				s.run(time.Duration(s.Int64N(int64(100 * ms))))
				victim.setCut(true)
				took, ok := s.until(5*time.Second, func() bool {
					return !slices.ContainsFunc(victim.others(), func(o *simNode) bool { return o.m.nodes[victim.name].standing.State != Down })
				})
				if !ok {
					t.Fatalf("seed %d: %s is not down for all within 5 s", seed, victim.name)
				}
				all = append(all, took)
				s.run(2500 * ms)
				if !victim.m.isolated() {
					t.Errorf("seed %d: the node that is cut off does not notice", seed)
				}
			}
			slices.Sort(all)
			t.Logf("median %v, nine in ten %v, longest %v; %.0f packets a second and node", all[len(all)/2], all[len(all)*9/10], all[len(all)-1],
				float64(packets)/float64(c.trials)/float64(c.nodes))
			if all[len(all)*9/10] > c.limit {
				t.Errorf("nine in ten within %v, want %v", all[len(all)*9/10], c.limit)
			}
			// Three watchers, ten questions a second each, and a little more.
			if most := 36 * c.nodes * int(c.trials); packets > most {
				t.Errorf("%d packets a second in %d clusters of %d nodes, want at most %d", packets, c.trials, c.nodes, most)
			}
		})
	}
}
