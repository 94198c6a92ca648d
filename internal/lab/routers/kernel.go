package routers

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// ownProtocols are what zebra and BIRD mark their routes in the kernel with.
func ownProtocols() []netlink.RouteProtocol {
	return []netlink.RouteProtocol{unix.RTPROT_ZEBRA, unix.RTPROT_BGP, unix.RTPROT_BIRD}
}

// KernelRoute returns the addresses to which the kernel of the router's host
// sends packets for a prefix, in order; none if it has no route to exactly that.
func (r *Router) KernelRoute(prefix netip.Prefix) ([]netip.Addr, error) {
	routes, err := r.kernelRoutes()
	if err != nil {
		return nil, err
	}
	var hops []netip.Addr
	for _, route := range routes {
		if route.Dst == nil || route.Dst.String() != prefix.String() {
			continue
		}
		if address, ok := netip.AddrFromSlice(route.Gw); ok {
			hops = append(hops, address.Unmap())
		}
		for _, hop := range route.MultiPath {
			if address, ok := netip.AddrFromSlice(hop.Gw); ok {
				hops = append(hops, address.Unmap())
			}
			if via, ok := hop.Via.(*netlink.Via); ok { // another family's (RFC 8950)
				if address, ok := netip.AddrFromSlice(via.Addr); ok {
					hops = append(hops, address.Unmap())
				}
			}
		}
		if via, ok := route.Via.(*netlink.Via); ok {
			if address, ok := netip.AddrFromSlice(via.Addr); ok {
				hops = append(hops, address.Unmap())
			}
		}
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return slices.Compact(hops), nil
}

// KernelRoutes counts the routes that routers have put into the kernel.
func (r *Router) KernelRoutes() (int, error) {
	routes, err := r.kernelRoutes()
	return len(routes), err
}

// kernelRoutes returns the routes of routers in the main table.
func (r *Router) kernelRoutes() ([]netlink.Route, error) {
	var own []netlink.Route
	err := netns.Target{Name: r.site.Namespace}.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		for _, route := range routes {
			if slices.Contains(ownProtocols(), route.Protocol) {
				own = append(own, route)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("router on %s: routes of the kernel: %w", r.site.Host, err)
	}
	return own, nil
}

// flushRoutes removes what a router left that was killed. A daemon cleans up only
// after its own kind.
func (r *Router) flushRoutes() error {
	if r.config.GracefulRestart == Restarter {
		return nil // they are what is to survive
	}
	routes, err := r.kernelRoutes()
	if err != nil {
		return err
	}
	return netns.Target{Name: r.site.Namespace}.Do(func() error {
		for _, route := range routes {
			// Next hops are left out: the kernel compares them, and zebra's are objects.
			same := &netlink.Route{Dst: route.Dst, Table: route.Table, Protocol: route.Protocol, Priority: route.Priority, Type: route.Type}
			if err := netlink.RouteDel(same); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route to %s: %w", route.Dst, err)
			}
		}
		return nil
	})
}
