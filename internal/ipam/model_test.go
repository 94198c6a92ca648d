package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// model is the allocator as one would write it for a dozen addresses: everything is a list or a map, and every question is
// answered by going through all addresses and all owners.
type model struct {
	pools  []Pool
	owners map[Owner]*modelOwner
}

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
	for _, other := range m.holders(a, o) {
		if !compatible(s, m.owners[other].sharing) || !across && other.Namespace != o.Namespace {
			return false
		}
	}
	return true
}

// candidate returns the address a pool would give.
func (m *model) candidate(name string, f Family, o Owner, s *Sharing) (netip.Addr, bool) {
	p, _ := m.pool(name)
	all := addresses(p, f)
	for _, a := range all {
		if len(m.holders(a, o)) > 0 && m.joinable(a, o, s, p.ShareAcrossNamespaces) {
			return a, true
		}
	}
	for _, a := range all {
		if len(m.holders(a, o)) == 0 {
			return a, true
		}
	}
	return netip.Addr{}, false
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
			if FamilyOf(a) == f && m.stays(a, req, mine) {
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
	m.choose(req, byFamily)
	for _, f := range req.Families {
		addrs = append(addrs, byFamily[f]...)
		missing = missing || byFamily[f] == nil
	}
	if missing && (!req.Partial || len(addrs) == 0) {
		return mine.addrs, false, "exhausted"
	}
	mine = modelOwner{addrs: addrs, sharing: req.Sharing}
	if req.Named {
		mine.named = req.Pools
	}
	m.owners[req.Owner] = &mine
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
		name := m.poolOf(a)
		if !slices.Contains(req.Pools, name) {
			return nil, "not in pool"
		}
		if p, _ := m.pool(name); !m.joinable(a, req.Owner, req.Sharing, p.ShareAcrossNamespaces) {
			return nil, "in use"
		}
	}
	return byFamily, ""
}

func (m *model) stays(a netip.Addr, req Request, mine modelOwner) bool {
	asksToMove := req.Named && !mine.restored && !slices.Equal(mine.named, req.Pools)
	return !asksToMove || slices.Contains(req.Pools, m.poolOf(a))
}

func (m *model) choose(req Request, byFamily map[Family][]netip.Addr) {
	if len(byFamily) == 0 && len(req.Families) == 2 {
		for _, name := range req.Pools {
			x, ok1 := m.candidate(name, req.Families[0], req.Owner, req.Sharing)
			y, ok2 := m.candidate(name, req.Families[1], req.Owner, req.Sharing)
			if ok1 && ok2 {
				byFamily[req.Families[0]], byFamily[req.Families[1]] = []netip.Addr{x}, []netip.Addr{y}
				return
			}
		}
	}
	for i, f := range req.Families {
		if byFamily[f] != nil {
			continue
		}
		pools := req.Pools
		if len(req.Families) == 2 {
			if other := byFamily[req.Families[1-i]]; other != nil && slices.Contains(pools, m.poolOf(other[0])) {
				pools = append([]string{m.poolOf(other[0])}, pools...)
			}
		}
		for _, name := range pools {
			if a, ok := m.candidate(name, f, req.Owner, req.Sharing); ok {
				byFamily[f] = []netip.Addr{a}
				break
			}
		}
	}
}

// kindOf is the kind of an error in the words of the model.
func kindOf(err error) string {
	var (
		family    *FamilyError
		notInPool *NotInPoolError
		inUse     *InUseError
		exhausted *ExhaustedError
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
	}
	return fmt.Sprintf("unexpected: %v", err)
}
