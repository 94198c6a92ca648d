package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A Loopback is where the engine connects to instead of to a router. Any process
// on the node could do so too; only connections of this process are accepted.
type Loopback struct {
	listener *net.TCPListener
}

// ListenLoopback binds a free port of 127.0.0.1.
func ListenLoopback() (*Loopback, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false) // the engine sets options that it does not have
	l, err := c.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the BGP engine: %w", err)
	}
	return &Loopback{listener: l.(*net.TCPListener)}, nil
}

// Addr returns where the engine is to connect to.
func (l *Loopback) Addr() netip.AddrPort { return addrPort(l.listener.Addr()) }

// Close frees the port. A pending Accept fails.
func (l *Loopback) Close() error { return l.listener.Close() }

// Accept returns the next connection of this process, and resets those of
// others. Only one call may be under way.
func (l *Loopback) Accept(ctx context.Context) (*net.TCPConn, error) {
	if err := l.listener.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("waiting for the BGP engine: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.listener.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		c, err := l.listener.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("waiting for the BGP engine: %w", err)
		}
		own, err := isOwn(addrPort(c.RemoteAddr()), addrPort(c.LocalAddr()))
		if own {
			return c, nil
		}
		reset(c)
		if err != nil {
			return nil, fmt.Errorf("telling whose connection it is: %w", err)
		}
	}
}

// isOwn reports whether a socket from local to remote, which no two processes
// can have independently, is among this process's descriptors. Asking the
// sockets themselves needs neither /proc/net nor a privilege.
func isOwn(local, remote netip.AddrPort) (bool, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return false, err
		}
		// One that is no socket, or was closed meanwhile, is not the one.
		if sockAddr(unix.Getsockname(fd)) == local && sockAddr(unix.Getpeername(fd)) == remote {
			return true, nil
		}
	}
	return false, nil
}

func sockAddr(sa unix.Sockaddr, err error) netip.AddrPort {
	if err != nil {
		return netip.AddrPort{}
	}
	switch in := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), uint16(in.Port))
	}
	return netip.AddrPort{}
}

// reset closes a connection with a reset, so that nothing of it stays behind.
func reset(c *net.TCPConn) {
	_ = errors.Join(c.SetLinger(0), c.Close())
}
