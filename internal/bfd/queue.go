package bfd

import (
	"container/heap"
	"time"
)

// A queue holds links ordered by when they need attention.
type queue []*link

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	l := x.(*link)
	l.index = len(*q)
	*q = append(*q, l)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return l
}

func (q *queue) add(l *link)    { heap.Push(q, l) }
func (q *queue) remove(l *link) { heap.Remove(q, l.index) }

// set changes when l needs attention.
func (q *queue) set(l *link, due time.Time) {
	if l.due.Equal(due) {
		return
	}
	l.due = due
	heap.Fix(q, l.index)
}

// first returns when the first link needs attention.
func (q queue) first() time.Time {
	if len(q) == 0 {
		return never
	}
	return q[0].due
}
