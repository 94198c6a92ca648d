package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/lab/network"
)

// manifest writes an object into a file.
func (e *env) manifest(object any) string {
	e.Helper()
	text, err := json.Marshal(withKind(object))
	if err != nil {
		e.Fatal(err)
	}
	path := filepath.Join(e.TempDir(), "change.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		e.Fatal(err)
	}
	return path
}

// planned returns a plan, which ends with the wanted status. Tests that run beside
// this one change other things: of the plan counts what is this one's.
func (e *env) planned(status int, args ...string) cli.Plan {
	e.Helper()
	out, got := e.plugin(append([]string{"plan", "-o", "json"}, args...)...)
	var plan cli.Plan
	if err := json.Unmarshal([]byte(out), &plan); err != nil || got != status {
		e.Fatalf("kubectl berth plan %s ends with %d, not %d, and says %s (%v)", strings.Join(args, " "), got, status, out, err)
	}
	plan.Services = slices.DeleteFunc(plan.Services, func(s cli.PlannedService) bool { return s.Namespace != e.namespace })
	return plan
}

// replace does to an object what was planned. kubectl gives up if the controller writes
// its status just then.
func (e *env) replace(manifest string) {
	e.Helper()
	e.waitFor("kubectl replace", 10*time.Second, func(ctx context.Context) (bool, string) {
		_, err := e.lab.Kubectl(ctx, nil, "replace", "-f", manifest)
		return err == nil, fmt.Sprint(err)
	})
}

// waitPlanned returns when a Service is as a plan says.
func (e *env) waitPlanned(s cli.PlannedService) {
	e.Helper()
	e.waitFor(fmt.Sprintf("Service %s to have %v and %s, as planned", s.Name, s.After.Addresses, s.After.Reason), 20*time.Second, func(context.Context) (bool, string) {
		now := e.service(s.Name)
		var addresses []string
		for _, ingress := range now.Status.LoadBalancer.Ingress {
			addresses = append(addresses, ingress.IP)
		}
		reason := ""
		for _, c := range now.Status.Conditions {
			if c.Type == v1beta1.ConditionAddressAllocated {
				reason = c.Reason
			}
		}
		return slices.Equal(addresses, s.After.Addresses) && reason == s.After.Reason, fmt.Sprintf("%+v", now.Status)
	})
}

// testPlan: what kubectl berth plan says is what then happens to every Service.
func testPlan(e *env) {
	e.usePool(4)
	e.createDeployment(deployment{app: "web", replicas: 2})
	e.createService("web")
	e.waitAnnounced("web")
	e.createService("asks", annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(2))))
	e.waitAnnounced("asks")
	for _, name := range []string{"third", "fourth", "waits"} {
		e.createService(name)
	}
	e.waitAllocated("third")
	e.waitAllocated("fourth")
	e.waitCondition("waits", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")

	pool := e.newPool(e.namespace, e.ranges(0, 4))
	if plan := e.planned(0, "-f", e.manifest(pool)); plan.Changes {
		e.Errorf("what is there already is planned to change something: %+v", plan)
	}
	// Some lose their addresses to get others, one gets its first.
	pool.Spec.Addresses, pool.Spec.OnShrink = e.ranges(1, 9), v1beta1.ShrinkReassign
	manifest := e.manifest(pool)
	plan := e.planned(1, "-f", manifest, "--fail-on=loss")
	if len(plan.Services) != 2 { // web, and the one that waits
		e.Errorf("the plan for a pool that moves is %+v", plan)
	}
	unplanned := map[string][]netip.Addr{}
	for _, name := range []string{"web", "asks", "third", "fourth", "waits"} {
		if !slices.ContainsFunc(plan.Services, func(s cli.PlannedService) bool { return s.Name == name }) {
			unplanned[name] = e.addressesOf(name)
		}
	}
	e.replace(manifest)
	for _, s := range plan.Services {
		e.waitPlanned(s)
		e.waitAnnounced(s.Name)
	}
	for name, addresses := range unplanned {
		if now := e.addressesOf(name); !slices.Equal(now, addresses) {
			e.Errorf("Service %s has %v in place of %v, which was not planned", name, now, addresses)
		}
	}
	e.planned(0, "-f", manifest)

	// The API server completes a Service, and knows what is no range.
	later := e.newService("later")
	later.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	plan = e.planned(1, "-f", e.manifest(later), "-n", e.namespace)
	if len(plan.Services) != 1 || !slices.Equal(plan.Services[0].Changes, []string{cli.AddressGained}) {
		e.Fatalf("the plan for a Service is %+v", plan)
	}
	e.createService("later")
	e.waitPlanned(plan.Services[0])
	pool.Spec.Addresses = []v1beta1.AddressRange{"192.0.2.9-192.0.2.1"}
	if out, status := e.plugin("plan", "-f", e.manifest(pool)); status != 2 {
		e.Errorf("a range that ends before it begins is planned with status %d: %s", status, out)
	}

	plan = e.planned(1, "--delete", "l2advertisement/"+e.namespace)
	for _, s := range plan.Services {
		if !slices.Equal(s.Changes, []string{cli.AnnouncementLost}) {
			e.Errorf("the plan for no advertisement is %+v", s)
		}
	}
	if len(plan.Services) != 6 {
		e.Errorf("without an advertisement %d Services are planned to be silent", len(plan.Services))
	}
	e.deleteObject("l2advertisements", e.namespace)
	for _, s := range plan.Services {
		e.waitCondition(s.Name, v1beta1.ConditionAnnounced, metav1.ConditionFalse, "NoAdvertisement")
	}
}

// testPlan: the routes that a plan has are those that routers then get.
func (f *fabric) testPlan(e *env) {
	addresses := e.serve(deployment{replicas: 1})
	all, names := f.routers(e), e.lab.otherNodes()
	e.advertise(e.namespace, v1beta1.BGPAdvertisementSpec{MED: ptr.To[int64](10)})
	for _, r := range all {
		for _, address := range addresses {
			r.waitRoute(hostPrefix(address), told{med: ptr.To[uint32](10)}.byNodes(names...)...)
		}
	}
	sessions := sessionsOf(all, names...)
	manifest := e.manifest(&v1beta1.BGPAdvertisement{
		TypeMeta: typed("BGPAdvertisement"), ObjectMeta: metav1.ObjectMeta{Name: e.namespace},
		Spec: v1beta1.BGPAdvertisementSpec{
			IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}, Peers: sharedPeers(),
			MED: ptr.To[int64](20), AggregationLength: ptr.To[int32](28), // of IPv6 the address stays
			NodeSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"kubernetes.io/hostname": v1beta1.LabelValue(names[0])}}},
		},
	})
	plan := e.planned(1, "-f", manifest)
	if len(plan.Services) != 1 || len(plan.Losses) > 0 {
		e.Errorf("the plan is %+v", plan)
	}
	e.replace(manifest)
	of := map[string]*bgpRouter{frrPeer: all[0], birdPeer: all[1]}
	want := map[string]map[string][]told{frrPeer: {}, birdPeer: {}} // by peer and prefix
	for _, route := range plan.Routes {
		prefix := netip.MustParsePrefix(route.Prefix)
		if !slices.ContainsFunc(addresses, prefix.Contains) {
			continue
		}
		routes := want[route.Peer][route.Prefix]
		if route.Change != cli.RouteWithdrawn {
			if route.After != "med 20" {
				e.Errorf("the plan has %+v", route)
			}
			routes = append(routes, told{med: ptr.To[uint32](20)}.byNodes(route.Nodes...)...)
		}
		want[route.Peer][route.Prefix] = routes
	}
	for peer, prefixes := range want {
		if len(prefixes) != 3 { // an IPv4 address, its aggregate, an IPv6 address
			e.Errorf("the plan has these routes to %s: %+v", peer, prefixes)
		}
		for prefix, routes := range prefixes {
			of[peer].waitRoute(netip.MustParsePrefix(prefix), routes...)
		}
	}
	e.waitServed(network.WANClient, addresses[0], servicePort, "/hostname")
	sessions.expectSame()
	e.planned(0, "-f", manifest)
}

// expectPlanned fails the test unless a plan has this become of the session of a link,
// and of none other, when its BGPPeer is changed.
func (l *link) expectPlanned(becomes string, change func(*v1beta1.BGPPeerSpec)) {
	l.Helper()
	var peer v1beta1.BGPPeer
	if err := l.getInto(l.ctx, "bgppeers", l.peer, &peer); err != nil {
		l.Fatal(err)
	}
	change(&peer.Spec)
	plan := l.planned(1, "-f", l.manifest(&v1beta1.BGPPeer{
		TypeMeta: typed("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: l.peer, Labels: peer.Labels}, Spec: peer.Spec,
	}))
	if len(plan.Sessions) != 1 || plan.Sessions[0].Name != l.peer || plan.Sessions[0].Change != becomes || !slices.Equal(plan.Sessions[0].Nodes, []string{l.node}) {
		l.Errorf("the sessions are planned to become %+v, and not %s", plan.Sessions, becomes)
	}
}
