package neighbor

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
)

// ICMPv6 types (RFC 4861 sections 4.3 and 4.4) and the flag of an advertisement
// that says that it answers a question.
const (
	typeNS      = 135
	typeNA      = 136
	naSolicited = 1 << 6

	optionSource = 1
	optionTarget = 2
)

// A heard packet is what a frame says about an address.
type heard struct {
	// addr is the address that it is about, and mac who has it, wants it (a
	// probe), or answers for it.
	addr netip.Addr
	mac  ether.MAC
	// src is the station that sent the frame.
	src ether.MAC
	// reply: it answers a question of the station it was sent to.
	reply bool
}

// parse takes apart a frame of proto that arrived at the station self. ok is false
// for packets that say nothing about who has an address, and err is set for those
// that violate their RFC.
func parse(proto protocol, self ether.MAC, frame []byte) (h heard, ok bool, err error) {
	if len(frame) < ether.HeaderLen {
		return h, false, ether.ErrMalformed
	}
	h.src, h.reply = ether.MAC(frame[6:12]), ether.MAC(frame[0:6]) == self
	if h.src.IsGroup() {
		return h, false, ether.ErrMalformed // IEEE 802.3 section 3.2.3: a source is one station
	}
	if proto == protoARP {
		return parseARP(h, frame)
	}
	return parseNDP(h, frame)
}

// parseARP reads any ARP packet: whoever sends one uses the sender address in it,
// or, if that is 0.0.0.0, asks because it wants the target (RFC 5227 section 2.1.1).
func parseARP(h heard, frame []byte) (heard, bool, error) {
	b := frame[ether.HeaderLen:]
	if len(b) < ether.ARPLen || binary.BigEndian.Uint32(b) != 0x0001_0800 || binary.BigEndian.Uint16(b[4:]) != 0x0604 {
		return h, false, ether.ErrMalformed
	}
	op := arp.Operation(binary.BigEndian.Uint16(b[6:]))
	h.mac = ether.MAC(b[8:14])
	h.addr = netip.AddrFrom4([4]byte(b[14:18]))
	switch {
	case op != arp.OperationRequest && op != arp.OperationReply:
		return h, false, nil
	case h.mac.IsGroup():
		return h, false, ether.ErrMalformed // RFC 1812 section 3.3.2 has hosts distrust it
	case op == arp.OperationReply:
	case h.addr.IsUnspecified():
		h.addr = netip.AddrFrom4([4]byte(b[24:28]))
	}
	h.reply = h.reply && op == arp.OperationReply
	return h, !h.addr.IsUnspecified(), nil
}

// parseNDP reads advertisements, and solicitations that probe for duplicates.
func parseNDP(h heard, frame []byte) (heard, bool, error) {
	src, dst, icmp, err := ether.ParseIPv6(frame[ether.HeaderLen:])
	if err != nil {
		return h, false, err
	}
	if icmp[0] != typeNS && icmp[0] != typeNA {
		return h, false, nil
	}
	h.addr = netip.AddrFrom16([16]byte(icmp[8:24]))
	option, has, err := linkLayer(icmp)
	if err != nil || icmp[1] != 0 || h.addr.IsMulticast() || src.IsMulticast() {
		return h, false, ether.ErrMalformed
	}
	h.mac = h.src
	if icmp[0] == typeNS {
		if !src.IsUnspecified() {
			return h, false, nil
		}
		if has || !ether.IsSolicitedNode(dst) {
			return h, false, ether.ErrMalformed // RFC 4861 section 7.1.1
		}
		h.reply = false
		return h, true, nil
	}
	solicited := icmp[4]&naSolicited != 0
	if src.IsUnspecified() || dst.IsMulticast() && solicited {
		return h, false, ether.ErrMalformed // RFC 4861 section 7.1.2
	}
	// The answer to a unicast question may leave the option out (section 4.4).
	if has {
		h.mac = option
	}
	if h.mac.IsGroup() {
		return h, false, ether.ErrMalformed
	}
	h.reply = h.reply && solicited
	return h, true, nil
}

// linkLayer returns the link-layer address option that belongs to the type of the
// message, if there is one.
func linkLayer(icmp []byte) (mac ether.MAC, ok bool, err error) {
	want := byte(optionTarget)
	if icmp[0] == typeNS {
		want = optionSource
	}
	for b := icmp[24:]; len(b) > 0; {
		if len(b) < 2 || b[1] == 0 || int(b[1])*8 > len(b) {
			return mac, false, ether.ErrMalformed
		}
		if b[0] == want {
			if b[1] != 1 {
				return mac, false, ether.ErrMalformed
			}
			mac, ok = ether.MAC(b[2:8]), true
		}
		b = b[int(b[1])*8:]
	}
	return mac, ok, nil
}

// A question is a frame to send.
type question struct {
	// self and source are how this node appears. Source is unspecified when the
	// address asked for may become its own.
	self   ether.MAC
	source netip.Addr
	target netip.Addr
	// to is zero to ask everyone.
	to ether.MAC
}

// appendARP appends a frame that asks for an IPv4 address.
func (q question) appendARP(b []byte) []byte {
	to := q.to
	if to == (ether.MAC{}) {
		to = ether.Broadcast
	}
	b = ether.AppendHeader(b, to, q.self, unix.ETH_P_ARP)
	return ether.AppendARP(b, arp.OperationRequest, ether.ARPSide{MAC: q.self, IP: q.source}, ether.ARPSide{IP: q.target})
}

// appendNDP appends a frame that asks for an IPv6 address. It tells where the
// answer goes (RFC 4861 section 4.3), which spares the other host asking for us,
// but must not when there is no source address.
func (q question) appendNDP(b []byte) []byte {
	to, dst := q.to, q.target
	if to == (ether.MAC{}) {
		dst = ether.SolicitedNode(q.target)
		to = ether.GroupMAC(dst)
	}
	length := byte(24)
	if !q.source.IsUnspecified() {
		length += 8
	}
	src, dst16, target := q.source.As16(), dst.As16(), q.target.As16()
	b = ether.AppendHeader(b, to, q.self, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0, 0, length, unix.IPPROTO_ICMPV6, ndp.HopLimit)
	addrs := len(b)
	b = append(b, src[:]...)
	b = append(b, dst16[:]...)
	icmp := len(b)
	b = append(b, typeNS, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, target[:]...)
	if !q.source.IsUnspecified() {
		b = append(b, optionSource, 1)
		b = append(b, q.self[:]...)
	}
	binary.BigEndian.PutUint16(b[icmp+2:], ether.Checksum(b[addrs:icmp], b[icmp:]))
	return b
}
