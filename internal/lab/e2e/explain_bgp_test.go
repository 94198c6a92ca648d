package e2e

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// routed is a Service whose address is for the routers of an advertisement that the
// change spoils: by default for the one BGPPeer of the test's name.
func (x *explained) routed(e *env, change func(*v1beta1.BGPAdvertisementSpec), changes ...func(*corev1.Service)) {
	e.Helper()
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	spec := v1beta1.BGPAdvertisementSpec{Peers: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}}
	if change != nil {
		change(&spec)
	}
	e.advertise(e.namespace, spec)
	x.web(e, changes...)
}

// peer makes a BGPPeer of the test's name that is for one node, but for the change.
func (x *explained) peer(e *env, change func(*v1beta1.BGPPeerSpec)) {
	e.Helper()
	spec := v1beta1.BGPPeerSpec{
		// Nobody has that address.
		MyASN: nodeASN, PeerASN: routerASN, PeerAddress: v1beta1.PeerAddress(e.address(15)[0].String()), NodeSelectors: onNode("node-1"), ConnectTime: "1s",
	}
	if change != nil {
		change(&spec)
	}
	e.createBGPPeer(e.namespace, spec)
}

// linked has a node speak IPv4 to a router as the changes say. Each situation has a
// node of its own, as a router tells its neighbors apart by their addresses.
func (x *explained) linked(e *env, kind routers.Kind, node string, neighbor func(*routers.Neighbor), peer func(*v1beta1.BGPPeerSpec)) *link {
	e.Helper()
	i := slices.IndexFunc(x.benches, func(b *bench) bool { return b.router.Kind() == kind })
	l := x.benches[i].linkTo(e, 0, node)
	l.neighbor(neighbor)
	e.createBGPPeer(l.peer, l.spec(func(p *v1beta1.BGPPeerSpec) {
		p.ConnectTime = "1s"
		if peer != nil {
			peer(p)
		}
	}))
	return l
}

// peerSituations are about BGPPeers and advertisements that no router is needed for.
func (x *explained) peerSituations() []situation {
	spoilt := func(peer func(*v1beta1.BGPPeerSpec), advertisement func(*v1beta1.BGPAdvertisementSpec), changes ...func(*corev1.Service)) func(*env) {
		return func(e *env) {
			x.peer(e, peer)
			x.routed(e, advertisement, changes...)
		}
	}
	return []situation{
		{
			name: "peer-unknown", arrange: func(e *env) { x.routed(e, nil) },
			cause: "there is no BGPPeer NAMESPACE", fix: "BGPAdvertisement NAMESPACE", status: "BGPAdvertisement NAMESPACE: UnknownPeer",
		},
		{
			name: "peer-on-no-node", arrange: spoilt(func(p *v1beta1.BGPPeerSpec) { p.NodeSelectors = onNode("node-9") }, nil),
			cause: "nodeSelectors", fix: "BGPPeer NAMESPACE",
		},
		{
			name: "peer-without-secret",
			arrange: spoilt(func(p *v1beta1.BGPPeerSpec) {
				p.PasswordSecret = &v1beta1.SecretReference{Name: "nowhere"}
			}, nil),
			cause: "there is no Secret nowhere", fix: "BGPPeer NAMESPACE", status: "BGPPeer NAMESPACE: SecretNotUsable",
		},
		{
			name: "peer-without-profile", arrange: func(e *env) {
				x.linked(e, routers.FRR, "node-3", nil, func(p *v1beta1.BGPPeerSpec) { p.BFDProfile = "nowhere" })
				x.routed(e, nil)
			},
			cause: "BFDProfile nowhere", fix: "BGPPeer NAMESPACE", status: "BGPPeer NAMESPACE: UnknownBFDProfile",
			mend: patched("bgppeers", map[string]any{"bfdProfile": nil}),
		},
		{
			name: "peer-without-interface", arrange: spoilt(func(p *v1beta1.BGPPeerSpec) { p.SourceInterface = "wlan0" }, nil),
			cause: "wlan0", fix: "BGPPeer NAMESPACE",
		},
		{
			name: "router-absent", arrange: spoilt(nil, nil),
			cause: "IPV4-15", fix: "BGPPeer NAMESPACE", status: "Session NAMESPACE of node-1",
		},
		{
			name: "advertisement-by-no-node", arrange: spoilt(nil, func(s *v1beta1.BGPAdvertisementSpec) { s.NodeSelectors = onNode("node-9") }),
			cause: "nodeSelectors", fix: "spec.nodeSelectors of BGPAdvertisement NAMESPACE",
		},
		{
			name: "advertisement-by-other-nodes", arrange: spoilt(nil, func(s *v1beta1.BGPAdvertisementSpec) { s.NodeSelectors = onNode("node-2") }),
			cause: "no node has a session", fix: "Make a BGPPeer select nodes that can announce",
		},
		{
			name: "community-unknown", arrange: spoilt(nil, func(s *v1beta1.BGPAdvertisementSpec) { s.Communities = []v1beta1.CommunityRef{"nowhere"} }),
			cause: "BGPAdvertisement NAMESPACE is not in force", fix: "BGPAdvertisement NAMESPACE", status: "BGPAdvertisement NAMESPACE: UnknownCommunity",
		},
		{
			name: "routed-without-pods", arrange: func(e *env) {
				x.peer(e, nil)
				e.createPool(e.namespace, e.ranges(0, 4), nil)
				e.advertise(e.namespace, v1beta1.BGPAdvertisementSpec{Peers: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}})
				e.createService("web", single, forPods("nobody"))
			},
			cause: "no endpoint of the Service serves", fix: "No Pod matches spec.selector app=nobody",
		},
	}
}

// routerSituations are about sessions with routers that are there.
func (x *explained) routerSituations() []situation {
	return []situation{
		{
			name: "router-dead", arrange: func(e *env) {
				r := e.startRouter(routers.FRR, network.Router)
				e.createBGPPeer(e.namespace, v1beta1.BGPPeerSpec{
					MyASN: nodeASN, PeerASN: routerASN, PeerAddress: v1beta1.PeerAddress(r.host.IPs()[0].String()), ConnectTime: "1s", NodeSelectors: onNode("node-1"),
				})
				x.routed(e, nil)
				e.waitEstablished("node-1", e.namespace)
				if err := r.Kill(e.ctx); err != nil {
					e.Fatal(err)
				}
			},
			cause: "connection refused", fix: "BGPPeer NAMESPACE", status: "Session NAMESPACE of node-1",
		},
		{
			name: "wrong-asn", arrange: func(e *env) {
				x.linked(e, routers.FRR, "node-2", nil, func(p *v1beta1.BGPPeerSpec) { p.PeerASN = 64999 })
				x.routed(e, nil)
			},
			cause: "64512", fix: "spec.peerASN of BGPPeer NAMESPACE", status: "Session NAMESPACE of node-2",
			mend: patched("bgppeers", map[string]any{"peerASN": routerASN}),
		},
		{
			name: "wrong-asn-of-ours", arrange: func(e *env) {
				x.linked(e, routers.BIRD, "node-2", nil, func(p *v1beta1.BGPPeerSpec) { p.MyASN = 64998 })
				x.routed(e, nil)
			},
			cause: "bad peer AS", fix: "spec.myASN of BGPPeer NAMESPACE", mend: patched("bgppeers", map[string]any{"myASN": nodeASN}),
		},
		{
			name: "wrong-password", arrange: func(e *env) {
				e.setPassword(e.namespace, "squeamish")
				x.linked(e, routers.BIRD, "node-1", func(n *routers.Neighbor) { n.Password = "ossifrage" }, func(p *v1beta1.BGPPeerSpec) {
					p.PasswordSecret = &v1beta1.SecretReference{Name: v1beta1.ObjectName(e.namespace)}
				})
				x.routed(e, nil)
			},
			cause: "password", fix: "Make the password of BGPPeer NAMESPACE that of the router",
			mend: func(e *env) { e.setPassword(e.namespace, "ossifrage") },
		},
		{
			name: "bfd-lost", arrange: func(e *env) {
				interval := ptr.To[int32](100)
				e.createProfile(e.namespace, v1beta1.BFDProfileSpec{ReceiveInterval: interval, TransmitInterval: interval})
				l := x.linked(e, routers.FRR, "node-1", fastBFD, func(p *v1beta1.BGPPeerSpec) { p.BFDProfile = v1beta1.ObjectName(e.namespace) })
				x.routed(e, nil)
				l.waitUp()
				l.waitWatched()
				l.onTheWay(l.router.host.Name, fmt.Sprintf("udp dport %d", bfdPort), "drop")
			},
			cause: "BFD", fix: "BFD",
		},
		{
			name: "family-not-spoken", arrange: func(e *env) {
				l := x.linked(e, routers.BIRD, "node-3", nil, func(p *v1beta1.BGPPeerSpec) { p.Families = []v1beta1.IPFamily{v1beta1.FamilyIPv4} })
				x.routed(e, nil, withPolicy(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
				l.waitUp()
			},
			cause: "IPv6", fix: "spec.families of BGPPeer NAMESPACE", mend: patched("bgppeers", map[string]any{"families": []string{"IPv4", "IPv6"}}),
		},
	}
}

// bfdPort is that of RFC 5881.
const bfdPort = 3784
