package l2

import (
	"sync"
	"time"
)

const (
	// waitingAge is for how long a query that nobody may have answered is
	// remembered: hosts ask again after a second (RFC 4861 section 10, and the
	// kernel's neigh/*/retrans_time_ms for ARP).
	waitingAge = time.Second
	// maxWaiting bounds the memory of a port; later queries replace earlier ones.
	maxWaiting = 512
)

// waiting are the queries for armed addresses of one port. A query that is
// repeated counts once.
type waiting struct {
	mu   sync.Mutex
	ring []waiter // the next to be overwritten is at number%maxWaiting
	next uint64   // number of the next
	last map[query]uint64
}

type waiter struct {
	query
	at time.Time
}

// keep remembers q if role, asked again under the lock, still is to. It returns
// the role. An Apply that makes the address active therefore either is seen by
// role or finds q in take.
func (w *waiting) keep(q query, now time.Time, role func() (role, MAC)) (role, MAC) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, m := role()
	if r != armed {
		return r, m
	}
	if w.last == nil {
		w.last = make(map[query]uint64)
	}
	if len(w.ring) < maxWaiting {
		w.ring = append(w.ring, waiter{q, now})
	} else {
		at := &w.ring[w.next%maxWaiting]
		if w.last[at.query] == w.next-maxWaiting {
			delete(w.last, at.query)
		}
		*at = waiter{q, now}
	}
	w.last[q] = w.next
	w.next++
	return r, m
}

// take removes and returns what is to be answered now, the oldest first. What is
// to be kept stays.
func (w *waiting) take(now time.Time, role func(query) role) (due []query) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.last) == 0 {
		return nil
	}
	keep := make([]waiter, 0, len(w.last))
	for n := w.next - uint64(len(w.ring)); n < w.next; n++ {
		e := w.ring[n%maxWaiting]
		if last, ok := w.last[e.query]; !ok || last != n || now.Sub(e.at) >= waitingAge {
			continue
		}
		switch role(e.query) {
		case armed:
			keep = append(keep, e)
		case owner, standIn:
			due = append(due, e.query)
		}
	}
	w.ring, w.next = keep, uint64(len(keep))
	clear(w.last)
	for i, e := range keep {
		w.last[e.query] = uint64(i)
	}
	return due
}
