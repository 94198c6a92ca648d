package netif

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateways returns the next hops of the default routes in the main table, in
// order and each once; those that are link-local have the zone of their link. It
// reads the whole table: it is for now and then.
func Gateways() ([]netip.Addr, error) {
	var gateways []netip.Addr
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		// Dst nil stands for the default route.
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		for _, r := range routes {
			gateways = appendGateway(gateways, r.Gw, r.LinkIndex)
			for _, hop := range r.MultiPath {
				gateways = appendGateway(gateways, hop.Gw, hop.LinkIndex)
			}
		}
	}
	slices.SortFunc(gateways, netip.Addr.Compare)
	return slices.Compact(gateways), nil
}

func appendGateway(to []netip.Addr, gateway net.IP, link int) []netip.Addr {
	addr, ok := netip.AddrFromSlice(gateway)
	if !ok {
		return to // a route straight onto a link
	}
	addr = addr.Unmap()
	if addr.Is6() && addr.IsLinkLocalUnicast() {
		device, err := net.InterfaceByIndex(link)
		if err != nil {
			return to // it has just gone
		}
		addr = addr.WithZone(device.Name)
	}
	return append(to, addr)
}
