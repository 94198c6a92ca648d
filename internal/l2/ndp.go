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
// validates the solicitation in it by RFC 4861 section 7.1.1. It returns the
// query in it, or errMalformed, or errIgnored.
func (s self) parseNDP(frame []byte) (query, error) {
	if err := s.addressed(frame); err != nil {
		return query{}, err
	}
	src, dst, icmp, err := ether.ParseIPv6(frame[etherLen:])
	if err != nil {
		return query{}, err
	}
	m, err := ndp.ParseMessage(icmp)
	if err != nil {
		return query{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	ns, ok := m.(*ndp.NeighborSolicitation)
	if !ok {
		return query{}, errIgnored
	}
	if icmp[1] != 0 || ns.TargetAddress.IsMulticast() || src.IsMulticast() {
		return query{}, errMalformed
	}
	q := query{target: ns.TargetAddress, asker: src, askerMAC: mac(frame[6:12])}
	source, hasSource, err := sourceLinkLayer(ns)
	if err != nil {
		return query{}, err
	}
	if src.IsUnspecified() {
		// A probe for duplicates (RFC 4862 section 5.4.2) can only be sent to
		// the group, and must not carry the option.
		if hasSource || !ether.IsSolicitedNode(dst) {
			return query{}, errMalformed
		}
		return q, nil
	}
	if hasSource {
		q.askerMAC = source
	}
	switch {
	case q.askerMAC.IsGroup():
		return query{}, errMalformed // the answer would go to many
	case q.askerMAC == s.mac:
		return query{}, errIgnored
	}
	return q, nil
}

// sourceLinkLayer returns the source link-layer address option of ns, if it
// has one.
func sourceLinkLayer(ns *ndp.NeighborSolicitation) (m mac, ok bool, err error) {
	for _, o := range ns.Options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == ndp.Source {
			if len(lla.Addr) != 6 {
				return mac{}, false, errMalformed
			}
			return mac(lla.Addr), true, nil
		}
	}
	return mac{}, false, nil
}

// appendNDPReply appends the frame that answers q as RFC 4861 section 7.2.4
// says: a probe is answered to all nodes with Solicited clear, anything else to
// the asker with Solicited set. Override is always set: the address is neither
// anycast nor proxied but this node's own for the time being, and a neighbour
// that still holds the previous owner's must replace it.
func (s self) appendNDPReply(b []byte, q query) []byte {
	if q.asker.IsUnspecified() {
		return s.appendUnsolicitedNA(b, q.target)
	}
	return s.appendNA(b, naSolicited|naOverride, q)
}

// appendUnsolicitedNA appends a frame that updates the caches of all neighbours
// (RFC 4861 section 7.2.6).
func (s self) appendUnsolicitedNA(b []byte, target netip.Addr) []byte {
	return s.appendNA(b, naOverride, query{target: target, asker: netip.IPv6LinkLocalAllNodes(), askerMAC: ether.AllNodes})
}

// appendNA appends a frame with a neighbour advertisement, without allocating.
// Its source is the target itself, as of any node that owns its address (RFC
// 4861 section 4.4): some, such as ndisc6, take an answer from another address
// for a proxy's and ignore it.
func (s self) appendNA(b []byte, flags byte, q query) []byte {
	b = ether.AppendHeader(b, q.askerMAC, s.mac, uint16(ethernet.EtherTypeIPv6))
	dst, target := q.asker.As16(), q.target.As16()
	b = append(b, 0x60, 0, 0, 0, 0, naLen, unix.IPPROTO_ICMPV6, ndp.HopLimit)
	addrs := len(b)
	b = append(b, target[:]...)
	b = append(b, dst[:]...)
	icmp := len(b)
	b = append(b, 136, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, target[:]...)
	b = append(b, 2, 1) // target link-layer address, 8 bytes
	b = append(b, s.mac[:]...)
	binary.BigEndian.PutUint16(b[icmp+2:], ether.Checksum(b[addrs:icmp], b[icmp:]))
	return b
}
