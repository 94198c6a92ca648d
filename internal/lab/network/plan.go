package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// MaxNodes is how many nodes the address plan has room for.
const MaxNodes = 200

// Names of the hosts beside the nodes, and of the two networks.
const (
	ControlPlane = "control-plane"
	Router       = "router"
	Router2      = "router2"
	Client       = "client"
	WANClient    = "wan-client"
	// Stranger is beside the nodes and knows nothing of the cluster. It is there to
	// take addresses that are not its own.
	Stranger = "stranger"

	Ethernet = "ethernet"
	WAN      = "wan"
)

// Family says which IP versions nodes, Pods and Services use. The hosts beside
// them always have both.
type Family string

// The families, named as --ip-family takes them. Dual puts IPv4 first.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
	Dual Family = "dual"
)

// Families returns all valid values.
func Families() []Family { return []Family{IPv4, IPv6, Dual} }

// Has reports whether the family includes that of address.
func (f Family) Has(address netip.Addr) bool {
	switch f {
	case IPv4:
		return address.Is4()
	case IPv6:
		return address.Is6()
	default:
		return true
	}
}

// pick keeps the addresses or prefixes that belong to the family.
func pick[T any](f Family, address func(T) netip.Addr, all ...T) []T {
	return slices.DeleteFunc(all, func(v T) bool { return !f.Has(address(v)) })
}

func ofAddr(a netip.Addr) netip.Addr     { return a }
func ofPrefix(p netip.Prefix) netip.Addr { return p.Addr() }

// Host is a machine of the lab: a network namespace with one or two interfaces.
type Host struct {
	Name string `json:"name"`
	// Network is where the host's interface eth0 is plugged in: Ethernet or WAN.
	Network string `json:"network"`
	// Addresses and MAC of eth0. The MAC ends in the host's IPv4 address, or what
	// that would be, so that captures can be read: 02:00:ac:14:00:0b is 172.20.0.11.
	Addresses []netip.Prefix `json:"addresses"`
	MAC       string         `json:"mac"`
	// WANAddresses are those of a router's second interface, eth1.
	WANAddresses []netip.Prefix `json:"wanAddresses,omitempty"`
	// Gateways are where its default routes point: several of one family share the
	// traffic, by connection.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// PodCIDRs are the networks of the node's Pods; empty for other hosts.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
}

// IsNode reports whether Kubernetes runs Pods on the host.
func (h Host) IsNode() bool { return len(h.PodCIDRs) > 0 }

// IsRouter reports whether the host joins the two networks.
func (h Host) IsRouter() bool { return len(h.WANAddresses) > 0 }

// IPs returns the host's addresses without prefix lengths.
func (h Host) IPs() []netip.Addr {
	ips := make([]netip.Addr, len(h.Addresses))
	for i, address := range h.Addresses {
		ips[i] = address.Addr()
	}
	return ips
}

// Plan says who has which address. It is a value: equal arguments to NewPlan give
// equal plans.
type Plan struct {
	Family Family `json:"ipFamily"`
	// Hosts in the order control-plane, router, perhaps router2, client, wan-client,
	// stranger, node-1 ….
	Hosts []Host `json:"hosts"`
	// Ethernet has the prefixes of the network the nodes are on, one per family;
	// WAN those of the network behind the router.
	Ethernet []netip.Prefix `json:"ethernet"`
	WAN      []netip.Prefix `json:"wan"`
	// FreeRanges are parts of the Ethernet that no host uses, for address pools:
	// one per family of the cluster.
	FreeRanges []netip.Prefix `json:"freeRanges"`
	// PodCIDRs contain those of all nodes; ServiceCIDRs are the cluster IPs.
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
}

// NewPlan lays out a lab with nodes nodes.
func NewPlan(nodes int, family Family) (Plan, error) {
	if nodes < 0 || nodes > MaxNodes {
		return Plan{}, fmt.Errorf("nodes: %d is not between 0 and %d", nodes, MaxNodes)
	}
	if !slices.Contains(Families(), family) {
		return Plan{}, fmt.Errorf("ip family: %q is unknown; use ipv4, ipv6 or dual", family)
	}
	plan := Plan{
		Family:       family,
		Ethernet:     prefixes("172.20.0.0/16", "fd00:172:20::/64"),
		WAN:          prefixes("172.21.0.0/24", "fd00:172:21::/64"),
		FreeRanges:   pick(family, ofPrefix, prefixes("172.20.128.0/17", "fd00:172:20:0:1::/80")...),
		PodCIDRs:     pick(family, ofPrefix, prefixes("10.244.0.0/16", "fd00:10:244::/48")...),
		ServiceCIDRs: pick(family, ofPrefix, prefixes("10.96.0.0/16", "fd00:10:96::/112")...),
	}
	router := ethernetHost(Router, 1, Dual)
	router.Gateways = nil
	router.WANAddresses = prefixes("172.21.0.1/24", "fd00:172:21::1/64")
	wanClient := Host{
		Name:      WANClient,
		Network:   WAN,
		Addresses: prefixes("172.21.0.2/24", "fd00:172:21::2/64"),
		MAC:       "02:00:ac:15:00:02",
		Gateways:  []netip.Addr{netip.MustParseAddr("172.21.0.1"), netip.MustParseAddr("fd00:172:21::1")},
	}
	plan.Hosts = []Host{
		ethernetHost(ControlPlane, 2, family), router, ethernetHost(Client, 3, Dual), wanClient, ethernetHost(Stranger, 5, Dual),
	}
	for n := 1; n <= nodes; n++ {
		node := ethernetHost(NodeName(n), 10+n, family)
		node.PodCIDRs = pick(family, ofPrefix, prefixes(
			fmt.Sprintf("10.244.%d.0/24", n), fmt.Sprintf("fd00:10:244:%d::/64", n))...)
		plan.Hosts = append(plan.Hosts, node)
	}
	return plan, nil
}

// WithSecondRouter returns the plan with another router between the same networks.
// The client behind them uses both, nodes only the first.
func (p Plan) WithSecondRouter() Plan {
	router := ethernetHost(Router2, 4, Dual)
	router.Gateways = nil
	router.WANAddresses = prefixes("172.21.0.3/24", "fd00:172:21::3/64")
	hosts := slices.Clone(p.Hosts)
	for i, host := range hosts {
		if host.Name == WANClient {
			hosts[i].Gateways = slices.Clone(host.Gateways)
			for _, address := range router.WANAddresses {
				hosts[i].Gateways = append(hosts[i].Gateways, address.Addr())
			}
		}
	}
	const afterFirst = 2
	p.Hosts = slices.Insert(hosts, afterFirst, router)
	return p
}

// ethernetHost returns one beside the nodes. Its addresses of both families read
// alike: 172.20.0.11 and fd00:172:20::11, where 11 is hexadecimal.
func ethernetHost(name string, number int, family Family) Host {
	return Host{
		Name:    name,
		Network: Ethernet,
		Addresses: pick(family, ofPrefix, prefixes(
			fmt.Sprintf("172.20.0.%d/16", number), fmt.Sprintf("fd00:172:20::%d/64", number))...),
		MAC:      fmt.Sprintf("02:00:ac:14:00:%02x", number),
		Gateways: pick(family, ofAddr, netip.MustParseAddr("172.20.0.1"), netip.MustParseAddr("fd00:172:20::1")),
	}
}

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

// NodeName is the name of the nth node, counted from one.
func NodeName(n int) string { return "node-" + strconv.Itoa(n) }

// Host returns the host called name.
func (p Plan) Host(name string) (Host, error) {
	names := make([]string, len(p.Hosts))
	for i, host := range p.Hosts {
		if host.Name == name {
			return host, nil
		}
		names[i] = host.Name
	}
	return Host{}, fmt.Errorf("host %q does not exist; the lab has %s", name, strings.Join(names, ", "))
}

// Nodes returns the hosts that are nodes.
func (p Plan) Nodes() []Host {
	var nodes []Host
	for _, host := range p.Hosts {
		if host.IsNode() {
			nodes = append(nodes, host)
		}
	}
	return nodes
}

// Routers returns the hosts that are routers: one or two.
func (p Plan) Routers() []Host {
	return slices.DeleteFunc(slices.Clone(p.Hosts), func(h Host) bool { return !h.IsRouter() })
}

// ControlPlane returns the host of the API server.
func (p Plan) ControlPlane() Host { return p.Hosts[0] }

// ServiceIPs are the cluster IPs of the `kubernetes` Service, by which Pods
// reach the API server: the first of each Service network.
func (p Plan) ServiceIPs() []netip.Addr {
	ips := make([]netip.Addr, len(p.ServiceCIDRs))
	for i, cidr := range p.ServiceCIDRs {
		ips[i] = cidr.Addr().Next()
	}
	return ips
}
