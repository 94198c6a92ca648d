package netif

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// A Link is one network interface as the kernel described it last. The zero
// value of a field means that the kernel did not say. Links handed out by a
// Watcher are shared between all readers and must not be modified.
type Link struct {
	// Index is the interface index. A link that is deleted and created again
	// under its old name has another index.
	Index int
	// Name is the interface name, such as "eth0".
	Name string
	// Kind is the rtnetlink kind of a virtual link ("veth", "bridge", …), empty
	// for hardware.
	Kind string
	// MAC is the hardware address; empty where the link has none.
	MAC net.HardwareAddr

	// Up is the administrative state (IFF_UP).
	Up bool
	// Carrier is the physical state (IFF_LOWER_UP): the cable is in.
	Carrier bool
	// CarrierChanges counts how often Carrier changed since the link was made,
	// so that a loss too short to be seen in two snapshots still shows.
	CarrierChanges uint32

	Loopback  bool // IFF_LOOPBACK
	Broadcast bool // IFF_BROADCAST
	Multicast bool // IFF_MULTICAST
	NoARP     bool // IFF_NOARP

	// Master is the index of the bridge, bond or VRF that this link is enslaved
	// to, 0 when it stands alone.
	Master int

	// Prefixes are the usable addresses with their subnet length, IPv4 first,
	// each family in ascending order. Addresses that are tentative or failed
	// duplicate address detection (RFC 4862 section 5.4) are not among them.
	Prefixes []netip.Prefix
	// LinkLocal is the lowest usable IPv6 link-local address, without a zone;
	// invalid when the link has none.
	LinkLocal netip.Addr
}

// Reasons why a link cannot serve a protocol, for errors.Is.
var (
	ErrDown        = errors.New("is administratively down")
	ErrNoCarrier   = errors.New("has no carrier")
	ErrLoopback    = errors.New("is a loopback interface")
	ErrEnslaved    = errors.New("is enslaved to another interface")
	ErrNoARP       = errors.New("has address resolution switched off (NOARP)")
	ErrNoMAC       = errors.New("has no Ethernet address")
	ErrNoBroadcast = errors.New("cannot broadcast, which ARP needs")
	ErrNoMulticast = errors.New("cannot multicast, which NDP needs")
	ErrNoLinkLocal = errors.New("has no usable IPv6 link-local address, which NDP needs")
)

// CanARP returns nil when an ARP responder can work on the link, and otherwise
// an error that names the link and wraps the reason.
func (l *Link) CanARP() error {
	err := l.canResolve()
	if err == nil && !l.Broadcast {
		err = ErrNoBroadcast
	}
	return l.wrap(err)
}

// CanNDP returns nil when a neighbour discovery responder can work on the link,
// and otherwise an error that names the link and wraps the reason.
func (l *Link) CanNDP() error {
	err := l.canResolve()
	switch {
	case err != nil:
	case !l.Multicast:
		err = ErrNoMulticast
	case !l.LinkLocal.IsValid():
		err = ErrNoLinkLocal
	}
	return l.wrap(err)
}

// canResolve checks what both protocols need. An enslaved link is skipped
// because its traffic surfaces on its master.
func (l *Link) canResolve() error {
	switch {
	case !l.Up:
		return ErrDown
	case l.Loopback:
		return ErrLoopback
	case l.Master != 0:
		return ErrEnslaved
	case l.NoARP:
		return ErrNoARP
	case len(l.MAC) != 6:
		return ErrNoMAC
	case !l.Carrier:
		return ErrNoCarrier
	}
	return nil
}

func (l *Link) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("interface %s %w", l.Name, err)
}

// HasSubnet reports whether addr lies in the subnet of one of the link's own
// addresses, so that its neighbours expect to find addr on the link.
func (l *Link) HasSubnet(addr netip.Addr) bool {
	for _, p := range l.Prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Equal reports whether two links are the same in every field.
func (l *Link) Equal(o *Link) bool {
	return l.Index == o.Index && l.Name == o.Name && l.Kind == o.Kind &&
		l.Up == o.Up && l.Carrier == o.Carrier && l.CarrierChanges == o.CarrierChanges &&
		l.Loopback == o.Loopback && l.Broadcast == o.Broadcast && l.Multicast == o.Multicast &&
		l.NoARP == o.NoARP && l.Master == o.Master &&
		l.LinkLocal == o.LinkLocal && bytes.Equal(l.MAC, o.MAC) && slices.Equal(l.Prefixes, o.Prefixes)
}

// comparePrefixes orders by address (which puts IPv4 first), then by length.
func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}
