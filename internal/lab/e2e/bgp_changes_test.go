package e2e

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// Names of metrics of a session, as peerMetrics has them.
const (
	updatesSent = "updates_sent_total{}"
	opensSent   = `messages_total{direction="sent",type="open"}`
	flaps       = "session_flaps_total{}"
	prefixes    = "prefixes_announced{}"
)

// testOneUpdate: a change of one Service among many is one UPDATE for one prefix,
// and no session notices.
func (f *fabric) testOneUpdate(e *env) {
	const services = 12
	l := f.bench(routers.FRR).link(e, 0)
	l.createPool(l.namespace, l.ranges(0, slotSize), nil)
	l.createDeployment(deployment{app: "web", replicas: 1})
	single := withPolicy(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol)
	for i := range services {
		l.createService(fmt.Sprintf("web-%d", i), single)
	}
	l.neighbor(nil)
	l.createBGPPeer(l.peer, l.spec(nil))
	own := []v1beta1.ObjectName{v1beta1.ObjectName(l.peer)}
	l.advertise(l.peer, v1beta1.BGPAdvertisementSpec{Peers: own})
	l.advertise(l.peer+"-gold", v1beta1.BGPAdvertisementSpec{
		Peers: own, ServiceSelectors: selector("tier", "gold"), Communities: []v1beta1.CommunityRef{"64600:79"},
	})
	l.waitUp()
	speaker := l.speakerOn(l.node)
	var before map[string]float64
	count := func(name string, want float64) func(context.Context) (bool, string) {
		return func(context.Context) (bool, string) {
			now := l.peerMetrics(speaker, l.peer)
			return now[name] == want, fmt.Sprint(now)
		}
	}
	l.waitFor("all Services to be announced", bgpTimeout, count(prefixes, services))
	address := l.waitAllocated("web-0")[0]
	l.waitPath(hostPrefix(address), told{})
	updates := 0.0
	l.waitHeld("all UPDATEs to be sent", time.Second, func(context.Context) (bool, string) {
		now := l.peerMetrics(speaker, l.peer)[updatesSent]
		same := now == updates
		updates = now
		return same, fmt.Sprint(now)
	})
	session := l.session()
	// The community of one route, its withdrawal, and a new one.
	for _, change := range []struct {
		what string
		make func()
		want []told
	}{
		{"another advertisement", func() { l.editService("web-0", `{"metadata":{"labels":{"tier":"gold"}}}`) }, []told{{communities: []routers.Community{routers.NewCommunity(64600, 79)}}}},
		{"its end", func() { l.deleteService("web-0") }, nil},
		{"a new one", func() {
			l.createService("web-0", single, annotated(v1beta1.AnnotationLoadBalancerIPs, address.String()))
		}, []told{{}}},
	} {
		before = l.peerMetrics(speaker, l.peer)
		change.make()
		l.waitPath(hostPrefix(address), change.want...)
		want := before[updatesSent] + 1
		l.waitFor(change.what+" to be counted", 5*time.Second, count(updatesSent, want))
		l.stays(change.what+" is one UPDATE", time.Second, count(updatesSent, want))
	}
	after := l.peerMetrics(speaker, l.peer)
	if after[opensSent] != before[opensSent] || after[flaps] != before[flaps] {
		l.Errorf("the session has been reset: %v, before %v", after, before)
	}
	if now := l.session(); !now.SameAs(session) {
		l.Errorf("the session was %+v, and is %+v", session, now)
	}
	l.waitNodeSession(l.node, l.peer, "announces 12 prefixes", func(s v1beta1.BGPSessionStatus) bool { return s.AnnouncedPrefixes == services })
}

// testNeededResets: a change of a peer resets its session only if there is no
// other way, and never that of another. A plan says so before.
func (f *fabric) testNeededResets(e *env) {
	shared := sessionsOf(f.routers(e), e.lab.otherNodes()...)
	l := f.bench(routers.FRR).link(e, 0)
	l.neighbor(nil)
	l.createProfile(l.peer, v1beta1.BFDProfileSpec{PassiveMode: true})
	l.connect(nil)
	session, _ := l.waitUp()
	l.expectPlanned(cli.SessionUpdated, func(p *v1beta1.BGPPeerSpec) { p.ConnectTime, p.BFDProfile = "7s", v1beta1.ObjectName(l.peer) })
	l.patch("bgppeers", l.peer, specPatch{"connectTime": "7s", "bfdProfile": l.peer}.patch())
	l.waitNodeSession(l.node, l.peer, "watched", func(s v1beta1.BGPSessionStatus) bool { return s.BFD != nil })
	l.waitRoutes(told{}, 0)
	if now := l.session(); !now.SameAs(session) {
		l.Errorf("the session was %+v, and is %+v with another connectTime and a BFDProfile", session, now)
	}
	l.expectPlanned(cli.SessionReset, func(p *v1beta1.BGPPeerSpec) { p.HoldTime, p.BFDProfile = "30s", "" })
	l.patch("bgppeers", l.peer, specPatch{"holdTime": "30s", "bfdProfile": nil}.patch())
	l.waitFor("the session with another hold time", bgpTimeout, func(context.Context) (bool, string) {
		now := l.session()
		return now.Up() && now.Hold == 30*time.Second && !now.SameAs(session), fmt.Sprintf("%+v", now)
	})
	shared.expectSame()
}

// testConfigurationErrors: what the API server cannot see is told of the object
// that is to be corrected, and is gone once it is.
func (f *fabric) testConfigurationErrors(e *env) {
	l := f.bench(routers.BIRD).link(e, 0)
	l.neighbor(nil)
	name := func(suffix string) string { return l.peer + suffix }
	l.connect(func(p *v1beta1.BGPPeerSpec) { p.BFDProfile = v1beta1.ObjectName(l.peer) })
	l.waitVerdict("bgppeers", l.peer, false, v1beta1.ReasonUnknownBFDProfile, "spec.bfdProfile", "no BFDProfile "+l.peer)
	_, s := l.waitUp() // without being watched
	if s.BFD != nil {
		l.Errorf("the session is watched by %+v", s.BFD)
	}
	l.createProfile(l.peer, v1beta1.BFDProfileSpec{PassiveMode: true})
	l.waitVerdict("bgppeers", l.peer, true, v1beta1.ReasonAccepted)

	l.createBGPPeer(name("-twin"), l.spec(nil))
	l.waitVerdict("bgppeers", name("-twin"), false, v1beta1.ReasonDuplicate, "older BGPPeer "+l.peer)
	l.waitTrouble(l.node, name("-twin"), "older BGPPeer "+l.peer)
	l.createBGPPeer(name("-nowhere"), l.spec(func(p *v1beta1.BGPPeerSpec) { p.NodeSelectors = onNode("node-0") }))
	l.waitVerdict("bgppeers", name("-nowhere"), true, v1beta1.ReasonPartlyAccepted, "spec.nodeSelectors match no node")
	l.createBGPPeer(name("-annotation"), l.spec(func(p *v1beta1.BGPPeerSpec) {
		p.PeerPort, p.MyASN, p.MyASNFrom = 11, 0, &v1beta1.NodeValue{NodeAnnotation: "example.com/none"}
	}))
	l.waitVerdict("bgppeers", name("-annotation"), false, v1beta1.ReasonInvalid, "spec.myASNFrom.nodeAnnotation", "no annotation example.com/none")

	peers := []v1beta1.ObjectName{v1beta1.ObjectName(name("-none"))}
	l.advertise(name("-adv"), v1beta1.BGPAdvertisementSpec{Peers: peers, IPAddressPools: []v1beta1.ObjectName{l.bench.pool}})
	l.waitVerdict("bgpadvertisements", name("-adv"), false, v1beta1.ReasonUnknownPeer, "spec.peers[0]", "no BGPPeer "+name("-none"))
	l.patch("bgpadvertisements", name("-adv"), specPatch{"peers": []string{l.peer}, "ipAddressPools": []string{name("-none")}}.patch())
	l.waitVerdict("bgpadvertisements", name("-adv"), false, v1beta1.ReasonUnknownPool)
	l.patch("bgpadvertisements", name("-adv"), specPatch{"ipAddressPools": []string{string(l.bench.pool)}, "communities": []string{name("-c")}}.patch())
	l.waitVerdict("bgpadvertisements", name("-adv"), false, v1beta1.ReasonUnknownCommunity, "spec.communities[0]", "no Community in force has the name "+name("-c"))
	alias := v1beta1.CommunityAlias{Name: v1beta1.CommunityName(name("-c")), Value: "64600:80"}
	l.createCommunity(name("-c"), alias)
	l.waitVerdict("bgpadvertisements", name("-adv"), true, v1beta1.ReasonAccepted)
	l.waitRoutes(told{communities: []routers.Community{routers.NewCommunity(64600, 80)}}, 0)
	alias.Value = "64600:81"
	l.createCommunity(name("-d"), alias)
	l.waitVerdict("communities", name("-d"), false, v1beta1.ReasonConflict, "is 64600:80 in the older Community "+name("-c"))

	// AS number 0 never gets so far.
	err := l.lab.berth.Post().Resource("bgppeers").SetHeader("Content-Type", "application/json").
		Body(fmt.Appendf(nil, `{"apiVersion":%q,"kind":"BGPPeer","metadata":{"name":%q},"spec":{"myASN":64600,"peerASN":0,"peerAddress":"192.0.2.1"}}`, typed("").APIVersion, name("-zero"))).
		Do(l.ctx).Error()
	if err == nil || !containsAll(err.Error(), []string{"spec.peerASN", "must be an AS number"}) {
		l.Errorf("the API server says of AS number 0: %v", err)
	}
}

// testBFDProfile: both sides agree on the times that the profile asks for, and say
// so; echo is used with a router that has it.
func testBFDProfile(e *env, b *bench) {
	l := b.link(e, 0)
	// Multipliers are high, as the machine may be busy.
	const ours, theirs = 40, 30
	const receive, laterReceive, transmit, theirTransmit = 150, 300, 250, 200 * time.Millisecond
	l.createProfile(l.peer, v1beta1.BFDProfileSpec{
		ReceiveInterval: ptr.To[int32](receive), TransmitInterval: ptr.To[int32](transmit), DetectMultiplier: ptr.To[int32](ours),
		EchoInterval: ptr.To[int32](60), EchoMode: b.router.Kind() == routers.FRR, MinimumTTL: ptr.To[int32](100),
	})
	bfd := &routers.BFD{Receive: 100 * time.Millisecond, Transmit: theirTransmit, Multiplier: theirs}
	if b.router.Kind() == routers.FRR {
		bfd.Echo = 70 * time.Millisecond
	}
	l.neighbor(func(n *routers.Neighbor) { n.BFD = bfd })
	l.connect(func(p *v1beta1.BGPPeerSpec) { p.BFDProfile = v1beta1.ObjectName(l.peer) })
	l.waitUp()
	// RFC 5880 section 6.8.4: the peer's multiplier times the slower of our
	// receiving and its sending; where echo packets watch the path, we want the
	// others only once a second (section 6.8.3).
	nodeWaits, routerWaits := theirs*theirTransmit, ours*transmit*time.Millisecond
	if b.router.Kind() == routers.FRR {
		nodeWaits = theirs * time.Second
	}
	waitDetection := func(want time.Duration) {
		l.Helper()
		l.waitNodeSession(l.node, l.peer, "watched, "+want.String(), func(s v1beta1.BGPSessionStatus) bool {
			return s.BFD != nil && s.BFD.State == "Up" && s.BFD.Profile == l.peer && s.BFD.DetectionTime == want.String()
		})
	}
	waitDetection(nodeWaits)
	l.waitFor("the router to take the node for dead after "+routerWaits.String(), bgpTimeout, func(ctx context.Context) (bool, string) {
		sessions, err := l.router.BFDSessions(ctx)
		if err != nil {
			return false, err.Error()
		}
		for _, s := range sessions {
			if s.Neighbor == l.local {
				return s.Up() && s.Detection == routerWaits, fmt.Sprintf("%+v", s)
			}
		}
		return false, fmt.Sprintf("%+v", sessions)
	})
	// A change of the profile is agreed on while the session is up.
	session := l.session()
	l.patch("bfdprofiles", l.peer, specPatch{"receiveInterval": laterReceive, "echoMode": false}.patch())
	waitDetection(theirs * laterReceive * time.Millisecond)
	l.waitRoutes(told{}, 0)
	if now := l.session(); !now.SameAs(session) {
		l.Errorf("the session was %+v, and is %+v with another profile", session, now)
	}
}
