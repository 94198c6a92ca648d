package ipam

import (
	"net/netip"
	"slices"

	"github.com/google/btree"
)

// reservation is a Reservation that holds something.
type reservation struct {
	name  string
	who   Owner // Name is "" for a whole namespace
	group string
	// joint is, where several of a group hold the same addresses, what each of them is; their first is this one's name and
	// who. It is nil otherwise.
	joint []*reservation
}

func (r *reservation) isFor(o Owner) bool {
	return covers(r.who, o) || slices.ContainsFunc(r.joint, func(one *reservation) bool { return covers(one.who, o) })
}

func covers(who, o Owner) bool {
	return who.Namespace == o.Namespace && (who.Name == "" || who.Name == o.Name)
}

// exactlyFor tells whether o is a Service that r names.
func (r *reservation) exactlyFor(o Owner) bool {
	return r.who == o || slices.ContainsFunc(r.joint, func(one *reservation) bool { return one.who == o })
}

// is tells whether r is one, or one together with others.
func (r *reservation) is(one *reservation) bool { return r == one || slices.Contains(r.joint, one) }

// first returns the reservation that came first of those that r stands for.
func (r *reservation) first() *reservation {
	if len(r.joint) > 0 {
		return r.joint[0]
	}
	return r
}

// with returns what stands for r and one more of its group.
func (r *reservation) with(one *reservation) *reservation {
	members := append(slices.Clone(r.joint), one)
	if len(r.joint) == 0 {
		members = []*reservation{r, one}
	}
	return &reservation{name: r.name, who: r.who, group: r.group, joint: members}
}

// admits tells whether o may be given an address that r holds. Beside one for whom it is reserved others may have it: that
// one has agreed by its sharing key.
func (r *reservation) admits(o Owner, held *holding) bool {
	return r.isFor(o) || held != nil && held.first(r.isFor) != nil
}

// reservedRange is a range of addresses, as numbers, that a reservation holds.
type reservedRange struct {
	from, to u128
	by       *reservation
}

// reserved is what reservations hold.
type reserved struct {
	index [2][]reservedRange // per family, by address; they never overlap
	// whos are all whom something is reserved for, with those under whose name a space has it: themselves, or the first of
	// a group.
	whos map[Owner][]Owner
	// counted are by name those that count.
	counted map[string]counted
}

// counted is what a reservation of a count holds.
type counted struct {
	pool   string
	family Family
	held   []netip.Addr // in the order in which they were chosen
}

// under returns under whose names a space has what is reserved for who.
func (rs *reserved) under(who Owner) []Owner {
	if len(rs.whos) == 0 {
		return nil
	}
	return rs.whos[who]
}

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

// bookings are ranges that are about to be reserved: per family, and of each first for namespaces, then for Services. A tree
// is ordered by the ends of ranges, of which no two overlap. But what is booked for a Service may lie within what is booked
// for its namespace.
type bookings [2][2]*btree.BTreeG[reservedRange]

func newBookings() *bookings {
	var b bookings
	for f := range b {
		for i := range b[f] {
			b[f][i] = btree.NewG(16, func(x, y reservedRange) bool { return x.to.less(y.to) })
		}
	}
	return &b
}

func (b *bookings) tree(r *reservation, f Family) *btree.BTreeG[reservedRange] {
	if r.who.Name == "" {
		return b[f.index()][0]
	}
	return b[f.index()][1]
}

// overlapping returns the ranges of a tree that have an address of [from, to].
func overlapping(tree *btree.BTreeG[reservedRange], from, to u128) []reservedRange {
	var hits []reservedRange
	tree.AscendGreaterOrEqual(reservedRange{to: from}, func(r reservedRange) bool {
		if to.less(r.from) {
			return false
		}
		hits = append(hits, r)
		return true
	})
	return hits
}

// conflict returns a booked range that stands against r in [from, to].
func (b *bookings) conflict(r *reservation, f Family, from, to u128) (reservedRange, bool) {
	for _, tree := range b[f.index()] {
		within := tree != b.tree(r, f)
		for _, hit := range overlapping(tree, from, to) {
			switch {
			case hit.by.is(r):
			case !within && r.group != "" && r.group == hit.by.group:
			case !within || hit.by.who.Namespace != r.who.Namespace:
				return hit, true
			}
		}
	}
	return reservedRange{}, false
}

// free tells whether an address is not booked at all.
func (b *bookings) free(f Family, n u128) bool {
	return len(overlapping(b[f.index()][0], n, n)) == 0 && len(overlapping(b[f.index()][1], n, n)) == 0
}

// book books what of [from, to] r has not booked already, together with others of its group. Nothing there may stand
// against it.
func (b *bookings) book(r *reservation, f Family, from, to u128) {
	tree := b.tree(r, f)
	hits := overlapping(tree, from, to)
	for _, part := range without(reservedRange{from, to, r}, hits) {
		tree.ReplaceOrInsert(part)
	}
	for _, hit := range hits {
		if hit.by.is(r) {
			continue
		}
		both := reservedRange{larger(from, hit.from), smaller(to, hit.to), hit.by.with(r)}
		tree.Delete(hit)
		for _, part := range append(without(hit, []reservedRange{both}), both) {
			tree.ReplaceOrInsert(part)
		}
	}
}

// list returns all booked ranges by address. Where a range for a Service lies within one for its namespace, it counts.
func (b *bookings) list() (index [2][]reservedRange) {
	for f, trees := range b {
		index[f] = make([]reservedRange, 0, trees[0].Len()+trees[1].Len())
		trees[0].Ascend(func(r reservedRange) bool {
			index[f] = append(index[f], without(r, overlapping(trees[1], r.from, r.to))...)
			return true
		})
		trees[1].Ascend(func(r reservedRange) bool {
			index[f] = append(index[f], r)
			return true
		})
		slices.SortFunc(index[f], func(x, y reservedRange) int { return x.from.compare(y.from) })
	}
	return index
}

// without returns what of a range is not in cuts, which overlap it and are sorted.
func without(r reservedRange, cuts []reservedRange) []reservedRange {
	var out []reservedRange
	next := r.from
	for _, c := range cuts {
		if next.less(c.from) {
			out = append(out, reservedRange{next, c.from.prev(), r.by})
		}
		if !c.to.less(r.to) {
			return out
		}
		next = c.to.next()
	}
	return append(out, reservedRange{next, r.to, r.by})
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
	a.reserved.index, a.reserved.whos = index, map[Owner][]Owner{}
	note := func(who, under Owner) {
		if known := a.reserved.whos[who]; !slices.Contains(known, under) {
			a.reserved.whos[who] = append(known, under)
		}
	}
	for _, ranges := range index {
		for _, r := range ranges {
			note(r.by.who, r.by.who)
			for _, one := range r.by.joint {
				note(one.who, r.by.who)
			}
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
