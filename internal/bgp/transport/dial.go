package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// Dial connects to a router, from the network namespace of the calling thread.
func Dial(ctx context.Context, o Options) (*net.TCPConn, error) {
	c, err := dial(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", o, err)
	}
	return c, nil
}

func dial(ctx context.Context, o Options) (*net.TCPConn, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	timeout := o.ConnectTimeout
	if timeout <= 0 {
		timeout = defaultConnectTimeout
	}
	remote := withZone(o.Remote, o.Device)
	d := net.Dialer{
		Timeout: timeout,
		Control: func(_, _ string, raw syscall.RawConn) error { return apply(raw, o.sockopts()) },
		// BGP has keepalives of its own.
		KeepAliveConfig: net.KeepAliveConfig{Enable: false},
		KeepAlive:       -1,
	}
	if o.Local.IsValid() {
		local := o.Local
		if local.Is6() && local.IsLinkLocalUnicast() && local.Zone() == "" {
			local = local.WithZone(remote.Addr().Zone())
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	c, err := d.DialContext(ctx, network(remote.Addr()), remote.String())
	if err == nil {
		return c.(*net.TCPConn), nil
	}
	// What package net says repeats the addresses.
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
		return nil, fmt.Errorf("no answer%s: %w", silentReasons(o), err)
	}
	return nil, err
}

// silentReasons tells what makes the kernels on both sides drop segments
// without a word.
func silentReasons(o Options) string {
	switch {
	case o.Password != "" && o.MinTTL != 0:
		return " (so it looks, too, when the password differs or ttlSecurity finds the router too far away)"
	case o.Password != "":
		return " (so it looks, too, when the password differs)"
	case o.MinTTL != 0:
		return " (so it looks, too, when ttlSecurity finds the router too far away)"
	}
	return ""
}

// withZone gives a link-local address without a zone that of the device.
func withZone(a netip.AddrPort, device string) netip.AddrPort {
	if addr := a.Addr(); addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == "" {
		return netip.AddrPortFrom(addr.WithZone(device), a.Port())
	}
	return a
}
