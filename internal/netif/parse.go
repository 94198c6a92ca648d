package netif

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The parsers read the few attributes that matter and allocate nothing for an
// event that changes nothing; they never trust a length.

var native = binary.NativeEndian

const (
	sizeIfInfo = 16 // struct ifinfomsg
	sizeIfAddr = 8  // struct ifaddrmsg
)

// align rounds up to the alignment of netlink messages and attributes.
func align(n int) int { return (n + 3) &^ 3 }

// attributes calls f for each attribute in b.
func attributes(b []byte, f func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		length := int(native.Uint16(b))
		if length < unix.SizeofRtAttr || length > len(b) {
			return
		}
		f(native.Uint16(b[2:])&^unix.NLA_F_NESTED, b[unix.SizeofRtAttr:length])
		b = b[min(align(length), len(b)):]
	}
}

// parseLink reads an ifinfomsg and its attributes. A message of a family other
// than AF_UNSPEC is not about the link as such: a bridge sends RTM_DELLINK of
// family AF_BRIDGE when a port leaves it, though the link lives on.
func parseLink(b []byte) (Link, bool) {
	if len(b) < sizeIfInfo || b[0] != unix.AF_UNSPEC {
		return Link{}, false
	}
	flags := native.Uint32(b[8:])
	l := Link{
		Index:     int(int32(native.Uint32(b[4:]))),
		Up:        flags&unix.IFF_UP != 0,
		Carrier:   flags&unix.IFF_LOWER_UP != 0,
		Loopback:  flags&unix.IFF_LOOPBACK != 0,
		Broadcast: flags&unix.IFF_BROADCAST != 0,
		Multicast: flags&unix.IFF_MULTICAST != 0,
		NoARP:     flags&unix.IFF_NOARP != 0,
	}
	attributes(b[sizeIfInfo:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = cstring(v)
		case unix.IFLA_ADDRESS:
			l.MAC = bytes.Clone(v)
		case unix.IFLA_MASTER:
			l.Master = int(uint32Of(v))
		case unix.IFLA_CARRIER_CHANGES:
			l.CarrierChanges = uint32Of(v)
		case unix.IFLA_LINKINFO:
			attributes(v, func(kind uint16, v []byte) {
				if kind == unix.IFLA_INFO_KIND {
					l.Kind = cstring(v)
				}
			})
		}
	})
	return l, l.Index > 0 && l.Name != ""
}

// An address is one address of one link.
type address struct {
	index  int
	prefix netip.Prefix
	usable bool
}

// parseAddress reads an ifaddrmsg and its attributes.
func parseAddress(b []byte) (address, bool) {
	if len(b) < sizeIfAddr || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return address{}, false
	}
	a := address{index: int(int32(native.Uint32(b[4:])))}
	flags := uint32(b[2])
	var local, addr netip.Addr
	attributes(b[sizeIfAddr:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(v)
		case unix.IFA_FLAGS: // all 32 bits of what the header has 8 of
			if len(v) == 4 {
				flags = native.Uint32(v)
			}
		}
	})
	// IFA_ADDRESS is the peer's address where there is one, else our own.
	if !local.IsValid() {
		local = addr
	}
	if !local.IsValid() || local.Is4() != (b[0] == unix.AF_INET) || int(b[1]) > local.BitLen() {
		return address{}, false
	}
	a.prefix = netip.PrefixFrom(local, int(b[1]))
	a.usable = flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	return a, a.index > 0
}

func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func uint32Of(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return native.Uint32(b)
}
