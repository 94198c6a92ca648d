package ipam

import (
	"net/netip"
	"slices"

	"pgregory.net/rapid"
)

// The part of the model that knows time, reservations and quotas.

// refuse says why a Service may not have an address that it asks for.
func (m *model) refuse(a netip.Addr, req Request) string {
	p, covered := m.pool(m.poolOf(a))
	who, _ := m.reservedFor(a)
	open := slices.Contains(req.Pools, p.Name) || who == req.Owner && !req.Named
	rest, rests := m.restOf(a)
	switch {
	case !covered || !open:
		return "not in pool"
	case p.Disabled:
		return "disabled"
	case !m.admits(a, req.Owner):
		return "reserved"
	case slices.Contains(m.quarantine, a):
		return "quarantined"
	case rests && rest.Owner != req.Owner:
		return "resting"
	case !m.joinable(a, req.Owner, req.Sharing, p.ShareAcrossNamespaces):
		return "in use"
	}
	return ""
}

func isFor(who, o Owner) bool {
	return who == o || who == Owner{Namespace: o.Namespace}
}

// admits tells whether o may have the address as far as reservations go.
func (m *model) admits(a netip.Addr, o Owner) bool {
	who, reserved := m.reservedFor(a)
	return !reserved || isFor(who, o) || slices.ContainsFunc(m.holders(a, Owner{}), func(o Owner) bool { return isFor(who, o) })
}

// reservedFor returns whom an address is reserved for: rather a Service than a namespace.
func (m *model) reservedFor(a netip.Addr) (who Owner, ok bool) {
	for _, r := range m.accepted {
		if slices.Contains(r.Held, a) && (!ok || r.Service != "") {
			who, ok = r.For(), true
		}
	}
	return who, ok
}

func (m *model) restOf(a netip.Addr) (Rest, bool) {
	for _, r := range m.rests {
		if r.Address == a {
			return r, true
		}
	}
	return Rest{}, false
}

func (m *model) release(o Owner) {
	if mo := m.owners[o]; mo != nil {
		delete(m.owners, o)
		m.layToRest(o, mo.addrs)
	}
}

// layToRest lets addresses rest that o has just given up.
func (m *model) layToRest(o Owner, addrs []netip.Addr) {
	for _, a := range slices.Backward(addrs) {
		if p, _ := m.pool(m.poolOf(a)); p.ReuseDelay > 0 && len(m.holders(a, Owner{})) == 0 {
			m.rests = append(m.rests, Rest{Address: a, Owner: o, Since: m.now})
		}
	}
}

// endRests ends those that are over, and tells whether there was one.
func (m *model) endRests() bool {
	before := len(m.rests)
	m.rests = slices.DeleteFunc(m.rests, func(r Rest) bool {
		p, _ := m.pool(m.poolOf(r.Address))
		return !m.now.Before(r.Since.Add(p.ReuseDelay))
	})
	return len(m.rests) < before
}

// choice is how the model chooses what a request does not name.
type choice struct {
	*model
	req      Request
	mine     []netip.Addr // before
	byFamily map[Family][]netip.Addr
}

func (c *choice) choose() {
	for _, f := range c.req.Families {
		if c.byFamily[f] == nil {
			c.try(f, c.preferred(f))
		}
	}
	if len(c.byFamily) == 0 && len(c.req.Families) == 2 {
		for _, name := range c.req.Pools {
			x, y := c.req.Families[0], c.req.Families[1]
			if c.try(x, c.candidates(name, x, c.req)) && c.try(y, c.candidates(name, y, c.req)) {
				return
			}
			clear(c.byFamily)
		}
	}
	for i, f := range c.req.Families {
		if c.byFamily[f] != nil {
			continue
		}
		pools := c.req.Pools
		if len(c.req.Families) == 2 {
			if other := c.byFamily[c.req.Families[1-i]]; other != nil && slices.Contains(pools, c.poolOf(other[0])) {
				pools = append([]string{c.poolOf(other[0])}, pools...)
			}
		}
		for _, name := range pools {
			if c.try(f, c.candidates(name, f, c.req)) {
				break
			}
		}
	}
}

// try takes the first address that no quota forbids.
func (c *choice) try(f Family, addrs []netip.Addr) bool {
	for _, a := range addrs {
		c.byFamily[f] = []netip.Addr{a}
		if c.withinQuota(c.poolOf(a)) {
			return true
		}
		delete(c.byFamily, f)
	}
	return false
}

// preferred returns the addresses that are reserved or rest for the owner, the best first.
func (c *choice) preferred(f Family) []netip.Addr {
	pools := slices.Clone(c.req.Pools)
	if !c.req.Named {
		for _, p := range c.pools {
			if !slices.Contains(pools, p.Name) {
				pools = append(pools, p.Name)
			}
		}
	}
	var out, resting []netip.Addr
	for _, r := range slices.Backward(c.rests) {
		if r.Owner != c.req.Owner || FamilyOf(r.Address) != f || c.refuse(r.Address, c.req) != "" || c.req.Renew {
			continue
		}
		if who, _ := c.reservedFor(r.Address); who == c.req.Owner {
			out = append(out, r.Address)
		} else {
			resting = append(resting, r.Address)
		}
	}
	out = append(out, c.reserved(f, pools, c.req.Owner)...)
	return append(append(out, resting...), c.reserved(f, c.req.Pools, Owner{Namespace: c.req.Owner.Namespace})...)
}

func (c *choice) reserved(f Family, pools []string, who Owner) []netip.Addr {
	var out []netip.Addr
	for _, name := range pools {
		p, _ := c.pool(name)
		for _, a := range addresses(p, f) {
			if got, ok := c.reservedFor(a); ok && got == who && c.free(a) && !p.Disabled {
				if shared, ok := c.fit(p, f, c.req); ok && who.Name == "" {
					out = append(out, shared)
				}
				out = append(out, a)
				break
			}
		}
	}
	return out
}

// withinQuota tells whether what is chosen so far may be had of a pool.
func (c *choice) withinQuota(name string) bool {
	p, ok := c.pool(name)
	if !ok {
		return true
	}
	had, will := c.usage(name, c.mine), c.usage(name, slices.Concat(c.byFamily[IPv4], c.byFamily[IPv6]))
	within := func(limit, before, after int) bool { return limit == 0 || after <= limit || after <= before }
	return within(p.Quota.Addresses, had.addresses, will.addresses) && within(p.Quota.Services, had.services, will.services)
}

// usage is what the owner's namespace has of a pool if the owner has these addresses.
func (c *choice) usage(name string, mine []netip.Addr) usage {
	all := map[netip.Addr]bool{}
	var u usage
	count := func(addrs []netip.Addr) {
		any := false
		for _, a := range addrs {
			if c.poolOf(a) == name {
				all[a], any = true, true
			}
		}
		if any {
			u.services++
		}
	}
	count(mine)
	for o, mo := range c.owners {
		if o.Namespace == c.req.Owner.Namespace && o != c.req.Owner {
			count(mo.addrs)
		}
	}
	u.addresses = len(all)
	return u
}

type modelCount struct {
	pool   string
	family Family
	held   []netip.Addr
}

type modelReserved struct {
	name string
	kind string
	held []netip.Addr
}

// setReservations puts m.reservations in force.
func (m *model) setReservations() []modelReserved {
	out := make([]modelReserved, len(m.reservations))
	before := m.counted
	m.accepted, m.counted = nil, map[string]modelCount{}
	var counts []int
	for i, r := range m.reservations {
		out[i].name = r.Name
		if r.Count > 0 {
			counts = append(counts, len(m.accepted))
			m.accepted = append(m.accepted, m.heldBefore(r, before[r.Name]))
			continue
		}
		wants := listed(r.Addresses)
		if m.conflicts(r, wants) {
			out[i].kind = "conflict"
			continue
		}
		r.Held = wants
		m.accepted = append(m.accepted, r)
		out[i].held = wants
	}
	for _, i := range counts {
		r := &m.accepted[i]
		m.fill(r)
		m.counted[r.Name] = modelCount{r.Pool, r.Family, r.Held}
		j := slices.IndexFunc(out, func(o modelReserved) bool { return o.name == r.Name })
		out[j].held = slices.SortedFunc(slices.Values(r.Held), netip.Addr.Compare)
		if len(r.Held) < r.Count {
			out[j].kind = "short"
		}
	}
	for i := range out {
		if out[i].kind == "" && slices.ContainsFunc(out[i].held, func(a netip.Addr) bool { return m.pending(a, m.reservations[i]) }) {
			out[i].kind = "pending"
		}
	}
	return out
}

// conflicts tells whether an earlier reservation has one of the addresses, unless one is for the namespace of the other.
func (m *model) conflicts(r Reservation, wants []netip.Addr) bool {
	return slices.ContainsFunc(m.accepted, func(other Reservation) bool {
		within := r.Namespace == other.Namespace && (r.Service == "") != (other.Service == "")
		return !within && slices.ContainsFunc(wants, func(a netip.Addr) bool { return slices.Contains(other.Held, a) })
	})
}

func (m *model) heldBefore(r Reservation, known modelCount) Reservation {
	before := r.Held
	if known.pool == r.Pool && known.family == r.Family {
		before = known.held
	}
	r.Held = nil
	_, exists := m.pool(r.Pool)
	for _, a := range before {
		_, reserved := m.reservedFor(a)
		if len(r.Held) < r.Count && FamilyOf(a) == r.Family && !slices.Contains(r.Held, a) && !reserved && (!exists && m.poolOf(a) == "" || m.poolOf(a) == r.Pool) {
			r.Held = append(r.Held, a)
		}
	}
	return r
}

func (m *model) fill(r *Reservation) {
	p, _ := m.pool(r.Pool)
	for _, a := range addresses(p, r.Family) {
		if _, reserved := m.reservedFor(a); len(r.Held) < r.Count && !p.Disabled && !reserved && m.free(a) {
			r.Held = append(slices.Clone(r.Held), a)
		}
	}
}

// pending tells whether someone else has an address of a pool that r has reserved.
func (m *model) pending(a netip.Addr, r Reservation) bool {
	who, _ := m.reservedFor(a)
	return who == r.For() && m.poolOf(a) != "" && slices.ContainsFunc(m.holders(a, Owner{}), func(o Owner) bool { return !isFor(who, o) })
}

func drawReservations(t *rapid.T) []Reservation {
	out := make([]Reservation, rapid.IntRange(0, 4).Draw(t, "reservations"))
	for i := range out {
		r := Reservation{Name: string(rune('p' + i)), Namespace: drawOwner(t).Namespace}
		if rapid.Bool().Draw(t, "for a Service") {
			r.Service = drawOwner(t).Name
		}
		f := rapid.SampledFrom(families[:]).Draw(t, "family")
		if rapid.IntRange(0, 2).Draw(t, "counts") == 0 {
			r.Count, r.Family, r.Pool = rapid.IntRange(1, 4).Draw(t, "count"), f, rapid.SampledFrom(poolNames).Draw(t, "pool")
			for range rapid.IntRange(0, 2).Draw(t, "held") {
				r.Held = append(r.Held, universe(f, rapid.IntRange(0, blocks*blockSize-1).Draw(t, "address")))
			}
		} else {
			for range rapid.IntRange(1, 2).Draw(t, "ranges") {
				from := rapid.IntRange(0, blocks*blockSize-1).Draw(t, "from")
				r.Addresses = append(r.Addresses, Range{universe(f, from), universe(f, from+rapid.IntRange(0, 5).Draw(t, "size"))})
			}
		}
		out[i] = r
	}
	return out
}
