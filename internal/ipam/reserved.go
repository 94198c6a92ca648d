package ipam

import (
	"net/netip"
	"slices"

	"github.com/google/btree"
)

// reservation is a Reservation that holds something.
type reservation struct {
	name string
	who  Owner // Name is "" for a whole namespace
}

func (r *reservation) isFor(o Owner) bool {
	return r.who.Namespace == o.Namespace && (r.who.Name == "" || r.who.Name == o.Name)
}

// admits tells whether o may be given an address that r holds. Beside one for whom it is reserved others may have it: that
// one has agreed by its sharing key.
func (r *reservation) admits(o Owner, held *holding) bool {
	return r.isFor(o) || held != nil && held.first(r.isFor) != nil
}

// narrower tells whether r is for a Service of the namespace that other is for: then it may lie within.
func (r *reservation) narrower(other *reservation) bool {
	return r.who.Namespace == other.who.Namespace && r.who.Name != "" && other.who.Name == ""
}

// reservedRange is a range of addresses, as numbers, that a reservation holds.
type reservedRange struct {
	from, to u128
	by       *reservation
}

// reserved is what reservations hold.
type reserved struct {
	index [2][]reservedRange // per family, by address; they never overlap
	whos  map[Owner]bool     // all whom something is reserved for
	// counted are by name those that count.
	counted map[string]counted
}

// counted is what a reservation of a count holds.
type counted struct {
	pool   string
	family Family
	held   []netip.Addr // in the order in which they were chosen
}

// has tells whether anything is reserved for who.
func (rs *reserved) has(who Owner) bool { return len(rs.whos) > 0 && rs.whos[who] }

// of returns the reservation that holds an address, or nil.
func (rs *reserved) of(f Family, n u128) *reservation {
	index := rs.index[f.index()]
	if len(index) == 0 {
		return nil
	}
	if i := firstReserved(index, n); i < len(index) && !n.less(index[i].from) {
		return index[i].by
	}
	return nil
}

// firstReserved returns the index of the first range that ends at or above n.
func firstReserved(index []reservedRange, n u128) int {
	i, _ := slices.BinarySearchFunc(index, n, func(r reservedRange, n u128) int { return r.to.compare(n) })
	return i
}

// bookings are ranges that are about to be reserved, ordered by their ends.
type bookings [2]*btree.BTreeG[reservedRange]

func newBookings() *bookings {
	var b bookings
	for i := range b {
		b[i] = btree.NewG(16, func(x, y reservedRange) bool { return x.to.less(y.to) })
	}
	return &b
}

func (b *bookings) overlapping(f Family, from, to u128) []reservedRange {
	var hits []reservedRange
	b[f.index()].AscendGreaterOrEqual(reservedRange{to: from}, func(r reservedRange) bool {
		if to.less(r.from) {
			return false
		}
		hits = append(hits, r)
		return true
	})
	return hits
}

// conflict returns the first booked range that stands against r in [from, to].
func (b *bookings) conflict(r *reservation, f Family, from, to u128) (reservedRange, bool) {
	for _, hit := range b.overlapping(f, from, to) {
		if hit.by != r && !hit.by.narrower(r) && !r.narrower(hit.by) {
			return hit, true
		}
	}
	return reservedRange{}, false
}

// book books what of [from, to] is not booked by r or a narrower one.
func (b *bookings) book(r *reservation, f Family, from, to u128) {
	tree, next := b[f.index()], from
	for _, hit := range b.overlapping(f, from, to) {
		if r.narrower(hit.by) {
			tree.Delete(hit)
			if hit.from.less(from) {
				tree.ReplaceOrInsert(reservedRange{hit.from, from.prev(), hit.by})
			}
			if to.less(hit.to) {
				tree.ReplaceOrInsert(reservedRange{to.next(), hit.to, hit.by})
			}
			continue
		}
		if next.less(hit.from) {
			tree.ReplaceOrInsert(reservedRange{next, hit.from.prev(), r})
		}
		if !hit.to.less(to) {
			return
		}
		next = hit.to.next()
	}
	tree.ReplaceOrInsert(reservedRange{next, to, r})
}

// list returns all booked ranges by address.
func (b *bookings) list() (index [2][]reservedRange) {
	for i, tree := range b {
		index[i] = make([]reservedRange, 0, tree.Len())
		tree.Ascend(func(r reservedRange) bool {
			index[i] = append(index[i], r)
			return true
		})
	}
	return index
}

// difference returns what of two lists of ranges by address is only in the one or only in the other.
func difference(before, after []reservedRange) (gone, come []reservedRange) {
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case i == len(before) || j < len(after) && after[j].from.less(before[i].from):
			come = append(come, after[j])
			j++
		case j == len(after) || before[i].from != after[j].from || before[i].to != after[j].to || before[i].by.who != after[j].by.who:
			gone = append(gone, before[i])
			i++
		default:
			i++
			j++
		}
	}
	return gone, come
}

// setReserved reserves the ranges of a new index and no others. It tells whether that makes a difference.
func (a *Allocator) setReserved(index [2][]reservedRange) (changed bool) {
	for _, f := range families {
		gone, come := difference(a.reserved.index[f.index()], index[f.index()])
		for _, r := range gone {
			a.reserve(f, r, false)
		}
		for _, r := range come {
			a.reserve(f, r, true)
		}
		changed = changed || len(gone)+len(come) > 0
	}
	a.indexReserved(index)
	return changed
}

func (a *Allocator) indexReserved(index [2][]reservedRange) {
	a.reserved.index, a.reserved.whos = index, map[Owner]bool{}
	for _, ranges := range index {
		for _, r := range ranges {
			a.reserved.whos[r.by.who] = true
		}
	}
}

// reserve moves what is free of a range to what is reserved, or back.
func (a *Allocator) reserve(f Family, r reservedRange, on bool) {
	a.eachPart(f, r.from, r.to, func(at placed, from, to u128) bool {
		at.pool.space(f).reserve(r.by.who, from, to, on)
		return true
	})
	a.reserveRests(f, r.from, r.to, on)
}

func (s *space) reserve(who Owner, from, to u128, on bool) {
	set := s.reservedFor(who)
	if on {
		s.held = s.held.plus(s.free.move(set, from, to))
	} else {
		s.held = s.held.minus(set.move(s.free, from, to))
	}
	s.forgetIfEmpty(who)
}

// eachPart calls f with the parts of a range that are in pools, as positions, until it returns false.
func (a *Allocator) eachPart(f Family, from, to u128, each func(at placed, from, to u128) bool) {
	index := a.index[f.index()]
	i, _ := slices.BinarySearchFunc(index, from, func(p placed, n u128) int { return p.to.compare(n) })
	for ; i < len(index) && !to.less(index[i].from); i++ {
		at := index[i]
		if !each(at, at.position(larger(at.from, from)), at.position(smaller(at.to, to))) {
			return
		}
	}
}

// reserveIn reserves what reservations hold of a new pool, of which nothing is assigned yet.
func (a *Allocator) reserveIn(p *pool) {
	for _, f := range families {
		index := a.reserved.index[f.index()]
		for _, s := range p.space(f).spans {
			for i := firstReserved(index, s.from); i < len(index) && !s.to.less(index[i].from); i++ {
				r := index[i]
				p.space(f).reserve(r.by.who, s.position(larger(s.from, r.from)), s.position(smaller(s.to, r.to)), true)
			}
		}
	}
}

func larger(a, b u128) u128 {
	if a.less(b) {
		return b
	}
	return a
}

func smaller(a, b u128) u128 {
	if a.less(b) {
		return a
	}
	return b
}
