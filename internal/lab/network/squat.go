package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// Squat gives an address of the free ranges to the interface of a host that has no
// right to it: its kernel answers ARP and NDP for the address from then on, without
// having asked whether somebody else does.
func (n Network) Squat(host string, address netip.Addr) error {
	return n.onEthernet(host, "take "+address.String(), func(link netlink.Link) error {
		if !slices.ContainsFunc(n.plan.FreeRanges, func(p netip.Prefix) bool { return p.Contains(address) }) {
			return errors.New("it is not in a range that is free for pools")
		}
		err := netlink.AddrAdd(link, address4or6(netip.PrefixFrom(address, address.BitLen())))
		if err != nil {
			return err
		}
		return waitUntilLocal(address)
	})
}

// Vacate undoes Squat.
func (n Network) Vacate(host string, address netip.Addr) error {
	return n.onEthernet(host, "give up "+address.String(), func(link netlink.Link) error {
		return netlink.AddrDel(link, address4or6(netip.PrefixFrom(address, address.BitLen())))
	})
}

// Announce tells everyone on the Ethernet that a host has an address, which need
// not be true: an ARP announcement (RFC 5227 section 2.3) or an unsolicited
// neighbor advertisement with the Override flag (RFC 4861 section 7.2.6). An IPv6
// address has to be the host's own.
func (n Network) Announce(host string, address netip.Addr) error {
	return n.onEthernet(host, "announce "+address.String(), func(link netlink.Link) error {
		if address.Is4() {
			return announceARP(link.Attrs(), address)
		}
		return announceNDP(link.Attrs(), address)
	})
}

// vacateAll undoes every Squat of a host.
func (n Network) vacateAll(host Host) error {
	return n.onEthernet(host.Name, "give up addresses", func(link netlink.Link) error {
		addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		var errs []error
		for _, address := range addresses {
			ip, _ := netip.AddrFromSlice(address.IP)
			ip = ip.Unmap()
			if slices.ContainsFunc(n.plan.FreeRanges, func(p netip.Prefix) bool { return p.Contains(ip) }) {
				errs = append(errs, netlink.AddrDel(link, &address))
			}
		}
		return errors.Join(errs...)
	})
}

// onEthernet calls fn with the interface of a host that is on the Ethernet, in the
// host's namespace.
func (n Network) onEthernet(name, what string, fn func(netlink.Link) error) error {
	host, err := n.plan.Host(name)
	if err != nil {
		return err
	}
	if host.Network != Ethernet {
		return fmt.Errorf("host %q is not on the Ethernet", name)
	}
	err = netns.Target{Name: n.Namespace(name)}.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return fn(link)
	})
	if err != nil {
		return fmt.Errorf("%s: %s: %w", name, what, err)
	}
	return nil
}

func announceARP(link *netlink.LinkAttrs, address netip.Addr) error {
	everyone := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	const request = 1
	message := binary.BigEndian.AppendUint16(nil, unix.ARPHRD_ETHER)
	message = binary.BigEndian.AppendUint16(message, unix.ETH_P_IP)
	message = append(message, 6, 4, 0, request)
	message = slices.Concat(message, link.HardwareAddr, address.AsSlice(), make([]byte, 6), address.AsSlice())

	// The kernel makes the Ethernet header.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: link.Index, Halen: 6}
	copy(to.Addr[:], everyone)
	return unix.Sendto(fd, message, 0, to)
}

func networkOrder(n uint16) uint16 { return n<<8 | n>>8 }

func announceNDP(link *netlink.LinkAttrs, address netip.Addr) error {
	const (
		advertisement     = 136
		override          = 0x20
		targetLinkAddress = 2
		hops              = 255 // any less is not believed (RFC 4861 section 7.1.2)
	)
	message := slices.Concat([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, address.AsSlice(),
		[]byte{targetLinkAddress, 1}, link.HardwareAddr)

	// The kernel computes the checksum.
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, hops),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link.Index),
		unix.Bind(fd, &unix.SockaddrInet6{Addr: address.As16()}),
	)
	if err != nil {
		return err
	}
	allNodes := netip.MustParseAddr("ff02::1").As16()
	return unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: allNodes, ZoneId: uint32(link.Index)})
}
