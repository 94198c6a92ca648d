package watch

import (
	"net/netip"
	"slices"
)

// targetsOf returns where this node, which has the links own, can ask the kernel of a node with the given links: at one
// address for each pair of links that are on one subnet. Such a pair may still not be connected (every node has a bridge
// for containers on 172.17.0.0/16), so an address counts for nothing before it has answered once.
func targetsOf(own, links []Link) []Target {
	var targets []Target
	for i := range own {
		for j := range links {
			if own[i].MAC == links[j].MAC && own[i].MAC != ([6]byte{}) {
				continue
			}
			addr := askAt(&own[i], &links[j])
			if !addr.IsValid() || isOwn(own, addr) {
				continue
			}
			t := Target{Interface: own[i].Name, Addr: addr, MAC: links[j].MAC}
			if !slices.Contains(targets, t) {
				targets = append(targets, t)
			}
			if len(targets) == maxTargets {
				return targets
			}
		}
	}
	return targets
}

// askAt returns the address at which to ask for the owner of remote over local, the zero Addr if they are on different
// subnets. A link-local address is good only where another subnet shows that the links are one.
func askAt(local, remote *Link) netip.Addr {
	switch {
	case onSubnet(local, remote.Addr4):
		return remote.Addr4
	case onSubnet(local, remote.Addr6):
		return remote.Addr6
	case remote.Addr6.IsValid() && local.Addr6.IsValid() && remote.Addr6.IsLinkLocalUnicast() && shareSubnet(local, remote):
		return remote.Addr6
	}
	return netip.Addr{}
}

func onSubnet(l *Link, addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsLinkLocalUnicast() &&
		slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return !p.IsSingleIP() && p.Contains(addr) })
}

func shareSubnet(a, b *Link) bool {
	return slices.ContainsFunc(a.Prefixes, func(p netip.Prefix) bool {
		return !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() && slices.Contains(b.Prefixes, p)
	})
}

func isOwn(own []Link, addr netip.Addr) bool {
	return slices.ContainsFunc(own, func(l Link) bool { return l.Addr4 == addr || l.Addr6 == addr })
}
