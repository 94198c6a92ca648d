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
	clock clock.Clock
	wake  chan struct{}

	mu     sync.Mutex
	queues map[string]*queue // by interface name
}

func newScheduler(c clock.Clock) *scheduler {
	return &scheduler{clock: c, wake: make(chan struct{}, 1), queues: make(map[string]*queue)}
}

// add starts a round of announcements of addr through p, from the beginning if
// one is under way.
func (s *scheduler) add(p *port, addr netip.Addr) {
	s.mu.Lock()
	q := s.queues[p.key.ifname]
	if q == nil {
		q = newQueue(s.clock.Now())
		s.queues[p.key.ifname] = q
	}
	q.add(p, addr)
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
		var due []announceKey
		s.mu.Lock()
		for name, q := range s.queues {
			key, ok, w := q.next(now)
			switch {
			case ok:
				due = append(due, key)
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
		for _, key := range due {
			key.port.announce(key.addr)
		}
	}
}

// A queue orders the announcements of one interface. Because all repetitions
// wait equally long, two first-in-first-out lists do what a heap would.
type queue struct {
	first  fifo
	repeat fifo
	live   map[announceKey]*announcement
	tokens float64
	filled time.Time // when tokens was right
}

type announceKey struct {
	port *port
	addr netip.Addr
}

// An announcement is one turn of an address's round. It is out of date, and
// skipped, unless live holds it.
type announcement struct {
	key  announceKey
	left int // turns after this one
	due  time.Time
}

func newQueue(now time.Time) *queue {
	return &queue{live: make(map[announceKey]*announcement), tokens: announceBurst, filled: now}
}

func (q *queue) add(p *port, addr netip.Addr) {
	a := &announcement{key: announceKey{p, addr}, left: announceTimes - 1}
	q.live[a.key] = a
	q.first.push(a)
}

func (q *queue) cancel(key announceKey) { delete(q.live, key) }

// empty reports whether the queue can be forgotten: nothing is waiting, and a
// new queue would have no more tokens than this one.
func (q *queue) empty() bool { return len(q.live) == 0 && q.tokens >= announceBurst }

// next takes out the announcement to send at now, if there is one and the pace
// allows it, and otherwise returns the time until there may be.
func (q *queue) next(now time.Time) (key announceKey, ok bool, wait time.Duration) {
	q.tokens = min(q.tokens+now.Sub(q.filled).Seconds()*announceRate, announceBurst)
	q.filled = now

	from := &q.first
	a := from.head(q.live)
	if a == nil {
		from = &q.repeat
		a = from.head(q.live)
	}
	switch {
	case a == nil:
		return key, false, refill(announceBurst - q.tokens)
	case a.due.After(now):
		return key, false, a.due.Sub(now)
	case q.tokens < 1:
		return key, false, refill(1 - q.tokens)
	}
	from.pop()
	q.tokens--
	delete(q.live, a.key)
	if a.left > 0 {
		again := &announcement{key: a.key, left: a.left - 1, due: now.Add(announceInterval)}
		q.live[a.key] = again
		q.repeat.push(again)
	}
	return a.key, true, 0
}

// refill returns how long it takes to gain tokens.
func refill(tokens float64) time.Duration {
	return time.Duration(math.Ceil(tokens / announceRate * float64(time.Second)))
}

// fifo is a first-in-first-out list.
type fifo struct{ items []*announcement }

func (f *fifo) push(a *announcement) { f.items = append(f.items, a) }
func (f *fifo) pop()                 { f.items[0] = nil; f.items = f.items[1:] }

// head returns the oldest announcement that is in live, dropping others.
func (f *fifo) head(live map[announceKey]*announcement) *announcement {
	for len(f.items) > 0 {
		if a := f.items[0]; live[a.key] == a {
			return a
		}
		f.pop()
	}
	f.items = nil
	return nil
}
