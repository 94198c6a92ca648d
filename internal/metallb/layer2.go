package metallb

import (
	"math"
	"strings"

	"github.com/berth-lb/berth/api/v1beta1"
)

func ipAddressPool(s *source) v1beta1.IPAddressPoolSpec {
	from := decode[ipAddressPoolSpec](s)
	bound(s, "spec.addresses", len(from.Addresses), mostAddresses)
	to := v1beta1.IPAddressPoolSpec{AutoAssign: from.AutoAssign, AvoidBuggyIPs: from.AvoidBuggyIPs}
	for _, addresses := range from.Addresses {
		to.Addresses = append(to.Addresses, addressRange(addresses))
	}
	if a := from.ServiceAllocation; a != nil {
		const field = "spec.serviceAllocation"
		to.ServiceAllocation = &v1beta1.ServiceAllocation{
			Priority:           number(s, field+".priority", a.Priority, 0, math.MaxInt32),
			Namespaces:         names(s, field+".namespaces", a.Namespaces),
			NamespaceSelectors: selectors(s, field+".namespaceSelectors", a.NamespaceSelectors),
			ServiceSelectors:   selectors(s, field+".serviceSelectors", a.ServiceSelectors),
		}
	}
	return to
}

// addressRange removes the blanks that MetalLB allows.
func addressRange(text string) v1beta1.AddressRange {
	parts := strings.Split(text, "-")
	for i, part := range parts {
		parts[i] = strings.TrimSpace(part)
	}
	return v1beta1.AddressRange(strings.Join(parts, "-"))
}

func l2Advertisement(s *source) v1beta1.L2AdvertisementSpec {
	from := decode[l2AdvertisementSpec](s)
	bound(s, "spec.interfaces", len(from.Interfaces), mostInterfaces)
	bound(s, "spec.preferredNodeSelectors", len(from.PreferredNodeSelectors), mostSelectors)
	to := v1beta1.L2AdvertisementSpec{
		IPAddressPools:         names(s, "spec.ipAddressPools", from.IPAddressPools),
		IPAddressPoolSelectors: selectors(s, "spec.ipAddressPoolSelectors", from.IPAddressPoolSelectors),
		NodeSelectors:          selectors(s, "spec.nodeSelectors", from.NodeSelectors),
		ServiceSelectors:       selectors(s, "spec.serviceSelectors", from.ServiceSelectors),
	}
	for _, name := range once(from.Interfaces) {
		to.Interfaces = append(to.Interfaces, interfaceName(s, "spec.interfaces", name))
	}
	for _, p := range from.PreferredNodeSelectors {
		to.PreferredNodeSelectors = append(to.PreferredNodeSelectors, v1beta1.PreferredNodeSelector{
			Weight:     number(s, "spec.preferredNodeSelectors.weight", p.Weight, 1, 100),
			Preference: selector(s, "spec.preferredNodeSelectors.preference", &p.Preference),
		})
	}
	if len(to.Interfaces) == 0 {
		s.remark("spec.interfaces", "none are named. MetalLB answers on every interface of a node, Berth on those that have the address's subnet; for addresses outside the nodes' subnets, name the interfaces")
	} else {
		s.remark("spec.interfaces", "a node that has none of them is not eligible here; MetalLB may choose it, and then announces nothing")
	}
	if len(to.PreferredNodeSelectors) > 0 {
		s.remark("spec.preferredNodeSelectors", "weights count when an address has to go somewhere; MetalLB also moves it back when a preferred node returns, for which there is kubectl berth rebalance here")
	}
	if len(to.ServiceSelectors) > 0 {
		s.remark("spec.serviceSelectors", "an address that several Services share is announced when one of them matches; MetalLB does not announce it")
	}
	return to
}
