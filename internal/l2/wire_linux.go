package l2

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// writeTimeout bounds how long a link whose queue is stuck can hold up a send.
// The packet is then lost, as on any Ethernet.
const writeTimeout = 20 * time.Millisecond

// receiveBuffer is the size of a socket's receive buffer that is asked for.
const receiveBuffer = 4 << 20

// PacketWire opens AF_PACKET sockets, which need CAP_NET_RAW, in the network
// namespace of the calling thread.
type PacketWire struct{}

var _ Wire = PacketWire{}

// Open implements Wire. IPv6 is received here, and not on a raw ICMPv6 socket,
// because the kernel delivers a unicast solicitation for an address that is not
// its own to no IPv6 socket.
func (PacketWire) Open(link netif.Link, proto Protocol, filter []bpf.Instruction) (Conn, error) {
	etherType := unix.ETH_P_ARP
	if proto == NDP {
		etherType = unix.ETH_P_IPV6
	}
	raw, err := bpf.Assemble(ether.OnInterface(link.Index, filter))
	if err != nil {
		return nil, fmt.Errorf("assembling %s filter for %s: %w", proto, link.Name, err)
	}
	ifi := &net.Interface{Index: link.Index, Name: link.Name}
	c, err := packet.Listen(ifi, packet.Raw, etherType, &packet.Config{Filter: raw})
	if err != nil {
		return nil, fmt.Errorf("opening %s packet socket on %s: %w", proto, link.Name, filterError(err))
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s packet socket on %s: %w", proto, link.Name, err), c.Close())
	}
	// A burst of requests, as after a router forgot its neighbours, fits into more
	// than the default. The kernel grants what net.core.rmem_max allows.
	_ = rc.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) })
	return &packetConn{conn: c, raw: rc, ifindex: link.Index, link: link, self: -1}, nil
}

// openSelf opens a raw ICMPv6 socket that receives nothing and sends to the multicast
// groups of this node, by the link.
func openSelf(link netif.Link) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, fmt.Errorf("opening ICMPv6 socket on %s: %w", link.Name, err)
	}
	nothing := &unix.ICMPv6Filter{}
	for i := range nothing.Data {
		nothing.Data[i] = ^uint32(0)
	}
	err = errors.Join(
		unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, nothing),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link.Index),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ndp.HopLimit),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("preparing ICMPv6 socket on %s: %w", link.Name, err), unix.Close(fd))
	}
	return fd, nil
}

// packetConn is a Conn on a packet socket. Its hot paths are bare system calls:
// where a filter has to let in more than it should, what a frame costs here is
// most of what it costs.
type packetConn struct {
	conn    *packet.Conn
	raw     syscall.RawConn
	ifindex int

	// What follows is for Correct.
	mu     sync.Mutex
	link   netif.Link
	self   int // a socket once it is needed, -1 before
	closed bool
}

// allNodesHere is the group of all nodes in the scope of one interface.
var allNodesHere = netip.MustParseAddr("ff01::1").As16()

// Correct sends a neighbour advertisement to the interface-local group of all nodes
// (RFC 4291 section 2.7.1): the kernel gets it as if it had arrived by the link, and
// nobody else does.
func (c *packetConn) Correct(target netip.Addr, is MAC) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return os.ErrClosed
	}
	if c.self < 0 {
		fd, err := openSelf(c.link)
		if err != nil {
			return err
		}
		c.self = fd
	}
	message := appendAdvertisement(nil, naOverride, target, is)
	to := &unix.SockaddrInet6{Addr: allNodesHere, ZoneId: uint32(c.ifindex)}
	return os.NewSyscallError("sendto", unix.Sendto(c.self, message, 0, to))
}

func (c *packetConn) ReadFrame(b []byte) (n int, err error) {
	rerr := c.raw.Read(func(fd uintptr) bool {
		for {
			if n, err = unix.Read(int(fd), b); err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if rerr != nil {
		return 0, rerr
	}
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	return n, nil
}

func (c *packetConn) WriteFrame(frame []byte) error {
	var err error
	if cerr := c.raw.Control(func(fd uintptr) { _, err = unix.Write(int(fd), frame) }); cerr != nil {
		return cerr
	}
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("write", err)
	}
	// The socket's buffer is full: the queue of the link is stuck.
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = c.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	return err
}

func (c *packetConn) SetFilter(filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(ether.OnInterface(c.ifindex, filter))
	if err != nil {
		return fmt.Errorf("assembling filter: %w", err)
	}
	return filterError(c.conn.SetBPF(raw))
}

func (c *packetConn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

func (c *packetConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.self < 0 {
		return c.conn.Close()
	}
	return errors.Join(c.conn.Close(), unix.Close(c.self))
}

// filterError marks the errors with which the kernel refuses a program for its
// size: ENOMEM for want of option memory, EINVAL for too many instructions.
func filterError(err error) error {
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) {
		return fmt.Errorf("%w: %w", ErrFilterSize, err)
	}
	return err
}

// OpenGroups implements Wire.
func (PacketWire) OpenGroups() (GroupSocket, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening IPv6 socket for multicast groups: %w", err)
	}
	return &groupSocket{fd: fd}, nil
}

// groupSocket is a UDP socket, bound to nothing, that receives nothing.
type groupSocket struct{ fd int }

func (s *groupSocket) Join(ifindex int, group netip.Addr) error {
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(ifindex)}
	err := unix.SetsockoptIPv6Mreq(s.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq)
	if err == unix.ENOMEM || err == unix.ENOBUFS {
		return fmt.Errorf("joining %s: %w: %w", group, ErrGroupsFull, err)
	}
	if err != nil {
		return fmt.Errorf("joining %s: %w", group, err)
	}
	return nil
}

func (s *groupSocket) Leave(ifindex int, group netip.Addr) error {
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(ifindex)}
	if err := unix.SetsockoptIPv6Mreq(s.fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, mreq); err != nil {
		return fmt.Errorf("leaving %s: %w", group, err)
	}
	return nil
}

func (s *groupSocket) Close() error { return unix.Close(s.fd) }
