package ipam

import (
	"net/netip"
	"slices"
)

// FamilyStats counts the addresses of a pool of one family.
type FamilyStats struct {
	// Total is the size of the pool: the sum of Assigned, Reserved, Resting, Quarantined and Available.
	Total, Available Count
	// Assigned are the addresses of the pool that someone has, each counted once however many share it.
	Assigned int
	// Reserved are those that reservations hold, nobody has, and that are not Quarantined, whether or not they rest too.
	Reserved Count
	// Resting are those that rest and are not reserved.
	Resting int
	// Quarantined are those in quarantine that nobody has and that do not rest, whether or not they are reserved.
	Quarantined int
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
func (a *Allocator) OutOfPoolAddresses() []OutOfPoolAddress {
	var out []OutOfPoolAddress
	for _, holdings := range a.outOfPool {
		for h := range holdings {
			o := OutOfPoolAddress{Address: h.addr(), Owners: h.ownerNames()}
			if h.pool != nil {
				o.Pool = h.pool.spec.Name
			}
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(x, y OutOfPoolAddress) int { return x.Address.Compare(y.Address) })
	return out
}

// OutOfPool returns how many assigned addresses of a family no pool covers, wherever they came from.
func (a *Allocator) OutOfPool(f Family) int { return len(a.outOfPool[f.index()]) }

func (p *pool) stats() PoolStats {
	return PoolStats{Pool: p.spec.Name, IPv4: p.spaces[0].stats(), IPv6: p.spaces[1].stats()}
}

func (s *space) stats() FamilyStats {
	st := FamilyStats{Total: s.total, Assigned: s.assigned, Resting: s.resting[0], Quarantined: s.quarantined, OutOfPool: s.outOfPool}
	st.Reserved = s.held.plus(CountOf(uint64(s.resting[1])))
	st.Available = s.total.minus(st.Reserved).minus(CountOf(uint64(s.assigned + s.resting[0] + s.quarantined)))
	return st
}

// countOutOfPool counts a holding as out of pool (delta 1) or no longer (-1).
func (a *Allocator) countOutOfPool(h *holding, delta int) {
	if delta > 0 {
		a.outOfPool[h.family.index()][h] = struct{}{}
	} else {
		delete(a.outOfPool[h.family.index()], h)
	}
	if h.pool != nil {
		h.pool.space(h.family).outOfPool += delta
	}
}

// cameFrom notes which pool gave an address that no pool covers, unless that is known already.
func (a *Allocator) cameFrom(h *holding, pool string) {
	if h.inPool || h.pool != nil || pool == "" {
		return
	}
	a.countOutOfPool(h, -1)
	h.pool = a.byName(pool)
	a.countOutOfPool(h, 1)
}
