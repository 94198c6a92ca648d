package ipam

import (
	"net/netip"
	"slices"
)

// allocation is what one owner has.
type allocation struct {
	owner    Owner
	sharing  *Sharing // normalized
	holdings []*holding
	inline   [2]*holding // backs holdings while they are few
	// named are the pools that the Service named at the last successful Allocate, nil if it named none.
	named []string
	// restored is true until the first successful Allocate: what the Service named when it got its addresses is unknown.
	restored bool
}

// holding is an address that one or more owners have, that rests, or that is in quarantine. There may be a million; the fields are arranged to
// fill exactly one cache line (64 bytes).
type holding struct {
	num u128 // the address, see number
	// pool covers the address if inPool, at position pos; otherwise it is the one that last did, or nil if none is known.
	pool *pool
	pos  u128
	// sole is the owner, nil if there is none or if it has a sharing key: then shared has the owners.
	sole   [1]*allocation
	shared *shared
	family Family
	inPool bool
	// slot is that of its rest, counted from 1; 0 if it does not rest. What rests, or is in quarantine and has no owner, is
	// in a pool.
	slot uint32
}

func (h *holding) rests() bool { return h.slot > 0 }

// ownerNames returns the owners by name, nil if there is none.
func (h *holding) ownerNames() []Owner {
	var out []Owner
	for _, al := range h.owners() {
		out = append(out, al.owner)
	}
	slices.SortFunc(out, Owner.Compare)
	return out
}

func (h *holding) addr() netip.Addr { return address(h.family, h.num) }

func (h *holding) owners() []*allocation {
	switch {
	case h.shared != nil:
		return h.shared.owners
	case h.sole[0] != nil:
		return h.sole[:]
	}
	return nil
}

// conflict says why owner may not have the address with this sharing, beside the other owners; nil if it may. The
// namespace is no obstacle to those who have it already (across): a change of policy takes nothing away.
func (h *holding) conflict(owner Owner, s *Sharing, across bool) *InUseError {
	other := h.otherThan(owner)
	if other == nil {
		return nil
	}
	e := &InUseError{Address: h.addr()}
	switch theirs := other.sharing; {
	case s == nil:
		e.Conflict = ConflictUnshared
	case theirs == nil:
		e.Conflict = ConflictOtherUnshared
	case s.Key != theirs.Key:
		e.Conflict, e.Key, e.OtherKey = ConflictKey, s.Key, theirs.Key
	case !across && (other.owner.Namespace != owner.Namespace || h.shared.mixed) && (!s.AcrossNamespaces || h.shared.closed > 0):
		e.Conflict = ConflictNamespace
		other = h.first(func(o Owner) bool { return o.Namespace != owner.Namespace })
	case s.Backend != theirs.Backend:
		e.Conflict = ConflictBackend
	default:
		return h.portConflict(e, owner, s)
	}
	if e.Conflict != ConflictNamespace {
		other = h.first(func(o Owner) bool { return o != owner })
	}
	e.Owner = other.owner
	return e
}

func (h *holding) portConflict(e *InUseError, owner Owner, s *Sharing) *InUseError {
	for _, p := range s.Ports {
		if user := h.shared.user(p); user != nil && user.owner != owner {
			e.Conflict, e.Port, e.Owner = ConflictPort, p, user.owner
			return e
		}
	}
	return nil
}

func (h *holding) otherThan(owner Owner) *allocation {
	for _, al := range h.owners() {
		if al.owner != owner {
			return al
		}
	}
	return nil
}

// first returns the first owner by name that passes, so that errors do not depend on who came first.
func (h *holding) first(pass func(Owner) bool) *allocation {
	var found *allocation
	for _, al := range h.owners() {
		if pass(al.owner) && (found == nil || al.owner.Compare(found.owner) < 0) {
			found = al
		}
	}
	return found
}

// addOwner makes al an owner. The caller has checked that there is no conflict.
func (h *holding) addOwner(al *allocation) {
	if al.sharing == nil {
		h.sole[0] = al
		return
	}
	if h.shared == nil {
		h.shared = newShared()
	}
	s := h.shared
	s.add(al)
	for _, g := range s.groups {
		if g != nil {
			for _, p := range al.sharing.Ports {
				g.taken(p, h)
			}
		}
	}
	h.regroup()
}

// dropOwner undoes addOwner.
func (h *holding) dropOwner(al *allocation) {
	s := h.shared
	switch {
	case s == nil:
		h.sole[0] = nil
		return
	case len(s.owners) == 1:
		for sc := range s.groups {
			h.leaveGroup(scope(sc))
		}
		h.shared = nil
		return
	}
	s.remove(al)
	for _, g := range s.groups {
		if g != nil {
			for _, p := range al.sharing.Ports {
				g.freed(p, h)
			}
		}
	}
	h.regroup()
}

// joinable tells whether newcomers that search this scope may share the address at all.
func (h *holding) joinable(sc scope) bool {
	switch {
	case !h.inPool:
		return false
	case h.pool.spec.ShareAcrossNamespaces:
		return sc == acrossNamespaces
	case sc == acrossNamespaces:
		return h.shared.closed == 0
	}
	return !h.shared.mixed
}

// groupKey is that of all owners of a holding that is joinable in the scope.
func (h *holding) groupKey(sc scope) groupKey {
	first := h.shared.owners[0]
	return newGroupKey(sc, first.owner, first.sharing)
}

// regroup puts the holding where newcomers find it, in each scope in which they may share it.
func (h *holding) regroup() {
	for sc := range h.shared.groups {
		sc := scope(sc)
		switch joinable := h.joinable(sc); {
		case !joinable:
			h.leaveGroup(sc)
		case h.shared.groups[sc] == nil:
			h.joinGroup(sc)
		}
	}
}

func (h *holding) joinGroup(sc scope) {
	sp, key := h.pool.space(h.family), h.groupKey(sc)
	g := sp.groups[key]
	if g == nil {
		g = newGroup()
		if sp.groups == nil {
			sp.groups = map[groupKey]*group{}
		}
		sp.groups[key] = g
	}
	h.shared.groups[sc] = g
	g.join(h)
}

func (h *holding) leaveGroup(sc scope) {
	g := h.shared.groups[sc]
	if g == nil {
		return
	}
	h.shared.groups[sc] = nil
	g.leave(h)
	if len(g.holdings) == 0 {
		delete(h.pool.space(h.family).groups, h.groupKey(sc))
	}
}
