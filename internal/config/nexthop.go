package config

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/internal/bgp"
)

// addressOn returns the first address of a family that an interface has and
// that others can reach.
func (n Node) addressOn(name string, family bgp.Family) (netip.Addr, bool) {
	for _, i := range n.Interfaces {
		if i.Name != name {
			continue
		}
		for _, prefix := range i.Addresses {
			if addr := prefix.Addr(); usable(addr, family) {
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}

func usable(addr netip.Addr, family bgp.Family) bool {
	return bgp.FamilyOf(addr) == family && !addr.IsLoopback() && (family == bgp.IPv4 || !addr.IsLinkLocalUnicast())
}

// OnLink says whether an address is a neighbour's: link-local, or in a subnet of
// the node's interfaces.
func (n Node) OnLink(addr netip.Addr) bool {
	if addr.IsLinkLocalUnicast() {
		return true
	}
	return slices.ContainsFunc(n.Interfaces, func(i Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Masked().Contains(addr) })
	})
}

// nextHop returns the node's address of a family that is not the session's own.
// A peer on an interface is told one that is on that very interface, or none: it
// may have no way to any other, and can take the link-local one instead (RFC
// 8950). Others are told one of the interface whose address the session comes
// from, or of the one that it goes over, or else the node's.
func (n Node) nextHop(family bgp.Family, peer bgp.Peer) (netip.Addr, bool) {
	if peer.Interface != "" {
		return n.addressOn(peer.Interface, family)
	}
	for _, fits := range []func(Interface) bool{
		func(i Interface) bool {
			return peer.SourceAddress.IsValid() && slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr() == peer.SourceAddress })
		},
		func(i Interface) bool {
			return peer.Address.IsValid() && slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Masked().Contains(peer.Address) })
		},
	} {
		for _, i := range n.Interfaces {
			if !fits(i) {
				continue
			}
			if addr, found := n.addressOn(i.Name, family); found {
				return addr, true
			}
		}
	}
	for _, addr := range n.Addresses {
		if usable(addr, family) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// routerIDOf returns the node's IPv4 address, or what stands in for one: a
// number that is the node's for ever and hardly another's (RFC 6286 asks for no
// more). It is in the form of a unicast address, which older routers insist on.
func routerIDOf(node Node) netip.Addr {
	for _, addr := range node.Addresses {
		if usable(addr, bgp.IPv4) {
			return addr
		}
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(node.Name)) // cannot fail
	n := hash.Sum32()
	first := byte(n>>24)%222 + 1 // 1 to 222
	if first >= 127 {
		first++ // 127 is loopback
	}
	return netip.AddrFrom4([4]byte{first, byte(n >> 16), byte(n >> 8), byte(n)})
}
