package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/membership"
)

// A rebalance spreads the addresses of an L2Advertisement anew when its annotation
// berth.dev/rebalance gets another value. Each speaker offers addresses of its own
// to nodes that are better, one at a time; who is offered one announces it before
// the other falls silent.
const (
	// offerInterval is the least time between two offers of a node.
	offerInterval = 100 * time.Millisecond
	// rebalancePatience ends a rebalance in which this node has had nothing to offer
	// for so long.
	rebalancePatience = 15 * time.Second
)

// rebalancing knows which rebalances are under way.
type rebalancing struct {
	// seen are the values of the annotation by advertisement; nil before the first
	// look. Those that were there before the speaker have been dealt with.
	seen map[string]string
	// until is when each rebalance that is under way ends.
	until map[string]time.Time
	last  time.Time // offer
	// refused are the nodes that did not take what they were offered. They are
	// offered nothing any more, or the rebalance would not end.
	refused map[string]bool
}

// active returns the names of the advertisements to rebalance.
func (r *rebalancing) active(advertisements []*config.L2Advertisement, now time.Time) map[string]bool {
	first := r.seen == nil
	seen, active := map[string]string{}, map[string]bool{}
	if r.until == nil {
		r.until = map[string]time.Time{}
	}
	for _, a := range advertisements {
		seen[a.Name] = a.Rebalance
		if before := r.seen[a.Name]; !first && a.Rebalance != "" && a.Rebalance != before {
			r.until[a.Name] = now.Add(rebalancePatience)
			r.refused = map[string]bool{}
		}
		if now.Before(r.until[a.Name]) {
			active[a.Name] = true
		}
	}
	r.seen = seen
	return active
}

// offer offers an address to another node, if the plan has such, none is on offer
// and the last offer is not too recent. It returns when it wants to be called
// again, if nothing else happens; zero for never.
func (s *speaker) offer(p *plan, next map[netip.Addr]membership.Claim) (again time.Time) {
	r, now := &s.rebalancing, s.clock.Now()
	for _, since := range s.offered {
		again = earlier(again, since.Add(offerPatience))
	}
	var addrs []netip.Addr
	for addr, node := range p.moves {
		if _, claimed := next[addr]; claimed && !r.refused[node] {
			addrs = append(addrs, addr)
		}
	}
	if len(addrs) == 0 || len(s.offered) > 0 {
		return again
	}
	for name, until := range r.until {
		if now.Before(until) {
			r.until[name] = now.Add(rebalancePatience)
		}
	}
	if due := r.last.Add(offerInterval); now.Before(due) {
		return due
	}
	addr := slices.MinFunc(addrs, netip.Addr.Compare)
	c := next[addr]
	c.To = p.moves[addr]
	next[addr] = c
	s.offered[addr], r.last = now, now
	level.Info(s.logger).Log("msg", "offering an address to another node", "address", addr, "node", c.To)
	return now.Add(offerPatience)
}
