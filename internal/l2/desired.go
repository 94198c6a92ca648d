package l2

import (
	"net/netip"
	"slices"
)

// Desired is the complete set of addresses that this node answers for. Keys are
// plain addresses: neither IPv4-mapped nor with a zone.
type Desired map[netip.Addr]Announcement

// An Announcement says how one address is announced.
type Announcement struct {
	// Interfaces are the names of the interfaces on which the node answers.
	// Those that do not exist or cannot serve the address's protocol are
	// skipped until they can.
	Interfaces []string
}

// normalise returns a deep copy with canonical keys, so that the caller may go
// on using its own map and slices. What cannot be a host's address is left out:
// to answer for it would harm the network.
func (d Desired) normalise() Desired {
	out := make(Desired, len(d))
	for addr, ann := range d {
		if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
			continue
		}
		out[addr.Unmap().WithZone("")] = Announcement{Interfaces: slices.Clone(ann.Interfaces)}
	}
	return out
}

// answers reports whether addr is to be answered for on the named interface.
func (d Desired) answers(addr netip.Addr, ifname string) bool {
	ann, ok := d[addr]
	return ok && slices.Contains(ann.Interfaces, ifname)
}

// Protocol is the address resolution protocol of one address family.
type Protocol uint8

// The protocols.
const (
	ARP Protocol = iota + 1
	NDP
)

// String returns the name that is used in logs and metric labels.
func (p Protocol) String() string {
	switch p {
	case ARP:
		return "arp"
	case NDP:
		return "ndp"
	}
	return "unknown"
}

// ProtocolOf returns the protocol that resolves addr.
func ProtocolOf(addr netip.Addr) Protocol {
	if addr.Is4() {
		return ARP
	}
	return NDP
}
