package podnet

import (
	"fmt"
	"net/netip"
)

// pool hands out the addresses of a prefix in turn, so that one that was given
// back is not used again soon: somebody may still be sending to it.
type pool struct {
	prefix netip.Prefix
	last   netip.Addr
	used   map[netip.Addr]bool
}

// Gateway is the first address of a Pod network, which the node itself has.
func Gateway(prefix netip.Prefix) netip.Addr { return prefix.Masked().Addr().Next() }

func newPool(prefix netip.Prefix) *pool {
	return &pool{prefix: prefix.Masked(), last: Gateway(prefix), used: map[netip.Addr]bool{}}
}

// take returns a free address: neither the network's own, nor the gateway's, nor
// the last one, which is IPv4's broadcast address.
func (p *pool) take() (netip.Addr, error) {
	first := Gateway(p.prefix).Next()
	candidate := p.last
	for {
		candidate = candidate.Next()
		if !p.usable(candidate) {
			candidate = first
		}
		if p.usable(candidate) && !p.used[candidate] {
			p.used[candidate], p.last = true, candidate
			return candidate, nil
		}
		if candidate == p.last || !p.usable(candidate) {
			return netip.Addr{}, fmt.Errorf("pod network %s: all %d addresses are in use", p.prefix, len(p.used))
		}
	}
}

func (p *pool) usable(a netip.Addr) bool {
	return p.prefix.Contains(a) && p.prefix.Contains(a.Next())
}

func (p *pool) release(a netip.Addr) { delete(p.used, a) }
