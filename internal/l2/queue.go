package l2

import (
	"container/heap"
	"hash/maphash"
	"math"
	"net/netip"
	"time"
)

// A queue orders the announcements of one interface: first announcements go
// before all else, then repetitions and updates by turns, then refreshments.
// Because all repetitions wait equally long, first-in-first-out lists do what a
// heap would.
type queue struct {
	first    fifo[*announcement]
	repeat   fifo[*announcement]
	updates  fifo[*updating]
	refresh  refreshHeap
	period   time.Duration // of refreshments, 0 for none
	seed     maphash.Seed
	live     map[announceKey]*announcement
	updating map[announceKey]*updating
	updated  bool // the last of repeat and updates to have its turn
	tokens   float64
	filled   time.Time // when tokens was right
}

type announceKey struct {
	port *port
	addr netip.Addr
}

// An announcement is one turn of an address's round. It is out of date, and
// skipped, unless live holds it.
type announcement struct {
	key      announceKey
	takeover bool // to be followed by updates, twice: a cache may refuse the first
	left     int  // turns after this one
	due      time.Time
	place    int // in the heap
}

// An updating is what is left to do of the updates of an address. It is out of
// date, and skipped, unless queue.updating holds it.
type updating struct {
	key announceKey
	to  []Asker
}

// A turn is a packet, or two, to send: an announcement, or an update to one
// asker.
type turn struct {
	announceKey
	to *Asker
}

func newQueue(now time.Time, refresh time.Duration) *queue {
	return &queue{
		period: refresh, seed: maphash.MakeSeed(),
		live: make(map[announceKey]*announcement), updating: make(map[announceKey]*updating),
		tokens: announceBurst, filled: now,
	}
}

func (q *queue) add(key announceKey, takeover bool) {
	old := q.live[key]
	q.cancel(key)
	a := &announcement{key: key, left: announceTimes - 1, takeover: takeover}
	if old != nil && old.takeover {
		a.takeover = true // it has not had its first turn
	}
	q.live[key] = a
	q.first.push(a)
}

func (q *queue) cancel(key announceKey) {
	if a := q.live[key]; a != nil {
		q.refresh.remove(a)
		delete(q.live, key)
	}
	delete(q.updating, key)
}

// empty reports whether the queue can be forgotten: nothing is waiting, and a
// new queue would have no more tokens than this one.
func (q *queue) empty() bool {
	return len(q.live)+len(q.updating) == 0 && q.tokens >= announceBurst
}

// next takes out the turn to have at now, if there is one and the pace allows
// it, and otherwise returns the time until there may be.
func (q *queue) next(now time.Time) (t turn, ok bool, wait time.Duration) {
	q.tokens = min(q.tokens+now.Sub(q.filled).Seconds()*announceRate, announceBurst)
	q.filled = now

	first, repeat := q.first.head(q.current), q.repeat.head(q.current)
	update := q.updates.head(func(u *updating) bool { return q.updating[u.key] == u })
	a := first
	switch due := func(a *announcement) bool { return a != nil && !a.due.After(now) }; {
	case first != nil:
	case due(repeat) && (update == nil || q.updated):
		a = repeat
	case update != nil:
	case due(q.refresh.head()):
		a = q.refresh.head()
	default:
		wait = refill(announceBurst - q.tokens)
		if next := earlier(repeat, q.refresh.head()); next != nil {
			wait = next.due.Sub(now)
		}
		return turn{}, false, wait
	}
	if q.tokens < 1 {
		return turn{}, false, refill(1 - q.tokens)
	}
	q.tokens--
	if a == nil {
		q.updated = true
		return q.update(), true, 0
	}
	switch a {
	case first:
		q.first.pop()
	case repeat:
		q.repeat.pop()
		q.updated = false
	default:
		q.refresh.remove(a)
	}
	q.goOn(a, now)
	return turn{announceKey: a.key}, true, 0
}

func (q *queue) current(a *announcement) bool { return q.live[a.key] == a }

// goOn schedules what follows a turn of a.
func (q *queue) goOn(a *announcement, now time.Time) {
	delete(q.live, a.key)
	if a.takeover {
		if to := a.key.port.askers.of(a.key.addr, now); len(to) > 0 {
			u := &updating{a.key, to}
			q.updating[a.key] = u
			q.updates.push(u)
		}
	}
	next := &announcement{key: a.key, left: a.left - 1, takeover: a.takeover && a.left == announceTimes-1}
	switch {
	case a.left > 0:
		next.due = now.Add(announceInterval)
		q.repeat.push(next)
	case q.period > 0:
		next.left = 0
		next.due = q.nextRefresh(a.key.addr, now)
		heap.Push(&q.refresh, next)
	default:
		return
	}
	q.live[a.key] = next
}

// nextRefresh returns when addr is to be announced again. Each address has its
// own time within the period, so that many which came at once do not stay
// together.
func (q *queue) nextRefresh(addr netip.Addr, now time.Time) time.Time {
	period := uint64(q.period)
	phase := maphash.Comparable(q.seed, addr) % period
	past := uint64(now.UnixNano()) % period
	return now.Add(time.Duration((phase+period-past-1)%period + 1))
}

// update takes out the next update. The askers of one address have their turns
// after one of each other address, the latest first.
func (q *queue) update() turn {
	u := q.updates.items[0]
	q.updates.pop()
	t := turn{u.key, &u.to[0]}
	if len(u.to) == 1 {
		delete(q.updating, u.key)
		return t
	}
	rest := &updating{u.key, u.to[1:]}
	q.updating[u.key] = rest
	q.updates.push(rest)
	return t
}

// refill returns how long it takes to gain tokens.
func refill(tokens float64) time.Duration {
	return time.Duration(math.Ceil(tokens / announceRate * float64(time.Second)))
}

func earlier(a, b *announcement) *announcement {
	if a == nil || b != nil && b.due.Before(a.due) {
		return b
	}
	return a
}

// fifo is a first-in-first-out list.
type fifo[T any] struct{ items []T }

func (f *fifo[T]) push(a T) { f.items = append(f.items, a) }

func (f *fifo[T]) pop() {
	var none T
	f.items[0] = none
	f.items = f.items[1:]
}

// head returns the oldest item that is current, dropping others; the zero value
// if there is none.
func (f *fifo[T]) head(current func(T) bool) (none T) {
	for len(f.items) > 0 {
		if a := f.items[0]; current(a) {
			return a
		}
		f.pop()
	}
	f.items = nil
	return none
}

// refreshHeap has the announcement that is due first at 0. It holds none that is
// out of date.
type refreshHeap []*announcement

func (h refreshHeap) Len() int           { return len(h) }
func (h refreshHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h refreshHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *refreshHeap) Push(x any) {
	a := x.(*announcement)
	a.place = len(*h)
	*h = append(*h, a)
}

// Pop implements heap.Interface.
func (h *refreshHeap) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return a
}

func (h refreshHeap) head() *announcement {
	if len(h) == 0 {
		return nil
	}
	return h[0]
}

// remove takes a out if it is in.
func (h *refreshHeap) remove(a *announcement) {
	if a.place < len(*h) && (*h)[a.place] == a {
		heap.Remove(h, a.place)
	}
}
