package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	ipv4HeaderSize = 20
	ipv6HeaderSize = 40
	udpHeaderSize  = 8
	protocolUDP    = 17
)

// An echoKey names a socket that sends and receives echo packets.
type echoKey struct {
	ifindex int
	ipv6    bool
}

func (k echoKey) ethertype() uint16 {
	if k.ipv6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

// An echoSocket is a packet socket: echo packets are addressed to ourselves, so
// that no other socket would send them to the peer, nor the kernel hand in what
// comes from outside with an address of its own as the source.
type echoSocket struct {
	file *os.File
	fd   int
}

// openEcho opens the socket in the network namespace of the calling thread.
func openEcho(k echoKey) (*echoSocket, error) {
	// No protocol yet, so that nothing gets in ahead of the filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket for echo packets: %w", os.NewSyscallError("socket", err))
	}
	if err = attachFilter(fd, echoFilter(k.ipv6)); err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(k.ethertype()), Ifindex: k.ifindex}))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a packet socket for echo packets: %w", err), unix.Close(fd))
	}
	return &echoSocket{file: os.NewFile(uintptr(fd), "echo"), fd: fd}, nil
}

func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// echoFilter lets in UDP to the echo port, seen from the IP header on.
func echoFilter(ipv6 bool) []bpf.Instruction {
	if ipv6 {
		return []bpf.Instruction{
			bpf.LoadAbsolute{Off: 6, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolUDP, SkipTrue: 3},
			bpf.LoadAbsolute{Off: ipv6HeaderSize + 2, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portEcho, SkipTrue: 1},
			bpf.RetConstant{Val: 1 << 16},
			bpf.RetConstant{Val: 0},
		}
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolUDP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 6, Size: 2}, // flags and fragment offset
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portEcho, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
}

func attachFilter(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}))
}

// send sends an IP packet to a station on the link.
func (s *echoSocket) send(b []byte, to *unix.SockaddrLinklayer) error {
	return os.NewSyscallError("sendto", unix.Sendto(s.fd, b, unix.MSG_DONTWAIT, to))
}

// read receives an IP packet and returns its UDP payload.
func (s *echoSocket) read(b []byte) ([]byte, error) {
	n, err := s.file.Read(b)
	if err != nil {
		return nil, err
	}
	return udpPayload(b[:n]), nil
}

// udpPayload returns what a packet that passed the filter carries, nil if it is
// too short for what it says.
func udpPayload(b []byte) []byte {
	header := ipv6HeaderSize
	if len(b) > 0 && b[0]>>4 == 4 {
		header = int(b[0]&0x0f) * 4
	}
	if header < ipv4HeaderSize || len(b) < header+udpHeaderSize {
		return nil
	}
	size := int(binary.BigEndian.Uint16(b[header+4:]))
	if size < udpHeaderSize || size > len(b)-header {
		return nil
	}
	return b[header+udpHeaderSize : header+size]
}

func (s *echoSocket) interrupt() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }
func (s *echoSocket) resume()    { _ = s.file.SetReadDeadline(time.Time{}) }
func (s *echoSocket) close()     { _ = s.file.Close() }

// appendEchoHeaders appends the headers of an echo packet from and to ourselves
// (RFC 5881 section 4), for finishEcho to complete.
func appendEchoHeaders(b []byte, local netip.Addr) []byte {
	const udpSize = udpHeaderSize + echoSize
	if local.Is4() {
		b = append(b, 0x45, trafficClass, 0, ipv4HeaderSize+udpSize, 0, 0, 0, 0, maxTTL, protocolUDP, 0, 0)
	} else {
		b = append(b, 6<<4|trafficClass>>4, trafficClass<<4&0xf0, 0, 0, 0, udpSize, protocolUDP, maxTTL)
	}
	b = append(b, local.AsSlice()...)
	b = append(b, local.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, portEcho)
	b = binary.BigEndian.AppendUint16(b, portEcho)
	return append(b, 0, udpSize, 0, 0)
}

// finishEcho fills in the checksums of a whole echo packet.
func finishEcho(b []byte) {
	header, addresses := ipv6HeaderSize, b[8:ipv6HeaderSize]
	if b[0]>>4 == 4 {
		header, addresses = ipv4HeaderSize, b[12:ipv4HeaderSize]
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:ipv4HeaderSize])))
	}
	udp := b[header:]
	udp[6], udp[7] = 0, 0
	check := ^fold(sum(addresses) + sum(udp) + protocolUDP + uint32(len(udp)))
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], check)
}

// sum adds up 16-bit words (RFC 1071); b has an even length.
func sum(b []byte) (s uint32) {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// interfaceOf returns the index and name of the interface that has an address,
// in the network namespace of the calling thread.
func interfaceOf(addr netip.Addr) (*net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, ifi := range all {
		addrs, err := ifi.Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(addr.AsSlice()) {
				return &ifi, nil
			}
		}
	}
	return nil, fmt.Errorf("no interface has the address %v", addr)
}

// neighbour returns the hardware address of a peer, from the kernel's cache,
// which our control packets keep warm.
func neighbour(ifindex int, peer netip.Addr) (net.HardwareAddr, error) {
	family := netlink.FAMILY_V4
	if peer.Is6() {
		family = netlink.FAMILY_V6
	}
	entries, err := netlink.NeighList(ifindex, family)
	if err != nil {
		return nil, fmt.Errorf("looking for %v among the neighbours: %w", peer, err)
	}
	const usable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
	for _, e := range entries {
		if a, _ := netip.AddrFromSlice(e.IP); a.Unmap() == peer && e.State&usable != 0 && len(e.HardwareAddr) == 6 {
			return e.HardwareAddr, nil
		}
	}
	return nil, fmt.Errorf("%v is not among the neighbours", peer)
}

// forwards reports whether the kernel sends back a packet that is addressed to a
// neighbour on the same interface: echo packets need that.
func forwards(ifname string, ipv6 bool) bool {
	path := "/proc/sys/net/ipv4/conf/" + ifname + "/forwarding"
	if ipv6 {
		path = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	b, err := os.ReadFile(path)
	return err == nil && len(b) > 0 && b[0] == '1'
}
