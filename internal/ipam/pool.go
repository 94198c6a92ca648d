package ipam

import (
	"cmp"
	"net/netip"
	"slices"
)

// pool is a pool of the configuration, or one that was in it and of which assigned addresses remain.
type pool struct {
	spec Pool
	// configured is false for what remains of a deleted pool: a name and a count of addresses out of pool.
	configured bool
	spaces     [2]space
	// usage is by namespace what its Services have of the pool. It is nil if there is no quota.
	usage map[string]usage
}

func (p *pool) space(f Family) *space { return &p.spaces[f.index()] }

// space is what a pool has of one family. Its addresses are numbered by position: consecutively from 0, the ranges in
// spec order and each from its lowest address. So the lowest free position is the address to give next, and neighbouring
// ranges (a large pool without buggy addresses is a hundred thousand) make a single free interval.
type space struct {
	total    Count
	assigned int
	// resting counts the addresses that rest: first those that no reservation holds, then those that one holds.
	resting [2]int
	// quarantined counts the addresses in quarantine that nobody has and that do not rest.
	quarantined int
	// outOfPool counts addresses that the pool once covered, are still assigned, and that no pool covers now.
	outOfPool int
	// spans are the ranges by position; they never overlap.
	spans []span
	// free has the positions that nobody has, that do not rest and are neither reserved nor in quarantine. It is nil if the pool has no address
	// of the family.
	free *freeSet
	// reserved has those that nobody has and that do not rest and are not in quarantine, but are reserved, by whom they are
	// reserved for.
	reserved map[Owner]*freeSet
	// held is how many there are in reserved.
	held   Count
	groups map[groupKey]*group
}

// span is a range of addresses [from, to], as numbers, that has positions from base on.
type span struct{ from, to, base u128 }

// address returns the address at a position.
func (s *space) address(f Family, pos u128) netip.Addr {
	i, exact := slices.BinarySearchFunc(s.spans, pos, func(sp span, pos u128) int { return sp.base.compare(pos) })
	if !exact {
		i--
	}
	return address(f, s.spans[i].from.add(pos.sub(s.spans[i].base)))
}

// reservedFor returns the set of positions that are reserved for a Service or namespace.
func (s *space) reservedFor(o Owner) *freeSet {
	set := s.reserved[o]
	if set == nil {
		set = newFreeSet()
		if s.reserved == nil {
			s.reserved = map[Owner]*freeSet{}
		}
		s.reserved[o] = set
	}
	return set
}

// forgetIfEmpty keeps reservations whose addresses are all assigned from costing memory.
func (s *space) forgetIfEmpty(o Owner) {
	if set := s.reserved[o]; set != nil && set.tree.Len() == 0 {
		delete(s.reserved, o)
	}
}

// placed is a range of a pool in the index of all ranges, by address.
type placed struct {
	span
	pool *pool
}

// position returns the position of an address of the range.
func (s span) position(n u128) u128 { return s.base.add(n.sub(s.from)) }

// locate returns the range of a sorted index that contains n.
func locate(index []placed, n u128) (placed, bool) {
	i, exact := slices.BinarySearchFunc(index, n, func(p placed, n u128) int { return p.from.compare(n) })
	if !exact {
		i--
	}
	if i < 0 || index[i].to.less(n) {
		return placed{}, false
	}
	return index[i], true
}

func comparePlaced(a, b placed) int {
	return cmp.Or(a.from.compare(b.from), a.to.compare(b.to))
}
