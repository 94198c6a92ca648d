package l2

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
)

// Desired is the complete set of addresses that this node answers for, or may
// have to soon. Keys are plain addresses: neither IPv4-mapped nor with a zone.
type Desired map[netip.Addr]Announcement

// An Announcement says how one address is announced.
type Announcement struct {
	// Interfaces are the names of the interfaces on which the node answers.
	// Those that do not exist or cannot serve the address's protocol are
	// skipped until they can.
	Interfaces []string
	// StandIn, if not nil, has the node answer for the owner of the address,
	// whose speaker is away: with the owner's MAC on each interface, and where
	// that is not given not at all. The Ethernet source stays this node's own,
	// so that switches learn nothing wrong. A stand-in sends no gratuitous
	// announcements, and does not answer the owner itself.
	StandIn map[string]MAC
	// Armed has the node only remember what is asked for the address, to answer
	// it if an Apply within a second makes this node the owner or an active
	// stand-in.
	Armed bool
}

// normalise returns a deep copy with canonical keys, so that the caller may go
// on using its own map and slices. What cannot be a host's address is left out:
// to answer for it would harm the network.
func (d Desired) normalise() Desired {
	out := make(Desired, len(d))
	var c copier
	for addr, ann := range d {
		if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
			continue
		}
		ann.Interfaces, ann.StandIn = c.names(ann.Interfaces), c.macs(ann.StandIn)
		out[addr.Unmap().WithZone("")] = ann
	}
	return out
}

// A copier copies slices and maps that many announcements share once: Apply is
// waited for by those who asked meanwhile.
type copier struct {
	lastNames  []string
	copiedMacs map[uintptr]map[string]MAC // by the original's address
}

func (c *copier) names(names []string) []string {
	if !slices.Equal(names, c.lastNames) {
		c.lastNames = slices.Clone(names)
	}
	return c.lastNames
}

func (c *copier) macs(macs map[string]MAC) map[string]MAC {
	if macs == nil {
		return nil
	}
	at := reflect.ValueOf(macs).Pointer()
	copied, known := c.copiedMacs[at]
	if !known {
		if c.copiedMacs == nil {
			c.copiedMacs = make(map[uintptr]map[string]MAC)
		}
		copied = maps.Clone(macs)
		c.copiedMacs[at] = copied
	}
	return copied
}

// A role is what this node is to an address on one interface.
type role uint8

const (
	stranger role = iota
	armed         // remembers what is asked
	standIn       // answers with the owner's MAC
	owner         // answers with its own
)

// role returns what this node is to addr on the named interface, and the MAC of
// the owner if that is another.
func (d Desired) role(addr netip.Addr, ifname string) (role, MAC) {
	ann, ok := d[addr]
	if !ok || !slices.Contains(ann.Interfaces, ifname) {
		return stranger, MAC{}
	}
	return ann.role(ifname)
}

// role is as Desired's, for one of the announcement's interfaces.
func (ann *Announcement) role(ifname string) (role, MAC) {
	m, known := ann.StandIn[ifname]
	switch {
	case ann.StandIn != nil && !known:
		return stranger, MAC{}
	case ann.Armed:
		return armed, m
	case known:
		return standIn, m
	}
	return owner, MAC{}
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
