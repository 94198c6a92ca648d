package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// Names of the BGPPeers that all tests share. FRR is spoken to over IPv4, BIRD
// over IPv6, and both are told routes of both families.
const (
	frrPeer  = "frr"
	birdPeer = "bird"
)

func sharedPeers() []v1beta1.ObjectName { return []v1beta1.ObjectName{frrPeer, birdPeer} }

// fabric is what tests of BGP share: two routers between the nodes and the client
// behind them, and two more beside the nodes that tests configure for themselves.
type fabric struct {
	lab *testLab
	// shared routers, FRR and BIRD, which the nodes always have sessions with.
	shared []*bgpRouter
	// benches are for tests of single sessions.
	benches []*bench
}

// TestBGP runs Berth against FRR and BIRD at once.
func TestBGP(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name = "e2ebgp"
	options.Nodes = nodes
	options.Routers = 2
	l := startLabWith(t, options)
	f := startFabric(newEnv(t, l))
	runIn(t, l, append([]testCase{
		// They look at what concerns all sessions of a node.
		{name: "Reports", run: f.testReports, alone: true},
		{name: "Disagreement", run: f.testDisagreement, alone: true},
		{name: "Attributes", run: f.testAttributes},
		{name: "Aggregates", run: f.testAggregates},
		{name: "Spread", run: f.testSpread},
		{name: "Local", run: f.testLocal},
		{name: "Selection", run: f.testSelection},
		{name: "Plan", run: f.testPlan},
	}, f.sessionCases()...))
}

func startFabric(e *env) *fabric {
	frr := e.startRouter(routers.FRR, network.Router, func(c *routers.Config) {
		c.Neighbors = append(c.Neighbors, e.nodesAsNeighbors(1)...) // see testDefaultGateway
	})
	bird := e.startRouter(routers.BIRD, network.Router2, func(c *routers.Config) { c.Neighbors = e.nodesAsNeighbors(1) })
	both := []v1beta1.IPFamily{v1beta1.FamilyIPv4, v1beta1.FamilyIPv6}
	for name, address := range map[string]netip.Addr{frrPeer: frr.host.IPs()[0], birdPeer: bird.host.IPs()[1]} {
		e.createBGPPeer(name, v1beta1.BGPPeerSpec{
			MyASN: nodeASN, PeerASN: routerASN, PeerAddress: v1beta1.PeerAddress(address.String()), Families: both,
		})
	}
	f := &fabric{lab: e.lab, shared: []*bgpRouter{frr, bird}}
	f.benches = startBenches(e)
	for _, r := range f.shared {
		r.waitSessions(e.lab.otherNodes()...)
	}
	return f
}

// routers returns the shared ones for use by a test.
func (f *fabric) routers(e *env) []*bgpRouter {
	all := make([]*bgpRouter, len(f.shared))
	for i, r := range f.shared {
		all[i] = r.forTest(e)
	}
	return all
}

// forTest returns the same router, which fails another test.
func (r *bgpRouter) forTest(e *env) *bgpRouter {
	return &bgpRouter{env: e, Router: r.Router, host: r.host}
}

// allSessions are those of routers by their nodes, to be compared later.
type allSessions map[*bgpRouter]map[string]routers.Session

func sessionsOf(all []*bgpRouter, nodes ...string) allSessions {
	sessions := allSessions{}
	for _, r := range all {
		sessions[r] = r.waitSessions(nodes...)
	}
	return sessions
}

func (all allSessions) expectSame() {
	for r, sessions := range all {
		r.Helper()
		r.expectSameSessions(sessions)
	}
}

// serve gives the test a pool of its own, Pods, and a Service named web. It
// returns the Service's addresses, which nobody announces yet.
func (e *env) serve(d deployment, changes ...func(*corev1.Service)) []netip.Addr {
	e.Helper()
	e.createPool(e.namespace, e.ranges(0, slotSize), nil)
	if d.app == "" {
		d.app = "web"
	}
	e.createDeployment(d)
	e.createService("web", changes...)
	return e.waitAllocated("web")
}

// testAttributes: routers see every attribute exactly as the advertisement has
// it, and a change of attributes touches no session.
func (f *fabric) testAttributes(e *env) {
	addresses := e.serve(deployment{replicas: 1})
	all, names := f.routers(e), e.lab.otherNodes()
	sessions := sessionsOf(all, names...)
	expect := func(want told) {
		e.Helper()
		for _, r := range all {
			for _, address := range addresses {
				r.waitRoute(hostPrefix(address), want.byNodes(names...)...)
			}
		}
	}
	e.createCommunity(e.namespace,
		v1beta1.CommunityAlias{Name: v1beta1.CommunityName(e.namespace), Value: "64600:4711"},
		v1beta1.CommunityAlias{Name: v1beta1.CommunityName(e.namespace + ".large"), Value: "large:4294967295:0:7"})
	e.advertise(e.namespace, v1beta1.BGPAdvertisementSpec{
		MED: ptr.To[int64](4294967295), ASPathPrepend: 3,
		// External peers are not told it: FRR would show it.
		LocalPref: ptr.To[int64](250),
		Communities: []v1beta1.CommunityRef{
			"64600:1", "0:0", "large:64600:1:2", "no-export",
			v1beta1.CommunityRef(e.namespace), v1beta1.CommunityRef(e.namespace + ".large"),
		},
	})
	expect(told{
		med: ptr.To[uint32](4294967295), prepended: 3,
		communities:      []routers.Community{0, routers.NewCommunity(64600, 1), routers.NewCommunity(64600, 4711), routers.NoExport},
		largeCommunities: []routers.LargeCommunity{{64600, 1, 2}, {4294967295, 0, 7}},
	})

	for name, community := range wellKnown() {
		// FRR gives what is to be dropped this one as well (RFC 7999 section 3.2).
		names, communities := []string{name, "no-export"}, []routers.Community{community, routers.NoExport}
		if name == "no-export" {
			names, communities = names[:1], communities[:1]
		}
		e.patch("bgpadvertisements", e.namespace, specPatch{
			"med": 0, "asPathPrepend": nil, "localPref": nil, "communities": names,
		}.patch())
		expect(told{med: ptr.To[uint32](0), communities: communities})
	}
	e.patch("bgpadvertisements", e.namespace, specPatch{"med": nil, "communities": nil}.patch())
	expect(told{})
	e.deleteObject("bgpadvertisements", e.namespace)
	for _, r := range all {
		for _, address := range addresses {
			r.waitRoute(hostPrefix(address))
		}
	}
	sessions.expectSame()
}

// wellKnown are the communities that have names.
func wellKnown() map[string]routers.Community {
	return map[string]routers.Community{
		"no-export": routers.NoExport, "no-advertise": routers.NoAdvertise, "no-export-subconfed": routers.NoExportSubAS,
		"no-peer": routers.NoPeer, "graceful-shutdown": routers.GracefulShutdown, "blackhole": routers.Blackhole,
		"accept-own": 0xFFFF0001, "accept-own-nexthop": 0xFFFF0008, "no-llgr": 0xFFFF0007,
	}
}

// specPatch is a merge patch of an object's spec; nil removes a field.
type specPatch map[string]any

func (p specPatch) patch() any { return map[string]any{"spec": p} }

// testAggregates: prefixes are announced instead of addresses, or beside them,
// and never one that reaches beyond the pool.
func (f *fabric) testAggregates(e *env) {
	addresses := e.serve(deployment{replicas: 1}) // the pool is the slot: a /28 and a /124
	all, names := f.routers(e), e.lab.otherNodes()
	e.advertise(e.namespace, v1beta1.BGPAdvertisementSpec{
		AggregationLength: ptr.To[int32](28), AggregationLengthV6: ptr.To[int32](124), Communities: []v1beta1.CommunityRef{"64600:28"},
	})
	e.waitVerdict("bgpadvertisements", e.namespace, true, v1beta1.ReasonAccepted)
	aggregate := told{communities: []routers.Community{routers.NewCommunity(64600, 28)}}
	expect := func(aggregates, specifics []told) {
		e.Helper()
		for _, r := range all {
			for i, address := range addresses {
				r.waitRoute(netip.PrefixFrom(e.first[i], address.BitLen()-4), aggregates...)
				r.waitRoute(hostPrefix(address), specifics...)
			}
		}
	}
	expect(aggregate.byNodes(names...), nil)
	for _, address := range addresses {
		e.waitServed(network.WANClient, address, servicePort, "/hostname")
	}

	e.patch("bgpadvertisements", e.namespace, specPatch{"includeSpecificRoutes": true}.patch())
	expect(aggregate.byNodes(names...), aggregate.byNodes(names...))

	// The addresses for the routers themselves, the prefix for whom they tell.
	e.patch("bgpadvertisements", e.namespace, specPatch{"includeSpecificRoutes": nil}.patch())
	e.advertise(e.namespace+"-specific", v1beta1.BGPAdvertisementSpec{Communities: []v1beta1.CommunityRef{"no-export"}})
	specific := told{communities: []routers.Community{routers.NoExport}}
	expect(aggregate.byNodes(names...), specific.byNodes(names...))

	e.deleteObject("bgpadvertisements", e.namespace+"-specific")
	e.patch("bgpadvertisements", e.namespace, specPatch{"aggregationLength": 27, "aggregationLengthV6": 123}.patch())
	e.waitVerdict("bgpadvertisements", e.namespace, true, v1beta1.ReasonPartlyAccepted, "spec.aggregationLength: ", "spec.aggregationLengthV6: ", "reaches beyond the pool")
	expect(nil, aggregate.byNodes(names...))
}

// testSpread: a client behind the routers reaches the Pods, and its connections
// are spread over the nodes.
func (f *fabric) testSpread(e *env) {
	// Each node brings traffic to its own Pod, so who answers tells the way.
	addresses := e.serve(deployment{replicas: nodes}, local)
	all, names := f.routers(e), e.lab.otherNodes()
	e.advertise(e.namespace, v1beta1.BGPAdvertisementSpec{})
	var pods []string
	for _, pod := range e.pods("web") {
		pods = append(pods, pod.Name)
	}
	for _, address := range addresses {
		for _, r := range all {
			r.waitRoute(hostPrefix(address), told{}.byNodes(names...)...)
			r.waitECMP(address, names...)
		}
		e.waitSpread(address, pods...)
		e.checkSource(network.WANClient, address)
	}
	e.expectAnnounced("web", addresses, nodes)
}

// expectAnnounced returns when the condition tells how many nodes announce each
// address to the shared peers.
func (e *env) expectAnnounced(service string, addresses []netip.Addr, nodes int) {
	e.Helper()
	from := fmt.Sprintf("%d nodes", nodes)
	if nodes == 1 {
		from = "1 node"
	}
	var want []string
	for _, address := range addresses {
		want = append(want, fmt.Sprintf("%s by BGP from %s to %s, %s", address, from, birdPeer, frrPeer))
	}
	e.waitFor(fmt.Sprintf("the condition of %s to say %q", service, want), 20*time.Second, func(context.Context) (bool, string) {
		for _, c := range e.service(service).Status.Conditions {
			if c.Type == v1beta1.ConditionAnnounced {
				return c.Status == metav1.ConditionTrue && c.Reason == "Announced" && containsAll(c.Message, want), c.Reason + ": " + c.Message
			}
		}
		return false, "no condition"
	})
}

// testLocal: under externalTrafficPolicy Local exactly the nodes with a serving
// endpoint announce, the Pods see the client's own address, and routes follow the
// Pods while sessions stay.
func (f *fabric) testLocal(e *env) {
	addresses := e.serve(deployment{replicas: 2, nodes: []string{"node-1", "node-2"}}, local)
	all := f.routers(e)
	sessions := sessionsOf(all, e.lab.otherNodes()...)
	e.advertise(e.namespace, v1beta1.BGPAdvertisementSpec{})
	expect := func(names ...string) {
		e.Helper()
		for _, r := range all {
			for _, address := range addresses {
				r.waitRoute(hostPrefix(address), told{}.byNodes(names...)...)
				r.waitECMP(address, names...)
			}
		}
		for _, address := range addresses {
			if len(names) > 0 {
				e.checkSource(network.WANClient, address)
			}
		}
	}
	expect("node-1", "node-2")
	e.expectAnnounced("web", addresses, 2)

	e.scale("web", 0)
	expect()
	e.waitCondition("web", v1beta1.ConditionAnnounced, metav1.ConditionFalse, "NoEndpoints", texts(addresses)...)
	e.movePods("web", "node-3")
	e.scale("web", 1)
	expect("node-3")
	e.expectAnnounced("web", addresses, 1)

	// All nodes serve under Cluster.
	e.editService("web", `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
	expectCluster := e.lab.otherNodes()
	for _, r := range all {
		for _, address := range addresses {
			r.waitRoute(hostPrefix(address), told{}.byNodes(expectCluster...)...)
		}
	}
	sessions.expectSame()
}

// testSelection: each selector chooses exactly what it should.
func (f *fabric) testSelection(e *env) {
	e.createPool(e.namespace, e.ranges(0, 8), nil)
	e.createPool(e.namespace+"-other", e.ranges(8, 8), func(p *v1beta1.IPAddressPool) {
		p.Labels = map[string]string{"pool": e.namespace}
	})
	e.createDeployment(deployment{app: "web", replicas: 1})
	at := func(n int) func(*corev1.Service) {
		return annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(n)))
	}
	e.createService("web", at(0), labelled("tier", "gold"))
	e.createService("mail", at(1))
	e.createService("other", at(8))
	var addresses [][]netip.Addr
	for _, name := range []string{"web", "mail", "other"} {
		addresses = append(addresses, e.waitAllocated(name))
	}
	all, names := f.routers(e), e.lab.otherNodes()
	none, everyone := []string(nil), names
	// Who announces web, mail and other to FRR and BIRD.
	expect := func(toFRR, toBIRD [3][]string) {
		e.Helper()
		for i, want := range [][3][]string{toFRR, toBIRD} {
			for service, nodes := range want {
				for _, address := range addresses[service] {
					all[i].waitRoute(hostPrefix(address), told{}.byNodes(nodes...)...)
				}
			}
		}
	}
	pools := []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace), v1beta1.ObjectName(e.namespace + "-other")}
	e.advertise(e.namespace, v1beta1.BGPAdvertisementSpec{IPAddressPools: pools, Peers: []v1beta1.ObjectName{frrPeer}})
	expect([3][]string{everyone, everyone, everyone}, [3][]string{})

	change := func(p specPatch) { e.patch("bgpadvertisements", e.namespace, p.patch()) }
	match := func(key, value string) []any {
		return []any{map[string]any{"matchLabels": map[string]string{key: value}}}
	}
	change(specPatch{"peers": nil, "peerSelectors": match("peer", birdPeer), "serviceSelectors": match("tier", "gold")})
	expect([3][]string{}, [3][]string{everyone, none, none})

	some := []any{map[string]any{"matchExpressions": []any{
		map[string]any{"key": corev1.LabelHostname, "operator": "In", "values": []string{"node-1", "node-3"}},
	}}}
	two := []string{"node-1", "node-3"}
	change(specPatch{"serviceSelectors": nil, "nodeSelectors": some, "ipAddressPools": nil, "ipAddressPoolSelectors": match("pool", e.namespace)})
	expect([3][]string{}, [3][]string{none, none, two})

	// A label that a Service gets, or a node, counts at once.
	change(specPatch{"nodeSelectors": nil, "ipAddressPools": pools, "ipAddressPoolSelectors": nil, "serviceSelectors": match("tier", "gold"), "peers": sharedPeers(), "peerSelectors": nil})
	e.editService("mail", `{"metadata":{"labels":{"tier":"gold"}}}`)
	e.editService("web", `{"metadata":{"labels":{"tier":null}}}`)
	expect([3][]string{none, everyone, none}, [3][]string{none, everyone, none})
	e.waitCondition("web", v1beta1.ConditionAnnounced, metav1.ConditionFalse, "NoAdvertisement", "nor does a BGPAdvertisement")
}

// testDisagreement: routes that several advertisements make have the attributes
// that the documentation says, and the NodeState tells of it.
func (f *fabric) testDisagreement(e *env) {
	addresses := e.serve(deployment{replicas: 1})
	names := e.lab.otherNodes()
	e.advertise(e.namespace+"-a", v1beta1.BGPAdvertisementSpec{MED: ptr.To[int64](20), ASPathPrepend: 1, Communities: []v1beta1.CommunityRef{"64600:1"}})
	e.advertise(e.namespace+"-b", v1beta1.BGPAdvertisementSpec{MED: ptr.To[int64](10), ASPathPrepend: 2, Communities: []v1beta1.CommunityRef{"64600:2"}})
	want := told{med: ptr.To[uint32](10), prepended: 1, communities: []routers.Community{routers.NewCommunity(64600, 1), routers.NewCommunity(64600, 2)}}
	for _, r := range f.routers(e) {
		for _, address := range addresses {
			r.waitRoute(hostPrefix(address), want.byNodes(names...)...)
		}
	}
	// Two attributes of two prefixes to two peers.
	e.waitReadiness("node-1", "8 disagreements", "disagree about spec.med", "10 in "+e.namespace+"-b, 20 in "+e.namespace+"-a", "10 counts")
	e.deleteObject("bgpadvertisements", e.namespace+"-b")
	want = told{med: ptr.To[uint32](20), prepended: 1, communities: want.communities[:1]}
	for _, r := range f.routers(e) {
		for _, address := range addresses {
			r.waitRoute(hostPrefix(address), want.byNodes(names...)...)
		}
	}
}

// waitReadiness returns when the condition BGPReady of a node contains the texts.
func (e *env) waitReadiness(node string, texts ...string) {
	e.Helper()
	e.waitFor(fmt.Sprintf("BGPReady of %s to say %q", node, texts), 20*time.Second, func(ctx context.Context) (bool, string) {
		status, err := e.nodeState(ctx, node)
		if err != nil {
			return false, err.Error()
		}
		i := slices.IndexFunc(status.Conditions, func(c metav1.Condition) bool { return c.Type == v1beta1.ConditionBGPReady })
		if i < 0 {
			return false, "no condition"
		}
		return containsAll(status.Conditions[i].Message, texts), fmt.Sprintf("%+v", status.Conditions[i])
	})
}

// testReports: the NodeState tells all there is to know of sessions that work.
func (f *fabric) testReports(e *env) {
	for i, r := range f.routers(e) {
		name, family := string(sharedPeers()[i]), i // FRR over IPv4, BIRD over IPv6
		for _, host := range e.lab.Plan().Nodes() {
			got := e.waitEstablished(host.Name, name)
			session := r.session(host.Name)
			want := v1beta1.BGPSessionStatus{
				Name: name, Peer: name, Address: r.host.IPs()[family].String(), LocalAddress: host.IPs()[family].String(),
				State: v1beta1.BGPEstablished, LocalASN: nodeASN, PeerASN: routerASN,
				LocalRouterID: host.IPs()[0].String(), PeerRouterID: r.host.IPs()[0].String(),
				HoldTime: session.Hold.String(), Families: []string{"IPv4", "IPv6"},
				// What else changes with the router's version, or with time.
				Capabilities: got.Capabilities, Since: got.Since, LastError: got.LastError,
			}
			if !reflect.DeepEqual(got, want) {
				e.Errorf("NodeState %s says %s, want %s", host.Name, describeSession(got), describeSession(want))
			}
			if got.Since == nil || got.Since.Sub(session.Since).Abs() > 6*time.Second {
				e.Errorf("NodeState %s says that session %s is up since %v, the router since %v", host.Name, name, got.Since, session.Since)
			}
			for _, capability := range []string{"multiprotocol", "route-refresh", "four-octet-asn"} {
				if !slices.Contains(got.Capabilities, capability) {
					e.Errorf("NodeState %s says of session %s that the router has only %v", host.Name, name, got.Capabilities)
				}
			}
		}
	}
	for _, node := range e.lab.otherNodes() {
		e.waitReadiness(node, "every session is established")
		if status, err := e.nodeState(e.ctx, node); err != nil || status.BGPUp != "2/2" || len(status.BGPDown) > 0 {
			e.Errorf("NodeState %s: bgpUp %s, bgpDown %v (error %v)", node, status.BGPUp, status.BGPDown, err)
		}
	}
	e.waitVerdict("bgppeers", frrPeer, true, v1beta1.ReasonAccepted)
	e.waitVerdict("bgppeers", birdPeer, true, v1beta1.ReasonAccepted)
}
