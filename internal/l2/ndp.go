package l2

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
)

const (
	// naLen is the length of a neighbour advertisement with one option, the
	// link-layer address of the target.
	naLen = 24 + 8

	naSolicited = 1 << 6
	naOverride  = 1 << 5
)

// parseNDP reads a frame that came through FilterNDP, trusting nothing, and
// validates the message in it by RFC 4861 section 7.1. It returns what the
// message says, or errMalformed, or errIgnored.
func (s self) parseNDP(frame []byte) (message, error) {
	if err := s.addressed(frame); err != nil {
		return message{}, err
	}
	src, dst, icmp, err := ether.ParseIPv6(frame[etherLen:])
	if err != nil {
		return message{}, err
	}
	parsed, err := ndp.ParseMessage(icmp)
	if err != nil {
		return message{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if icmp[1] != 0 || src.IsMulticast() {
		return message{}, errMalformed
	}
	var m message
	switch parsed := parsed.(type) {
	case *ndp.NeighborSolicitation:
		m, err = readSolicitation(parsed, src, dst, MAC(frame[6:12]))
	case *ndp.NeighborAdvertisement:
		m, err = readAdvertisement(parsed, src, dst, MAC(frame[6:12]))
	default:
		return message{}, errIgnored
	}
	switch {
	case err != nil:
		return message{}, err
	case m.asks && m.askerMAC == s.mac || m.claimed.IsValid() && m.claimant == s.mac:
		return message{}, errIgnored // a stand-in speaks for us, or the network echoes
	}
	return m, nil
}

// readSolicitation validates by RFC 4861 section 7.1.1.
func readSolicitation(ns *ndp.NeighborSolicitation, src, dst netip.Addr, from MAC) (message, error) {
	if ns.TargetAddress.IsMulticast() || ns.TargetAddress.IsUnspecified() {
		return message{}, errMalformed
	}
	m := message{query: query{target: ns.TargetAddress, asker: src, askerMAC: from}, asks: true}
	source, hasSource, err := linkLayer(ns.Options, ndp.Source)
	if err != nil {
		return message{}, err
	}
	if src.IsUnspecified() {
		// A probe for duplicates (RFC 4862 section 5.4.2) can only be sent to
		// the group, and must not carry the option.
		if hasSource || !ether.IsSolicitedNode(dst) {
			return message{}, errMalformed
		}
		m.claimed, m.claimant = ns.TargetAddress, from
		return m, nil
	}
	if hasSource {
		m.askerMAC = source
	}
	if m.askerMAC.IsGroup() {
		return message{}, errMalformed // the answer would go to many
	}
	return m, nil
}

// readAdvertisement validates by RFC 4861 section 7.1.2.
func readAdvertisement(na *ndp.NeighborAdvertisement, src, dst netip.Addr, from MAC) (message, error) {
	if na.TargetAddress.IsMulticast() || na.TargetAddress.IsUnspecified() || src.IsUnspecified() ||
		dst.IsMulticast() && na.Solicited {
		return message{}, errMalformed
	}
	target, hasTarget, err := linkLayer(na.Options, ndp.Target)
	if err != nil {
		return message{}, err
	}
	m := message{claimed: na.TargetAddress, claimant: from}
	if hasTarget {
		m.claimant = target
	}
	if m.claimant.IsGroup() {
		return message{}, errMalformed
	}
	return m, nil
}

// linkLayer returns the link-layer address option of the given direction, if
// there is one.
func linkLayer(options []ndp.Option, direction ndp.Direction) (m MAC, ok bool, err error) {
	for _, o := range options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == direction {
			if len(lla.Addr) != 6 {
				return MAC{}, false, errMalformed
			}
			return MAC(lla.Addr), true, nil
		}
	}
	return MAC{}, false, nil
}

// appendNDPReply appends the frame that answers q as RFC 4861 section 7.2.4
// says: a probe is answered to all nodes with Solicited clear, anything else to
// the asker with Solicited set. Override is always set: the address is neither
// anycast nor proxied but this node's own for the time being, and a neighbour
// that still holds the previous owner's must replace it. The answer says that
// the address is at is, and is sent from s.
func (s self) appendNDPReply(b []byte, q query, is MAC) []byte {
	if q.asker.IsUnspecified() {
		return s.appendUnsolicitedNA(b, q.target, is)
	}
	return s.appendNA(b, naSolicited|naOverride, q, is)
}

// appendUnsolicitedNA appends a frame that updates the caches of all neighbours
// (RFC 4861 section 7.2.6).
func (s self) appendUnsolicitedNA(b []byte, target netip.Addr, is MAC) []byte {
	return s.appendNA(b, naOverride, query{target: target, asker: netip.IPv6LinkLocalAllNodes(), askerMAC: ether.AllNodes}, is)
}

// appendNA appends a frame with a neighbour advertisement, without allocating.
// Its source is the target itself, as of any node that owns its address (RFC
// 4861 section 4.4): some, such as ndisc6, take an answer from another address
// for a proxy's and ignore it.
func (s self) appendNA(b []byte, flags byte, q query, is MAC) []byte {
	b = ether.AppendHeader(b, q.askerMAC, s.mac, uint16(ethernet.EtherTypeIPv6))
	dst, target := q.asker.As16(), q.target.As16()
	b = append(b, 0x60, 0, 0, 0, 0, naLen, unix.IPPROTO_ICMPV6, ndp.HopLimit)
	addrs := len(b)
	b = append(b, target[:]...)
	b = append(b, dst[:]...)
	icmp := len(b)
	b = appendAdvertisement(b, flags, q.target, is)
	binary.BigEndian.PutUint16(b[icmp+2:], ether.Checksum(b[addrs:icmp], b[icmp:]))
	return b
}

// appendAdvertisement appends a neighbour advertisement (RFC 4861 section 4.4) without
// its checksum.
func appendAdvertisement(b []byte, flags byte, target netip.Addr, is MAC) []byte {
	at := target.As16()
	b = append(b, 136, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, at[:]...)
	b = append(b, 2, 1) // target link-layer address, 8 bytes
	return append(b, is[:]...)
}
