package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// model is the allocator as one would write it for a dozen addresses: everything is a list or a map, and every question is
// answered by going through all addresses and all owners.
type model struct {
	pools  []Pool
	owners map[Owner]*modelOwner

	now          time.Time
	rests        []Rest // the latest last; Until is not used
	reservations []Reservation
	accepted     []Reservation // those in force, with what they hold in Held
	counted      map[string]modelCount
	quarantine   []netip.Addr
	// from is the pool that covers an assigned address, or covered it last.
	from map[netip.Addr]string
}

// note takes down which pools cover the assigned addresses.
func (m *model) note() {
	for _, mo := range m.owners {
		for _, a := range mo.addrs {
			if pool := m.poolOf(a); pool != "" {
				m.from[a] = pool
			}
		}
	}
}

func newModel() *model { return &model{owners: map[Owner]*modelOwner{}, from: map[netip.Addr]string{}} }

type modelOwner struct {
	addrs    []netip.Addr
	sharing  *Sharing
	named    []string
	restored bool
}

func (m *model) pool(name string) (Pool, bool) {
	for _, p := range m.pools {
		if p.Name == name {
			return p, true
		}
	}
	return Pool{}, false
}

// addresses lists the addresses of a pool of a family in the order in which they are to be used.
func addresses(p Pool, f Family) []netip.Addr {
	var out []netip.Addr
	for _, r := range p.Ranges {
		for a := r.From; a.IsValid() && a.Compare(r.To) <= 0; a = a.Next() {
			if FamilyOf(a) == f && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

func (m *model) poolOf(a netip.Addr) string {
	for _, p := range m.pools {
		if slices.Contains(addresses(p, FamilyOf(a)), a) {
			return p.Name
		}
	}
	return ""
}

// holders returns those other than o that have an address.
func (m *model) holders(a netip.Addr, o Owner) []Owner {
	var out []Owner
	for other, mo := range m.owners {
		if other != o && slices.Contains(mo.addrs, a) {
			out = append(out, other)
		}
	}
	return out
}

// compatible tells whether two Services may be on one address, namespaces aside.
func compatible(x, y *Sharing) bool {
	if x == nil || y == nil || x.Key == "" || x.Key != y.Key || x.Backend != y.Backend {
		return false
	}
	for _, p := range x.Ports {
		if slices.Contains(y.Ports, p) {
			return false
		}
	}
	return true
}

// joinable tells whether o may have the address beside those who have it.
func (m *model) joinable(a netip.Addr, o Owner, s *Sharing, across bool) bool {
	mixed, open := false, s != nil && s.AcrossNamespaces
	for _, other := range m.holders(a, o) {
		if !compatible(s, m.owners[other].sharing) {
			return false
		}
		mixed = mixed || other.Namespace != o.Namespace
		open = open && m.owners[other].sharing.AcrossNamespaces
	}
	return !mixed || across || open
}

// free tells whether nobody has the address, it does not rest and is not in quarantine.
func (m *model) free(a netip.Addr) bool {
	_, rests := m.restOf(a)
	return !rests && len(m.holders(a, Owner{})) == 0 && !slices.Contains(m.quarantine, a)
}

// fit returns the address of a pool that o may share.
func (m *model) fit(p Pool, f Family, req Request) (netip.Addr, bool) {
	for _, a := range addresses(p, f) {
		others := m.holders(a, req.Owner)
		if len(others) == 0 || len(others) < len(m.holders(a, Owner{})) || !m.admits(a, req.Owner) || slices.Contains(m.quarantine, a) {
			continue
		}
		if m.joinable(a, req.Owner, req.Sharing, p.ShareAcrossNamespaces) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// candidates returns the addresses that a pool would give, the best first.
func (m *model) candidates(name string, f Family, req Request) []netip.Addr {
	p, _ := m.pool(name)
	if p.Disabled {
		return nil
	}
	var out []netip.Addr
	if a, ok := m.fit(p, f, req); ok {
		out = append(out, a)
	}
	for _, a := range addresses(p, f) {
		if _, reserved := m.reservedFor(a); !reserved && m.free(a) {
			return append(out, a)
		}
	}
	return out
}

// allocate returns the addresses that the owner has afterwards and whether a family is missing, or the kind of error.
func (m *model) allocate(req Request) (addrs []netip.Addr, missing bool, kind string) {
	var mine modelOwner
	if mo := m.owners[req.Owner]; mo != nil {
		mine = *mo
	}
	byFamily, kind := m.asked(req, mine)
	if kind != "" {
		return mine.addrs, false, kind
	}
	for _, f := range req.Families {
		if byFamily[f] != nil {
			continue
		}
		for _, a := range mine.addrs {
			if FamilyOf(a) == f && m.stays(a, req, mine) && !req.Renew {
				byFamily[f] = append(byFamily[f], a)
			}
		}
	}
	for _, f := range req.Families {
		for _, a := range byFamily[f] {
			if slices.Contains(mine.addrs, a) && !m.joinable(a, req.Owner, req.Sharing, true) {
				return mine.addrs, false, "in use"
			}
		}
	}
	c := &choice{model: m, req: req, mine: mine.addrs, byFamily: byFamily}
	for _, a := range req.Addresses {
		if !c.withinQuota(m.poolOf(a)) && !slices.Contains(mine.addrs, a) {
			return mine.addrs, false, "quota"
		}
	}
	c.choose()
	renewed := false
	for _, f := range req.Families {
		addrs = append(addrs, byFamily[f]...)
		had := slices.ContainsFunc(mine.addrs, func(a netip.Addr) bool { return FamilyOf(a) == f })
		missing = missing || byFamily[f] == nil
		renewed = renewed || byFamily[f] == nil && had && req.Renew
	}
	if missing && (!req.Partial || renewed || len(addrs) == 0) {
		return mine.addrs, false, "exhausted"
	}
	before := mine.addrs
	mine = modelOwner{addrs: addrs, sharing: req.Sharing}
	if req.Named {
		mine.named = req.Pools
	}
	m.owners[req.Owner] = &mine
	m.note()
	m.rests = slices.DeleteFunc(m.rests, func(r Rest) bool { return slices.Contains(addrs, r.Address) })
	m.layToRest(req.Owner, slices.DeleteFunc(slices.Clone(before), func(a netip.Addr) bool { return slices.Contains(addrs, a) }))
	return addrs, missing, ""
}

func (m *model) asked(req Request, mine modelOwner) (map[Family][]netip.Addr, string) {
	byFamily := map[Family][]netip.Addr{}
	for _, a := range req.Addresses {
		if !slices.Contains(req.Families, FamilyOf(a)) {
			return nil, "family"
		}
		if !slices.Contains(byFamily[FamilyOf(a)], a) {
			byFamily[FamilyOf(a)] = append(byFamily[FamilyOf(a)], a)
		}
	}
	if len(byFamily) > 0 && len(byFamily) < len(req.Families) && !req.Partial {
		return nil, "family"
	}
	for _, a := range req.Addresses {
		if slices.Contains(mine.addrs, a) {
			continue
		}
		if kind := m.refuse(a, req); kind != "" {
			return nil, kind
		}
	}
	return byFamily, ""
}

func (m *model) stays(a netip.Addr, req Request, mine modelOwner) bool {
	asksToMove := req.Named && !mine.restored && !slices.Equal(mine.named, req.Pools)
	return !asksToMove || slices.Contains(req.Pools, m.from[a])
}

// kindOf is the kind of an error in the words of the model.
func kindOf(err error) string {
	var (
		family    *FamilyError
		notInPool *NotInPoolError
		inUse     *InUseError
		exhausted *ExhaustedError
		disabled  *DisabledError
		reserved  *ReservedError
		resting   *RestingError
		foreign   *QuarantinedError
		quota     *QuotaError
		conflict  *ReservationConflictError
		short     *ReservationShortError
		pending   *ReservationPendingError
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &family):
		return "family"
	case errors.As(err, &notInPool):
		return "not in pool"
	case errors.As(err, &inUse):
		return "in use"
	case errors.As(err, &exhausted):
		return "exhausted"
	case errors.As(err, &disabled):
		return "disabled"
	case errors.As(err, &reserved):
		return "reserved"
	case errors.As(err, &resting):
		return "resting"
	case errors.As(err, &foreign):
		return "quarantined"
	case errors.As(err, &quota):
		return "quota"
	case errors.As(err, &conflict):
		return "conflict"
	case errors.As(err, &short):
		return "short"
	case errors.As(err, &pending):
		return "pending"
	}
	return fmt.Sprintf("unexpected: %v", err)
}
