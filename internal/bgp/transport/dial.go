package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
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
		timeout = DefaultConnectTimeout
	}
	remote, err := withIndex(withZone(o.Remote, o.Device))
	if err != nil {
		return nil, err
	}
	d := net.Dialer{
		Timeout: timeout,
		Control: func(_, _ string, raw syscall.RawConn) error { return apply(raw, o.sockopts()) },
		// BGP has keepalives of its own.
		KeepAliveConfig: net.KeepAliveConfig{Enable: false},
		KeepAlive:       -1,
	}
	if o.Local.IsValid() {
		local := o.Local.WithZone("")
		if local.IsLinkLocalUnicast() {
			local = local.WithZone(remote.Addr().Zone())
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	c, err := d.DialContext(ctx, network(remote.Addr()), remote.String())
	if err == nil {
		return c.(*net.TCPConn), nil
	}
	err = withoutAddresses(err)
	var slow net.Error
	if errors.As(err, &slow) && slow.Timeout() {
		return nil, fmt.Errorf("no answer%s: %w", o.SilentReasons(), err)
	}
	return nil, err
}

// withoutAddresses leaves out of an error of package net the addresses: of those
// ours has another port on every connection, so that no two errors would be the
// same.
func withoutAddresses(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// SilentReasons tells what makes the kernels on both sides drop segments
// without a word; it is empty if nothing does.
func (o Options) SilentReasons() string {
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

// withIndex replaces the name of an interface as the zone by its index, which
// package net would look up in a cache that may be a minute old.
func withIndex(a netip.AddrPort) (netip.AddrPort, error) {
	zone := a.Addr().Zone()
	if zone == "" {
		return a, nil
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return a, fmt.Errorf("finding interface %s: %w", zone, err)
	}
	return netip.AddrPortFrom(a.Addr().WithZone(strconv.Itoa(ifi.Index)), a.Port()), nil
}

// withZone gives a link-local address without a zone that of the device.
func withZone(a netip.AddrPort, device string) netip.AddrPort {
	if addr := a.Addr(); addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == "" {
		return netip.AddrPortFrom(addr.WithZone(device), a.Port())
	}
	return a
}
