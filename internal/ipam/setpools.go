package ipam

import (
	"errors"
	"fmt"
	"slices"
)

// SetPools makes pools the configuration, in this order. Every allocation is kept: an address that a pool covers now is
// attributed to that pool, an address that none covers stays with its owners out of pool. It returns, by name, the owners
// of addresses whose pool is another than before (or none, or one instead of none); it is quick if little has changed.
//
// On an error nothing has changed: *OverlapError if two pools have an address in common, or another if a pool has no name
// or one that is used twice, or an invalid range.
func (a *Allocator) SetPools(pools []Pool) ([]Owner, error) {
	if a.sameOrder(pools) && !slices.ContainsFunc(pools, a.changed) {
		return nil, nil
	}
	if err := validatePools(pools); err != nil {
		return nil, err
	}
	order, index := make([]*pool, len(pools)), [2][]placed{}
	for i, spec := range pools {
		order[i] = a.pools[spec.Name]
		if a.changed(spec) {
			order[i] = newPool(spec)
		}
		for _, f := range families {
			for _, s := range order[i].space(f).spans {
				index[f.index()] = append(index[f.index()], placed{s, order[i]})
			}
		}
	}
	for _, f := range families {
		slices.SortFunc(index[f.index()], comparePlaced)
		if err := findOverlap(f, index[f.index()]); err != nil {
			return nil, err
		}
	}
	return a.replacePools(order, index), nil
}

func (a *Allocator) sameOrder(pools []Pool) bool {
	return slices.EqualFunc(a.order, pools, func(p *pool, spec Pool) bool { return p.spec.Name == spec.Name })
}

// changed tells whether there is no pool exactly like this.
func (a *Allocator) changed(spec Pool) bool {
	p := a.pools[spec.Name]
	return p == nil || !p.configured || p.spec.ShareAcrossNamespaces != spec.ShareAcrossNamespaces ||
		p.spec.Disabled != spec.Disabled || p.spec.ReuseDelay != spec.ReuseDelay || p.spec.Quota != spec.Quota ||
		!slices.Equal(p.spec.Ranges, spec.Ranges)
}

func validatePools(pools []Pool) error {
	seen := make(map[string]bool, len(pools))
	for _, p := range pools {
		switch {
		case p.Name == "":
			return errors.New("a pool has no name")
		case seen[p.Name]:
			return fmt.Errorf("pool %s is given twice", p.Name)
		}
		seen[p.Name] = true
		for _, r := range p.Ranges {
			if err := r.Validate(); err != nil {
				return fmt.Errorf("pool %s: %w", p.Name, err)
			}
		}
	}
	return nil
}

func findOverlap(f Family, index []placed) error {
	for i := 1; i < len(index); i++ {
		// Ranges of one pool do not overlap, so the neighbours belong to two.
		if x, y := index[i-1], index[i]; !x.to.less(y.from) {
			return &OverlapError{
				Pool: x.pool.spec.Name, Range: Range{address(f, x.from), address(f, x.to)},
				Other: y.pool.spec.Name, OtherRange: Range{address(f, y.from), address(f, y.to)},
			}
		}
	}
	return nil
}

func newPool(spec Pool) *pool {
	spec.Ranges = slices.Clone(spec.Ranges)
	p := &pool{spec: spec, configured: true}
	if spec.Quota != (Quota{}) {
		p.usage = map[string]usage{}
	}
	for _, r := range Subtract(spec.Ranges, nil) {
		s := p.space(r.Family())
		from, to := number(r.From), number(r.To)
		s.spans = append(s.spans, span{from: from, to: to, base: s.total.n})
		s.total = s.total.plus(r.Size())
	}
	for i := range p.spaces {
		s := &p.spaces[i]
		if len(s.spans) == 0 {
			continue
		}
		last := s.spans[len(s.spans)-1]
		s.free = newFreeSet()
		s.free.tree.ReplaceOrInsert(interval{to: last.base.add(last.to.sub(last.from))})
	}
	return p
}

// replacePools puts a new configuration in force. Pools that have not changed are the same objects in it as before, and
// so their addresses need not be looked at.
func (a *Allocator) replacePools(order []*pool, index [2][]placed) []Owner {
	current := make(map[*pool]bool, len(order))
	pools := make(map[string]*pool, len(order))
	for _, p := range order {
		current[p] = true
		pools[p.spec.Name] = p
		for i := range p.spaces {
			p.spaces[i].outOfPool = 0
		}
	}
	before := a.order
	a.pools, a.order, a.index = pools, order, index
	for _, p := range order {
		if !slices.Contains(before, p) {
			a.reserveIn(p)
		}
	}
	for i := range a.outOfPool {
		clear(a.outOfPool[i]) // those that remain are counted again
	}
	moved := map[Owner]bool{}
	for _, addrs := range a.addrs {
		for _, h := range addrs {
			if h.inPool && current[h.pool] || !a.reattach(h) {
				continue
			}
			for _, al := range h.owners() {
				moved[al.owner] = true
			}
		}
	}
	a.keepAllIdle()
	out := make([]Owner, 0, len(moved))
	for o := range moved {
		out = append(out, o)
	}
	slices.SortFunc(out, Owner.Compare)
	return out
}

// reattach finds the pool of a holding whose pool was replaced or deleted, or that had none. It tells whether the name of
// the pool of an assigned address changed.
func (a *Allocator) reattach(h *holding) bool {
	switch {
	case h.rests():
		a.reattachRest(h)
		return false
	case h.idle():
		a.reattachIdle(h)
		return false
	}
	var before string
	if h.inPool {
		before = h.pool.spec.Name
	}
	if h.pool != nil {
		h.pool = a.byName(h.pool.spec.Name)
	}
	a.attach(h)
	if h.shared != nil {
		h.shared.groups = [2]*group{} // they went with the old pool
		h.regroup()
	}
	if !h.inPool {
		return before != ""
	}
	h.chargeAll()
	return before != h.pool.spec.Name
}

// byName returns the pool of a name, or what stands for one that is not configured.
func (a *Allocator) byName(name string) *pool {
	p := a.pools[name]
	if p == nil {
		p = &pool{spec: Pool{Name: name}}
		a.pools[name] = p
	}
	return p
}
