package ipam

import (
	"math"

	"github.com/google/btree"
)

// interval is a run of free positions, both ends included.
type interval struct{ from, to u128 }

// freeSet is a set of positions held as maximal intervals. They are ordered by their upper ends, so that taking the
// lowest position of an interval, by far the most frequent change, leaves the order as it is.
type freeSet struct {
	tree *btree.BTreeG[interval]
	// ceil and ok are where seek leaves what it finds; one function value made once keeps searches free of allocations.
	ceil interval
	ok   bool
	seek btree.ItemIteratorG[interval]
}

func newFreeSet() *freeSet {
	s := &freeSet{tree: btree.NewG(16, func(a, b interval) bool { return a.to.less(b.to) })}
	s.seek = func(i interval) bool {
		s.ceil, s.ok = i, true
		return false
	}
	return s
}

// ceiling returns the first interval that ends at or above pos.
func (s *freeSet) ceiling(pos u128) (interval, bool) {
	s.ok = false
	s.tree.AscendGreaterOrEqual(interval{to: pos}, s.seek)
	return s.ceil, s.ok
}

// lowest returns the lowest free position.
func (s *freeSet) lowest() (u128, bool) {
	i, ok := s.tree.Min()
	return i.from, ok
}

// take removes pos, which must be in the set.
func (s *freeSet) take(pos u128) {
	i, _ := s.ceiling(pos)
	s.cut(i, interval{pos, pos})
}

// cut removes a part of an interval of the set.
func (s *freeSet) cut(i, part interval) {
	if part.from != i.from {
		s.tree.ReplaceOrInsert(interval{i.from, part.from.prev()})
	}
	if part.to == i.to {
		s.tree.Delete(i)
		return
	}
	s.tree.ReplaceOrInsert(interval{part.to.next(), i.to})
}

// put adds pos, which must not be in the set.
func (s *freeSet) put(pos u128) { s.add(interval{pos, pos}) }

// add adds an interval, of which nothing may be in the set.
func (s *freeSet) add(i interval) {
	if (i.to != u128{math.MaxUint64, math.MaxUint64}) {
		if right, ok := s.ceiling(i.to); ok && right.from == i.to.next() {
			i.to = right.to
		}
	}
	if (i.from != u128{}) {
		if left, ok := s.tree.Get(interval{to: i.from.prev()}); ok {
			s.tree.Delete(left)
			i.from = left.from
		}
	}
	s.tree.ReplaceOrInsert(i)
}

// move moves what the set has of [from, to] to another set and returns how much that was. The cost grows with the number
// of intervals between.
func (s *freeSet) move(other *freeSet, from, to u128) (moved Count) {
	for {
		i, ok := s.ceiling(from)
		if !ok || to.less(i.from) {
			return moved
		}
		part := i
		if part.from.less(from) {
			part.from = from
		}
		if to.less(part.to) {
			part.to = to
		}
		s.cut(i, part)
		other.add(part)
		moved = moved.plus(Count{part.to.sub(part.from)}.plus(CountOf(1)))
		if part.to == to {
			return moved
		}
		from = part.to.next()
	}
}
