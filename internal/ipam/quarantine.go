package ipam

import (
	"net/netip"
)

// An address in quarantine is one that somebody outside has, who must not be disturbed: nobody is given it, though those
// who have it keep it. Of a pool, it is in no set of what is free; while nobody has it and it does not rest, an idle
// holding stands for it.

// quarantined tells whether an address is in quarantine.
func (a *Allocator) quarantined(f Family, n u128) bool {
	_, found := a.quarantine[f.index()][n]
	return found
}

// Quarantined tells whether an address is in quarantine.
func (a *Allocator) Quarantined(addr netip.Addr) bool {
	return checkAddr(addr) == nil && a.quarantined(FamilyOf(addr), number(addr))
}

// SetQuarantine makes these addresses, and no others, those that nobody is given: not on request, not to share, not to whom
// they are reserved or rest for. Nobody loses one by it, see Replace. It does not matter whether a pool covers them yet.
// It tells whether an address is available that was not: requests that failed before deserve another attempt. Invalid
// addresses are ignored. It costs next to nothing if little has changed.
func (a *Allocator) SetQuarantine(addrs []netip.Addr) (freed bool) {
	var want [2]map[u128]struct{}
	for _, addr := range addrs {
		if checkAddr(addr) != nil {
			continue
		}
		f := FamilyOf(addr).index()
		if want[f] == nil {
			want[f] = map[u128]struct{}{}
		}
		want[f][number(addr)] = struct{}{}
	}
	before := a.quarantine
	a.quarantine = want
	for _, f := range families {
		for n := range want[f.index()] {
			if _, known := before[f.index()][n]; !known {
				a.keepIdle(f, n)
			}
		}
		for n := range before[f.index()] {
			if _, stays := want[f.index()][n]; stays {
				continue
			}
			freed = true // also to share
			if h := a.addrs[f.index()][n]; h != nil && h.idle() {
				a.rouse(h)
				a.forget(h)
			}
		}
	}
	return freed
}

// idle tells whether nobody has the address and it does not rest: then it is in quarantine.
func (h *holding) idle() bool { return !h.rests() && len(h.owners()) == 0 }

// keepIdle takes an address out of what its pool has free if it is in quarantine, a pool covers it, nobody has it and it does
// not rest.
func (a *Allocator) keepIdle(f Family, n u128) {
	if a.addrs[f.index()][n] != nil || !a.quarantined(f, n) {
		return
	}
	at, ok := locate(a.index[f.index()], n)
	if !ok {
		return
	}
	h := a.spareHoldings.get()
	*h = holding{family: f, num: n, pool: at.pool, pos: at.position(n), inPool: true}
	a.addrs[f.index()][n] = h
	a.takeFree(h)
	at.pool.space(f).quarantined++
}

// rouse makes an idle holding one that is in none of its pool's sets and not counted.
func (a *Allocator) rouse(h *holding) { h.pool.space(h.family).quarantined-- }

// reattachIdle finds the pool of an idle holding whose pool was replaced or deleted.
func (a *Allocator) reattachIdle(h *holding) {
	delete(a.addrs[h.family.index()], h.num)
	f, n := h.family, h.num
	a.spareHoldings.put(h)
	a.keepIdle(f, n)
}

// keepAllIdle does for a new configuration of pools what keepIdle does for one address.
func (a *Allocator) keepAllIdle() {
	for _, f := range families {
		for n := range a.quarantine[f.index()] {
			a.keepIdle(f, n)
		}
	}
}
