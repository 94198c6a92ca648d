package ether

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// IPv6Len is the length of an IPv6 header.
const IPv6Len = 40

// AllNodes is where the group ff02::1 is on Ethernet (RFC 2464 section 7).
var AllNodes = MAC{0x33, 0x33, 0, 0, 0, 1}

// ParseIPv6 takes an IPv6 packet apart that consists of a header and an ICMPv6
// message of neighbour discovery, and verifies the checksum and what RFC 4861
// wants of all of them: a hop limit of 255 and at least 24 bytes.
func ParseIPv6(b []byte) (src, dst netip.Addr, icmp []byte, err error) {
	if len(b) < IPv6Len || b[0]>>4 != 6 || b[6] != unix.IPPROTO_ICMPV6 || b[7] != ndp.HopLimit {
		return src, dst, nil, ErrMalformed
	}
	// The frame may be longer than the packet, for short frames are padded.
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < 24 || n > len(b)-IPv6Len {
		return src, dst, nil, ErrMalformed
	}
	icmp = b[IPv6Len : IPv6Len+n]
	src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	if Checksum(b[8:40], icmp) != 0 {
		return src, dst, nil, ErrMalformed
	}
	return src, dst, icmp, nil
}

// IsSolicitedNode reports whether a is in ff02::1:ff00:0/104.
func IsSolicitedNode(a netip.Addr) bool {
	b := a.As16()
	return [13]byte(b[:13]) == [13]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff}
}

// SolicitedNode returns the solicited-node group of an address (RFC 4291
// section 2.7.1).
func SolicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// GroupMAC returns where an IPv6 multicast group is on Ethernet (RFC 2464 section
// 7).
func GroupMAC(group netip.Addr) MAC {
	b := group.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// Checksum returns the ICMPv6 checksum over the two addresses and the message
// (RFC 4443 section 2.3). It is zero for a message whose checksum is right.
func Checksum(addrs, icmp []byte) uint16 {
	sum := uint32(len(icmp)) + unix.IPPROTO_ICMPV6
	for _, b := range [...][]byte{addrs, icmp} {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
