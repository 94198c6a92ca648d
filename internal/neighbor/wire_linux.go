package neighbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// receiveBuffer holds the answers of a second of probing a hundred targets, so
// that none is lost while the process gets no CPU.
const receiveBuffer = 1 << 20

// PacketWire opens AF_PACKET sockets, which need CAP_NET_RAW, in the network
// namespace of the calling thread.
type PacketWire struct{}

var _ Wire = PacketWire{}

// Open implements Wire. The filter is set before the socket is bound: nothing
// arrives unfiltered.
func (PacketWire) Open(link netif.Link, etherType uint16, filter []bpf.Instruction) (Conn, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening packet socket on %s: %w", link.Name, err)
	}
	c := &packetConn{fd: fd, groups: -1, link: link}
	if err := c.open(etherType, filter); err != nil {
		return nil, errors.Join(fmt.Errorf("opening packet socket on %s: %w", link.Name, err), c.Close())
	}
	return c, nil
}

// packetConn is a Conn on a packet socket. It reads and writes without package
// packet, which allocates for each frame and cannot tell an empty socket from a
// deadline. Its closures are made once for the same reason.
type packetConn struct {
	fd     int // until file is set
	file   *os.File
	raw    syscall.RawConn
	link   netif.Link
	groups int // a socket of AF_INET6 that receives nothing; -1 until it is needed

	polled [1]unix.PollFd
	poll   func(fd uintptr) bool
	buf    []byte
	n      int
	err    error
	read   func(fd uintptr)
	write  func(fd uintptr)
}

func (c *packetConn) open(etherType uint16, filter []bpf.Instruction) error {
	if err := c.attach(c.fd, filter); err != nil {
		return err
	}
	// The limit net.core.rmem_max may cut this down, which is no error.
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	// packet(7): the protocol is in network byte order.
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, etherType))
	sa := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: c.link.Index}
	if err := unix.Bind(c.fd, sa); err != nil {
		return fmt.Errorf("binding: %w", err)
	}
	c.file = os.NewFile(uintptr(c.fd), "packet")
	raw, err := c.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("polling: %w", err)
	}
	c.raw = raw
	c.poll = func(fd uintptr) bool {
		c.polled[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		n, err := unix.Poll(c.polled[:], 0)
		return err == nil && n > 0
	}
	c.read = func(fd uintptr) { c.n, c.err = unix.Read(int(fd), c.buf) }
	c.write = func(fd uintptr) { c.n, c.err = unix.Write(int(fd), c.buf) }
	return nil
}

func (c *packetConn) attach(fd int, filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(ether.OnInterface(c.link.Index, filter))
	if err != nil {
		return fmt.Errorf("assembling filter: %w", err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	fprog := &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, fprog); err != nil {
		return fmt.Errorf("attaching filter: %w", err)
	}
	return nil
}

func (c *packetConn) Wait() error { return c.raw.Read(c.poll) }

func (c *packetConn) Interrupt() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) }

// ReadFrame uses Control, which heeds no deadline.
func (c *packetConn) ReadFrame(b []byte) (int, error) {
	for {
		c.buf = b
		if err := c.raw.Control(c.read); err != nil {
			return 0, err
		}
		switch {
		case c.err == nil:
			return c.n, nil
		case errors.Is(c.err, unix.EAGAIN):
			return 0, ErrNoFrame
		case !errors.Is(c.err, unix.EINTR):
			return 0, c.err
		}
	}
}

// WriteFrame fails rather than wait for room in the queue of the link: the probe
// would be late.
func (c *packetConn) WriteFrame(frame []byte) error {
	c.buf = frame
	if err := c.raw.Control(c.write); err != nil {
		return err
	}
	return c.err
}

func (c *packetConn) SetFilter(filter []bpf.Instruction) error {
	return c.control(func(fd int) error { return c.attach(fd, filter) })
}

func (c *packetConn) control(f func(fd int) error) error {
	var err error
	if cerr := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// Join implements Conn. It takes an IPv6 socket: only that makes the kernel tell
// the switches by MLD. The socket is bound to nothing.
func (c *packetConn) Join(group netip.Addr) error {
	if c.groups < 0 {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening IPv6 socket for multicast groups: %w", err)
		}
		c.groups = fd
	}
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(c.link.Index)}
	if err := unix.SetsockoptIPv6Mreq(c.groups, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq); err != nil {
		return fmt.Errorf("joining %s on %s: %w", group, c.link.Name, err)
	}
	return nil
}

func (c *packetConn) Leave(group netip.Addr) error {
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(c.link.Index)}
	if err := unix.SetsockoptIPv6Mreq(c.groups, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, mreq); err != nil {
		return fmt.Errorf("leaving %s on %s: %w", group, c.link.Name, err)
	}
	return nil
}

func (c *packetConn) Lost() (uint32, error) {
	var n uint32
	err := c.control(func(fd int) error {
		stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		n = stats.Drops
		return err
	})
	return n, err
}

// Carrier asks by the ethtool interface, since the flags of SIOCGIFFLAGS lag
// behind the driver by up to a second.
func (c *packetConn) Carrier() (bool, error) {
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GLINK}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], c.link.Name)
	err := c.control(func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return errno
		}
		return nil
	})
	runtime.KeepAlive(&value)
	return value.data != 0, err
}

func (c *packetConn) Close() error {
	var errs [2]error
	if c.groups >= 0 {
		errs[0] = unix.Close(c.groups)
	}
	if c.file != nil {
		errs[1] = c.file.Close()
	} else {
		errs[1] = unix.Close(c.fd)
	}
	return errors.Join(errs[:]...)
}
