package main

import (
	"net/netip"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// An owner that gives an address up answers for it until its successor does. One
// that cannot, for a reason that it does not know or tell, would hold that up for
// ever. So each speaker passes over who has not claimed an address in time. All
// have heard the same, and come to do so at about the same moment; where two have
// taken an address between themselves, their claims decide.
const (
	// latePatience is how long a node may take to claim what it is to take over
	// before users are told.
	latePatience = 2 * time.Second
	// successorPatience is the same before others are asked to.
	successorPatience = 3 * time.Second
	// passedFor is for how long the node gets that address only if there is no other.
	passedFor = time.Minute
)

// succession is a node that is to take an address over.
type succession struct {
	addr netip.Addr
	node string
}

// successors remembers who is to take over what.
type successors struct {
	logger log.Logger
	// newPatience is latePatience for what nobody had before, which its owner does not
	// take at once.
	newPatience time.Duration
	// pending is since when an address has been unclaimed, whoever is to claim it.
	pending map[netip.Addr]time.Time
	awaited map[succession]time.Time
	// over is until when a node is passed over.
	over map[succession]time.Time
}

func newSuccessors(newPatience time.Duration, logger log.Logger) successors {
	return successors{logger: logger, newPatience: newPatience, over: map[succession]time.Time{}}
}

// passed returns who is passed over for what.
func (s *successors) passed() map[succession]bool {
	if len(s.over) == 0 {
		return nil
	}
	all := make(map[succession]bool, len(s.over))
	for key := range s.over {
		all[key] = true
	}
	return all
}

// follow takes in who is to take over what by the plan, and adds to that what is
// late. A speaker whose own view is in doubt blames nobody. It returns when it
// wants to be called again; zero for never.
func (s *successors) follow(p *plan, sure bool, now time.Time) (again time.Time) {
	p.late = map[netip.Addr]bool{}
	pending := make(map[netip.Addr]time.Time, len(p.pending))
	for addr := range p.pending {
		pending[addr] = sinceWhen(s.pending, addr, now)
		patience := latePatience
		if p.awaited[addr] == "" {
			patience = s.newPatience
		}
		if due := pending[addr].Add(patience); now.Before(due) {
			again = earlier(again, due)
		} else {
			p.late[addr] = true
		}
	}
	s.pending = pending
	for key, until := range s.over {
		if !now.Before(until) {
			delete(s.over, key)
			continue
		}
		again = earlier(again, until)
	}
	awaited := make(map[succession]time.Time, len(p.awaited))
	blamed := map[string]netip.Addr{}
	for addr, node := range p.awaited {
		key := succession{addr, node}
		since := sinceWhen(s.awaited, key, now)
		due := since.Add(successorPatience)
		if now.Before(due) || !sure {
			awaited[key] = since
			if sure {
				again = earlier(again, due)
			}
			continue
		}
		if _, passed := s.over[key]; !passed {
			blamed[node], again = addr, now
		}
		s.over[key] = now.Add(passedFor)
	}
	s.awaited = awaited
	for node, addr := range blamed {
		level.Warn(s.logger).Log("msg", "a node does not take addresses over that it should; passing it over", "node", node, "address", addr)
	}
	return again
}

// sinceWhen returns since when key is in a set, now if it was not.
func sinceWhen[K comparable](set map[K]time.Time, key K, now time.Time) time.Time {
	if since, known := set[key]; known {
		return since
	}
	return now
}

// passes says whether a node is passed over for an address. Once it has claimed it
// that is over.
func (j *judge) passes(addr netip.Addr, i int) bool {
	if len(j.passed) == 0 || !j.passed[succession{addr, j.nodes[i].name}] {
		return false
	}
	holder, _ := j.book.Holder(addr)
	return holder != i
}
