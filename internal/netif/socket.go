package netif

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer holds some thousand events, so that a burst of Pods does
	// not cost a fresh list. Overruns are handled; they are only slower.
	receiveBuffer = 1 << 20
	// readSize is the largest datagram that rtnetlink sends to listeners.
	readSize = 32 << 10
)

// A socket receives the link and address events of one network namespace, in
// the order in which they happened.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

// subscribe opens a socket in the network namespace of the calling thread. The
// netlink package's own subscriptions start a goroutine and a socket for each
// kind of event, which loses their order, and hide which error ended them.
func subscribe() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink socket: %w", err)
	}
	// The limit net.core.rmem_max may cut this down, which is no error.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	addr := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group(unix.RTNLGRP_LINK) |
		group(unix.RTNLGRP_IPV4_IFADDR) | group(unix.RTNLGRP_IPV6_IFADDR)}
	if err := unix.Bind(fd, addr); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("joining netlink groups: %w", err)
	}
	file := os.NewFile(uintptr(fd), "netlink")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("polling netlink socket: %w", err)
	}
	return &socket{file: file, raw: raw, buf: make([]byte, readSize)}, nil
}

// group is the bit of a netlink multicast group.
func group(g uint) uint32 { return 1 << (g - 1) }

func (s *socket) setDeadline(t time.Time) { _ = s.file.SetReadDeadline(t) }

func (s *socket) close() { _ = s.file.Close() }

// receive waits for one datagram and applies its messages to st. It reports
// whether that changed anything that readers can see.
func (s *socket) receive(st *state) (changed bool, err error) {
	var (
		n    int
		from unix.Sockaddr
		rerr error
	)
	err = s.raw.Read(func(fd uintptr) bool {
		n, from, rerr = unix.Recvfrom(int(fd), s.buf, 0)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	if err == nil {
		err = rerr
	}
	if err != nil {
		return false, err
	}
	// Only the kernel, port 0, is believed.
	if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != nl.PidKernel {
		return false, nil
	}
	return st.applyAll(s.buf[:n]), nil
}

// drain discards what is queued. After an overrun the kernel reports no further
// one until the queue has been empty, so that a list made before that could miss
// events without a trace.
func (s *socket) drain() error {
	for range drainLimit {
		var err error
		if cerr := s.raw.Control(func(fd uintptr) {
			_, _, err = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT)
		}); cerr != nil {
			return cerr
		}
		switch err {
		case unix.EAGAIN:
			return nil
		case nil, unix.ENOBUFS, unix.EINTR:
		default:
			return err
		}
	}
	return errFlood
}

// drainLimit is more datagrams than the receive buffer can hold.
const drainLimit = 1 << 16

// errFlood is a queue that fills faster than it is emptied. Another socket, with
// an empty one, is the way out.
var errFlood = errors.New("events arrive faster than they can be read")
