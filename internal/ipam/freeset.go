package ipam

import "github.com/google/btree"

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
	if pos != i.from {
		s.tree.ReplaceOrInsert(interval{i.from, pos.prev()})
	}
	if pos == i.to {
		s.tree.Delete(i)
		return
	}
	s.tree.ReplaceOrInsert(interval{pos.next(), i.to})
}

// put adds pos, which must not be in the set.
func (s *freeSet) put(pos u128) {
	merged := interval{pos, pos}
	if right, ok := s.ceiling(pos); ok && right.from == pos.next() {
		merged.to = right.to
	}
	if (pos != u128{}) {
		if left, ok := s.tree.Get(interval{to: pos.prev()}); ok {
			s.tree.Delete(left)
			merged.from = left.from
		}
	}
	s.tree.ReplaceOrInsert(merged)
}
