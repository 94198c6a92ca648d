package ipam

import (
	"net/netip"
	"slices"
)

// choose plans for the families that are not covered yet.
func (p *plan) choose() error {
	for _, f := range p.req.Families {
		if !p.covered[f.index()] {
			p.choosePreferred(f)
		}
	}
	if len(p.req.Families) == 2 && p.covered == [2]bool{} && p.chooseBoth() {
		return nil
	}
	var failed ExhaustedError
	for _, f := range p.req.Families {
		if !p.covered[f.index()] && !p.chooseOne(f) {
			failed.Families = append(failed.Families, f)
		}
	}
	if len(failed.Families) == 0 {
		return nil
	}
	err := p.explain(failed.Families)
	renewed := slices.ContainsFunc(failed.Families, func(f Family) bool { return p.renewed[f.index()] })
	if !p.req.Partial || renewed || p.covered == [2]bool{} {
		return err
	}
	p.missing = err
	return nil
}

// choosePreferred takes an address that is reserved or that rests for the owner.
func (p *plan) choosePreferred(f Family) {
	switch {
	case p.chooseResting(f, true):
	case p.chooseReserved(f, p.req.Owner):
	case p.chooseResting(f, false):
	default:
		p.chooseReserved(f, Owner{Namespace: p.req.Owner.Namespace})
	}
}

// chooseResting takes what rests for the owner, the latest first; only what is reserved for it as well, or anything.
func (p *plan) chooseResting(f Family, reserved bool) bool {
	if p.req.Renew {
		return false
	}
	for r := p.a.rests.byOwner[p.req.Owner]; r != nil; r = r.next {
		in, by := r.h.pool, p.a.reserved.of(f, r.h.num)
		switch {
		case r.h.family != f, reserved && (by == nil || !by.exactlyFor(p.req.Owner)):
		case !p.open(in, by) || p.refuse(r.h.addr(), r.h, in) != nil:
		case p.tryAdd(target{r.h.addr(), r.h, in}):
			return true
		}
	}
	return false
}

// chooseReserved takes the first address that is reserved for who: the owner or its namespace.
func (p *plan) chooseReserved(f Family, who Owner) bool {
	whole := who != p.req.Owner
	for _, under := range p.a.reserved.under(who) {
		for _, name := range p.req.Pools {
			if in := p.a.pools[name]; in != nil && p.tryReserved(in, f, under, whole) {
				return true
			}
		}
		if whole || p.req.Named {
			continue
		}
		for _, in := range p.a.order {
			if !slices.Contains(p.req.Pools, in.spec.Name) && p.tryReserved(in, f, under, whole) {
				return true
			}
		}
	}
	return false
}

// tryReserved takes what a pool has reserved under a name. What is for the whole namespace comes after what can be shared.
func (p *plan) tryReserved(in *pool, f Family, under Owner, whole bool) bool {
	sp := in.space(f)
	set := sp.reserved[under]
	if set == nil || in.spec.Disabled {
		return false
	}
	if h := p.fit(in, f); h != nil && whole && p.tryAdd(target{h.addr(), h, in}) {
		return true
	}
	pos, ok := set.lowest()
	return ok && p.tryAdd(target{addr: sp.address(f, pos), pool: in})
}

// tryAdd plans to give an address unless that exceeds a quota, or not all who are to move there may have it.
func (p *plan) tryAdd(t target) bool {
	if p.move != nil && len(p.move.owners) > 1 {
		if !p.move.admits(t.pool) {
			return false
		}
		p.add = append(p.add, t)
		p.cover(FamilyOf(t.addr))
		return true
	}
	p.add = append(p.add, t)
	if p.overQuota(t.pool) != nil {
		p.add = p.add[:len(p.add)-1]
		return false
	}
	p.cover(FamilyOf(t.addr))
	return true
}

// chooseBoth takes one address of each family from the first pool that has both.
func (p *plan) chooseBoth() bool {
	for _, name := range p.req.Pools {
		if !p.tryPool(name, p.req.Families[0]) {
			continue
		}
		if p.tryPool(name, p.req.Families[1]) {
			return true
		}
		p.add = p.add[:len(p.add)-1]
		p.covered = [2]bool{}
	}
	return false
}

// chooseOne takes an address from the pool of the other family's address, otherwise from the first pool that has one.
func (p *plan) chooseOne(f Family) bool {
	if beside, ok := p.poolBeside(); ok && p.tryPool(beside, f) {
		return true
	}
	for _, name := range p.req.Pools {
		if p.tryPool(name, f) {
			return true
		}
	}
	return false
}

// poolBeside returns the pool of the other family's first address if the request may use that pool. It is called for a
// family that is not covered, so all that is planned is of the other.
func (p *plan) poolBeside() (string, bool) {
	var beside netip.Addr
	switch {
	case len(p.req.Addresses) > 0:
		beside = p.req.Addresses[0]
	case len(p.keep) > 0:
		beside = p.keep[0].addr()
	case len(p.add) > 0:
		beside = p.add[0].addr
	default:
		return "", false
	}
	name, ok := p.a.PoolOf(beside)
	return name, ok && slices.Contains(p.req.Pools, name)
}

// tryPool takes the address that a pool would give to anyone.
func (p *plan) tryPool(name string, f Family) bool {
	from := p.a.pools[name]
	if from == nil || from.spec.Disabled || from.space(f).free == nil {
		return false
	}
	if h := p.fit(from, f); h != nil && p.tryAdd(target{h.addr(), h, from}) {
		return true
	}
	sp := from.space(f)
	pos, ok := sp.free.lowest()
	return ok && p.tryAdd(target{addr: sp.address(f, pos), pool: from})
}

// fit returns the first address of a pool that the owner may share, or nil.
func (p *plan) fit(from *pool, f Family) *holding {
	if p.sharing == nil {
		return nil
	}
	if p.passes == nil {
		p.passes = p.admits
	}
	var found *holding
	for _, sc := range [...]scope{withinNamespace, acrossNamespaces} {
		if !from.searches(sc, p.sharing) {
			continue
		}
		if g := from.space(f).groups[newGroupKey(sc, p.req.Owner, p.sharing)]; g != nil {
			if h := g.fit(p.sharing.Ports, p.passes); h != nil && (found == nil || h.pos.less(found.pos)) {
				found = h
			}
		}
	}
	return found
}

// admits tells whether the owner may be given a shared address: one that it has not, that is not in quarantine and not
// reserved for others.
func (p *plan) admits(h *holding) bool {
	if p.have != nil && slices.Contains(p.have.holdings, h) || p.a.quarantined(h.family, h.num) {
		return false
	}
	r := p.a.reserved.of(h.family, h.num)
	return r == nil || r.admits(p.req.Owner, h)
}

func (p *plan) explain(families []Family) error {
	e := &ExhaustedError{Families: families}
	for _, f := range families {
		for _, name := range p.req.Pools {
			t := p.tried(name, f)
			if p.sharing != nil {
				t.Key = p.sharing.Key
			}
			e.Tried = append(e.Tried, t)
		}
	}
	return e
}

// tried says why a pool did not give an address.
func (p *plan) tried(name string, f Family) PoolTried {
	t := PoolTried{Pool: name, Family: f, Lack: LackPool}
	from := p.a.pools[name]
	if from == nil || !from.configured {
		return t
	}
	st := from.space(f).stats()
	t.Total, t.Reserved, t.Resting, t.Quarantined = st.Total, st.Reserved, st.Resting, st.Quarantined
	p.add = append(p.add, target{pool: from})
	t.Quota = p.overQuota(from)
	p.add = p.add[:len(p.add)-1]
	switch {
	case t.Total.IsZero():
		t.Lack = LackFamily
	case from.spec.Disabled:
		t.Lack = LackDisabled
	case t.Quota != nil:
		t.Lack = LackQuota
	case !t.Reserved.IsZero() || t.Resting+t.Quarantined > 0:
		t.Lack = LackHeld
	default:
		t.Lack = LackFree
	}
	return t
}
