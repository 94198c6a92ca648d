package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// sessionRow is one way to configure a session. It is tried with every kind of
// router over IPv4 and IPv6.
type sessionRow struct {
	name string
	// peer and neighbor are the two sides of it.
	peer     func(*link, *v1beta1.BGPPeerSpec)
	neighbor func(*link, *routers.Neighbor)
	// advertisement of the routes, and what of it the router is to see.
	advertisement v1beta1.BGPAdvertisementSpec
	want          told
	// check looks at what both sides say of the session.
	check func(*link, routers.Session, v1beta1.BGPSessionStatus)
	// bothFamilies are announced, not only that of the session.
	bothFamilies bool
}

// Labels and annotations of nodes.
const (
	asnLabel       = "example.com/asn"
	routerASNValue = "example.com/router-asn"
	routersValue   = "example.com/routers-"
	otherASN       = 4200000001
)

func sessionRows() []sessionRow {
	return slices.Concat(numberRows(), familyRows(), timerRows(), transportRows())
}

// numberRows are about AS numbers and router IDs.
func numberRows() []sessionRow {
	return []sessionRow{
		{
			name:     "Internal",
			peer:     func(_ *link, p *v1beta1.BGPPeerSpec) { p.MyASN = routerASN },
			neighbor: func(_ *link, n *routers.Neighbor) { n.ASN = routerASN },
			// Internal peers are sent an empty path, whatever is asked for.
			advertisement: v1beta1.BGPAdvertisementSpec{LocalPref: ptr.To[int64](321), MED: ptr.To[int64](5), ASPathPrepend: 3},
			want:          told{localPref: ptr.To[uint32](321), med: ptr.To[uint32](5)},
			check:         func(l *link, _ routers.Session, _ v1beta1.BGPSessionStatus) { l.expectPath() },
		},
		{
			name: "InternalDefaultPreference",
			peer: func(l *link, p *v1beta1.BGPPeerSpec) {
				p.MyASN, p.PeerASN, p.DynamicASN = routerASN, 0, v1beta1.DynamicInternal
			},
			neighbor: func(_ *link, n *routers.Neighbor) { n.ASN = routerASN },
			want:     told{localPref: ptr.To[uint32](100)},
			check: func(l *link, _ routers.Session, s v1beta1.BGPSessionStatus) {
				l.expectPath()
				if s.PeerASN != routerASN {
					l.Errorf("the peer's ASN is %d in the NodeState", s.PeerASN)
				}
			},
		},
		{
			name: "DynamicExternal",
			peer: func(_ *link, p *v1beta1.BGPPeerSpec) { p.PeerASN, p.DynamicASN = 0, v1beta1.DynamicExternal },
			check: func(l *link, _ routers.Session, s v1beta1.BGPSessionStatus) {
				l.expectPath(nodeASN)
				if s.PeerASN != routerASN || s.LocalASN != nodeASN {
					l.Errorf("the ASNs are %d and %d in the NodeState", s.LocalASN, s.PeerASN)
				}
			},
		},
		{
			name:          "LocalASN",
			peer:          func(_ *link, p *v1beta1.BGPPeerSpec) { p.LocalASN = otherASN },
			neighbor:      func(_ *link, n *routers.Neighbor) { n.ASN = otherASN },
			advertisement: v1beta1.BGPAdvertisementSpec{ASPathPrepend: 1},
			want:          told{prepended: 1},
			check: func(l *link, _ routers.Session, s v1beta1.BGPSessionStatus) {
				l.expectPath(otherASN, otherASN)
				if s.LocalASN != otherASN {
					l.Errorf("our ASN is %d in the NodeState", s.LocalASN)
				}
			},
		},
		{
			name: "ASNsOfNode",
			peer: func(l *link, p *v1beta1.BGPPeerSpec) {
				l.changeNode(fmt.Sprintf(`{"metadata":{"labels":{%q:"%d"},"annotations":{%q:"%d"}}}`, asnLabel, otherASN, routerASNValue, routerASN))
				p.MyASN, p.MyASNFrom = 0, &v1beta1.NodeValue{NodeLabel: asnLabel}
				p.PeerASN, p.PeerASNFrom = 0, &v1beta1.NodeValue{NodeAnnotation: routerASNValue}
			},
			neighbor: func(_ *link, n *routers.Neighbor) { n.ASN = otherASN },
			check:    func(l *link, _ routers.Session, _ v1beta1.BGPSessionStatus) { l.expectPath(otherASN) },
		},
		{
			name: "RouterID",
			peer: func(_ *link, p *v1beta1.BGPPeerSpec) { p.RouterID = "10.9.8.7" },
			check: func(l *link, session routers.Session, s v1beta1.BGPSessionStatus) {
				if session.RouterID.String() != "10.9.8.7" || s.LocalRouterID != "10.9.8.7" {
					l.Errorf("the router ID is %s to the router, %s in the NodeState", session.RouterID, s.LocalRouterID)
				}
			},
		},
	}
}

// familyRows are about what families are announced.
func familyRows() []sessionRow {
	expectFamilies := func(want ...string) func(*link, routers.Session, v1beta1.BGPSessionStatus) {
		return func(l *link, session routers.Session, s v1beta1.BGPSessionStatus) {
			if !slices.Equal(s.Families, want) || len(session.Families) != len(want) {
				l.Errorf("the families are %v in the NodeState and %v to the router, want %v", s.Families, session.Families, want)
			}
		}
	}
	both := expectFamilies("IPv4", "IPv6")
	return []sessionRow{
		{
			name: "OwnFamily",
			check: func(l *link, session routers.Session, s v1beta1.BGPSessionStatus) {
				expectFamilies(string(l.family()))(l, session, s)
			},
		},
		{
			name: "BothFamilies", bothFamilies: true, check: both,
			peer: func(l *link, p *v1beta1.BGPPeerSpec) {
				p.Families = []v1beta1.IPFamily{v1beta1.FamilyIPv6, v1beta1.FamilyIPv4}
			},
		},
		{
			name: "DualStackAddressFamily", bothFamilies: true, check: both,
			peer: func(_ *link, p *v1beta1.BGPPeerSpec) { p.DualStackAddressFamily = ptr.To(true) },
		},
		{
			// The node's own IPv4 address goes before RFC 8950, which Unnumbered shows.
			name: "ExtendedNextHopOffered", bothFamilies: true,
			peer:     func(_ *link, p *v1beta1.BGPPeerSpec) { p.DualStackAddressFamily = ptr.To(true) },
			neighbor: func(l *link, n *routers.Neighbor) { n.ExtendedNextHop = l.nth == 1 },
			check:    both,
		},
	}
}

// timerRows are about times.
func timerRows() []sessionRow {
	expectHold := func(want time.Duration) func(*link, routers.Session, v1beta1.BGPSessionStatus) {
		return func(l *link, session routers.Session, s v1beta1.BGPSessionStatus) {
			if session.Hold != want || s.HoldTime != want.String() {
				l.Errorf("the hold time is %s to the router, %s in the NodeState, want %s", session.Hold, s.HoldTime, want)
			}
		}
	}
	return []sessionRow{
		{
			name: "HoldAndKeepalive",
			peer: func(l *link, p *v1beta1.BGPPeerSpec) {
				p.HoldTime, p.KeepaliveTime, p.ConnectTime = "30s", "1s", "5s"
			},
			check: func(l *link, session routers.Session, s v1beta1.BGPSessionStatus) {
				expectHold(30*time.Second)(l, session, s)
				// A third of the hold time, which is usual, were one in ten seconds.
				const keepalives = `messages_total{direction="sent",type="keepalive"}`
				speaker := l.speakerOn(l.node)
				before := l.peerMetrics(speaker, l.peer)[keepalives]
				l.waitFor("a keepalive every second", 10*time.Second, func(context.Context) (bool, string) {
					sent := l.peerMetrics(speaker, l.peer)[keepalives] - before
					return sent >= 3, fmt.Sprintf("%v sent", sent)
				})
			},
		},
		{
			name:     "RouterHoldsShorter",
			peer:     func(_ *link, p *v1beta1.BGPPeerSpec) { p.HoldTime = "1m30s" },
			neighbor: func(_ *link, n *routers.Neighbor) { n.Hold = 6 * time.Second },
			check:    expectHold(6 * time.Second),
		},
		{
			name:  "NoHoldTime",
			peer:  func(_ *link, p *v1beta1.BGPPeerSpec) { p.HoldTime = "0s" },
			check: expectHold(0),
		},
		{
			name: "GracefulRestart",
			peer: func(_ *link, p *v1beta1.BGPPeerSpec) { p.EnableGracefulRestart, p.GracefulRestartTime = true, "77s" },
			check: func(l *link, _ routers.Session, s v1beta1.BGPSessionStatus) {
				if !slices.Contains(s.Capabilities, "graceful-restart") {
					l.Errorf("the router's capabilities are %v in the NodeState", s.Capabilities)
				}
				command, want := "show bgp neighbors "+l.local.String()+" json", `"receivedRestartTimer":77`
				if l.router.Kind() == routers.BIRD {
					command, want = "show protocols all to_"+l.neighborName(), "Restart time: 77"
				}
				out, err := l.router.Console(l.ctx, command)
				if err != nil || !strings.Contains(string(out), want) {
					l.Errorf("%q is not in what the router says (error %v):\n%s", want, err, out)
				}
			},
		},
	}
}

// transportRows are about how the nodes reach the router.
func transportRows() []sessionRow {
	return []sessionRow{
		{
			name: "Passive",
			peer: func(_ *link, p *v1beta1.BGPPeerSpec) { p.Passive = true },
		},
		{
			name:     "PassiveOnPort",
			peer:     func(_ *link, p *v1beta1.BGPPeerSpec) { p.Passive, p.ListenPort = true, 1790 },
			neighbor: func(_ *link, n *routers.Neighbor) { n.Port = 1790 },
		},
		{
			name:     "RouterPassive",
			neighbor: func(_ *link, n *routers.Neighbor) { n.Passive = true },
		},
		{
			name:     "PeerPort", // the bench's host leads it to the router
			peer:     func(_ *link, p *v1beta1.BGPPeerSpec) { p.PeerPort = otherPort },
			neighbor: func(_ *link, n *routers.Neighbor) { n.Passive = true },
		},
		{
			name:     "TTLSecurity",
			peer:     func(_ *link, p *v1beta1.BGPPeerSpec) { p.TTLSecurity = 1 },
			neighbor: func(_ *link, n *routers.Neighbor) { n.TTLSecurity = 1 },
		},
		{
			name: "Password",
			peer: func(l *link, p *v1beta1.BGPPeerSpec) {
				p.Password = "in-clear-text"
				l.lab.secrets.Store(p.Password, "a password in clear text")
			},
			neighbor: func(_ *link, n *routers.Neighbor) { n.Password = "in-clear-text" },
		},
		{
			// The kernel of the tests may have no VRFs. All that Berth does is to bind
			// the connection to the device, which any interface shows.
			name: "VRF",
			peer: func(_ *link, p *v1beta1.BGPPeerSpec) { p.VRF = "eth0" },
			check: func(l *link, _ routers.Session, s v1beta1.BGPSessionStatus) {
				if s.VRF != "eth0" {
					l.Errorf("the VRF is %q in the NodeState", s.VRF)
				}
			},
		},
		{
			name: "SourceInterface",
			peer: func(l *link, p *v1beta1.BGPPeerSpec) {
				p.SourceInterface, p.EBGPMultiHop = "lo", true
				l.local = l.addressOnLoopback()
			},
			neighbor: func(l *link, n *routers.Neighbor) { n.Address, n.Multihop = l.local, 2 },
			want:     told{}, // the next hop is the source
		},
		{
			name: "AddressOfNode", // for several peers see testAddressesOfNode
			peer: func(l *link, p *v1beta1.BGPPeerSpec) {
				name := v1beta1.QualifiedName(routersValue + l.peer)
				p.PeerAddress, p.PeerAddressFrom = "", &v1beta1.PeerAddressSource{NodeAnnotation: name}
				l.called = l.peer + "@" + l.remote.String()
				l.changeNode(fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, name, " "+l.remote.String()+" "))
			},
		},
	}
}

// sessionCases are all rows with all kinds of routers over both families, and what
// has no place in a table.
func (f *fabric) sessionCases() []testCase {
	var cases []testCase
	for _, row := range sessionRows() {
		for _, b := range []routers.Kind{routers.FRR, routers.BIRD} {
			for nth, family := range []string{"v4", "v6"} {
				cases = append(cases, testCase{
					name: row.name + "-" + string(b) + "-" + family,
					run:  func(e *env) { row.run(f.bench(b).link(e, nth)) },
				})
			}
		}
	}
	return append(cases, f.specialCases()...)
}

func (row sessionRow) run(l *link) {
	spec := l.spec(func(p *v1beta1.BGPPeerSpec) {
		if row.peer != nil {
			row.peer(l, p)
		}
	})
	l.neighbor(func(n *routers.Neighbor) {
		if row.neighbor != nil {
			row.neighbor(l, n)
		}
	})
	l.createBGPPeer(l.peer, spec)
	l.tell(row.advertisement)
	l.waitVerdict("bgppeers", l.peer, true, v1beta1.ReasonAccepted)
	session, reported := l.waitUp()
	if reported.Address != l.remote.String() || reported.LocalAddress != l.local.String() {
		l.Errorf("the session is from %s to %s in the NodeState, want from %s to %s", reported.LocalAddress, reported.Address, l.local, l.remote)
	}
	families := []int{l.nth}
	if row.bothFamilies {
		families = []int{0, 1}
	}
	l.waitRoutes(row.want, families...)
	if row.check != nil {
		row.check(l, session, reported)
	}
}

// expectPath fails the test if the AS path of what the node has told is another.
func (l *link) expectPath(want ...uint32) {
	l.Helper()
	paths, err := l.router.Route(l.ctx, hostPrefix(l.bench.addresses[l.nth]))
	if err != nil {
		l.Fatal(err)
	}
	for _, path := range paths {
		if path.Peer == l.local && !slices.Equal(path.ASPath, want) {
			l.Errorf("the AS path is %v, want %v", path.ASPath, want)
		}
	}
}

// addressOnLoopback gives the node an address that the router reaches by a route.
func (l *link) addressOnLoopback() netip.Addr {
	l.Helper()
	last := l.local.AsSlice()[len(l.local.AsSlice())-1]
	address := netip.AddrFrom4([4]byte{172, 30, 0, last})
	if l.nth == 1 {
		address = netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x30, 15: last})
	}
	l.run(l.node, "ip", "address", "replace", hostPrefix(address).String(), "dev", "lo")
	l.run(l.router.host.Name, "ip", "route", "replace", hostPrefix(address).String(), "via", l.local.String())
	return address
}
