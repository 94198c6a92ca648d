package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// SetReservations makes reservations the configuration, and returns what came of each, in their order. It tells whether
// anything is now reserved, for another or no more: requests that failed before deserve another attempt. Nobody loses an
// address by it. The cost grows with the number of reservations and of the Services that have their addresses, not with
// how many addresses they hold.
//
// Of two reservations with an address in common the earlier wins, and the other is refused as a whole. But those of a group
// hold it together; and one for a Service may lie within one for its namespace, whatever their order: those addresses are
// for that Service alone. A count
// never takes what another reservation names; it chooses after all others. If it is short, it is not filled up by itself:
// call SetReservations again when something was freed.
//
// A reserved address is given to nobody but those whom it is reserved for, and to share to those with whom one of these
// shares it already. These are given their reserved addresses before any other: a Service first those reserved for it
// alone, then those of its namespace, of the first pool of the request that has one. The pool must be one of the request;
// but a reservation for exactly this Service opens its pool to it unless the Service itself names others (Request.Named).
// A disabled pool gives none. While a reserved address rests, it goes only to its last owner, if it is reserved for that.
func (a *Allocator) SetReservations(reservations []Reservation) (held []Reserved, changed bool) {
	s := &reserving{a: a, bookings: newBookings(), counted: map[string]counted{}}
	for i := range reservations {
		held = append(held, s.add(&reservations[i]))
	}
	changed = a.setReserved(s.bookings.list())
	for i := range reservations {
		if held[i].Err == nil && reservations[i].Count > 0 {
			held[i].Held, held[i].Err = s.fill(i, &reservations[i])
		}
	}
	if s.filled {
		a.indexReserved(s.bookings.list())
		changed = true
	}
	a.reserved.counted = s.counted
	for i, pending := range a.pending(s.accepted) {
		if pending != nil && held[i].Err == nil {
			held[i].Err = pending
		}
	}
	return held, changed
}

// reserving is a SetReservations on its way.
type reserving struct {
	a        *Allocator
	bookings *bookings
	accepted []*reservation // in the order of the reservations; nil for those refused
	counted  map[string]counted
	filled   bool
	seen     map[string]bool
}

// add books what a reservation names, or what one that counts held before.
func (s *reserving) add(spec *Reservation) Reserved {
	out := Reserved{Name: spec.Name}
	r := &reservation{name: spec.Name, who: spec.For(), group: spec.Group}
	out.Err = s.check(r, spec)
	if out.Err != nil {
		s.accepted = append(s.accepted, nil)
		return out
	}
	s.accepted = append(s.accepted, r)
	if spec.Count > 0 {
		s.bookHeld(r, spec)
		return out
	}
	for _, rg := range spec.Addresses {
		s.bookings.book(r, rg.Family(), number(rg.From), number(rg.To))
	}
	out.Held = slices.Clone(spec.Addresses)
	return out
}

func (s *reserving) check(r *reservation, spec *Reservation) error {
	if s.seen[spec.Name] {
		return fmt.Errorf("reservation %s is given twice", spec.Name)
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[spec.Name] = true
	if err := spec.validate(); err != nil {
		return err
	}
	for _, rg := range spec.Addresses {
		f, from, to := rg.Family(), number(rg.From), number(rg.To)
		if hit, ok := s.bookings.conflict(r, f, from, to); ok {
			both := Range{address(f, larger(from, hit.from)), address(f, smaller(to, hit.to))}
			return &ReservationConflictError{Reservation: spec.Name, Other: hit.by.name, Range: both}
		}
	}
	return nil
}

// bookHeld books what a reservation that counts held before: what is known here, else what the caller knows. An address
// that the pool no longer has is given up for another; but while there is no such pool, it may come back with it, unless
// another pool has it by then.
func (s *reserving) bookHeld(r *reservation, spec *Reservation) {
	c := counted{pool: spec.Pool, family: spec.Family}
	before := spec.Held
	if known := s.a.reserved.counted[spec.Name]; known.pool == spec.Pool && known.family == spec.Family {
		before = known.held
	}
	_, exists := s.a.StatsOf(spec.Pool)
	for _, addr := range before {
		if len(c.held) == spec.Count {
			break
		}
		if checkAddr(addr) != nil || FamilyOf(addr) != spec.Family || slices.Contains(c.held, addr) {
			continue
		}
		if pool, covered := s.a.PoolOf(addr); pool != spec.Pool && (exists || covered) {
			continue
		}
		if !s.bookings.free(spec.Family, number(addr)) {
			continue
		}
		s.bookings.book(r, spec.Family, number(addr), number(addr))
		c.held = append(c.held, addr)
	}
	s.counted[spec.Name] = c
}

// fill adds to the i-th reservation, which counts, what it lacks. All reservations are in force by now as far as they name
// addresses, so that what is free is not reserved.
func (s *reserving) fill(i int, spec *Reservation) ([]Range, error) {
	r, c := s.accepted[i], s.counted[spec.Name]
	lack := LackPool
	if in := s.a.pools[spec.Pool]; in != nil && in.configured {
		sp := in.space(spec.Family)
		switch {
		case sp.free == nil:
			lack = LackFamily
		case in.spec.Disabled:
			lack = LackDisabled
		default:
			lack = LackFree
		}
		for lack == LackFree && len(c.held) < spec.Count {
			pos, ok := sp.free.lowest()
			if !ok {
				break
			}
			sp.reserve(r.who, pos, pos, true)
			addr := sp.address(spec.Family, pos)
			s.bookings.book(r, spec.Family, number(addr), number(addr))
			c.held, s.filled = append(c.held, addr), true
		}
	}
	s.counted[spec.Name] = c
	if len(c.held) == spec.Count {
		return merge(c.held), nil
	}
	return merge(c.held), &ReservationShortError{
		Reservation: spec.Name, Pool: spec.Pool, Family: spec.Family, Want: spec.Count, Got: len(c.held), Lack: lack,
	}
}

// merge returns distinct addresses of one family as ranges, by address.
func merge(addrs []netip.Addr) []Range {
	sorted := slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
	var out []Range
	for _, addr := range sorted {
		if n := len(out); n > 0 && out[n-1].To.Next() == addr {
			out[n-1].To = addr
			continue
		}
		out = append(out, Range{addr, addr})
	}
	return out
}

// pending returns for each reservation the first address that another has, nil if there is none.
func (a *Allocator) pending(accepted []*reservation) []*ReservationPendingError {
	place := make(map[*reservation]int, len(accepted))
	for i, r := range accepted {
		place[r] = i
	}
	out := make([]*ReservationPendingError, len(accepted))
	for _, f := range families {
		for _, rr := range a.reserved.index[f.index()] {
			if i := place[rr.by.first()]; out[i] == nil {
				out[i] = a.pendingIn(f, rr)
			}
		}
	}
	return out
}

// pendingIn looks at the addresses of a range that are not free, which are between the intervals that are.
func (a *Allocator) pendingIn(f Family, r reservedRange) (found *ReservationPendingError) {
	a.eachPart(f, r.from, r.to, func(at placed, from, to u128) bool {
		taken := func(from, to u128) bool { // from is below to
			for pos := from; pos.less(to) && found == nil; pos = pos.next() {
				h := a.addrs[f.index()][at.from.add(pos.sub(at.base))]
				if other := h.first(func(o Owner) bool { return !r.by.isFor(o) }); other != nil {
					found = &ReservationPendingError{Reservation: r.by.name, Address: h.addr(), Owner: other.owner}
				}
			}
			return found == nil
		}
		next, end := from, to.next()
		if set := at.pool.space(f).reserved[r.by.who]; set != nil {
			set.tree.AscendGreaterOrEqual(interval{to: from}, func(i interval) bool {
				if !i.from.less(end) || !taken(next, i.from) {
					return false
				}
				next = smaller(i.to.next(), end)
				return next.less(end)
			})
		}
		return found == nil && taken(next, end)
	})
	return found
}
