package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// Allocate gives the owner the addresses of a request, or the first reason why it cannot. It is idempotent.
//
// Addresses that the owner has and that still satisfy the request are kept, whatever has become of their pools. Those
// asked for must be in a pool of the request, unless already held. For each family that remains, the pools are tried in
// order; a pool that has both families is preferred for two, and for one the pool of the other address. Inside a pool an
// address with the same sharing key on which the ports are free comes first, then one that nobody has; of several, the
// first in the order of the pool's ranges, and in a range the lowest.
//
// Other sharing takes effect in place. It is refused while another owner stands against it.
//
// On an error nothing has changed, and the Result tells what the owner still holds. The error is a *FamilyError,
// *NotInPoolError, *InUseError or *ExhaustedError, or another if the request is malformed.
func (a *Allocator) Allocate(req Request) (Result, error) {
	if err := req.validate(); err != nil {
		return Result{Addresses: a.Allocation(req.Owner)}, err
	}
	p := &a.plan
	defer p.reset()
	p.a, p.req, p.have, p.sharing = a, req, a.owners[req.Owner], req.Sharing.normalized()
	if err := p.make(); err != nil {
		return Result{Addresses: a.Allocation(req.Owner)}, err
	}
	return a.commit(p), nil
}

func (r *Request) validate() error {
	if n := len(r.Families); n < 1 || n > 2 || n == 2 && r.Families[0] == r.Families[1] {
		return fmt.Errorf("request of Service %s: families must be one or two different ones, not %v", r.Owner, r.Families)
	}
	for _, f := range r.Families {
		if f != IPv4 && f != IPv6 {
			return fmt.Errorf("request of Service %s: %v is no family", r.Owner, f)
		}
	}
	for _, addr := range r.Addresses {
		if err := checkAddr(addr); err != nil {
			return fmt.Errorf("request of Service %s: %w", r.Owner, err)
		}
	}
	return nil
}

// plan is how a request is going to be satisfied. Making one changes nothing, and a plan once made cannot fail. The
// allocator has a single one that it uses again and again, so that its lists cost no memory.
type plan struct {
	a       *Allocator
	req     Request
	have    *allocation // nil if the owner has nothing
	sharing *Sharing    // normalized

	keep    []*holding
	add     []target
	covered [2]bool // families for which an address is kept or added
	missing error
}

// reset forgets everything but the lists' memory.
func (p *plan) reset() {
	clear(p.keep)
	clear(p.add)
	*p = plan{keep: p.keep[:0], add: p.add[:0]}
}

// target is an address to be given to the owner: beside others if it has a holding.
type target struct {
	addr netip.Addr
	held *holding
}

func (p *plan) make() error {
	if err := p.takeAsked(); err != nil {
		return err
	}
	p.keepOthers()
	for _, h := range p.keep {
		if conflict := h.conflict(p.req.Owner, p.sharing, true); conflict != nil {
			return conflict
		}
	}
	return p.choose()
}

// takeAsked plans for the addresses that the request names.
func (p *plan) takeAsked() error {
	if len(p.req.Addresses) == 0 {
		return nil
	}
	for _, addr := range p.req.Addresses {
		if !slices.Contains(p.req.Families, FamilyOf(addr)) {
			return &FamilyError{Families: slices.Clone(p.req.Families), Address: addr}
		}
		p.cover(FamilyOf(addr))
	}
	for _, f := range p.req.Families {
		if !p.covered[f.index()] && !p.req.Partial {
			return &FamilyError{Families: slices.Clone(p.req.Families), Missing: f}
		}
	}
	for _, addr := range p.req.Addresses {
		if err := p.take(addr); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) take(addr netip.Addr) error {
	held := p.a.held(addr)
	if held != nil && p.have != nil && slices.Contains(p.have.holdings, held) {
		if !slices.Contains(p.keep, held) {
			p.keep = append(p.keep, held)
		}
		return nil
	}
	if slices.ContainsFunc(p.add, func(t target) bool { return t.addr == addr }) {
		return nil
	}
	name, ok := p.a.PoolOf(addr)
	if !ok || !slices.Contains(p.req.Pools, name) {
		return &NotInPoolError{Address: addr, Pool: name, Pools: slices.Clone(p.req.Pools)}
	}
	if held != nil {
		if conflict := held.conflict(p.req.Owner, p.sharing, held.pool.spec.ShareAcrossNamespaces); conflict != nil {
			return conflict
		}
	}
	p.add = append(p.add, target{addr, held})
	return nil
}

// keepOthers keeps what the owner has of the families of which it asks for no particular address.
func (p *plan) keepOthers() {
	if p.have == nil {
		return
	}
	asked := p.covered
	for _, h := range p.have.holdings {
		if !asked[h.family.index()] && slices.Contains(p.req.Families, h.family) && p.stays(h) {
			p.keep = append(p.keep, h)
			p.cover(h.family)
		}
	}
}

// stays tells whether the pool of a held address is what the Service wants. Only when the Service names other pools than
// before does it ask to move; that the pools have changed around it is no reason. What it named before a restart is not
// known, and a wrong guess would move an address by surprise: then it stays.
func (p *plan) stays(h *holding) bool {
	if !p.req.Named || p.have.restored || slices.Equal(p.have.named, p.req.Pools) {
		return true
	}
	return h.inPool && slices.Contains(p.req.Pools, h.pool.spec.Name)
}

func (p *plan) cover(f Family) { p.covered[f.index()] = true }

// choose plans for the families that are not covered yet.
func (p *plan) choose() error {
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
	if !p.req.Partial || p.covered == [2]bool{} {
		return err
	}
	p.missing = err
	return nil
}

// chooseBoth takes one address of each family from the first pool that has both.
func (p *plan) chooseBoth() bool {
	for _, name := range p.req.Pools {
		first, ok := p.candidate(name, p.req.Families[0])
		if !ok {
			continue
		}
		if second, ok := p.candidate(name, p.req.Families[1]); ok {
			p.add = append(p.add, first, second)
			p.covered = [2]bool{true, true}
			return true
		}
	}
	return false
}

// chooseOne takes an address from the pool of the other family's address, otherwise from the first pool that has one.
func (p *plan) chooseOne(f Family) bool {
	if beside, ok := p.poolBeside(); ok {
		if t, ok := p.candidate(beside, f); ok {
			p.add = append(p.add, t)
			p.cover(f)
			return true
		}
	}
	for _, name := range p.req.Pools {
		if t, ok := p.candidate(name, f); ok {
			p.add = append(p.add, t)
			p.cover(f)
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

// candidate returns the address that a pool would give.
func (p *plan) candidate(name string, f Family) (target, bool) {
	from := p.a.pools[name]
	if from == nil || from.space(f).free == nil {
		return target{}, false
	}
	sp := from.space(f)
	if p.sharing != nil {
		if g := sp.groups[from.groupKey(p.req.Owner, p.sharing)]; g != nil {
			if h := g.fit(p.sharing.Ports); h != nil {
				return target{h.addr(), h}, true
			}
		}
	}
	pos, ok := sp.free.lowest()
	if !ok {
		return target{}, false
	}
	return target{addr: sp.address(f, pos)}, true
}

func (p *plan) explain(families []Family) error {
	e := &ExhaustedError{Families: families}
	for _, f := range families {
		for _, name := range p.req.Pools {
			t := PoolTried{Pool: name, Family: f, Lack: LackPool}
			if from := p.a.pools[name]; from != nil && from.configured {
				t.Lack, t.Total = LackFree, from.space(f).total
				if t.Total.IsZero() {
					t.Lack = LackFamily
				}
			}
			if p.sharing != nil {
				t.Key = p.sharing.Key
			}
			e.Tried = append(e.Tried, t)
		}
	}
	return e
}

// commit carries out a plan.
func (a *Allocator) commit(p *plan) Result {
	res := Result{Missing: p.missing}
	al := p.have
	if al == nil {
		al = a.newAllocation(p.req.Owner, p.sharing)
		a.owners[p.req.Owner] = al
	}
	for _, h := range al.holdings {
		if !slices.Contains(p.keep, h) {
			res.Released = append(res.Released, h.addr())
			a.drop(al, h)
		}
	}
	res.Freed = len(res.Released) > 0
	if !al.sharing.equal(p.sharing) {
		res.Freed = true
		reshare(al, p.keep, p.sharing)
	}
	al.holdings = append(al.holdings[:0], p.keep...)
	for _, t := range p.add {
		a.give(al, t.addr, t.held)
	}
	if len(al.holdings) > 1 {
		p.sort(al.holdings)
	}
	al.remember(&p.req)
	res.Addresses = al.assigned()
	return res
}

// reshare gives al another sharing on the addresses that it keeps.
func reshare(al *allocation, keep []*holding, s *Sharing) {
	for _, h := range keep {
		h.dropOwner(al)
	}
	al.sharing = s
	for _, h := range keep {
		h.addOwner(al)
	}
}

// remember keeps what the Service names, to see later whether it asks to move.
func (al *allocation) remember(req *Request) {
	al.restored = false
	switch {
	case !req.Named:
		al.named = nil
	case !slices.Equal(al.named, req.Pools):
		al.named = slices.Clone(req.Pools)
	}
}

// sort puts holdings in the order of the request's families, then of its addresses; otherwise it leaves them as they are.
func (p *plan) sort(holdings []*holding) {
	rank := func(h *holding) int {
		family := slices.Index(p.req.Families, h.family)
		return family*(len(p.req.Addresses)+1) + slices.Index(p.req.Addresses, h.addr()) + 1
	}
	slices.SortStableFunc(holdings, func(a, b *holding) int { return rank(a) - rank(b) })
}
