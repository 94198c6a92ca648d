package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// Replace gives all who have an address another in its place, the same to all of them, and returns it: together or not at
// all, for they share it. The requests are those that Allocate last met for these owners, one for each, and ask for no
// particular address of the family. An owner alone is given what Allocate would choose for it. Several move to an address
// that nobody has, the first that Allocate would choose for the first of them among those that all may be given: from pools
// that all requests name, under their quotas, and in a pool that lets their namespaces share.
//
// On an error nothing has changed. It is an *ExhaustedError about the first request if there is no such address; another if
// the requests are not as they should be.
func (a *Allocator) Replace(addr netip.Addr, requests []Request) (netip.Addr, error) {
	m, err := a.newMove(addr, requests)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("replacing %s: %w", addr, err)
	}
	p := &a.plan
	defer p.reset()
	first := requests[0]
	p.a, p.req, p.have, p.move = a, first, a.owners[first.Owner], m
	p.req.Pools = m.pools
	p.exchange(m.from)
	if len(requests) == 1 {
		p.sharing = p.have.sharing // otherwise nil: nobody is joined
	}
	f := m.from.family
	for _, other := range families { // what else the owner may lack is not looked for
		p.covered[other.index()] = other != f
	}
	if p.choosePreferred(f); !p.covered[f.index()] && !p.chooseOne(f) {
		return netip.Addr{}, p.explain([]Family{f})
	}
	to := p.add[0]
	for _, req := range requests {
		p.add = append(p.add[:0], target{addr: to.addr, held: a.held(to.addr), pool: to.pool})
		p.keep, p.drop = p.keep[:0], p.drop[:0]
		p.req, p.have = req, a.owners[req.Owner]
		p.sharing = p.have.sharing
		p.exchange(m.from)
		a.commit(p)
	}
	return to.addr, nil
}

// exchange plans to keep all that the owner has but one address.
func (p *plan) exchange(from *holding) {
	for _, h := range p.have.holdings {
		if h == from {
			p.drop = append(p.drop, h)
		} else {
			p.keep = append(p.keep, h)
		}
	}
}

// move is that all owners of an address give it up for another.
type move struct {
	from *holding
	// pools are those of which all may be given an address, as the first prefers them.
	pools  []string
	owners []*allocation
	// mixed tells that the owners are of several namespaces, and open that all of these let them share.
	mixed, open bool
}

func (a *Allocator) newMove(addr netip.Addr, requests []Request) (*move, error) {
	if err := checkAddr(addr); err != nil {
		return nil, err
	}
	m := &move{from: a.held(addr), open: true}
	if m.from == nil || len(requests) == 0 || len(m.from.owners()) != len(requests) {
		return nil, fmt.Errorf("there are %d requests, not one for each owner", len(requests))
	}
	m.pools = slices.Clone(requests[0].Pools)
	for _, req := range requests {
		if err := req.validate(); err != nil {
			return nil, err
		}
		al := a.owners[req.Owner]
		switch {
		case al == nil || !slices.Contains(al.holdings, m.from) || slices.Contains(m.owners, al):
			return nil, fmt.Errorf("request of Service %s: it is not the only one of an owner", req.Owner)
		case !slices.Contains(req.Families, m.from.family) || slices.ContainsFunc(req.Addresses, m.from.sameFamily):
			return nil, fmt.Errorf("request of Service %s: it does not ask for any %s address", req.Owner, m.from.family)
		case !al.sharing.equal(req.Sharing.normalized()):
			return nil, fmt.Errorf("request of Service %s: it asks to share otherwise than it does", req.Owner)
		}
		m.owners = append(m.owners, al)
		m.pools = slices.DeleteFunc(m.pools, func(name string) bool { return !slices.Contains(req.Pools, name) })
		m.mixed = m.mixed || req.Owner.Namespace != requests[0].Owner.Namespace
		m.open = m.open && req.Sharing != nil && req.Sharing.AcrossNamespaces
	}
	return m, nil
}

func (h *holding) sameFamily(addr netip.Addr) bool { return FamilyOf(addr) == h.family }

// admits tells whether all owners of a move of several may be given an address of a pool that nobody has.
func (m *move) admits(in *pool) bool {
	if !slices.Contains(m.pools, in.spec.Name) || m.mixed && !m.open && !in.spec.ShareAcrossNamespaces {
		return false
	}
	stays := m.from.inPool && m.from.pool == in
	if in.usage == nil || stays {
		return true // what leaves the pool comes back to it
	}
	newcomers := map[string]int{} // that have nothing of the pool yet, by namespace
	for _, al := range m.owners {
		n := newcomers[al.owner.Namespace]
		if al.countIn(in) == 0 {
			n++
		}
		newcomers[al.owner.Namespace] = n
	}
	for namespace, services := range newcomers {
		had, q := in.usage[namespace], in.spec.Quota
		if q.Addresses > 0 && had.addresses+1 > q.Addresses || q.Services > 0 && services > 0 && had.services+services > q.Services {
			return false
		}
	}
	return true
}
