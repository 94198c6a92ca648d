package gobgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/transport"
	"github.com/berth-lb/berth/internal/bgp/wire"
)

const (
	bgpPort = 179
	// maxTTL is what a neighbour's packets arrive with under GTSM (RFC 5082).
	maxTTL = 255
)

// options returns how to reach a peer at addr.
func options(p bgp.Peer, addr netip.Addr) transport.Options {
	o := transport.Options{
		Remote:         netip.AddrPortFrom(addr, portOr(p.Port)),
		Local:          p.SourceAddress,
		Device:         p.VRF,
		Password:       string(p.Password),
		ConnectTimeout: p.ConnectTime,
	}
	if p.Interface != "" {
		o.Device = p.Interface
	}
	switch {
	case p.TTLSecurity > 0:
		o.TTL, o.MinTTL = maxTTL, maxTTL-p.TTLSecurity+1
	case p.Multihop:
		o.TTL = maxTTL
	case p.Dynamic == bgp.External && p.PeerASN == 0 || p.PeerASN != 0 && !p.Internal(p.PeerASN):
		o.TTL = 1
	}
	return o
}

// openTimeout returns how long the router may take to send its OPEN, 0 if no
// longer or shorter than usual. The kernel of a router that is too far away for
// ttlSecurity may answer for it with a TTL of 255, as FRR and BIRD have it do for
// their listening sockets, so that there is a connection, and then silence.
func openTimeout(p bgp.Peer) time.Duration {
	if p.TTLSecurity == 0 {
		return 0
	}
	return cmp.Or(p.ConnectTime, transport.DefaultConnectTimeout)
}

// silence is why a router that accepts a connection may say nothing on it.
func silence(p bgp.Peer) string {
	p.Password = "" // or there would be no connection
	return options(p, p.Address).SilentReasons()
}

func portOr(port uint16) uint16 {
	if port == 0 {
		return bgpPort
	}
	return port
}

// ourOpen returns what we say of ourselves on a connection from local.
// Restarting tells that this process may have had a predecessor.
func ourOpen(p bgp.Peer, local netip.Addr, restarting bool) wire.Open {
	o := wire.Open{ASN: p.LocalASN, HoldTime: uint16(p.HoldTime / time.Second), RouterID: p.RouterID}
	c := &o.Capabilities
	c.RouteRefresh, c.FourOctetASN = true, true
	for _, family := range sortedFamilies(p.Families) {
		c.Families = append(c.Families, wireFamily(family))
		if family == bgp.IPv4 && local.Is6() {
			c.ExtendedNextHop = []wire.ExtendedNextHop{{Family: wire.IPv4Unicast, NextHopAFI: wire.AFIIPv6}}
		}
	}
	if p.GracefulRestart != nil {
		restart := &wire.GracefulRestart{Restarting: restarting, Time: uint16(p.GracefulRestart.RestartTime / time.Second)}
		for _, family := range c.Families {
			// Packets go through the kernel, whatever becomes of this process.
			restart.Families = append(restart.Families, wire.RestartFamily{Family: family, Forwarding: true})
		}
		c.GracefulRestart = restart
	}
	return o
}

func sortedFamilies(families []bgp.Family) []bgp.Family {
	families = slices.Clone(families)
	slices.Sort(families)
	return slices.Compact(families)
}

func wireFamily(f bgp.Family) wire.Family {
	if f == bgp.IPv6 {
		return wire.IPv6Unicast
	}
	return wire.IPv4Unicast
}

func families(negotiated []wire.Family) []bgp.Family {
	var out []bgp.Family
	for _, f := range negotiated {
		switch f {
		case wire.IPv4Unicast:
			out = append(out, bgp.IPv4)
		case wire.IPv6Unicast:
			out = append(out, bgp.IPv6)
		}
	}
	return sortedFamilies(out)
}

// checkOpen says whether the router may be the peer.
func checkOpen(p bgp.Peer, o wire.Open) (*wire.Notification, error) {
	switch {
	case !p.AcceptsASN(o.ASN):
		want := fmt.Sprint(p.PeerASN)
		if p.PeerASN == 0 {
			want = fmt.Sprintf("an %s one", p.Dynamic)
		}
		return &wire.Notification{Code: wire.CodeOpen, Subcode: wire.SubcodeBadPeerAS},
			fmt.Errorf("its AS number is %d, want %s", o.ASN, want)
	case p.Internal(o.ASN) && o.RouterID == p.RouterID: // RFC 6286 section 2.2
		return &wire.Notification{Code: wire.CodeOpen, Subcode: wire.SubcodeBadIdentifier},
			fmt.Errorf("its router ID %s is ours", o.RouterID)
	}
	return nil, nil
}

// keepaliveTime returns how often to send a KEEPALIVE: as configured if the hold
// time is what was configured with it, and never more rarely than a third of it
// otherwise.
func keepaliveTime(p bgp.Peer, hold time.Duration) time.Duration {
	third := max(hold/3, time.Second).Truncate(time.Second)
	if p.KeepaliveTime == 0 || hold != p.HoldTime && p.KeepaliveTime > third {
		return third
	}
	return p.KeepaliveTime
}

// chooseNextHops returns the next hops of a session from local to a router with
// the given capabilities, and why some of the families have none. What the peer
// asks for comes first; without, the session's own address does for its own
// family, and for IPv4 over IPv6 if the router can take it (RFC 8950). On a
// session between link-local addresses it also comes before an IPv4 address that
// is none of the link's, to which the router may have no route.
func chooseNextHops(p bgp.Peer, negotiated []bgp.Family, local netip.Addr, link []netip.Addr, router wire.Capabilities) (nextHops, string) {
	extended := slices.Contains(router.ExtendedNextHop, wire.ExtendedNextHop{Family: wire.IPv4Unicast, NextHopAFI: wire.AFIIPv6})
	fits := func(family bgp.Family, hop netip.Addr) bool {
		return hop.IsValid() && (bgp.FamilyOf(hop) == family || family == bgp.IPv4 && extended && local.Is6())
	}
	hops := make(nextHops)
	var problem string
	for _, family := range negotiated {
		asked := p.NextHops[family].Unmap()
		elsewhere := asked.Is4() && local.IsLinkLocalUnicast() && !slices.Contains(link, asked)
		switch {
		case elsewhere && fits(family, local):
			hops[family] = local
		case fits(family, asked):
			hops[family] = asked
		case fits(family, local):
			hops[family] = local
		default:
			problem = fmt.Sprintf("no %s route is announced: this node has no %s address to be the next hop, and the router does not take another", family, family)
		}
	}
	return hops, problem
}

// maxCapabilities is how many of a router's capabilities are told. There are
// about thirty; who offers more does not mean them.
const maxCapabilities = 64

// capabilityNames returns what the router offers, in order of its codes.
func capabilityNames(c wire.Capabilities) []string {
	var names []string
	codes := c.Codes()
	for _, code := range codes[:min(len(codes), maxCapabilities)] {
		names = append(names, wire.CapabilityName(code))
	}
	return names
}
