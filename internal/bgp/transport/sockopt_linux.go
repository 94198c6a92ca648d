package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A sockopt sets one option on a socket.
type sockopt func(fd int) error

// apply sets options on a raw connection in the order given.
func apply(raw syscall.RawConn, opts []sockopt) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		for _, set := range opts {
			if failed = set(int(fd)); failed != nil {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// applyTo sets options on an open connection.
func applyTo(c *net.TCPConn, opts []sockopt) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return apply(raw, opts)
}

// sockopts returns what a socket to o.Remote needs before it connects.
func (o Options) sockopts() []sockopt {
	var opts []sockopt
	if o.Device != "" {
		opts = append(opts, bindToDevice(o.Device))
	}
	if o.Password != "" {
		opts = append(opts, md5Key(netip.PrefixFrom(o.Remote.Addr().WithZone(""), o.Remote.Addr().BitLen()), o.Password))
	}
	return append(opts, o.ttlSockopts()...)
}

// ttlSockopts returns the options that may differ among the connections of one
// listening socket.
func (o Options) ttlSockopts() []sockopt {
	var opts []sockopt
	is4 := o.Remote.Addr().Is4()
	if o.TTL != 0 {
		opts = append(opts, sendTTL(is4, o.TTL))
	}
	if o.MinTTL != 0 {
		opts = append(opts, leastTTL(is4, o.MinTTL))
	}
	return opts
}

func bindToDevice(device string) sockopt {
	return func(fd int) error {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("binding to device %s: %w", device, err)
		}
		return nil
	}
}

func sendTTL(is4 bool, ttl uint8) sockopt {
	return func(fd int) error {
		level, name := unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		if is4 {
			level, name = unix.IPPROTO_IP, unix.IP_TTL
		}
		if err := unix.SetsockoptInt(fd, level, name, int(ttl)); err != nil {
			return fmt.Errorf("setting TTL to %d: %w", ttl, err)
		}
		return nil
	}
}

func leastTTL(is4 bool, ttl uint8) sockopt {
	return func(fd int) error {
		level, name := unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT
		if is4 {
			level, name = unix.IPPROTO_IP, unix.IP_MINTTL
		}
		if err := unix.SetsockoptInt(fd, level, name, int(ttl)); err != nil {
			return fmt.Errorf("setting minimum TTL to %d: %w", ttl, err)
		}
		return nil
	}
}

// md5Key sets the key for all remote addresses in a prefix; an empty one takes
// it away. The kernel knows no zones: one link-local address has one key on all
// interfaces of a listening socket that is not bound to one.
func md5Key(remote netip.Prefix, key string) sockopt {
	return func(fd int) error {
		sig := unix.TCPMD5Sig{
			Flags: unix.TCP_MD5SIG_FLAG_PREFIX, Prefixlen: uint8(remote.Bits()), Keylen: uint16(len(key)),
		}
		copy(sig.Key[:], key)
		sig.Addr.Family = unix.AF_INET
		at := 2 // behind the port
		if remote.Addr().Is6() {
			sig.Addr.Family, at = unix.AF_INET6, 6 // and behind the flow label
		}
		copy(sig.Addr.Data[at:], remote.Addr().AsSlice())
		if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG_EXT, &sig); err != nil {
			if errors.Is(err, unix.ENOPROTOOPT) {
				err = fmt.Errorf("this kernel is built without TCP_MD5SIG, which a password needs: %w", err)
			}
			return fmt.Errorf("setting TCP MD5 key for %s: %w", remote, err)
		}
		return nil
	}
}
