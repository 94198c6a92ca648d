package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// bridge is the name of the one in each network's namespace. Its ports are named
// after the hosts plugged into them.
const bridge = "bridge"

// Network is a Plan in the kernel: a namespace per host and one per network.
type Network struct {
	plan   Plan
	prefix string
}

// New returns the network whose namespaces start with prefix, whether it has
// been built or not.
func New(plan Plan, prefix string) Network {
	return Network{plan: plan, prefix: prefix}
}

// Namespace is the name of that of a host or of a network.
func (n Network) Namespace(host string) string { return n.prefix + host }

// Build makes everything the plan says. After an error some of it may exist;
// whoever owns the prefix removes it.
func (n Network) Build(ctx context.Context) error {
	for _, name := range []string{Ethernet, WAN} {
		if err := n.buildBridge(name); err != nil {
			return fmt.Errorf("network %s: %w", name, err)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, host := range n.plan.Hosts {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := n.buildHost(host); err != nil {
				return fmt.Errorf("host %s: %w", host.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (n Network) buildBridge(name string) error {
	if err := netns.Create(n.Namespace(name)); err != nil {
		return err
	}
	return netns.Target{Name: n.Namespace(name)}.Do(func() error {
		// A switch has no addresses of its own and does not look into packets.
		err := setSysctls(map[string]string{
			"net/ipv6/conf/all/disable_ipv6":     "1",
			"net/ipv6/conf/default/disable_ipv6": "1",
		})
		if err != nil {
			return err
		}
		snooping := false
		link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}, MulticastSnooping: &snooping}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return netlink.LinkSetUp(link)
	})
}

func (n Network) buildHost(host Host) error {
	if err := netns.Create(n.Namespace(host.Name)); err != nil {
		return err
	}
	err := netns.Target{Name: n.Namespace(host.Name)}.Do(func() error {
		if err := setSysctls(hostSysctls(host)); err != nil {
			return err
		}
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		if err := netlink.LinkSetUp(loopback); err != nil {
			return fmt.Errorf("loopback up: %w", err)
		}
		return n.plug(cable{host: host.Name, network: host.Network, device: "eth0", mac: host.MAC, addresses: host.Addresses})
	})
	if err != nil {
		return err
	}
	if len(host.WANAddresses) > 0 {
		second := cable{host: host.Name, network: WAN, device: "eth1", addresses: host.WANAddresses}
		err := netns.Target{Name: n.Namespace(host.Name)}.Do(func() error { return n.plug(second) })
		if err != nil {
			return err
		}
	}
	return netns.Target{Name: n.Namespace(host.Name)}.Do(func() error { return n.addRoutes(host) })
}

// hostSysctls are what the namespace of a host differs in from the kernel's
// defaults. Duplicate address detection would hold back every IPv6 address for
// a second, in a network whose addresses are known to be unique.
func hostSysctls(host Host) map[string]string {
	sysctls := map[string]string{
		"net/ipv4/conf/all/rp_filter":                "0",
		"net/ipv4/conf/default/rp_filter":            "0",
		"net/ipv4/ping_group_range":                  "0 2147483647",
		"net/ipv6/conf/all/accept_dad":               "0",
		"net/ipv6/conf/default/accept_dad":           "0",
		"net/ipv6/conf/all/accept_ra":                "0",
		"net/ipv6/conf/default/accept_ra":            "0",
		"net/ipv6/conf/all/disable_ipv6":             "0",
		"net/ipv6/conf/default/router_solicitations": "0",
	}
	if host.IsNode() || host.IsRouter() {
		sysctls["net/ipv4/ip_forward"] = "1"
		sysctls["net/ipv6/conf/all/forwarding"] = "1"
		sysctls["net/ipv6/conf/default/forwarding"] = "1"
	}
	if host.IsRouter() || host.Name == WANClient {
		// Equal paths are chosen by connection, not only by address.
		sysctls["net/ipv4/fib_multipath_hash_policy"] = "1"
		sysctls["net/ipv6/fib_multipath_hash_policy"] = "1"
	}
	return sysctls
}

// setSysctls writes to /proc/sys, whose net folder is that of the calling thread.
func setSysctls(values map[string]string) error {
	for name, value := range values {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
		}
	}
	return nil
}

// cable joins a device of a host to the port of a network's bridge that is named
// after the host.
type cable struct {
	host, network, device, mac string
	addresses                  []netip.Prefix
}

// plug runs in the host's namespace.
func (n Network) plug(c cable) error {
	switchNamespace, err := os.Open(netns.Path(n.Namespace(c.network)))
	if err != nil {
		return err
	}
	defer func() { _ = switchNamespace.Close() }()
	link := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: c.device},
		PeerName:      c.host,
		PeerNamespace: netlink.NsFd(switchNamespace.Fd()),
	}
	if c.mac != "" {
		if link.HardwareAddr, err = net.ParseMAC(c.mac); err != nil {
			return err
		}
	}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add %s: %w", c.device, err)
	}
	if err := n.onPort(c.network, c.host, connect); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s up: %w", c.device, err)
	}
	for _, address := range c.addresses {
		if err := netlink.AddrAdd(link, address4or6(address)); err != nil {
			return fmt.Errorf("%s: add address %s: %w", c.device, address, err)
		}
	}
	for _, address := range c.addresses {
		if err := waitUntilLocal(address.Addr()); err != nil {
			return fmt.Errorf("%s: %w", c.device, err)
		}
	}
	return nil
}

// waitUntilLocal returns when the kernel takes packets for address itself. For
// IPv6 it gets to that a moment after the address has been added, even without
// duplicate address detection.
func waitUntilLocal(address netip.Addr) error {
	const limit, pause = 5 * time.Second, time.Millisecond
	for deadline := time.Now().Add(limit); ; time.Sleep(pause) {
		routes, err := netlink.RouteGet(address.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("address %s is not in use %s after it was added", address, limit)
		}
	}
}

func address4or6(prefix netip.Prefix) *netlink.Addr {
	address := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		address.Flags = unix.IFA_F_NODAD
	}
	return address
}

// addRoutes runs in the host's namespace. Every host but the two clients and the
// stranger knows where Pods are, as a network plugin or a fabric would tell it; the router does
// so that Pods can talk to the clients.
func (n Network) addRoutes(host Host) error {
	if err := addDefaultRoutes(host.Gateways); err != nil {
		return err
	}
	if host.Name == Client || host.Name == WANClient || host.Name == Stranger {
		return nil
	}
	for _, node := range n.plan.Nodes() {
		if node.Name == host.Name {
			continue
		}
		for i, cidr := range node.PodCIDRs {
			route := &netlink.Route{Dst: ipNet(cidr), Gw: node.Addresses[i].Addr().AsSlice()}
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("route to %s via %s: %w", cidr, node.Name, err)
			}
		}
	}
	return nil
}

// addDefaultRoutes adds one per family.
func addDefaultRoutes(gateways []netip.Addr) error {
	for _, is6 := range []bool{false, true} {
		var hops []*netlink.NexthopInfo
		for _, gateway := range gateways {
			if gateway.Is6() == is6 {
				hops = append(hops, &netlink.NexthopInfo{Gw: gateway.AsSlice()})
			}
		}
		var route *netlink.Route
		switch len(hops) {
		case 0:
			continue
		case 1:
			route = &netlink.Route{Gw: hops[0].Gw}
		default:
			route = &netlink.Route{Dst: ipNet(anywhere(is6)), MultiPath: hops}
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("default route via %v: %w", gateways, err)
		}
	}
	return nil
}

func anywhere(is6 bool) netip.Prefix {
	if is6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}
}
