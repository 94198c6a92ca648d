package main

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bfd"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/netif"
)

// fabric is a node "a" with a router on its link, and the Services of a test.
type fabric struct {
	t        *testing.T
	clock    *clocktesting.FakePassiveClock
	sessions *fakeSessions
	bfd      *fakeBFD
	world    *world
	routers  *routers
	again    time.Time
}

func newFabric(t *testing.T, objects config.Objects) *fabric {
	t.Helper()
	ready := make(chan struct{})
	close(ready)
	f := &fabric{
		t: t, clock: clocktesting.NewFakePassiveClock(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)),
		sessions: newFakeSessions(), bfd: newFakeBFD(),
	}
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		t.Fatal(err)
	}
	f.world = newWorld(cache, k8s.Class{Default: true}, 7956, f.clock)
	f.routers = newRouters(routers{
		node: "a", sessions: f.sessions, bfd: f.bfd, ready: ready, clock: f.clock, logger: log.NewNopLogger(),
		gateways: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("192.0.2.254")}, nil },
	})
	f.world.config, _ = config.Build(objects)
	f.node(nil, nil)
	return f
}

// node makes node "a" have these labels and annotations.
func (f *fabric) node(nodeLabels, annotations map[string]string) {
	f.t.Helper()
	var err error
	f.world.cache.Nodes, err = k8s.StoreOf(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: nodeLabels, Annotations: annotations},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.world.updateNode("a")
}

// serve makes a Service have an address that is served from nodes.
func (f *fabric) serve(name, addr string, local bool, nodes ...string) {
	b := &backends{anywhere: len(nodes) > 0, ready: map[string]bool{}}
	for _, n := range nodes {
		b.ready[n] = true
	}
	key := serviceKey{"default", name}
	f.world.services[key] = &service{
		key: key, labels: labels.Set{"app": name}, addresses: []netip.Addr{netip.MustParseAddr(addr)}, local: local,
		backends: [families]*backends{ipv4: b, ipv6: b},
	}
	f.world.sortedServices = nil
}

// plan makes a plan as the speaker does.
func (f *fabric) plan(sessionsOf map[string][]string) *plan {
	view := &membership.View{Settled: true}
	for _, name := range slices.Sorted(maps.Keys(sessionsOf)) {
		sessions := sessionsOf[name]
		view.Members = append(view.Members, membership.Member{Node: name, Known: true, Info: membership.Info{Sessions: sessions}})
	}
	return makePlan(planInput{
		self: "a", config: f.world.config, services: f.world.servicesInOrder(), nodes: f.world.nodesInOrder(), now: f.clock.Now(),
		view: view, standing: &standing{}, fresh: f.world.fresh.at(f.clock.Now()),
	})
}

// want converges and compares what routers are told.
func (f *fabric) want(want string) {
	f.t.Helper()
	links := []netif.Link{kernelLink(1, "eth0", "192.0.2.1/24", "2001:db8::1/64")}
	f.again = f.routers.converge(f.world, f.plan(nil), links)
	if got := f.sessions.String(); got != want {
		f.t.Errorf("routers are told %q, want %q", got, want)
	}
}

func (f *fabric) pass(d time.Duration) { f.clock.SetTime(f.clock.Now().Add(d)) }

func peerObject(name string, change func(*v1beta1.BGPPeerSpec)) *v1beta1.BGPPeer {
	p := &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.BGPPeerSpec{
		MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.254",
	}}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

// routed is a configuration with one router that is told of everything.
func routedObjects(change func(*v1beta1.BGPPeerSpec)) config.Objects {
	return config.Objects{
		IPAddressPools: []*v1beta1.IPAddressPool{{
			ObjectMeta: metav1.ObjectMeta{Name: "pool"}, Spec: v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"198.51.100.0/24"}},
		}},
		BGPPeers:          []*v1beta1.BGPPeer{peerObject("tor", change)},
		BGPAdvertisements: []*v1beta1.BGPAdvertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}},
		BFDProfiles:       []*v1beta1.BFDProfile{{ObjectMeta: metav1.ObjectMeta{Name: "fast"}}},
	}
}

func TestRoutesFollowWhatTheNodeServes(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	f.want("tor:")
	f.serve("cluster", "198.51.100.1", false, "b")
	f.serve("here", "198.51.100.2", true, "a", "b")
	f.serve("elsewhere", "198.51.100.3", true, "b")
	f.serve("nowhere", "198.51.100.4", false)
	f.want("tor: 198.51.100.1/32 198.51.100.2/32")
	f.node(map[string]string{corev1.LabelNodeExcludeBalancers: ""}, nil)
	f.want("tor:")
}

// TestSharedAddressNeedsAllLocalEndpoints: traffic of every Service on an address
// comes to a node that announces it.
func TestSharedAddressNeedsAllLocalEndpoints(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	f.serve("one", "198.51.100.1", true, "a")
	f.serve("two", "198.51.100.1", true, "b")
	f.want("tor:")
	f.serve("two", "198.51.100.1", true, "a", "b")
	f.want("tor: 198.51.100.1/32")
}

func TestNothingIsToldBeforeKubeProxyIsReady(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	ready := make(chan struct{})
	f.routers.ready = ready
	f.serve("web", "198.51.100.1", false, "a")
	f.want("")
	if c := f.routers.nodeState(v1beta1.NodeStateStatus{}).Conditions[0]; c.Reason != reasonStarting {
		t.Errorf("the condition is %v", c)
	}
	close(ready)
	f.want("tor: 198.51.100.1/32")
}

// TestReadyWithItsSessions: a rolling restart must not overtake the routers; one
// that is dead does not stop it for ever.
func TestReadyWithItsSessions(t *testing.T) {
	t.Parallel()
	expect := func(f *fabric, want string) {
		t.Helper()
		why, until := f.routers.awaited()
		if why != want || until.IsZero() != (want == "") {
			t.Errorf("waits because %q until %v, want %q", why, until, want)
		}
	}
	f := newFabric(t, routedObjects(nil))
	f.want("tor:")
	expect(f, "waiting for the BGP session tor")
	f.sessions.states["tor"] = bgp.PeerState{State: bgp.Established}
	f.want("tor:")
	expect(f, "")
	f.sessions.states["tor"] = bgp.PeerState{State: bgp.Idle}
	f.want("tor:")
	expect(f, "") // the speaker has arrived

	f = newFabric(t, routedObjects(nil))
	f.want("tor:")
	expect(f, "waiting for the BGP session tor")
	f.pass(arrival - time.Millisecond)
	expect(f, "waiting for the BGP session tor")
	f.pass(time.Millisecond)
	expect(f, "")

	f = newFabric(t, config.Objects{})
	f.want("")
	expect(f, "")
}

// TestFlappingEndpoint: a route goes at once and comes back after a while.
func TestFlappingEndpoint(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	there := func() { f.serve("web", "198.51.100.1", true, "a") }
	there()
	f.want("tor: 198.51.100.1/32")
	for range 3 {
		f.serve("web", "198.51.100.1", true)
		f.want("tor:")
		there()
		f.want("tor:")
		if wait := f.again.Sub(f.clock.Now()); wait != reannounceDelay {
			t.Errorf("wants to be called in %s", wait)
		}
		f.pass(reannounceDelay - time.Millisecond)
		f.want("tor:")
		f.pass(time.Millisecond)
		f.want("tor: 198.51.100.1/32")
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	f.serve("web", "198.51.100.1", false, "b")
	f.want("tor: 198.51.100.1/32")
	f.node(nil, map[string]string{v1beta1.AnnotationDrain: "maintenance"})
	f.want("tor: 198.51.100.1/32_65535:0")
	if wait := f.again.Sub(f.clock.Now()); wait != drainNotice {
		t.Errorf("wants to be called in %s", wait)
	}
	if c := f.routers.nodeState(v1beta1.NodeStateStatus{}).Conditions[0]; c.Reason != reasonDraining || !strings.Contains(c.Message, "is draining") {
		t.Errorf("the condition is %v", c)
	}
	f.pass(drainNotice)
	f.want("tor:")
	if c := f.routers.nodeState(v1beta1.NodeStateStatus{}).Conditions[0]; c.Reason != reasonDraining || !strings.Contains(c.Message, "is drained") {
		t.Errorf("the condition is %v", c)
	}
	f.node(nil, nil)
	f.want("tor: 198.51.100.1/32")
}

func TestBFDEndsSessions(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(func(s *v1beta1.BGPPeerSpec) { s.BFDProfile = "fast" }))
	see := func(state bfd.State, failures uint64) {
		f.bfd.states = []bfd.Status{{Name: "tor", State: state, Failures: failures, Diagnostic: bfd.DetectionExpired}}
		f.routers.look()
	}
	f.want("tor:")
	if c := f.bfd.configs; len(c) != 1 || c[0].Peer != netip.MustParseAddr("192.0.2.254") || c[0].Multihop {
		t.Errorf("BFD is to watch %+v", c)
	}
	see(bfd.Down, 0)
	f.want("tor:") // BFD that never was up holds nothing down
	see(bfd.Up, 0)
	see(bfd.Down, 1)
	f.want("tor: held down (BFD has lost the peer: control detection time expired)")
	see(bfd.Up, 1)
	f.want("tor:")
	see(bfd.Up, 2) // over before anybody looked
	f.want("tor:")
	see(bfd.Down, 3)
	f.pass(bfdPatience)
	f.routers.look()
	f.want("tor:") // it may come up without BFD
	see(bfd.Up, 0) // another BFD session of that name
	see(bfd.Down, 1)
	f.want("tor: held down (BFD has lost the peer: control detection time expired)")
	see(bfd.Up, 1)
	see(bfd.Down, 4)
	f.bfd.states = nil
	f.routers.look()
	f.want("tor:") // not watched any more
}

// TestBFDOutlivesItsLink: a link that goes down takes its addresses with it; the
// session that is to notice stays the same.
func TestBFDOutlivesItsLink(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(func(s *v1beta1.BGPPeerSpec) { s.BFDProfile = "fast" }))
	f.want("tor:")
	before := f.bfd.configs
	f.routers.converge(f.world, f.plan(nil), nil)
	if !slices.Equal(f.bfd.configs, before) {
		t.Errorf("BFD is to watch %+v, not %+v", f.bfd.configs, before)
	}
}

// TestNoPlansInVain: where nothing is to be waited for, nothing asks for another
// plan, with a peer or without.
func TestNoPlansInVain(t *testing.T) {
	t.Parallel()
	for _, objects := range []config.Objects{routedObjects(nil), {}} {
		f := newFabric(t, objects)
		for range 3 {
			f.pass(time.Minute)
			f.routers.converge(f.world, f.plan(nil), nil)
			if again := f.routers.converge(f.world, f.plan(nil), nil); !again.IsZero() {
				t.Errorf("with %d peers it wants to plan again at %v, now is %v", len(objects.BGPPeers), again, f.clock.Now())
			}
		}
	}
}

func TestBFDOverSeveralHops(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(func(s *v1beta1.BGPPeerSpec) { s.BFDProfile, s.PeerAddress = "fast", "203.0.113.1" }))
	f.want("tor:")
	if c := f.bfd.configs; len(c) != 1 || !c[0].Multihop {
		t.Errorf("BFD is to watch %+v", c)
	}
}

func TestPeerIsDefaultGateway(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(func(s *v1beta1.BGPPeerSpec) {
		s.PeerAddress, s.PeerAddressFrom = "", &v1beta1.PeerAddressSource{DefaultGateway: v1beta1.FamilyIPv4}
	}))
	f.want("tor@192.0.2.254:")
	if got := f.sessions.peers["tor@192.0.2.254"].Address.String(); got != "192.0.2.254" {
		t.Errorf("the peer is %s", got)
	}
	f.routers.gateways = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("192.0.2.253")}, nil }
	f.pass(gatewayInterval)
	f.want("tor@192.0.2.253:")
}

// TestAnnouncedByBGP: the condition of a Service says who tells which routers.
func TestAnnouncedByBGP(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	f.serve("web", "198.51.100.1", true, "a", "b")
	f.world.nodes["b"], f.world.nodes["c"] = &node{name: "b"}, &node{name: "c"}
	f.world.sortedNodes = nil
	describe := func(sessions map[string][]string) statement {
		return f.plan(sessions).describe(f.world.servicesInOrder()[0], "a", nil)
	}
	up := []string{toldOf(bgp.IPv4, "tor")}
	for name, test := range map[string]struct {
		sessions map[string][]string
		reason   string
		message  string
	}{
		"all": {map[string][]string{"a": up, "b": up, "c": up}, reasonAnnounced, "198.51.100.1 by BGP from 2 nodes to tor"},
		"one": {map[string][]string{"a": up, "b": nil}, reasonAnnounced, "198.51.100.1 by BGP from 1 node to tor"},
		"none": {
			map[string][]string{"a": nil, "b": {toldOf(bgp.IPv4, "other")}, "c": up}, reasonAnnounced,
			"198.51.100.1 by BGP from 1 node to other",
		},
		"no session for the family": {
			map[string][]string{"a": nil, "b": {toldOf(bgp.IPv6, "tor")}, "c": up}, reasonNoSession,
			"198.51.100.1 is not announced: of 3 nodes 2 have no established session with a BGPPeer that is to be told of it, and 1 are excluded, drained or without an endpoint",
		},
	} {
		st := describe(test.sessions)
		if st.reason != test.reason || st.message != test.message || st.announced != (test.reason == reasonAnnounced) {
			t.Errorf("%s: says %v %s %q, want %s %q", name, st.announced, st.reason, st.message, test.reason, test.message)
		}
	}
	f.serve("web", "198.51.100.1", true)
	if st := describe(map[string][]string{"a": up}); st.reason != reasonNoEndpoints {
		t.Errorf("without endpoints: says %s %q", st.reason, st.message)
	}
}

func TestNodeState(t *testing.T) {
	t.Parallel()
	objects := routedObjects(func(s *v1beta1.BGPPeerSpec) { s.BFDProfile = "fast" })
	objects.BGPPeers = append(objects.BGPPeers, peerObject("labelled", func(s *v1beta1.BGPPeerSpec) {
		s.PeerAddress, s.PeerAddressFrom = "", &v1beta1.PeerAddressSource{NodeLabel: "example.com/tor"}
	}))
	f := newFabric(t, objects)
	f.want("tor:")
	since := f.clock.Now().Add(-time.Minute)
	f.sessions.states["tor"] = bgp.PeerState{
		State: bgp.Established, Since: since, RemoteASN: 64513, RemoteRouterID: netip.MustParseAddr("192.0.2.254"),
		HoldTime: 90 * time.Second, Families: []bgp.Family{bgp.IPv4}, Announced: 3, LastError: "reset by the peer", LastErrorAt: since,
	}
	f.bfd.states = []bfd.Status{{Name: "tor", State: bfd.Up, Since: since, DetectionTime: 900 * time.Millisecond}}
	f.want("tor:")
	status := f.routers.nodeState(v1beta1.NodeStateStatus{})
	if status.BGPUp != "1/2" || strings.Join(status.BGPDown, " ") != "labelled" || len(status.BGPSessions) != 2 {
		t.Fatalf("status %+v", status)
	}
	labelled, tor := status.BGPSessions[0], status.BGPSessions[1]
	if labelled.State != v1beta1.BGPInvalid || !strings.Contains(labelled.LastError.Message, "example.com/tor") || labelled.LastError.Time.IsZero() {
		t.Errorf("labelled: %+v", labelled)
	}
	if tor.State != v1beta1.BGPEstablished || tor.PeerRouterID != "192.0.2.254" || tor.AnnouncedPrefixes != 3 || tor.HoldTime != "1m30s" ||
		tor.LastError.Message != "reset by the peer" || tor.BFD.State != "Up" || tor.BFD.DetectionTime != "900ms" {
		t.Errorf("tor: %+v, BFD %+v", tor, tor.BFD)
	}
	if c := status.Conditions[0]; c.Reason != reasonSessionsDown || c.Message != "not established: labelled" {
		t.Errorf("condition: %+v", c)
	}
	writer := &fakeWriter{pending: map[k8s.Key][]byte{}}
	n := &nodeReporter{writer: writer, logger: log.NewNopLogger()}
	object, _ := f.world.cache.Nodes.Get("", "a")
	n.report(object, f.routers.nodeState(n.last()))
	clear(writer.pending)
	f.pass(time.Hour)
	n.report(object, f.routers.nodeState(n.last()))
	if len(writer.pending) > 0 {
		t.Errorf("writes again what it has said: %s", writer.pending)
	}

	// A peer that is away is written about once, however often it is tried.
	try := func(state bgp.State, message string) {
		f.pass(15 * time.Second)
		f.sessions.states["tor"] = bgp.PeerState{State: state, Since: f.clock.Now(), LastError: message, LastErrorAt: f.clock.Now()}
		f.want("tor:")
		n.report(object, f.routers.nodeState(n.last()))
	}
	try(bgp.Idle, "no route to host")
	if len(writer.pending) == 0 {
		t.Error("does not tell of a lost session")
	}
	clear(writer.pending)
	try(bgp.Connect, "no route to host")
	try(bgp.Idle, "no route to host")
	if len(writer.pending) > 0 {
		t.Errorf("tells of every attempt: %s", writer.pending)
	}
	try(bgp.Idle, "connection refused")
	if len(writer.pending) == 0 {
		t.Error("does not tell of another error")
	}
}
