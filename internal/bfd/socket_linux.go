package bfd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ports and TTLs of RFC 5881 sections 4 and 5 and RFC 5883 section 5.
const (
	portSingle  = 3784
	portEcho    = 3785
	portMulti   = 4784
	sourceFirst = 49152
	sourceLast  = 65535
	maxTTL      = 255
	// trafficClass is network control (DSCP CS6), so that congestion does not
	// look like a failure.
	trafficClass = 0xc0
	// receiveBuffer holds what arrives while the process waits for a processor.
	receiveBuffer = 1 << 20
)

// A portKey names a socket that receives control packets.
type portKey struct {
	ipv6, multihop bool
	device         string // of a VRF, may be empty
}

func (k portKey) number() int {
	if k.multihop {
		return portMulti
	}
	return portSingle
}

// A datagram is a received control packet with what the kernel knows of it.
type datagram struct {
	payload     []byte
	peer, local netip.Addr
	ifindex     int
	ttl         int // -1 if unknown
}

// A receiver is a socket that receives control packets without producing
// garbage: package net allocates for the zones of IPv6.
type receiver struct {
	key  portKey
	conn *net.UDPConn
	raw  syscall.RawConn

	buf  [256]byte
	oob  [256]byte
	from unix.RawSockaddrInet6 // large enough for IPv4
	iov  unix.Iovec
	msg  unix.Msghdr
	n    int
	err  unix.Errno
	wait bool
	step func(uintptr) bool
}

// openReceiver opens the socket in the network namespace of the calling thread.
func openReceiver(ctx context.Context, k portKey) (*receiver, error) {
	network := "udp4"
	if k.ipv6 {
		network = "udp6"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return k.options(fd) })
	}}
	c, err := lc.ListenPacket(ctx, network, fmt.Sprintf(":%d", k.number()))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("UDP port %d is taken, stop the other BFD program on this host: %w", k.number(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening UDP port %d: %w", k.number(), err)
	}
	conn := c.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err == nil && k.device == "" {
		// Only now, so that another process cannot share the port but our own
		// sockets that are bound to a VRF can.
		err = control(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening UDP port %d: %w", k.number(), err), conn.Close())
	}
	_ = conn.SetReadBuffer(receiveBuffer) // the kernel's default will do
	r := &receiver{key: k, conn: conn, raw: raw}
	r.step = r.receive
	return r, nil
}

// options are set before the socket is bound.
func (k portKey) options(fd int) error {
	type option struct{ level, name int }
	opts := []option{{unix.IPPROTO_IP, unix.IP_RECVTTL}, {unix.IPPROTO_IP, unix.IP_PKTINFO}}
	if k.ipv6 {
		opts = []option{{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT}, {unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO}}
	}
	if k.device != "" {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_REUSEPORT})
		if err := unix.BindToDevice(fd, k.device); err != nil {
			return fmt.Errorf("binding to device %s: %w", k.device, err)
		}
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

func control(c syscall.RawConn, f func(fd int) error) (err error) {
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// errEmpty says that no packet is waiting.
var errEmpty = errors.New("no packet is waiting")

// read receives a packet; if wait is false, one that has arrived already. What d
// refers to is valid until the next call.
func (r *receiver) read(d *datagram, wait bool) error {
	r.wait = wait
	if err := r.raw.Read(r.step); err != nil {
		return err
	}
	if r.err == unix.EAGAIN {
		return errEmpty
	}
	if r.err != 0 {
		return os.NewSyscallError("recvmsg", r.err)
	}
	d.payload = r.buf[:r.n]
	if r.key.ipv6 {
		d.peer = netip.AddrFrom16(r.from.Addr)
	} else {
		from := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.from))
		d.peer = netip.AddrFrom4(from.Addr)
	}
	parseControl(r.oob[:r.msg.Controllen], d)
	return nil
}

// receive is one try; it returns false to be called again once there may be a
// packet.
func (r *receiver) receive(fd uintptr) bool {
	r.iov.Base = &r.buf[0]
	r.iov.SetLen(len(r.buf))
	r.msg = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&r.from)), Namelen: unix.SizeofSockaddrInet6, Iov: &r.iov, Control: &r.oob[0]}
	r.msg.SetIovlen(1)
	r.msg.SetControllen(len(r.oob))
	for {
		n, _, err := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		r.n, r.err = int(n), err
		return err != unix.EAGAIN || !r.wait
	}
}

// parseControl reads what the kernel says of a packet beside its payload.
func parseControl(b []byte, d *datagram) {
	d.local, d.ifindex, d.ttl = netip.Addr{}, 0, -1
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(b) {
			return
		}
		data := b[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TTL && len(data) >= 4,
			h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			d.ttl = int(int32(binary.NativeEndian.Uint32(data)))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			d.ifindex = int(int32(binary.NativeEndian.Uint32(data)))
			d.local = netip.AddrFrom4([4]byte(data[8:12])) // ipi_addr, the header's destination
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			d.local = netip.AddrFrom16([16]byte(data[:16]))
			d.ifindex = int(int32(binary.NativeEndian.Uint32(data[16:])))
		}
		b = b[min(unix.CmsgSpace(len(data)), len(b)):]
	}
}

// interrupt makes a read that waits, or the next one, fail with
// os.ErrDeadlineExceeded; resume ends that.
func (r *receiver) interrupt() { _ = r.conn.SetReadDeadline(time.Unix(1, 0)) }
func (r *receiver) resume()    { _ = r.conn.SetReadDeadline(time.Time{}) }
func (r *receiver) close()     { _ = r.conn.Close() }

// A sender is the socket that a session sends its control packets from.
type sender struct {
	fd     int
	local  netip.Addr
	source uint16
}

// openSender opens the socket in the network namespace of the calling thread,
// with the given source port if it is free.
func openSender(k key, ifindex int, source uint16) (_ *sender, err error) {
	family, device := unix.AF_INET, k.ifname
	if k.peer.Is6() {
		family = unix.AF_INET6
	}
	if device == "" {
		device = k.device
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := senderOptions(fd, family, device); err != nil {
		return nil, err
	}
	s := &sender{fd: fd}
	if s.source, err = bindSource(fd, k, ifindex, source); err != nil {
		return nil, fmt.Errorf("binding to %v: %w", k.local, err)
	}
	// Connected, the kernel chooses the source address once and for all.
	if err := unix.Connect(fd, sockaddr(k.peer, k.port().number(), ifindex)); err != nil {
		return nil, fmt.Errorf("no way to %s: %w", k, os.NewSyscallError("connect", err))
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		s.local = netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		s.local = netip.AddrFrom16(sa.Addr)
	}
	return s, nil
}

func senderOptions(fd, family int, device string) error {
	level, ttl, class := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_TOS
	if family == unix.AF_INET6 {
		level, ttl, class = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_TCLASS
	}
	if err := unix.SetsockoptInt(fd, level, ttl, maxTTL); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.SetsockoptInt(fd, level, class, trafficClass); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("binding to device %s: %w", device, err)
		}
	}
	// Nothing is ever read from this socket, so let nothing in.
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(nothing)), Filter: &nothing[0]}))
}

// bindSource binds to a source port of the range that RFC 5881 section 4 wants:
// the former one if there is one, so that a session keeps its port.
func bindSource(fd int, k key, ifindex int, port uint16) (uint16, error) {
	local := k.local
	switch {
	case local.IsValid():
	case k.peer.Is6():
		local = netip.IPv6Unspecified()
	default:
		local = netip.IPv4Unspecified()
	}
	const tries = 100
	for i := 0; ; i++ {
		if port == 0 {
			port = uint16(sourceFirst + rand.IntN(sourceLast-sourceFirst+1))
		}
		err := unix.Bind(fd, sockaddr(local, int(port), ifindex))
		if err == nil {
			return port, nil
		}
		if err != unix.EADDRINUSE || i == tries {
			return 0, os.NewSyscallError("bind", err)
		}
		port = 0
	}
}

func sockaddr(a netip.Addr, port, ifindex int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	sa := &unix.SockaddrInet6{Port: port, Addr: a.As16()}
	if a.IsLinkLocalUnicast() {
		sa.ZoneId = uint32(ifindex)
	}
	return sa
}

// send sends a packet. An error that an earlier packet has caused, such as an
// ICMP message saying that nobody listens, is reported instead of sending: then
// it tries once more.
func (s *sender) send(b []byte) error {
	err := unix.Send(s.fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != nil {
		err = unix.Send(s.fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
	return os.NewSyscallError("sendto", err)
}

func (s *sender) close() { _ = unix.Close(s.fd) }
