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

// holding is an address that one or more owners have. There may be a million; the fields are arranged to fill exactly one
// cache line (64 bytes).
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
}

// shared is what a holding has more if its owners have a sharing key. All of them have the same key and backend.
type shared struct {
	owners []*allocation
	ports  []portUse // by port
	// group is where newcomers find the address; nil while it is out of pool, or if its owners are of several namespaces
	// although its pool does not allow that.
	group *group
	mixed bool // owners are of several namespaces
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

type portUse struct {
	port Port
	user *allocation
}

func (s *shared) find(p Port) (int, bool) {
	return slices.BinarySearchFunc(s.ports, p, func(u portUse, p Port) int { return u.port.compare(p) })
}

// user returns who uses a port, or nil.
func (s *shared) user(p Port) *allocation {
	if i, ok := s.find(p); ok {
		return s.ports[i].user
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
	case !across && (other.owner.Namespace != owner.Namespace || h.shared.mixed):
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
		h.shared = &shared{ports: make([]portUse, 0, len(al.sharing.Ports))}
	}
	s := h.shared
	s.owners = append(s.owners, al)
	s.mixed = s.mixed || al.owner.Namespace != s.owners[0].owner.Namespace
	for _, p := range al.sharing.Ports {
		i, _ := s.find(p)
		s.ports = slices.Insert(s.ports, i, portUse{p, al})
		if s.group != nil {
			s.group.count(p, 1)
		}
	}
	h.regroup()
}

// dropOwner undoes addOwner.
func (h *holding) dropOwner(al *allocation) {
	s := h.shared
	if s == nil {
		h.sole[0] = nil
		return
	}
	i := slices.Index(s.owners, al)
	s.owners = slices.Delete(s.owners, i, i+1)
	for _, p := range al.sharing.Ports {
		i, _ := s.find(p)
		s.ports = slices.Delete(s.ports, i, i+1)
		if s.group != nil {
			s.group.count(p, -1)
		}
	}
	if s.mixed {
		s.mixed = slices.ContainsFunc(s.owners, func(o *allocation) bool {
			return o.owner.Namespace != s.owners[0].owner.Namespace
		})
	}
	h.regroup()
	if len(s.owners) == 0 {
		h.shared = nil
	}
}

// regroup moves the holding to the group it belongs to now, if that is another one.
func (h *holding) regroup() {
	s := h.shared
	if s == nil {
		return
	}
	var want groupKey
	joins := h.inPool && len(s.owners) > 0 && (!s.mixed || h.pool.spec.ShareAcrossNamespaces)
	if joins {
		want = h.pool.groupKey(s.owners[0].owner.Namespace, s.owners[0].sharing)
	}
	if s.group != nil && joins && s.group.key == want {
		return
	}
	h.leaveGroup()
	if joins {
		h.joinGroup(want)
	}
}

func (h *holding) leaveGroup() {
	g := h.shared.group
	if g == nil {
		return
	}
	h.shared.group = nil
	for _, u := range h.shared.ports {
		g.count(u.port, -1)
	}
	if i, ok := g.search(h); ok {
		g.holdings = slices.Delete(g.holdings, i, i+1)
	}
	if len(g.holdings) == 0 {
		delete(h.pool.space(h.family).groups, g.key)
	}
}

func (h *holding) joinGroup(key groupKey) {
	sp := h.pool.space(h.family)
	g := sp.groups[key]
	if g == nil {
		g = &group{key: key}
		if sp.groups == nil {
			sp.groups = map[groupKey]*group{}
		}
		sp.groups[key] = g
	}
	h.shared.group = g
	for _, u := range h.shared.ports {
		g.count(u.port, 1)
	}
	i, _ := g.search(h)
	g.holdings = slices.Insert(g.holdings, i, h)
}
