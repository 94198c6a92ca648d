package ether

import (
	"errors"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"golang.org/x/net/bpf"
)

// MAC is an Ethernet address as a comparable value.
type MAC [6]byte

// Broadcast is everyone on the Ethernet.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// IsGroup reports whether m names a group of stations (or all), not one.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// String returns m as net.HardwareAddr does.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// HeaderLen is the length of an Ethernet header. Packet sockets strip VLAN tags.
const HeaderLen = 14

// ErrMalformed marks packets that violate their RFC.
var ErrMalformed = errors.New("malformed packet")

// AppendHeader appends an Ethernet header.
func AppendHeader(b []byte, dst, src MAC, etherType uint16) []byte {
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	return append(b, byte(etherType>>8), byte(etherType))
}

// ARPLen is the length of an ARP packet for IPv4 over Ethernet.
const ARPLen = 28

// ARPSide is one of the two parties of an ARP packet.
type ARPSide struct {
	MAC MAC
	IP  netip.Addr
}

// AppendARP appends an ARP packet for IPv4 over Ethernet without allocating.
func AppendARP(b []byte, op arp.Operation, sender, target ARPSide) []byte {
	b = append(b, 0, 1, 8, 0, 6, 4, byte(op>>8), byte(op))
	for _, side := range []ARPSide{sender, target} {
		ip := side.IP.As4()
		b = append(b, side.MAC[:]...)
		b = append(b, ip[:]...)
	}
	return b
}

// OnInterface makes a program that rejects what did not arrive on the interface
// itself: a packet socket on eth0 also sees the frames of VLANs on top of it,
// already stripped of their tag, and answering those would put the address on
// the wrong network.
func OnInterface(ifindex int, filter []bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ifindex), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}, filter...)
}
