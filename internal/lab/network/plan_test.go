package network

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestPlanAddressesAreUniqueAndInside(t *testing.T) {
	t.Parallel()
	for _, family := range Families() {
		for _, nodes := range []int{0, 1, 3, MaxNodes} {
			t.Run(fmt.Sprintf("%s %d nodes", family, nodes), func(t *testing.T) {
				t.Parallel()
				plan, err := NewPlan(nodes, family)
				if err != nil {
					t.Fatal(err)
				}
				if got := len(plan.Nodes()); got != nodes {
					t.Fatalf("%d nodes, want %d", got, nodes)
				}
				owners := map[string]string{}
				for _, host := range plan.Hosts {
					checkHost(t, plan, host)
					for _, key := range append(keys(host.Addresses), append(keys(host.PodCIDRs), host.MAC)...) {
						if other, taken := owners[key]; taken {
							t.Errorf("%s belongs to %s and %s", key, other, host.Name)
						}
						owners[key] = host.Name
					}
				}
			})
		}
	}
}

func keys(prefixes []netip.Prefix) []string {
	var all []string
	for _, prefix := range prefixes {
		all = append(all, prefix.String())
	}
	return all
}

// checkHost checks that the host's addresses lie in its network but not in the
// ranges that are free, and that gateways and Pods fit.
func checkHost(t *testing.T, plan Plan, host Host) {
	t.Helper()
	within := plan.Ethernet
	if host.Network == WAN {
		within = plan.WAN
	}
	for _, address := range host.Addresses {
		if !contains(within, address.Addr()) {
			t.Errorf("%s: address %s is outside %v", host.Name, address, within)
		}
		if contains(plan.FreeRanges, address.Addr()) {
			t.Errorf("%s: address %s is in a range that is to be free", host.Name, address)
		}
	}
	for _, gateway := range host.Gateways {
		if !contains(within, gateway) {
			t.Errorf("%s: gateway %s is outside %v", host.Name, gateway, within)
		}
	}
	for i, cidr := range host.PodCIDRs {
		if !contains(plan.PodCIDRs, cidr.Addr()) {
			t.Errorf("%s: Pod network %s is outside %v", host.Name, cidr, plan.PodCIDRs)
		}
		if cidr.Addr().Is4() != host.Addresses[i].Addr().Is4() {
			t.Errorf("%s: Pod networks %v are not in the order of addresses %v", host.Name, host.PodCIDRs, host.Addresses)
		}
	}
}

func contains(prefixes []netip.Prefix, address netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

func TestFreeRangesAreOnTheEthernet(t *testing.T) {
	t.Parallel()
	for family, want := range map[Family]int{IPv4: 1, IPv6: 1, Dual: 2} {
		plan, err := NewPlan(3, family)
		if err != nil {
			t.Fatal(err)
		}
		if len(plan.FreeRanges) != want {
			t.Errorf("%s: free ranges %v, want %d", family, plan.FreeRanges, want)
		}
		for _, free := range plan.FreeRanges {
			if !contains(plan.Ethernet, free.Addr()) {
				t.Errorf("%s: free range %s is not part of %v", family, free, plan.Ethernet)
			}
		}
	}
}

// IPv6 addresses are written with the digits of the IPv4 address, so that people
// recognise them.
func TestAddressesReadAlike(t *testing.T) {
	t.Parallel()
	plan, err := NewPlan(3, Dual)
	if err != nil {
		t.Fatal(err)
	}
	node, err := plan.Host("node-3")
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("172.20.0.13/16"), netip.MustParsePrefix("fd00:172:20::13/64")}
	if fmt.Sprint(node.Addresses) != fmt.Sprint(want) || node.MAC != "02:00:ac:14:00:0d" {
		t.Errorf("node-3 has %v and %s, want %v and 02:00:ac:14:00:0d", node.Addresses, node.MAC, want)
	}
	services := plan.ServiceIPs()
	if fmt.Sprint(services) != "[10.96.0.1 fd00:10:96::1]" {
		t.Errorf("service addresses %v", services)
	}
}

func TestSecondRouter(t *testing.T) {
	t.Parallel()
	first, err := NewPlan(2, Dual)
	if err != nil {
		t.Fatal(err)
	}
	both := first.WithSecondRouter()
	if len(first.Routers()) != 1 || len(both.Routers()) != 2 || len(both.Hosts) != len(first.Hosts)+1 {
		t.Fatalf("routers %v without and %v with a second", first.Routers(), both.Routers())
	}
	owners := map[string]string{}
	for _, host := range both.Hosts {
		checkHost(t, both, host)
		for _, key := range append(keys(host.Addresses), append(keys(host.WANAddresses), host.MAC)...) {
			if other, taken := owners[key]; taken {
				t.Errorf("%s belongs to %s and %s", key, other, host.Name)
			}
			owners[key] = host.Name
		}
	}
	for name, want := range map[string]int{WANClient: 4, NodeName(1): 2} {
		host, err := both.Host(name)
		if err != nil || len(host.Gateways) != want {
			t.Errorf("%s has gateways %v (error %v), want %d", name, host.Gateways, err, want)
		}
	}
	if host, err := first.Host(WANClient); err != nil || len(host.Gateways) != 2 {
		t.Errorf("the plan without has gateways %v (error %v)", host.Gateways, err)
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		nodes  int
		family Family
	}{
		"too many nodes": {MaxNodes + 1, Dual},
		"negative":       {-1, Dual},
		"unknown family": {3, "ipx"},
	} {
		if _, err := NewPlan(test.nodes, test.family); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	plan, err := NewPlan(1, Dual)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Host("node-2"); err == nil {
		t.Error("found a node that the plan does not have")
	}
}
