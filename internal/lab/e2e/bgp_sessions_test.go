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

// specialCases are tests of sessions that have no place in a table. Those with a
// bench are for each kind of router.
func (f *fabric) specialCases() []testCase {
	cases := []testCase{
		{name: "OneUpdate", run: f.testOneUpdate},
		{name: "NeededResets", run: f.testNeededResets},
		{name: "ConfigurationErrors", run: f.testConfigurationErrors},
		{name: "DefaultGateway", run: f.testDefaultGateway},
	}
	for name, run := range map[string]func(*env, *bench){
		"PasswordRotated": testPasswordRotated, "OneAddress": testOneAddress, "AddressesOfNode": testAddressesOfNode,
		"Multihop": testMultihop, "Unnumbered": testUnnumbered, "BadPeers": f.testBadPeers, "BFDProfile": testBFDProfile,
		"MultihopBFD": testMultihopBFD, "BFDPassive": testBFDPassive,
		"TooFar-v4": func(e *env, b *bench) { testTooFar(b.link(e, 0)) },
		"TooFar-v6": func(e *env, b *bench) { testTooFar(b.link(e, 1)) },
	} {
		for _, b := range f.benches {
			cases = append(cases, testCase{name: name + "-" + string(b.router.Kind()), run: func(e *env) { run(e, b) }})
		}
	}
	frr := f.bench(routers.FRR)
	return append(cases, testCase{name: "BFDEcho-frr", run: func(e *env) { testBFDEcho(e, frr) }})
}

// testPasswordRotated: no session without the right password, and a new one in the
// Secret is taken up at once.
func testPasswordRotated(e *env, b *bench) {
	const wrongPassword, rightPassword, nextPassword = "squeamish", "ossifrage", "hunter2"
	l := b.link(e, 0)
	l.neighbor(func(n *routers.Neighbor) { n.Password = rightPassword })
	l.connect(func(p *v1beta1.BGPPeerSpec) {
		p.PasswordSecret, p.ConnectTime = &v1beta1.SecretReference{Name: v1beta1.ObjectName(l.peer)}, "1s"
	})
	l.waitVerdict("bgppeers", l.peer, false, v1beta1.ReasonSecretNotUsable, "there is no Secret "+l.peer)
	missing := l.waitTrouble(l.node, l.peer, "there is no Secret "+l.peer)
	if missing.State != v1beta1.BGPInvalid || missing.LastError.Reason != v1beta1.ReasonSecretNotUsable {
		l.Errorf("without its Secret the session is %s", describeSession(missing))
	}

	l.setPassword(l.peer, wrongPassword)
	l.waitVerdict("bgppeers", l.peer, true, v1beta1.ReasonAccepted)
	// The kernel drops what is signed otherwise, so all that can be seen is silence.
	l.waitTrouble(l.node, l.peer, "timeout")
	l.setPassword(l.peer, rightPassword)
	session, _ := l.waitUp()
	l.waitRoutes(told{}, 0)

	l.pauseUntil(session.Since.Add(2*time.Second), "sessions are told apart by when they began")
	l.neighbor(func(n *routers.Neighbor) { n.Password = nextPassword })
	l.setPassword(l.peer, nextPassword)
	l.waitFor("a session with the next password", bgpTimeout, func(context.Context) (bool, string) {
		now := l.session()
		return now.Up() && !now.SameAs(session), fmt.Sprintf("%+v", now)
	})
	l.waitUp()
	l.waitRoutes(told{}, 0)
	state, err := l.nodeState(l.ctx, l.node)
	if text := fmt.Sprintf("%+v", state); err != nil || containsAny(text, wrongPassword, rightPassword, nextPassword) {
		l.Errorf("the NodeState has a password (error %v): %s", err, text)
	}
}

func containsAny(text string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// testOneAddress: several BGPPeers at one address of a router have sessions of
// their own, from different addresses of the node, and are told different things.
func testOneAddress(e *env, b *bench) {
	l := b.link(e, 0)
	octets := l.local.As4()
	octets[2] = 64
	second := netip.AddrFrom4(octets)
	l.run(l.node, "ip", "address", "replace", second.String()+"/16", "dev", "eth0")
	l.neighbor(nil)
	l.connect(func(p *v1beta1.BGPPeerSpec) { p.SourceAddress = v1beta1.IPAddress(l.local.String()) })

	other := *l
	other.peer, other.local = l.peer+"-other", second
	other.neighbor(nil)
	other.createBGPPeer(other.peer, other.spec(func(p *v1beta1.BGPPeerSpec) { p.SourceAddress = v1beta1.IPAddress(second.String()) }))
	other.tell(v1beta1.BGPAdvertisementSpec{MED: ptr.To[int64](7)})
	for _, each := range []*link{l, &other} {
		each.waitVerdict("bgppeers", each.peer, true, v1beta1.ReasonAccepted)
		each.waitUp()
	}
	l.waitRoutes(told{}, 0)
	other.waitRoutes(told{med: ptr.To[uint32](7)}, 0)
	session := l.session()
	l.deleteObject("bgppeers", other.peer)
	other.waitPath(hostPrefix(l.bench.addresses[0]))
	l.waitRoutes(told{}, 0)
	if now := l.session(); !now.SameAs(session) {
		l.Errorf("the session was %+v, and is %+v without the other", session, now)
	}
}

// testAddressesOfNode: one annotation of the node names several peers, a label one.
func testAddressesOfNode(e *env, b *bench) {
	l := b.link(e, 0)
	six := b.router.host.IPs()[1]
	name := v1beta1.QualifiedName(routersValue + l.peer)
	l.called = l.peer + "@" + l.remote.String()
	l.neighbor(nil)
	l.createBGPPeer(l.peer, l.spec(func(p *v1beta1.BGPPeerSpec) {
		p.PeerAddress, p.PeerAddressFrom = "", &v1beta1.PeerAddressSource{NodeAnnotation: name}
	}))
	l.waitVerdict("bgppeers", l.peer, false, v1beta1.ReasonInvalid, "spec.peerAddressFrom.nodeAnnotation", "node "+l.node+" has no annotation "+string(name))
	l.waitTrouble(l.node, l.peer, "has no annotation "+string(name))
	// The router does not know the node's IPv6 address: that session stays down.
	l.changeNode(fmt.Sprintf(`{"metadata":{"annotations":{%q:"%s, %s"}}}`, name, l.remote, six))
	l.waitVerdict("bgppeers", l.peer, true, v1beta1.ReasonAccepted)
	l.waitEstablished(l.node, l.peer+"@"+l.remote.String())
	l.waitNodeSession(l.node, l.peer+"@"+six.String(), "not established", func(s v1beta1.BGPSessionStatus) bool {
		return s.State != v1beta1.BGPEstablished && s.Peer == l.peer
	})
	l.waitFor("BGPPeer "+l.peer+" to have one of two sessions up", 20*time.Second, func(ctx context.Context) (bool, string) {
		var object v1beta1.BGPPeer
		err := l.getInto(ctx, "bgppeers", l.peer, &object)
		return err == nil && object.Status.Up == "1/2", fmt.Sprintf("%+v (error %v)", object.Status, err)
	})

	l.changeNode(fmt.Sprintf(`{"metadata":{"labels":{%q:"%s"}}}`, name, l.remote))
	l.patch("bgppeers", l.peer, specPatch{"peerAddressFrom": map[string]any{"nodeLabel": name, "nodeAnnotation": nil}}.patch())
	l.tell(v1beta1.BGPAdvertisementSpec{})
	l.waitUp()
	l.waitRoutes(told{}, 0)
}

// testDefaultGateway: the nodes' default gateway is a peer. It is a router that all
// tests share, which is spoken to over IPv6 for this.
func (f *fabric) testDefaultGateway(e *env) {
	r := f.shared[0].forTest(e)
	e.createBGPPeer(e.namespace, v1beta1.BGPPeerSpec{
		MyASN: nodeASN, PeerASN: routerASN, PeerAddressFrom: &v1beta1.PeerAddressSource{DefaultGateway: v1beta1.FamilyIPv6},
	})
	for _, node := range e.lab.otherNodes() {
		if s := e.waitEstablished(node, e.namespace+"@"+r.host.IPs()[1].String()); s.Address != r.host.IPs()[1].String() {
			e.Errorf("%s takes %s for its default gateway", node, s.Address)
		}
	}
	e.waitVerdict("bgppeers", e.namespace, true, v1beta1.ReasonAccepted)
}

// testMultihop: a router behind another one is reached with ebgpMultiHop only.
func testMultihop(e *env, b *bench) {
	l := b.link(e, 0)
	l.farFromNode()
	l.neighbor(func(n *routers.Neighbor) { n.Source, n.Multihop, n.Passive = l.remote, 3, true })
	l.connect(func(p *v1beta1.BGPPeerSpec) { p.ConnectTime = "1s" })
	l.waitNodeSession(l.node, l.peer, "an error", func(s v1beta1.BGPSessionStatus) bool {
		return s.State != v1beta1.BGPEstablished && s.LastError != nil
	})
	l.patch("bgppeers", l.peer, specPatch{"ebgpMultiHop": true}.patch())
	l.waitUp()
	l.waitRoutes(told{}, 0)
}

// testTooFar: with ttlSecurity, a router further away than that is refused by the
// TTL of its packets, before and during a session (RFC 5082).
func testTooFar(l *link) {
	dropped := func() string {
		return l.run(l.node, "nstat", "--ignore", "--zeros", "--noupdate", "TcpExtTCPMinTTLDrop")
	}
	before := dropped()
	l.neighbor(nil) // sends to external neighbors with a TTL of 1
	l.connect(func(p *v1beta1.BGPPeerSpec) { p.TTLSecurity, p.ConnectTime, p.HoldTime = 1, "1s", "3s" })
	l.waitTrouble(l.node, l.peer, "ttlSecurity finds the router too far away")
	if after := dropped(); after == before {
		l.Errorf("the kernel has dropped nothing for its TTL: %s", after)
	}
	if session := l.session(); session.Up() {
		l.Errorf("the router has the session %+v", session)
	}
	l.neighbor(func(n *routers.Neighbor) { n.TTLSecurity = 1 })
	l.waitUp()
	l.waitRoutes(told{}, l.nth)

	// As if another router had come in between.
	ttl := []string{"ip ttl", "ip6 hoplimit"}[l.nth]
	l.onTheWay(l.router.host.Name, "tcp sport 179", ttl+" set 254")
	l.waitTrouble(l.node, l.peer)
	l.patch("bgppeers", l.peer, specPatch{"ttlSecurity": 2}.patch())
	l.waitUp()
	l.waitRoutes(told{}, l.nth)
}

// testUnnumbered: on a cable between a node and a router that has no addresses but
// link-local ones, routes of both families are announced, those of IPv4 by RFC 8950.
func testUnnumbered(e *env, b *bench) {
	l := b.link(e, 1)
	cable := "fab" + l.peer[strings.LastIndex(l.peer, "-")+1:] // no other test's
	l.layCable(cable)
	local, remote := l.linkLocalOn(l.node, cable), l.linkLocalOn(l.router.host.Name, cable)
	l.local = local.WithZone(cable)
	peer := func(p *v1beta1.BGPPeerSpec) {
		p.PeerAddress, p.Interface = "", v1beta1.InterfaceName(cable)
		p.PeerASN, p.DynamicASN = 0, v1beta1.DynamicExternal
	}
	neighbor := func(n *routers.Neighbor) { n.Address, n.Unnumbered, n.ASN = netip.Addr{}, cable, 0 }
	if b.router.Kind() == routers.BIRD { // it has no unnumbered neighbors and sends no advertisements
		peer = func(p *v1beta1.BGPPeerSpec) {
			p.PeerAddress = v1beta1.PeerAddress(remote.WithZone(cable).String())
			p.Families = []v1beta1.IPFamily{v1beta1.FamilyIPv4, v1beta1.FamilyIPv6}
		}
		neighbor = func(n *routers.Neighbor) { n.Address = l.local }
	}
	l.neighbor(func(n *routers.Neighbor) {
		n.ExtendedNextHop = true
		neighbor(n)
	})
	l.connect(peer)
	s := l.waitEstablished(l.node, l.peer)
	if s.Address != remote.WithZone(cable).String() || s.PeerASN != routerASN || !slices.Equal(s.Families, []string{"IPv4", "IPv6"}) {
		l.Errorf("the NodeState says %s, want a session with %s", describeSession(s), remote)
	}
	for _, address := range b.addresses {
		l.waitFor("a route to "+address.String()+" over "+local.String(), bgpTimeout, func(ctx context.Context) (bool, string) {
			paths, err := l.router.Route(ctx, hostPrefix(address))
			if err != nil {
				return false, err.Error()
			}
			return slices.ContainsFunc(paths, func(p routers.Path) bool {
				return slices.ContainsFunc(p.NextHops, func(hop netip.Addr) bool { return hop.WithZone("") == local })
			}), fmt.Sprintf("%+v", paths)
		})
	}
}

// layCable connects the node and the router by a cable of their own.
func (l *link) layCable(name string) {
	l.Helper()
	router := l.lab.inside(l.router.host.Name).Name
	l.run(l.node, "ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", router)
	l.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), 20*time.Second)
		defer cancel()
		if _, err := l.lab.Exec(ctx, l.node, "ip", "link", "delete", name); err != nil {
			l.Error(err)
		}
	})
	for _, host := range []string{l.node, l.router.host.Name} {
		l.run(host, "ip", "link", "set", name, "up")
	}
}

// linkLocalOn returns the link-local address of an interface once it can be used.
func (l *link) linkLocalOn(host, name string) netip.Addr {
	l.Helper()
	var address netip.Addr
	l.waitFor("a link-local address on "+name+" of "+host, 10*time.Second, func(ctx context.Context) (bool, string) {
		out, err := l.lab.Exec(ctx, host, "ip", "-6", "-oneline", "address", "show", "dev", name, "scope", "link", "-tentative")
		if err != nil {
			return false, err.Error()
		}
		_, rest, _ := strings.Cut(string(out), "inet6 ")
		text, _, _ := strings.Cut(rest, "/")
		address, err = netip.ParseAddr(text)
		return err == nil, string(out)
	})
	return address
}

// testBadPeers: what is wrong with one peer is told of it, and costs no other a
// thing.
func (f *fabric) testBadPeers(e *env, b *bench) {
	shared := sessionsOf(f.routers(e), e.lab.otherNodes()...)
	l := b.link(e, 0)
	l.neighbor(func(n *routers.Neighbor) { n.Hold = 9 * time.Second })
	bad := func(name string, change func(*v1beta1.BGPPeerSpec)) string {
		name = l.peer + "-" + name
		l.createBGPPeer(name, l.spec(change))
		l.advertise(name, v1beta1.BGPAdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{b.pool}, Peers: []v1beta1.ObjectName{v1beta1.ObjectName(name)}})
		return name
	}
	wrongASN := bad("asn", func(p *v1beta1.BGPPeerSpec) { p.PeerASN = 64999 })
	absent := bad("absent", func(p *v1beta1.BGPPeerSpec) { p.PeerAddress, p.ConnectTime = "172.20.127.254", "1s" })
	closed := bad("closed", func(p *v1beta1.BGPPeerSpec) { p.PeerPort = 9 })
	device := bad("device", func(p *v1beta1.BGPPeerSpec) { p.VRF = "red" })
	sourceless := bad("source", func(p *v1beta1.BGPPeerSpec) { p.SourceInterface, p.PeerPort = "wlan0", 10 })
	l.waitTrouble(l.node, wrongASN, "64512", "want 64999")
	l.waitTrouble(l.node, absent, "172.20.127.254")
	l.waitTrouble(l.node, closed, "connection refused")
	l.waitTrouble(l.node, device, "red")
	l.waitTrouble(l.node, sourceless, "spec.sourceInterface", "no IPv4 address on wlan0")
	l.waitVerdict("bgppeers", wrongASN, true, v1beta1.ReasonAccepted) // only the router knows

	// That was the router's only session with the node; now it gets a good one.
	l.deleteObject("bgppeers", wrongASN)
	l.connect(nil)
	l.waitUp()
	l.waitRoutes(told{}, 0)
	status, err := l.nodeState(l.ctx, l.node)
	for _, name := range []string{absent, closed, device, sourceless} {
		if err != nil || !slices.Contains(status.BGPDown, name) || slices.Contains(status.BGPDown, l.peer) {
			l.Errorf("bgpDown of %s is %v (error %v)", l.node, status.BGPDown, err)
		}
	}
	shared.expectSame()
}
