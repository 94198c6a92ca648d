package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// This file asks who has an address, in packets of its own making and from a
// socket of its own: what the tests claim must not rest on the code they test.

// answer is one reply to the question who has an address.
type answer struct {
	at time.Time
	// source is the Ethernet source; claimed, the MAC that the answer speaks of.
	source, claimed string
	// flags of a neighbor advertisement (RFC 4861 section 4.4), in the first byte.
	flags byte
}

// asker is a host of the lab with a raw socket on its interface.
type asker struct {
	fd    int
	index int
	mac   net.HardwareAddr
	// protocol is that of the frames received: ARP or IPv6.
	protocol uint16
	self     netip.Addr
	target   netip.Addr
}

const (
	arpRequest, arpReply = 1, 2

	icmpNeighborSolicitation  = 135
	icmpNeighborAdvertisement = 136

	optionSourceLinkAddress = 1
	optionTargetLinkAddress = 2

	etherHeader  = 14
	ipv6Header   = 40
	arpLength    = 28
	readInterval = 20 * time.Millisecond
)

// newAsker opens a socket for questions about target.
func (l *testLab) newAsker(host string, target netip.Addr) (*asker, error) {
	planned, err := l.Plan().Host(host)
	if err != nil {
		return nil, err
	}
	a := &asker{fd: -1, target: target, protocol: unix.ETH_P_ARP}
	if target.Is6() {
		a.protocol = unix.ETH_P_IPV6
	}
	for _, ip := range planned.IPs() {
		if ip.Is4() == target.Is4() {
			a.self = ip
		}
	}
	err = l.inside(host).Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		a.index, a.mac = link.Index, link.HardwareAddr
		a.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swapped(a.protocol)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking for %s from %s: %w", target, host, err)
	}
	timeout := unix.NsecToTimeval(readInterval.Nanoseconds())
	if err := unix.SetsockoptTimeval(a.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, errors.Join(err, unix.Close(a.fd))
	}
	return a, nil
}

func (a *asker) close() { _ = unix.Close(a.fd) } // nothing was buffered

// swapped is a number in network byte order, as socket addresses have it.
func swapped(n uint16) uint16 { return n<<8 | n>>8 }

// ask sends one question to everyone.
func (a *asker) ask() error {
	frame := a.arpQuestion()
	if a.target.Is6() {
		frame = a.ndpQuestion()
	}
	address := &unix.SockaddrLinklayer{Protocol: swapped(a.protocol), Ifindex: a.index, Halen: 6}
	copy(address.Addr[:], frame[:6])
	if err := unix.Sendto(a.fd, frame, 0, address); err != nil {
		return fmt.Errorf("asking for %s: %w", a.target, err)
	}
	return nil
}

// arpQuestion is a request as RFC 826 has it.
func (a *asker) arpQuestion() []byte {
	var b bytes.Buffer
	b.Write(bytes.Repeat([]byte{0xff}, 6))
	b.Write(a.mac)
	put(&b, unix.ETH_P_ARP, unix.ARPHRD_ETHER, unix.ETH_P_IP, 6<<8|4, arpRequest)
	b.Write(a.mac)
	b.Write(a.self.AsSlice())
	b.Write(make([]byte, 6))
	b.Write(a.target.AsSlice())
	return b.Bytes()
}

func put(b *bytes.Buffer, numbers ...uint16) {
	for _, n := range numbers {
		b.Write(binary.BigEndian.AppendUint16(nil, n))
	}
}

// ndpQuestion is a solicitation to the target's solicited-node group (RFC 4861
// sections 4.3 and 7.2.2).
func (a *asker) ndpQuestion() []byte {
	target := a.target.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], target[13:])
	message := append([]byte{icmpNeighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	if !a.self.IsUnspecified() { // a host without an address must not say where it is
		message = append(append(message, optionSourceLinkAddress, 1), a.mac...)
	}
	self := a.self.As16()
	binary.BigEndian.PutUint16(message[2:], icmpChecksum(self, group, message))

	var b bytes.Buffer
	b.Write([]byte{0x33, 0x33, group[12], group[13], group[14], group[15]})
	b.Write(a.mac)
	put(&b, unix.ETH_P_IPV6, 0x6000, 0, uint16(len(message)), unix.IPPROTO_ICMPV6<<8|255)
	b.Write(self[:])
	b.Write(group[:])
	b.Write(message)
	return b.Bytes()
}

// icmpChecksum is that of RFC 4443 section 2.3.
func icmpChecksum(source, destination [16]byte, message []byte) uint16 {
	data := slices.Concat(source[:], destination[:], []byte{0, 0, byte(len(message) >> 8), byte(len(message)), 0, 0, 0, unix.IPPROTO_ICMPV6}, message)
	if len(data)%2 == 1 {
		data = append(data, 0)
	}
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// parse reads an answer about the target, if the frame is one.
func (a *asker) parse(frame []byte) (answer, bool) {
	found := answer{at: time.Now()}
	if len(frame) < etherHeader+arpLength {
		return found, false
	}
	found.source = net.HardwareAddr(frame[6:12]).String()
	body := frame[etherHeader:]
	if a.target.Is4() {
		found.claimed = net.HardwareAddr(body[8:14]).String()
		return found, binary.BigEndian.Uint16(body[6:]) == arpReply && bytes.Equal(body[14:18], a.target.AsSlice())
	}
	if len(body) < ipv6Header+24 || body[6] != unix.IPPROTO_ICMPV6 || body[ipv6Header] != icmpNeighborAdvertisement {
		return found, false
	}
	message := body[ipv6Header:]
	found.flags = message[4]
	for options := message[24:]; len(options) >= 8 && options[1] > 0 && len(options) >= int(options[1])*8; options = options[int(options[1])*8:] {
		if options[0] == optionTargetLinkAddress {
			found.claimed = net.HardwareAddr(options[2:8]).String()
		}
	}
	return found, bytes.Equal(message[8:24], a.target.AsSlice())
}

// collect asks at every interval until ctx ends and returns all answers. Those
// that nobody asked for, which announce that an address has moved, are among
// them.
func (a *asker) collect(ctx context.Context, every time.Duration) ([]answer, error) {
	var answers []answer
	buffer := make([]byte, 2048)
	next := time.Now()
	for ctx.Err() == nil {
		if !time.Now().Before(next) {
			if err := a.ask(); err != nil {
				return answers, err
			}
			next = next.Add(every)
		}
		n, err := unix.Read(a.fd, buffer)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return answers, fmt.Errorf("listening for %s: %w", a.target, err)
		}
		if found, ok := a.parse(buffer[:n]); ok {
			answers = append(answers, found)
		}
	}
	return answers, nil
}
