package l2

import (
	"context"
	"math"
	"net/netip"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// An address is announced at once and then four times more, 1.1 s apart, so
// that for five seconds no neighbour keeps what it learned from the previous
// owner: ARP caches refuse updates for a second after the last (the kernel's
// neigh/*/locktime), and any one packet may be lost.
const (
	announceTimes    = 5
	announceInterval = 1100 * time.Millisecond
)

// Announcements are paced for each interface: 1,250 addresses a second make
// 2,500 ARP frames, or 1.3 Mbit/s, which switches pass on without policing, and
// 2,000 addresses that move at once are announced in 1.6 s. Up to announceBurst
// are sent without a pause. First announcements go before repetitions, whose
// interval then grows if need be.
const (
	announceRate  = 1250
	announceBurst = 64
)

// A scheduler sends gratuitous announcements in time. One goroutine serves all
// addresses and interfaces.
type scheduler struct {
	clock   clock.Clock
	refresh time.Duration
	wake    chan struct{}

	mu     sync.Mutex
	queues map[string]*queue // by interface name
}

func newScheduler(c clock.Clock, refresh time.Duration) *scheduler {
	return &scheduler{clock: c, refresh: refresh, wake: make(chan struct{}, 1), queues: make(map[string]*queue)}
}

// add starts a round of announcements of addr through p, from the beginning if
// one is under way. At a takeover those who asked of late are told as well.
func (s *scheduler) add(p *port, addr netip.Addr, takeover bool) {
	s.mu.Lock()
	q := s.queues[p.key.ifname]
	if q == nil {
		q = newQueue(s.clock.Now(), s.refresh)
		s.queues[p.key.ifname] = q
	}
	q.add(announceKey{p, addr}, takeover)
	s.mu.Unlock()
	notify(s.wake)
}

// cancel ends the round of addr.
func (s *scheduler) cancel(p *port, addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.queues[p.key.ifname]; q != nil {
		q.cancel(announceKey{p, addr})
	}
}

// run sends until ctx is done.
func (s *scheduler) run(ctx context.Context) {
	for {
		timer := s.clock.NewTimer(s.sendDue())
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-timer.C():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// sendDue sends what may be sent now and returns the time until more may be.
func (s *scheduler) sendDue() time.Duration {
	for {
		now := s.clock.Now()
		wait := time.Duration(math.MaxInt64)
		var due []turn
		s.mu.Lock()
		for name, q := range s.queues {
			t, ok, w := q.next(now)
			switch {
			case ok:
				due = append(due, t)
			case q.empty():
				delete(s.queues, name)
			default:
				wait = min(wait, w)
			}
		}
		s.mu.Unlock()
		if len(due) == 0 {
			return wait
		}
		for _, t := range due {
			if t.to != nil {
				t.port.update(t.addr, *t.to)
			} else {
				t.port.announce(t.addr)
			}
		}
	}
}
