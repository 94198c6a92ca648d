package ipam

import (
	"fmt"
	"net/netip"
	"slices"
)

// Allocate gives the owner the addresses of a request, or the first reason why it cannot. It is idempotent but for
// Request.Renew.
//
// Addresses that the owner has and that still satisfy the request are kept, whatever has become of their pools. Those
// asked for must be in a pool of the request, unless already held. For each family that remains, an address that is
// reserved for the Service comes first (see SetReservations), before others one that it had last; then one that rests for
// it, the latest first; then one that is reserved for its namespace. Otherwise the pools are tried in order; a pool that
// has both families is preferred for two, and for one the pool of the other address. Inside a pool an address with the
// same sharing key on which the ports are free comes first, also before one reserved for the namespace, then one that
// nobody has; of several, the first in the order of the pool's ranges, and in a range the lowest.
//
// Other sharing takes effect in place. It is refused while another owner stands against it.
//
// On an error nothing has changed, and the Result tells what the owner still holds. The error is a *FamilyError,
// *NotInPoolError, *DisabledError, *ReservedError, *QuarantinedError, *RestingError, *InUseError, *QuotaError or
// *ExhaustedError, or another if the request is malformed.
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
	drop    []*holding // what the owner has otherwise
	add     []target
	covered [2]bool // families for which an address is kept or added
	renewed [2]bool // families of which the owner has addresses and wants others
	missing error
	move    *move // not nil in Replace
	// passes is p.admits, made once: searches among shared addresses then cost no allocation.
	passes func(*holding) bool
}

// reset forgets everything but the lists' memory.
func (p *plan) reset() {
	clear(p.keep)
	clear(p.drop)
	clear(p.add)
	*p = plan{keep: p.keep[:0], drop: p.drop[:0], add: p.add[:0], passes: p.passes}
}

// target is an address of a pool to be given to the owner: beside others if its holding has owners, or again if it rests.
type target struct {
	addr netip.Addr
	held *holding
	pool *pool
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
	for _, t := range p.add {
		if over := p.overQuota(t.pool); over != nil {
			return over
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
	at, ok := locate(p.a.index[FamilyOf(addr).index()], number(addr))
	if !ok || !p.open(at.pool, p.a.reserved.of(FamilyOf(addr), number(addr))) && !slices.Contains(p.req.OnRequest, at.pool.spec.Name) {
		e := &NotInPoolError{Address: addr, Pools: slices.Concat(p.req.Pools, p.req.OnRequest)}
		if ok {
			e.Pool = at.pool.spec.Name
		}
		return e
	}
	if err := p.refuse(addr, held, at.pool); err != nil {
		return err
	}
	p.add = append(p.add, target{addr, held, at.pool})
	return nil
}

// open tells whether the request may use a pool for an address reserved by r, which is nil if by none.
func (p *plan) open(in *pool, r *reservation) bool {
	return slices.Contains(p.req.Pools, in.spec.Name) || r != nil && !p.req.Named && r.exactlyFor(p.req.Owner)
}

// refuse says why the owner may not have an address of a pool that is open to it; nil if it may.
func (p *plan) refuse(addr netip.Addr, held *holding, in *pool) error {
	if in.spec.Disabled {
		return &DisabledError{Address: addr, Pool: in.spec.Name}
	}
	if r := p.a.reserved.of(FamilyOf(addr), number(addr)); r != nil && !r.admits(p.req.Owner, held) {
		return &ReservedError{Address: addr, Reservation: r.name, For: r.who}
	}
	switch {
	case p.a.Quarantined(addr):
		return &QuarantinedError{Address: addr}
	case held == nil:
		return nil
	case held.rests():
		if r := p.a.rests.of(held); r.owner != p.req.Owner {
			return &RestingError{Address: addr, Owner: r.owner, Until: r.until}
		}
		return nil
	}
	if conflict := held.conflict(p.req.Owner, p.sharing, in.spec.ShareAcrossNamespaces); conflict != nil {
		return conflict
	}
	return nil
}

// keepOthers keeps what the owner has of the families of which it asks for no particular address, unless it wants others.
// All that is not kept by now is dropped.
func (p *plan) keepOthers() {
	if p.have == nil {
		return
	}
	asked := p.covered
	for _, h := range p.have.holdings {
		if !asked[h.family.index()] && slices.Contains(p.req.Families, h.family) {
			switch {
			case p.req.Renew:
				p.renewed[h.family.index()] = true
			case p.stays(h):
				p.keep = append(p.keep, h)
				p.cover(h.family)
			}
		}
		if !slices.Contains(p.keep, h) {
			p.drop = append(p.drop, h)
		}
	}
}

// stays tells whether the pool of a held address is what the Service wants. Only when the Service names other pools than
// before does it ask to move; that the pools have changed around it is no reason. What it named before a restart is not
// known, and a wrong guess would move an address by surprise: then it stays. An address that came from a pool so named stays
// also if that pool has lost it.
func (p *plan) stays(h *holding) bool {
	if !p.req.Named || p.have.restored || slices.Equal(p.have.named, p.req.Pools) {
		return true
	}
	return h.pool != nil && slices.Contains(p.req.Pools, h.pool.spec.Name)
}

func (p *plan) cover(f Family) { p.covered[f.index()] = true }

// commit carries out a plan.
func (a *Allocator) commit(p *plan) Result {
	res := Result{Missing: p.missing}
	al := p.have
	if al == nil {
		al = a.newAllocation(p.req.Owner, p.sharing)
		a.owners[p.req.Owner] = al
	}
	res.Released = a.dropAll(al, p.drop)
	res.Freed = len(res.Released) > 0
	if !al.sharing.equal(p.sharing) {
		res.Freed = true
		reshare(al, p.keep, p.sharing)
	}
	al.holdings = append(al.holdings[:0], p.keep...)
	for _, t := range p.add {
		// An address that was kept from others may be there to share now.
		res.Freed = res.Freed || al.sharing != nil && (t.held == nil || t.held.rests())
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
