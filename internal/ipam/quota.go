package ipam

import "slices"

// usage is what the Services of a namespace have of a pool.
type usage struct{ addresses, services int }

// charge counts a holding that its owner al has just got. It must be in al's list already.
func (h *holding) charge(al *allocation) {
	if !h.inPool || h.pool.usage == nil {
		return
	}
	u := h.pool.usage[al.owner.Namespace]
	if h.countOf(al.owner.Namespace) == 1 {
		u.addresses++
	}
	if al.countIn(h.pool) == 1 {
		u.services++
	}
	h.pool.usage[al.owner.Namespace] = u
}

// discharge undoes charge. The holding must have left al's list already.
func (h *holding) discharge(al *allocation) {
	if !h.inPool || h.pool.usage == nil {
		return
	}
	u := h.pool.usage[al.owner.Namespace]
	if h.countOf(al.owner.Namespace) == 0 {
		u.addresses--
	}
	if al.countIn(h.pool) == 0 {
		u.services--
	}
	if u == (usage{}) {
		delete(h.pool.usage, al.owner.Namespace)
		return
	}
	h.pool.usage[al.owner.Namespace] = u
}

// chargeAll counts a holding that has just come into its pool for all its owners. What else they have of the pool is
// counted if it is in it by now.
func (h *holding) chargeAll() {
	if h.pool.usage == nil {
		return
	}
	owners := h.owners()
	for i, al := range owners {
		u := h.pool.usage[al.owner.Namespace]
		if i == 0 || h.shared.mixed && !slices.ContainsFunc(owners[:i], al.neighbour) {
			u.addresses++
		}
		if al.countIn(h.pool) == 1 {
			u.services++
		}
		h.pool.usage[al.owner.Namespace] = u
	}
}

// countOf returns how many owners are of a namespace.
func (h *holding) countOf(namespace string) int {
	owners := h.owners()
	if h.shared == nil || !h.shared.mixed {
		if len(owners) > 0 && owners[0].owner.Namespace == namespace {
			return len(owners)
		}
		return 0
	}
	n := 0
	for _, al := range owners {
		if al.owner.Namespace == namespace {
			n++
		}
	}
	return n
}

func (al *allocation) neighbour(other *allocation) bool {
	return al.owner.Namespace == other.owner.Namespace
}

// countIn returns how many addresses of a pool the owner has.
func (al *allocation) countIn(p *pool) int {
	n := 0
	for _, h := range al.holdings {
		if h.inPool && h.pool == p {
			n++
		}
	}
	return n
}

// overQuota returns why the plan, as far as it is made, may not be carried out in a pool; nil if it may. What does not
// increase what the namespace has is never refused, also if that is more than the quota.
func (p *plan) overQuota(in *pool) *QuotaError {
	if in.usage == nil {
		return nil
	}
	had := in.usage[p.req.Owner.Namespace]
	will := p.usageAfter(in, had)
	e := &QuotaError{Pool: in.spec.Name, Namespace: p.req.Owner.Namespace}
	switch q := in.spec.Quota; {
	case q.Addresses > 0 && will.addresses > max(q.Addresses, had.addresses):
		e.Limit, e.Used, e.Wanted = q.Addresses, had.addresses, will.addresses
	case q.Services > 0 && will.services > max(q.Services, had.services):
		e.Limit, e.Used, e.Wanted, e.Services = q.Services, had.services, will.services, true
	default:
		return nil
	}
	return e
}

func (p *plan) usageAfter(in *pool, u usage) usage {
	namespace, before, after := p.req.Owner.Namespace, 0, 0
	if p.have != nil {
		before = p.have.countIn(in)
	}
	after = before
	for _, h := range p.drop {
		if h.inPool && h.pool == in {
			after--
			if h.countOf(namespace) == 1 {
				u.addresses--
			}
		}
	}
	for _, t := range p.add {
		if t.pool == in {
			after++
			if t.held == nil || t.held.countOf(namespace) == 0 {
				u.addresses++
			}
		}
	}
	return usage{u.addresses, u.services + min(after, 1) - min(before, 1)}
}
