package ipam

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/google/btree"
)

// Rest is an address that its last owner gave up and that goes to no other until its pool's ReuseDelay has passed.
type Rest struct {
	Address netip.Addr
	// Owner may have it back at once.
	Owner Owner
	// Since is when it was given up; Until is Since plus the ReuseDelay of the pool.
	Since, Until time.Time
}

// Expire tells the allocator what time it is: for it no time passes otherwise, and what is released rests from the time
// that it was last told. It ends the rests that are over, and tells whether any was: requests that failed before deserve
// another attempt. It costs next to nothing if none is over, so call it before whatever may release something.
func (a *Allocator) Expire(now time.Time) (freed bool) {
	a.now = now.Round(0) // by the wall clock, as what is restored
	for {
		h := a.rests.first()
		if h == nil || a.now.Before(a.rests.of(h).until) {
			return freed
		}
		a.wake(h)
		a.forget(h)
		freed = true
	}
}

// NextExpiry returns when the next rest is over; false if nothing rests.
func (a *Allocator) NextExpiry() (time.Time, bool) {
	h := a.rests.first()
	if h == nil {
		return time.Time{}, false
	}
	return a.rests.of(h).until, true
}

// Rests returns the addresses that rest, by family and address.
func (a *Allocator) Rests() []Rest {
	var out []Rest
	for _, r := range a.rests.slots {
		if r != nil {
			out = append(out, Rest{r.h.addr(), r.owner, r.since, r.until})
		}
	}
	slices.SortFunc(out, func(x, y Rest) int { return x.Address.Compare(y.Address) })
	return out
}

// RestoreRest lets an address rest for an owner since a time: after a restart, if the caller has kept record of it. It
// tells whether the address rests now: it does not if it is assigned, no pool with a ReuseDelay covers it, or the rest
// is over (see Expire). What rests already keeps resting as it does.
func (a *Allocator) RestoreRest(o Owner, addr netip.Addr, since time.Time) bool {
	if checkAddr(addr) != nil {
		return false
	}
	h := a.held(addr)
	if h != nil && !h.idle() {
		return h.rests()
	}
	f, n, since := FamilyOf(addr), number(addr), since.Round(0)
	at, ok := locate(a.index[f.index()], n)
	if !ok || !a.now.Before(since.Add(at.pool.spec.ReuseDelay)) {
		return false
	}
	if h != nil {
		a.rouse(h)
	} else {
		h = a.spareHoldings.get()
		*h = holding{family: f, num: n, pool: at.pool, pos: at.position(n), inPool: true}
		a.addrs[f.index()][n] = h
		a.takeFree(h)
	}
	a.layToRest(h, o, since)
	return true
}

// rest is why a holding without owners is kept.
type rest struct {
	h            *holding
	owner        Owner
	since, until time.Time
	// next is the rest of the same owner that began before.
	next *rest
	// reserved tells that a reservation holds the address.
	reserved bool
}

// rests are all rests: by slot, by when they are over, and by owner with the latest first.
type rests struct {
	slots   []*rest // nil where there is none
	vacant  []uint32
	ends    *btree.BTreeG[end]
	byOwner map[Owner]*rest
	spare   spares[rest]
}

// end is when the rest of a slot is over. These are in a tree with all they need: the next to end and the latest to begin
// are at its edges, where it is in the processor's cache.
type end struct {
	at   time.Time
	slot uint32
}

func (e end) less(other end) bool {
	return cmp.Or(e.at.Compare(other.at), cmp.Compare(e.slot, other.slot)) < 0
}

func newRests() rests {
	return rests{ends: btree.NewG(16, end.less), byOwner: map[Owner]*rest{}}
}

func (rs *rests) of(h *holding) *rest { return rs.slots[h.slot-1] }

// first returns the holding whose rest is over first, nil if nothing rests.
func (rs *rests) first() *holding {
	e, ok := rs.ends.Min()
	if !ok {
		return nil
	}
	return rs.slots[e.slot-1].h
}

func (rs *rests) add(r *rest) {
	if n := len(rs.vacant); n > 0 {
		r.h.slot, rs.vacant = rs.vacant[n-1], rs.vacant[:n-1]
	} else {
		rs.slots = append(rs.slots, nil)
		r.h.slot = uint32(len(rs.slots))
	}
	rs.slots[r.h.slot-1] = r
	rs.ends.ReplaceOrInsert(end{r.until, r.h.slot})
	r.next = rs.byOwner[r.owner]
	rs.byOwner[r.owner] = r
}

func (rs *rests) remove(r *rest) {
	rs.unlink(r)
	rs.ends.Delete(end{r.until, r.h.slot})
	rs.slots[r.h.slot-1] = nil
	rs.vacant = append(rs.vacant, r.h.slot)
	r.h.slot = 0
	rs.spare.put(r)
}

func (rs *rests) unlink(r *rest) {
	first := rs.byOwner[r.owner]
	switch {
	case first != r:
		for first.next != r {
			first = first.next
		}
		first.next = r.next
	case r.next != nil:
		rs.byOwner[r.owner] = r.next
	default:
		delete(rs.byOwner, r.owner)
	}
}

// postpone gives a rest another end.
func (rs *rests) postpone(r *rest, until time.Time) {
	rs.ends.Delete(end{r.until, r.h.slot})
	r.until = until
	rs.ends.ReplaceOrInsert(end{r.until, r.h.slot})
}

// layToRest makes a holding rest that has no owners, is in a pool and in none of its sets.
func (a *Allocator) layToRest(h *holding, o Owner, since time.Time) {
	r := a.rests.spare.get()
	*r = rest{h: h, owner: o, since: since, until: since.Add(h.pool.spec.ReuseDelay)}
	r.reserved = a.reserved.of(h.family, h.num) != nil
	a.rests.add(r)
	r.count(1)
}

// wake undoes layToRest.
func (a *Allocator) wake(h *holding) {
	r := a.rests.of(h)
	r.count(-1)
	a.rests.remove(r)
}

func (r *rest) count(delta int) {
	sp := r.h.pool.space(r.h.family)
	if r.reserved {
		sp.resting[1] += delta
	} else {
		sp.resting[0] += delta
	}
}

// reattachRest finds the pool of a resting address whose pool was replaced or deleted. Without one, or if its delay is
// over by now, the address rests no more.
func (a *Allocator) reattachRest(h *holding) {
	r := a.rests.of(h)
	at, ok := locate(a.index[h.family.index()], h.num)
	if !ok || !a.now.Before(r.since.Add(at.pool.spec.ReuseDelay)) {
		a.rests.remove(r)
		a.reattachIdle(h)
		return
	}
	h.pool, h.pos = at.pool, at.position(h.num)
	a.takeFree(h)
	a.rests.postpone(r, r.since.Add(at.pool.spec.ReuseDelay))
	r.count(1)
}

// reserveRests notes of the rests within a range whether a reservation holds them.
func (a *Allocator) reserveRests(f Family, from, to u128, reserved bool) {
	mark := func(r *rest) {
		r.count(-1)
		r.reserved = reserved
		r.count(1)
	}
	if n := to.sub(from); n.hi > 0 || n.lo >= uint64(len(a.rests.slots)) {
		for _, r := range a.rests.slots {
			if r != nil && r.h.family == f && !r.h.num.less(from) && !to.less(r.h.num) {
				mark(r)
			}
		}
		return
	}
	for n := from; ; n = n.next() {
		if h := a.addrs[f.index()][n]; h != nil && h.rests() {
			mark(a.rests.of(h))
		}
		if n == to {
			return
		}
	}
}
