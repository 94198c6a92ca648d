package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// maxPasswordLen is TCP_MD5SIG_MAXKEYLEN of Linux.
const maxPasswordLen = 80

// Options says how to reach a router. The zero value of what is not required
// leaves it to the kernel.
type Options struct {
	// Remote is required, with the zone if it is link-local.
	Remote netip.AddrPort
	// Local is the source address.
	Local netip.Addr
	// Device is the interface or VRF that the connection is bound to.
	Device string
	// Password is the key for TCP MD5 signatures, at most 80 bytes.
	Password string
	// TTL, or hop limit, of what is sent.
	TTL uint8
	// MinTTL is the least TTL, or hop limit, of what is taken (RFC 5082): 255
	// for a neighbour, one less for each router between.
	MinTTL uint8
	// ConnectTimeout defaults to 10 s.
	ConnectTimeout time.Duration
}

// DefaultConnectTimeout is how long connecting may take unless Options say otherwise.
const DefaultConnectTimeout = 10 * time.Second

// String describes o without the password.
func (o Options) String() string {
	s := o.Remote.String()
	if o.Local.IsValid() {
		s += " from " + o.Local.String()
	}
	if o.Device != "" {
		s += " on " + o.Device
	}
	return s
}

// GoString is String, so that no verb prints the password.
func (o Options) GoString() string { return o.String() }

func (o Options) validate() error {
	remote := o.Remote.Addr()
	switch {
	case !remote.IsValid() || remote.IsUnspecified() || remote.IsMulticast():
		return fmt.Errorf("remote address %s is not a router's", remote)
	case o.Remote.Port() == 0:
		return errors.New("remote port is 0")
	case remote.Is4In6():
		return fmt.Errorf("remote address %s is IPv4 written as IPv6", remote)
	case remote.IsLinkLocalUnicast() && remote.Is6() && remote.Zone() == "" && o.Device == "":
		return fmt.Errorf("remote address %s is link-local, and no interface is given", remote)
	case o.Local.IsValid() && o.Local.Is4() != remote.Is4():
		return fmt.Errorf("source address %s and remote address %s are of different families", o.Local, remote)
	case len(o.Password) > maxPasswordLen:
		return fmt.Errorf("password has %d bytes, and TCP MD5 takes at most %d", len(o.Password), maxPasswordLen)
	}
	return nil
}

// network names the family for package net.
func network(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}
