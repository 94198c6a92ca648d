package ipam

import (
	"net/netip"
	"slices"
	"time"
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
	a.now = now
	for len(a.rests.heap) > 0 && !now.Before(a.rests.heap[0].until) {
		h := a.rests.heap[0].h
		a.wake(h)
		a.forget(h)
		freed = true
	}
	return freed
}

// NextExpiry returns when the next rest is over; false if nothing rests.
func (a *Allocator) NextExpiry() (time.Time, bool) {
	if len(a.rests.heap) == 0 {
		return time.Time{}, false
	}
	return a.rests.heap[0].until, true
}

// Rests returns the addresses that rest, by family and address.
func (a *Allocator) Rests() []Rest {
	var out []Rest
	for _, r := range a.rests.heap {
		out = append(out, Rest{r.h.addr(), r.owner, r.since, r.until})
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
	if h := a.held(addr); h != nil {
		return h.rests()
	}
	f, n := FamilyOf(addr), number(addr)
	at, ok := locate(a.index[f.index()], n)
	if !ok || !a.now.Before(since.Add(at.pool.spec.ReuseDelay)) {
		return false
	}
	h := a.spareHoldings.get()
	*h = holding{family: f, num: n, pool: at.pool, pos: at.position(n), inPool: true}
	a.addrs[f.index()][n] = h
	a.takeFree(h)
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

// rests are all rests: in a binary heap, the first to be over on top, and by owner, the latest first.
type rests struct {
	heap    []*rest
	byOwner map[Owner]*rest
	spare   spares[rest]
}

func (rs *rests) of(h *holding) *rest { return rs.heap[h.slot-1] }

func (rs *rests) push(r *rest) {
	if rs.byOwner == nil {
		rs.byOwner = map[Owner]*rest{}
	}
	r.next = rs.byOwner[r.owner]
	rs.byOwner[r.owner] = r
	rs.heap = append(rs.heap, r)
	rs.up(len(rs.heap) - 1)
}

func (rs *rests) remove(r *rest) {
	rs.unlink(r)
	i, last := int(r.h.slot-1), len(rs.heap)-1
	moved := rs.heap[last]
	rs.heap[last] = nil
	rs.heap = rs.heap[:last]
	if i < last {
		rs.set(i, moved)
		rs.fix(moved)
	}
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

// fix restores the order of the heap after a rest got another end.
func (rs *rests) fix(r *rest) {
	rs.up(int(r.h.slot - 1))
	rs.down(int(r.h.slot - 1))
}

func (rs *rests) set(i int, r *rest) {
	rs.heap[i] = r
	r.h.slot = uint32(i + 1)
}

func (rs *rests) up(i int) {
	r := rs.heap[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !r.until.Before(rs.heap[parent].until) {
			break
		}
		rs.set(i, rs.heap[parent])
		i = parent
	}
	rs.set(i, r)
}

func (rs *rests) down(i int) {
	r := rs.heap[i]
	for {
		child := 2*i + 1
		if child+1 < len(rs.heap) && rs.heap[child+1].until.Before(rs.heap[child].until) {
			child++
		}
		if child >= len(rs.heap) || !rs.heap[child].until.Before(r.until) {
			break
		}
		rs.set(i, rs.heap[child])
		i = child
	}
	rs.set(i, r)
}

// layToRest makes a holding rest that has no owners, is in a pool and in none of its sets.
func (a *Allocator) layToRest(h *holding, o Owner, since time.Time) {
	r := a.rests.spare.get()
	*r = rest{h: h, owner: o, since: since, until: since.Add(h.pool.spec.ReuseDelay)}
	r.reserved = a.reserved.of(h.family, h.num) != nil
	a.rests.push(r)
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
		delete(a.addrs[h.family.index()], h.num)
		a.spareHoldings.put(h)
		return
	}
	h.pool, h.pos = at.pool, at.position(h.num)
	a.takeFree(h)
	r.until = r.since.Add(at.pool.spec.ReuseDelay)
	a.rests.fix(r)
	r.count(1)
}

// reserveRests notes of the rests within a range whether a reservation holds them.
func (a *Allocator) reserveRests(f Family, from, to u128, reserved bool) {
	mark := func(r *rest) {
		r.count(-1)
		r.reserved = reserved
		r.count(1)
	}
	if n := to.sub(from); n.hi > 0 || n.lo >= uint64(len(a.rests.heap)) {
		for _, r := range a.rests.heap {
			if r.h.family == f && !r.h.num.less(from) && !to.less(r.h.num) {
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
