package neighbor

import (
	"container/heap"
	"time"
)

// A task is something to do at a time. It is the only thing that runs then, and
// says itself when it is to run again.
type task interface {
	// run is called at now, which is due or later.
	run(now time.Time)
	// at returns where its time is kept, always the same.
	at() *appointment
}

// An appointment is the time of a task, and its place in the agenda.
type appointment struct {
	due time.Time
	pos int // plus one; zero if it is not in the agenda
}

func (a *appointment) at() *appointment { return a }

// An agenda is a heap of tasks, the one that is due first at its top.
type agenda []task

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at().due.Before(a[j].at().due)
}
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].at().pos, a[j].at().pos = i+1, j+1
}

// Push and Pop implement heap.Interface.
func (a *agenda) Push(x any) {
	t := x.(task)
	*a = append(*a, t)
	t.at().pos = len(*a)
}

func (a *agenda) Pop() any {
	last := len(*a) - 1
	t := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	t.at().pos = 0
	return t
}

// set makes t run at due, and only then.
func (a *agenda) set(t task, due time.Time) {
	at := t.at()
	at.due = due
	if at.pos == 0 {
		heap.Push(a, t)
		return
	}
	heap.Fix(a, at.pos-1)
}

// cancel makes t never run.
func (a *agenda) cancel(t task) {
	if at := t.at(); at.pos > 0 {
		heap.Remove(a, at.pos-1)
	}
}

// slotCount is into how many slots an interval is divided. Targets are spread
// over them, so that probes come in small groups: they neither burst nor wake the
// process for each one.
const slotCount = 20

// slots hand out the phases of periodic tasks.
type slots struct {
	epoch    time.Time
	interval time.Duration
	taken    [slotCount]int
}

func newSlots(epoch time.Time, interval time.Duration) slots {
	return slots{epoch: epoch, interval: interval}
}

// take returns the slot with the fewest tasks. Slots that are taken one after the
// other lie far apart, for slotCount and the step have no divisor in common.
func (s *slots) take() int {
	best := 0
	for i := range slotCount {
		if n := i * 13 % slotCount; s.taken[n] < s.taken[best] {
			best = n
		}
	}
	s.taken[best]++
	return best
}

func (s *slots) release(slot int) { s.taken[slot]-- }

// after returns the first time of a slot that is later than now.
func (s *slots) after(slot int, now time.Time) time.Time {
	first := s.epoch.Add(time.Duration(slot) * s.interval / slotCount)
	if now.Before(first) {
		return first
	}
	return first.Add((now.Sub(first)/s.interval + 1) * s.interval)
}
