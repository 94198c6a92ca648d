package ipam

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// Allocator holds the pools and who has which address. It is not safe for concurrent use. After a restart call SetPools
// and Restore for every owner before the first Allocate.
type Allocator struct {
	pools  map[string]*pool // with what remains of deleted ones
	order  []*pool          // those of the configuration, in its order
	index  [2][]placed      // all their ranges by address
	owners map[Owner]*allocation
	addrs  [2]map[u128]*holding // per family
	// outOfPool are the addresses that no pool covers.
	outOfPool [2]map[*holding]struct{}
	rests     rests
	reserved  reserved
	// quarantine has the addresses that nobody is given, per family.
	quarantine [2]map[u128]struct{}
	// now is what Expire was last told.
	now time.Time

	plan plan
	// What was released last is used again first: churn then leaves little to the garbage collector, for which every
	// allocation that lives is work.
	spareAllocations spares[allocation]
	spareHoldings    spares[holding]
}

// New returns an allocator without pools and allocations.
func New() *Allocator {
	return &Allocator{
		pools:  map[string]*pool{},
		owners: map[Owner]*allocation{},
		addrs:  [2]map[u128]*holding{{}, {}},

		outOfPool: [2]map[*holding]struct{}{{}, {}},
		rests:     newRests(),
	}
}

// Restore records addresses that an owner already has, whether or not a pool covers them, gives anything or has them
// reserved for others. It succeeds for every address except an invalid one and one that is held by another owner with whom
// it may not be shared; for these the error is or joins an *InUseError. The other addresses of the call are restored all
// the same. Owners of several namespaces that share an address keep it even if the pool no longer allows that. Restoring
// twice does nothing.
func (a *Allocator) Restore(o Owner, addrs []netip.Addr, sharing *Sharing) error {
	assigned := make([]Assigned, len(addrs))
	for i, addr := range addrs {
		assigned[i].Address = addr
	}
	return a.RestoreFrom(o, assigned, sharing)
}

// RestoreFrom is Restore for addresses of which the caller also knows the pools that gave them, as far as Assigned.Pool is
// not "": those that no pool covers any more are then counted and listed as out of these pools.
func (a *Allocator) RestoreFrom(o Owner, assigned []Assigned, sharing *Sharing) error {
	s := sharing.normalized()
	al, known := a.owners[o]
	if known && !al.sharing.equal(s) {
		return fmt.Errorf("restore of Service %s: it is already known with another sharing key or other ports", o)
	}
	if !known {
		al = a.newAllocation(o, s)
		al.restored = true
	}
	var failed []error
	for _, as := range assigned {
		if err := a.restore(al, as); err != nil {
			failed = append(failed, err)
		}
	}
	if len(al.holdings) > 0 {
		a.owners[o] = al
	}
	if len(failed) == 1 {
		return failed[0]
	}
	return errors.Join(failed...)
}

func (a *Allocator) restore(al *allocation, as Assigned) error {
	if err := checkAddr(as.Address); err != nil {
		return fmt.Errorf("restore of Service %s: %w", al.owner, err)
	}
	h := a.held(as.Address)
	if h != nil {
		if slices.Contains(al.holdings, h) {
			a.cameFrom(h, as.Pool)
			return nil
		}
		if conflict := h.conflict(al.owner, al.sharing, true); conflict != nil {
			return conflict
		}
	}
	a.cameFrom(a.give(al, as.Address, h), as.Pool)
	return nil
}

// Release takes all addresses from an owner and returns them. Others may still share one, but then its ports are free:
// requests that failed before deserve another attempt.
func (a *Allocator) Release(o Owner) []netip.Addr {
	al := a.owners[o]
	if al == nil {
		return nil
	}
	released := a.dropAll(al, al.holdings)
	delete(a.owners, o)
	a.spareAllocations.put(al)
	return released
}

// held returns the holding of a valid address, nil if nobody has it, it does not rest and is not in quarantine.
func (a *Allocator) held(addr netip.Addr) *holding {
	return a.addrs[FamilyOf(addr).index()][number(addr)]
}

func (a *Allocator) newAllocation(o Owner, s *Sharing) *allocation {
	al := a.spareAllocations.get()
	*al = allocation{owner: o, sharing: s}
	al.holdings = al.inline[:0]
	return al
}

// give makes al an owner of addr; h is its holding, nil if nobody has the address yet, it does not rest and is not idle.
func (a *Allocator) give(al *allocation, addr netip.Addr, h *holding) *holding {
	switch {
	case h == nil:
		h = a.spareHoldings.get()
		*h = holding{family: FamilyOf(addr), num: number(addr)}
		a.addrs[h.family.index()][h.num] = h
		a.attach(h)
	case h.rests():
		a.wake(h)
		h.pool.space(h.family).assigned++
	case h.idle(): // restored
		a.rouse(h)
		h.pool.space(h.family).assigned++
	}
	h.addOwner(al)
	al.holdings = append(al.holdings, h)
	h.charge(al)
	return h
}

// dropAll takes holdings from an owner, the last first: of what then rests for it the first is what it gave up last.
func (a *Allocator) dropAll(al *allocation, holdings []*holding) []netip.Addr {
	if len(holdings) == 0 {
		return nil
	}
	released := make([]netip.Addr, len(holdings))
	for i, h := range slices.Backward(holdings) {
		released[i] = h.addr()
		a.drop(al, h)
	}
	return released
}

// drop undoes give.
func (a *Allocator) drop(al *allocation, h *holding) {
	h.dropOwner(al)
	i := slices.Index(al.holdings, h)
	al.holdings = slices.Delete(al.holdings, i, i+1)
	h.discharge(al)
	if len(h.owners()) > 0 {
		return
	}
	if h.inPool {
		h.pool.space(h.family).assigned--
		if h.pool.spec.ReuseDelay > 0 {
			a.layToRest(h, al.owner, a.now)
			return
		}
	}
	a.forget(h)
}

// forget returns the address of a holding that nobody has, that does not rest and is no longer counted as assigned. In
// quarantine it is idle from then on.
func (a *Allocator) forget(h *holding) {
	if h.inPool && a.quarantined(h.family, h.num) {
		h.pool.space(h.family).quarantined++
		return
	}
	delete(a.addrs[h.family.index()], h.num)
	if h.inPool {
		a.putFree(h)
	} else {
		a.countOutOfPool(h, -1)
	}
	a.spareHoldings.put(h)
}

// attach looks for the pool that covers an assigned address and takes the address out of its free set. The holding must
// not be in a pool or in a group, and not be counted as out of pool.
func (a *Allocator) attach(h *holding) {
	at, ok := locate(a.index[h.family.index()], h.num)
	h.inPool = ok
	if !ok {
		a.countOutOfPool(h, 1)
		return
	}
	h.pool, h.pos = at.pool, at.position(h.num)
	a.takeFree(h)
	at.pool.space(h.family).assigned++
}

// takeFree takes the address of a holding in a pool out of the set in which it is while nobody has it; putFree returns it.
func (a *Allocator) takeFree(h *holding) {
	sp := h.pool.space(h.family)
	r := a.reserved.of(h.family, h.num)
	if r == nil {
		sp.free.take(h.pos)
		return
	}
	sp.reserved[r.who].take(h.pos)
	sp.forgetIfEmpty(r.who)
	sp.held = sp.held.minus(CountOf(1))
}

func (a *Allocator) putFree(h *holding) {
	sp := h.pool.space(h.family)
	r := a.reserved.of(h.family, h.num)
	if r == nil {
		sp.free.put(h.pos)
		return
	}
	sp.reservedFor(r.who).put(h.pos)
	sp.held = sp.held.plus(CountOf(1))
}

// Has tells whether the owner has any address.
func (a *Allocator) Has(o Owner) bool { return a.owners[o] != nil }

// Allocation returns what an owner holds, in the order of the last Result; nil if nothing.
func (a *Allocator) Allocation(o Owner) []Assigned {
	al := a.owners[o]
	if al == nil {
		return nil
	}
	return al.assigned()
}

func (al *allocation) assigned() []Assigned {
	out := make([]Assigned, len(al.holdings))
	for i, h := range al.holdings {
		out[i].Address = h.addr()
		if h.pool != nil {
			out[i].From = h.pool.spec.Name
		}
		if h.inPool {
			out[i].Pool = out[i].From
		}
	}
	return out
}

// AsksToMove tells of an owner that was restored and not dealt with since that it names other pools than those which its
// addresses came from: it waits for these, and is moved as soon as they can be had.
func (a *Allocator) AsksToMove(o Owner) {
	if al := a.owners[o]; al != nil {
		al.restored = false
	}
}

// Reshare tells which ports and Pods an owner has by now under the sharing key that it has its addresses under, where the
// request that says so was refused for something else: they are served all the same. It is ignored where another owner
// stands against it, or with another key. It tells whether anything changed, see Result.Freed.
func (a *Allocator) Reshare(o Owner, sharing *Sharing) (freed bool) {
	al, s := a.owners[o], sharing.normalized()
	if al == nil || al.sharing == nil || s == nil || s.Key != al.sharing.Key || s.equal(al.sharing) {
		return false
	}
	for _, h := range al.holdings {
		if h.conflict(o, s, true) != nil {
			return false
		}
	}
	reshare(al, al.holdings, s)
	return true
}

// SharingOf returns a copy of the sharing under which an owner holds its addresses, with sorted ports; nil if it shares
// nothing.
func (a *Allocator) SharingOf(o Owner) *Sharing {
	if al := a.owners[o]; al != nil {
		return al.sharing.normalized()
	}
	return nil
}

// Owners returns those who hold an address, by name.
func (a *Allocator) Owners(addr netip.Addr) []Owner {
	if checkAddr(addr) != nil {
		return nil
	}
	h := a.held(addr)
	if h == nil {
		return nil
	}
	return h.ownerNames()
}

// PoolOf returns the name of the pool that covers an address, assigned or not.
func (a *Allocator) PoolOf(addr netip.Addr) (string, bool) {
	if checkAddr(addr) != nil {
		return "", false
	}
	at, ok := locate(a.index[FamilyOf(addr).index()], number(addr))
	if !ok {
		return "", false
	}
	return at.pool.spec.Name, true
}

// Len returns the number of owners.
func (a *Allocator) Len() int { return len(a.owners) }

// All goes through all owners and what they hold, in no particular order. The allocator must not be changed meanwhile,
// except that the current owner may be released.
func (a *Allocator) All() iter.Seq2[Owner, []Assigned] {
	return func(yield func(Owner, []Assigned) bool) {
		for o, al := range a.owners {
			if !yield(o, al.assigned()) {
				return
			}
		}
	}
}

// spares are a few objects that wait to be used again.
type spares[T any] struct{ list []*T }

const mostSpares = 64

func (s *spares[T]) get() *T {
	last := len(s.list) - 1
	if last < 0 {
		return new(T)
	}
	v := s.list[last]
	s.list[last] = nil
	s.list = s.list[:last]
	return v
}

// put takes an object to which nobody holds a reference any more.
func (s *spares[T]) put(v *T) {
	var zero T
	*v = zero
	if len(s.list) < mostSpares {
		s.list = append(s.list, v)
	}
}
