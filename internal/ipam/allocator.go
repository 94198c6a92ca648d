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
	// outOfPool counts the addresses that no pool covers.
	outOfPool [2]int
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
	}
}

// Restore records addresses that an owner already has, whether or not a pool covers them. It succeeds for every address
// except an invalid one and one that is held by another owner with whom it may not be shared; for these the error is or
// joins an *InUseError. The other addresses of the call are restored all the same. Owners of several namespaces that
// share an address keep it even if the pool no longer allows that. Restoring twice does nothing.
func (a *Allocator) Restore(o Owner, addrs []netip.Addr, sharing *Sharing) error {
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
	for _, addr := range addrs {
		if err := a.restore(al, addr); err != nil {
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

// RestoreFrom is Restore for addresses of which the caller also knows the pools that gave them, as far as Assigned.Pool is
// not "": those that no pool covers any more are then counted and listed as out of these pools.
func (a *Allocator) RestoreFrom(o Owner, assigned []Assigned, sharing *Sharing) error {
	addrs := make([]netip.Addr, len(assigned))
	for i, as := range assigned {
		addrs[i] = as.Address
	}
	return a.Restore(o, addrs, sharing)
}

func (a *Allocator) restore(al *allocation, addr netip.Addr) error {
	if err := checkAddr(addr); err != nil {
		return fmt.Errorf("restore of Service %s: %w", al.owner, err)
	}
	h := a.held(addr)
	if h != nil {
		if slices.Contains(al.holdings, h) {
			return nil
		}
		if conflict := h.conflict(al.owner, al.sharing, true); conflict != nil {
			return conflict
		}
	}
	a.give(al, addr, h)
	return nil
}

// Release takes all addresses from an owner and returns them. Others may still share one, but then its ports are free:
// requests that failed before deserve another attempt.
func (a *Allocator) Release(o Owner) []netip.Addr {
	al := a.owners[o]
	if al == nil {
		return nil
	}
	released := make([]netip.Addr, len(al.holdings))
	for i, h := range al.holdings {
		released[i] = h.addr()
		a.drop(al, h)
	}
	delete(a.owners, o)
	a.spareAllocations.put(al)
	return released
}

// held returns the holding of a valid address, nil if nobody has it.
func (a *Allocator) held(addr netip.Addr) *holding {
	return a.addrs[FamilyOf(addr).index()][number(addr)]
}

func (a *Allocator) newAllocation(o Owner, s *Sharing) *allocation {
	al := a.spareAllocations.get()
	*al = allocation{owner: o, sharing: s}
	al.holdings = al.inline[:0]
	return al
}

// give makes al an owner of addr; h is its holding, nil if nobody has the address yet.
func (a *Allocator) give(al *allocation, addr netip.Addr, h *holding) {
	if h == nil {
		h = a.spareHoldings.get()
		*h = holding{family: FamilyOf(addr), num: number(addr)}
		a.addrs[h.family.index()][h.num] = h
		a.attach(h)
	}
	h.addOwner(al)
	al.holdings = append(al.holdings, h)
}

// drop undoes give but for the list of the allocation, which is the caller's.
func (a *Allocator) drop(al *allocation, h *holding) {
	h.dropOwner(al)
	if len(h.owners()) > 0 {
		return
	}
	delete(a.addrs[h.family.index()], h.num)
	if h.inPool {
		sp := h.pool.space(h.family)
		sp.free.put(h.pos)
		sp.assigned--
	} else {
		a.countOutOfPool(h, -1)
	}
	a.spareHoldings.put(h)
}

// attach looks for the pool that covers the address and takes the address out of its free set. The holding must not be
// in a pool or in a group, and not be counted as out of pool.
func (a *Allocator) attach(h *holding) {
	at, ok := locate(a.index[h.family.index()], h.num)
	h.inPool = ok
	if !ok {
		a.countOutOfPool(h, 1)
		return
	}
	h.pool, h.pos = at.pool, at.base.add(h.num.sub(at.from))
	sp := at.pool.space(h.family)
	sp.free.take(h.pos)
	sp.assigned++
}

func (a *Allocator) countOutOfPool(h *holding, delta int) {
	a.outOfPool[h.family.index()] += delta
	if h.pool != nil {
		h.pool.space(h.family).outOfPool += delta
	}
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
		if h.inPool {
			out[i].Pool = h.pool.spec.Name
		}
	}
	return out
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
	owners := h.owners()
	out := make([]Owner, len(owners))
	for i, al := range owners {
		out[i] = al.owner
	}
	slices.SortFunc(out, Owner.Compare)
	return out
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

// FamilyStats counts the addresses of a pool of one family.
type FamilyStats struct {
	// Total is the size of the pool: the sum of Assigned, Reserved, Resting and Available.
	Total, Available Count
	// Assigned are the addresses of the pool that someone has, each counted once however many share it.
	Assigned int
	// Reserved are those that reservations hold and nobody has, whether or not they rest too.
	Reserved Count
	// Resting are those that rest and are not reserved.
	Resting int
	// OutOfPool are addresses assigned from this pool, as far as known since the start of the process, that no pool
	// covers any more.
	OutOfPool int
}

// PoolStats counts the addresses of a pool.
type PoolStats struct {
	Pool       string
	IPv4, IPv6 FamilyStats
}

// Stats returns the counts of all pools in the order of SetPools. The cost does not depend on their sizes.
func (a *Allocator) Stats() []PoolStats {
	out := make([]PoolStats, len(a.order))
	for i, p := range a.order {
		out[i] = p.stats()
	}
	return out
}

// StatsOf returns the counts of one pool; false if there is none of that name.
func (a *Allocator) StatsOf(name string) (PoolStats, bool) {
	p := a.pools[name]
	if p == nil || !p.configured {
		return PoolStats{}, false
	}
	return p.stats(), true
}

// OutOfPoolAddress is an assigned address that no pool covers.
type OutOfPoolAddress struct {
	Address netip.Addr
	// Pool is the name of the pool that gave it, "" if that is not known.
	Pool string
	// Owners are those who have it, by name.
	Owners []Owner
}

// OutOfPoolAddresses lists the assigned addresses that no pool covers, by family and address. The cost grows with their
// number alone.
func (a *Allocator) OutOfPoolAddresses() []OutOfPoolAddress { return nil }

// OutOfPool returns how many assigned addresses of a family no pool covers, wherever they came from.
func (a *Allocator) OutOfPool(f Family) int { return a.outOfPool[f.index()] }

func (p *pool) stats() PoolStats {
	return PoolStats{Pool: p.spec.Name, IPv4: p.spaces[0].stats(), IPv6: p.spaces[1].stats()}
}

func (s *space) stats() FamilyStats {
	return FamilyStats{Total: s.total, Available: s.available(), Assigned: s.assigned, OutOfPool: s.outOfPool}
}
