package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// TestRouters proves what the tests of BGP stand on, without Berth: nodes that
// run BIRD announce addresses that Kubernetes serves, real routers learn them, and
// a client behind a router reaches the Pods on all nodes.
func TestRouters(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name = "rtrdual"
	options.Nodes = nodes
	options.Berth = false
	l := startLabWith(t, options)
	// Each has addresses of its own, as the Service of a test goes in its own time.
	addresses := []netip.Addr{netip.MustParseAddr("198.51.100.0"), netip.MustParseAddr("2001:db8:100::")}
	for _, kind := range routers.Kinds() {
		for i := range addresses {
			addresses[i] = addresses[i].Next()
		}
		own := slices.Clone(addresses)
		t.Run(string(kind), func(t *testing.T) { testRouter(newEnv(t, l), kind, own) })
	}
}

func testRouter(e *env, kind routers.Kind, addresses []netip.Addr) {
	e.createDeployment(deployment{app: "web", replicas: nodes})
	e.createService("web", external(addresses), local)
	names := e.lab.otherNodes()
	router := e.startRouter(kind, network.Router, eachNeighbor(fastBFD))
	speakers := map[string]*bgpRouter{}
	for _, name := range names {
		speakers[name] = e.startSpeaker(name, addresses)
	}
	sessions := router.waitSessions(names...)
	med, pods := uint32(30), []string{}
	want := told{
		prepended: 1, med: &med,
		communities:      []routers.Community{routers.NewCommunity(64600, 1), routers.NoPeer},
		largeCommunities: []routers.LargeCommunity{{64600, 2, 3}},
	}
	for _, pod := range e.pods("web") {
		pods = append(pods, pod.Name)
	}
	for _, address := range addresses {
		router.waitRoute(hostPrefix(address), want.byNodes(names...)...)
		router.waitECMP(address, names...)
		e.waitSpread(address, pods...)
	}
	router.waitBFD(true, names...)

	// One node withdraws: its session stays, and nothing goes there any more.
	speakers[names[0]].configure(func(c *routers.Config) { c.Announce = nil })
	for _, address := range addresses {
		router.waitRoute(hostPrefix(address), want.byNodes(names[1:]...)...)
		router.waitECMP(address, names[1:]...)
	}
	router.expectSameSessions(sessions)

	// The cable of another is pulled without notice: BFD finds out.
	endStalls := e.watchStalls()
	running := e.startWANProbes(measureGap(), addresses...)
	if err := e.lab.CutSilently(names[1]); err != nil {
		e.Fatal(err)
	}
	router.waitNoSession(names[1], bgpTimeout)
	for _, address := range addresses {
		router.waitECMP(address, names[2:]...)
	}
	reports := running.stop()
	bound := 2*time.Second + endStalls()
	for address, report := range reports {
		if report.OK == 0 || time.Duration(report.LongestGap) > bound {
			e.Errorf("%s was away for %s: %+v", address, report.LongestGap, report.Errors)
		}
		measured.add("silent node, "+string(kind)+" with BFD on both sides, "+familyName(address), time.Duration(report.LongestGap))
	}
	if err := e.lab.Heal(names[1]); err != nil {
		e.Fatal(err)
	}
	router.waitSessions(names...)
	for _, address := range addresses {
		router.waitECMP(address, names[1:]...)
	}
}

// external gives a Service addresses that Kubernetes serves but nobody announces.
func external(addresses []netip.Addr) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort // ClusterIP has no traffic policy for outside
		s.Spec.ExternalIPs = texts(addresses)
	}
}

// startSpeaker has a node announce addresses by BIRD.
func (e *env) startSpeaker(node string, addresses []netip.Addr) *bgpRouter {
	e.Helper()
	host, err := e.lab.Plan().Host(node)
	if err != nil {
		e.Fatal(err)
	}
	router, err := e.lab.Plan().Host(network.Router)
	if err != nil {
		e.Fatal(err)
	}
	med := uint32(30)
	config := routers.Config{
		ASN: nodeASN, RouterID: host.IPs()[0],
		Neighbors: []routers.Neighbor{{Name: "router", Address: router.IPs()[0], ASN: routerASN}},
	}
	fastBFD(&config.Neighbors[0])
	for _, address := range addresses {
		config.Announce = append(config.Announce, routers.Announcement{
			Prefix: hostPrefix(address),
			Attributes: routers.Attributes{
				MED: &med, Prepend: 1,
				Communities:      []routers.Community{routers.NewCommunity(64600, 1), routers.NoPeer},
				LargeCommunities: []routers.LargeCommunity{{64600, 2, 3}},
			},
		})
	}
	return e.startDaemon(routers.BIRD, host, config)
}
