package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/allocation"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/membership"
)

// foreseen is a cluster with everything that announcements depend on. Its universe is
// small, so that everything meets everything.
type foreseen struct {
	t       *rapid.T
	cluster *cli.Cluster
}

var foreseenNow = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (f *foreseen) oneIn(n int, what string) bool { return rapid.IntRange(0, n-1).Draw(f.t, what) == 0 }

// selectors draws selectors of a label, none as often as not.
func (f *foreseen) selectors(key string, values ...string) []v1beta1.LabelSelector {
	if rapid.Bool().Draw(f.t, "all "+key) {
		return nil
	}
	value := v1beta1.LabelValue(rapid.SampledFrom(values).Draw(f.t, key))
	return []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{key: value}}}
}

func (f *foreseen) names(what string, from ...string) []v1beta1.ObjectName {
	var names []v1beta1.ObjectName
	for _, name := range from {
		if f.oneIn(3, what) {
			names = append(names, v1beta1.ObjectName(name))
		}
	}
	return names
}

func (f *foreseen) pool(name string) *v1beta1.IPAddressPool {
	o := &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	o.Spec.Addresses = rapid.SliceOfNDistinct(rapid.SampledFrom([]v1beta1.AddressRange{
		"192.0.2.0/30", "192.0.2.4-192.0.2.5", "192.0.2.8/29", "2001:db8::/126", "2001:db8::4",
	}), 1, 2, rapid.ID).Draw(f.t, "ranges")
	if f.oneIn(3, "reassign") {
		o.Spec.OnShrink = v1beta1.ShrinkReassign
	}
	return o
}

func (f *foreseen) l2Advertisement(name string) *v1beta1.L2Advertisement {
	o := &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}}
	o.Spec.IPAddressPools = f.names("pool", "p", "q")
	o.Spec.NodeSelectors, o.Spec.ServiceSelectors = f.selectors("zone", "x", "y"), f.selectors("app", "web", "api")
	return o
}

func (f *foreseen) bgpAdvertisement(name string) *v1beta1.BGPAdvertisement {
	o := &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}}
	o.Spec.IPAddressPools, o.Spec.Peers = f.names("pool", "p", "q"), f.names("peer", "r", "s")
	o.Spec.NodeSelectors, o.Spec.ServiceSelectors = f.selectors("zone", "x", "y"), f.selectors("app", "web", "api")
	o.Spec.MED = rapid.SampledFrom([]*int64{nil, ptr.To(int64(10)), ptr.To(int64(20))}).Draw(f.t, "med")
	o.Spec.LocalPref = rapid.SampledFrom([]*int64{nil, ptr.To(int64(200))}).Draw(f.t, "localPref")
	o.Spec.Communities = rapid.SampledFrom([][]v1beta1.CommunityRef{nil, {"64600:1"}, {"large:1:2:3", "no-export"}}).Draw(f.t, "communities")
	if f.oneIn(2, "aggregates") {
		o.Spec.AggregationLength, o.Spec.AggregationLengthV6 = ptr.To(int32(30)), ptr.To(int32(126))
		o.Spec.IncludeSpecificRoutes = f.oneIn(2, "specific")
	}
	return o
}

func (f *foreseen) bgpPeer(name string) *v1beta1.BGPPeer {
	o := &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}}
	o.Spec = v1beta1.BGPPeerSpec{
		MyASN: 64600, PeerAddress: v1beta1.PeerAddress(rapid.SampledFrom([]string{"10.0.0.101", "10.0.0.102", "fd00::101"}).Draw(f.t, "address")),
		NodeSelectors: f.selectors("zone", "x", "y"), HoldTime: rapid.SampledFrom([]v1beta1.Duration{"", "9s"}).Draw(f.t, "hold time"),
		ConnectTime: rapid.SampledFrom([]v1beta1.Duration{"", "5s"}).Draw(f.t, "connect time"),
	}
	o.Spec.PeerASN = rapid.SampledFrom([]v1beta1.ASN{64600, 64512}).Draw(f.t, "peer ASN")
	if f.oneIn(2, "both families") {
		o.Spec.Families = []v1beta1.IPFamily{v1beta1.FamilyIPv4, v1beta1.FamilyIPv6}
	}
	return o
}

func (f *foreseen) node(name string) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": rapid.SampledFrom([]string{"x", "y"}).Draw(f.t, "zone")}}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0." + name[len(name)-1:]}}
	switch rapid.IntRange(0, 7).Draw(f.t, "node") {
	case 5:
		n.Labels[corev1.LabelNodeExcludeBalancers] = ""
	case 6:
		n.Annotations = map[string]string{v1beta1.AnnotationDrain: ""}
	case 7:
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}}
	}
	f.cluster.Nodes = append(f.cluster.Nodes, n)
	speaker := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "speaker-" + name, Labels: map[string]string{"app.kubernetes.io/component": "speaker"}}}
	speaker.Spec.NodeName = name
	speaker.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	f.cluster.Pods = append(f.cluster.Pods, speaker)
}

func (f *foreseen) service(name string) {
	svc := loadBalancer(name)
	svc.UID, svc.Annotations = "uid-"+svc.UID, map[string]string{}
	svc.Labels = map[string]string{"app": rapid.SampledFrom([]string{"web", "api"}).Draw(f.t, "app")}
	svc.Spec.IPFamilies = rapid.SampledFrom([][]corev1.IPFamily{
		{corev1.IPv4Protocol}, {corev1.IPv6Protocol}, {corev1.IPv4Protocol, corev1.IPv6Protocol},
	}).Draw(f.t, "families")
	svc.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
	svc.Spec.Ports = []corev1.ServicePort{{Port: int32(80 + len(f.cluster.Services)), Protocol: corev1.ProtocolTCP}}
	svc.Spec.ExternalTrafficPolicy = rapid.SampledFrom([]corev1.ServiceExternalTrafficPolicy{
		corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal,
	}).Draw(f.t, "policy")
	if f.oneIn(3, "shares") {
		svc.Annotations[v1beta1.AnnotationAllowSharedIP] = "k"
	}
	f.cluster.Services = append(f.cluster.Services, svc)
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		var endpoints []discoveryv1.Endpoint
		for _, n := range f.cluster.Nodes {
			if f.oneIn(2, "endpoint") {
				endpoints = append(endpoints, endpointIn(n.Name, rapid.SampledFrom([]string{"ready", "ready", "draining", "notready", "unset"}).Draw(f.t, "state")))
			}
		}
		f.cluster.EndpointSlices = append(f.cluster.EndpointSlices, sliceOf(fmt.Sprintf("%s-%d", name, i), name, family, endpoints...))
	}
}

func drawForeseen(t *rapid.T) *foreseen {
	f := &foreseen{t: t, cluster: &cli.Cluster{Now: foreseenNow}}
	for i := range rapid.IntRange(1, 3).Draw(t, "nodes") {
		f.node(fmt.Sprintf("node-%d", i+1))
	}
	for _, name := range []string{"a", "b", "c"} {
		f.service(name)
	}
	f.cluster.Pools = []*v1beta1.IPAddressPool{f.pool("p")}
	f.cluster.L2Advertisements = []*v1beta1.L2Advertisement{f.l2Advertisement("l")}
	f.cluster.BGPAdvertisements = []*v1beta1.BGPAdvertisement{f.bgpAdvertisement("x"), f.bgpAdvertisement("y")}
	f.cluster.BGPPeers = []*v1beta1.BGPPeer{f.bgpPeer("r")}
	return f
}

// change draws a change of some objects.
func (f *foreseen) change() cli.Change {
	var change cli.Change
	makers := map[string]func() allocation.Object{
		"p": func() allocation.Object { return f.pool("p") }, "q": func() allocation.Object { return f.pool("q") },
		"l": func() allocation.Object { return f.l2Advertisement("l") }, "m": func() allocation.Object { return f.l2Advertisement("m") },
		"x": func() allocation.Object { return f.bgpAdvertisement("x") }, "z": func() allocation.Object { return f.bgpAdvertisement("z") },
		"r": func() allocation.Object { return f.bgpPeer("r") }, "s": func() allocation.Object { return f.bgpPeer("s") },
	}
	there := []string{"p", "l", "x", "r"}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(slices.Sorted(maps.Keys(makers))), 1, 3, rapid.ID).Draw(f.t, "changed") {
		if slices.Contains(there, name) && f.oneIn(4, "deleted") {
			change.Delete = append(change.Delete, makers[name]())
		} else {
			change.Put = append(change.Put, makers[name]())
		}
	}
	return change
}

// rehearsal starts one with the objects of the cluster.
func (f *foreseen) rehearsal() *allocation.Rehearsal {
	c := f.cluster
	var objects []allocation.Object
	for _, o := range c.Services {
		objects = append(objects, o)
	}
	for _, o := range c.Nodes {
		objects = append(objects, o)
	}
	for _, o := range c.Pools {
		objects = append(objects, o)
	}
	for _, o := range c.L2Advertisements {
		objects = append(objects, o)
	}
	for _, o := range c.BGPAdvertisements {
		objects = append(objects, o)
	}
	for _, o := range c.BGPPeers {
		objects = append(objects, o)
	}
	r, err := allocation.NewRehearsal(objects, allocation.Premises{LoadBalancerClass: v1beta1.LoadBalancerClass, DefaultLoadBalancer: true, Now: foreseenNow})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// told is what speakers make of a state of the API: the sessions of each node, what
// they tell over them, and which nodes are eligible to own each address.
type told struct {
	sessions map[string]bgp.Peer
	routes   map[string]bgp.Routes
	// peers are the names of the BGPPeers of sessions.
	peers    map[string]string
	eligible map[string][]string
}

// speakersOf has a speaker on each node plan with the objects, one after the other as
// time would, without any of them being dead or elsewhere.
func (f *foreseen) speakersOf(objects []allocation.Object) told {
	world := f.world(objects)
	says := told{sessions: map[string]bgp.Peer{}, routes: map[string]bgp.Routes{}, peers: map[string]string{}, eligible: map[string][]string{}}
	view := &membership.View{Settled: true}
	for _, n := range world.nodesInOrder() {
		link := ethernet("eth0", "192.0.2.99/24", "2001:db8::99/64")
		view.Members = append(view.Members, membership.Member{Node: n.name, Known: true, Info: membership.Info{Links: []membership.Link{link}}})
	}
	for _, n := range world.nodesInOrder() {
		p := makePlan(planInput{
			self: n.name, config: world.config, services: world.servicesInOrder(), nodes: world.nodesInOrder(), now: foreseenNow, view: view,
			standing: &standing{ring: func(string) []string { return nil }},
		})
		in := routeInput{
			config: world.config, self: world.selfNode(n.name), excluded: nodeExcluded(n), services: world.servicesInOrder(), placements: p.placements, now: foreseenNow,
		}
		if n.draining {
			in.drainingSince = foreseenNow.Add(-time.Hour)
		}
		routing := planRoutes(in, newHoldDown())
		for _, s := range routing.sessions {
			at := n.name + " " + s.Name
			says.sessions[at], says.routes[at], says.peers[at] = s.Peer, bgp.NewRoutes(routing.routes[s.Name]), s.Object
		}
		for addr, place := range p.placements {
			says.eligible[addr.String()] = nil
			for i, v := range place.verdicts {
				if v == eligible {
					says.eligible[addr.String()] = append(says.eligible[addr.String()], p.nodes[i].name)
				}
			}
		}
	}
	return says
}

func (f *foreseen) world(objects []allocation.Object) *world {
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		f.t.Fatal(err)
	}
	var errs [7]error
	cache.Services, errs[0] = k8s.StoreOf(only[*corev1.Service](objects)...)
	cache.Nodes, errs[1] = k8s.StoreOf(only[*corev1.Node](objects)...)
	cache.IPAddressPools, errs[2] = k8s.StoreOf(only[*v1beta1.IPAddressPool](objects)...)
	cache.L2Advertisements, errs[3] = k8s.StoreOf(only[*v1beta1.L2Advertisement](objects)...)
	cache.BGPAdvertisements, errs[4] = k8s.StoreOf(only[*v1beta1.BGPAdvertisement](objects)...)
	cache.BGPPeers, errs[5] = k8s.StoreOf(only[*v1beta1.BGPPeer](objects)...)
	cache.EndpointSlices, errs[6] = k8s.StoreOf(f.cluster.EndpointSlices...)
	for _, err := range errs {
		if err != nil {
			f.t.Fatal(err)
		}
	}
	w := newWorld(cache, k8s.Class{Name: v1beta1.LoadBalancerClass, Default: true}, 7956, clocktesting.NewFakePassiveClock(foreseenNow))
	w.load()
	return w
}

func only[T allocation.Object](objects []allocation.Object) []T {
	var all []T
	for _, o := range objects {
		if typed, is := o.(T); is {
			all = append(all, typed)
		}
	}
	return all
}

// attributes renders those of a route as plans do.
func attributes(r bgp.Route) string {
	var texts []string
	if r.LocalPref != nil {
		texts = append(texts, fmt.Sprintf("localPref %d", *r.LocalPref))
	}
	if r.MED != nil {
		texts = append(texts, fmt.Sprintf("med %d", *r.MED))
	}
	for _, c := range r.Communities {
		texts = append(texts, c.String())
	}
	for _, c := range r.LargeCommunities {
		texts = append(texts, c.String())
	}
	if len(texts) == 0 {
		return "no attributes"
	}
	return strings.Join(texts, ", ")
}

// linesOf renders what becomes of sessions and routes.
func linesOf(before, after told) []string {
	var lines []string
	for at, old := range before.sessions {
		next, stays := after.sessions[at]
		switch {
		case !stays:
			lines = append(lines, "session "+at+" "+cli.SessionRemoved)
		case old.NeedsReset(next):
			lines = append(lines, "session "+at+" "+cli.SessionReset)
		case !old.Equal(next):
			lines = append(lines, "session "+at+" "+cli.SessionUpdated)
		}
	}
	for at := range after.sessions {
		if _, was := before.sessions[at]; !was {
			lines = append(lines, "session "+at+" "+cli.SessionAdded)
		}
	}
	peers := maps.Clone(before.peers)
	maps.Copy(peers, after.peers)
	for at, peer := range peers {
		node, _, _ := strings.Cut(at, " ")
		announce, withdraw := before.routes[at].Diff(after.routes[at])
		for _, next := range announce {
			line := fmt.Sprintf("route %s to %s by %s %s", next.Prefix, peer, node, cli.RouteAnnounced)
			if old, was := before.routes[at][next.Prefix]; was {
				line = fmt.Sprintf("route %s to %s by %s %s %s to", next.Prefix, peer, node, cli.RouteChanged, attributes(old))
			}
			lines = append(lines, line+" "+attributes(next))
		}
		for _, prefix := range withdraw {
			lines = append(lines, fmt.Sprintf("route %s to %s by %s %s %s", prefix, peer, node, cli.RouteWithdrawn, attributes(before.routes[at][prefix])))
		}
	}
	slices.Sort(lines)
	return lines
}

// plannedLines renders the same of a plan.
func plannedLines(plan *cli.Plan) []string {
	var lines []string
	for _, s := range plan.Sessions {
		for _, node := range s.Nodes {
			lines = append(lines, "session "+node+" "+s.Name+" "+s.Change)
		}
	}
	for _, r := range plan.Routes {
		for _, node := range r.Nodes {
			line := fmt.Sprintf("route %s to %s by %s %s", r.Prefix, r.Peer, node, r.Change)
			switch r.Change {
			case cli.RouteAnnounced:
				line += " " + r.After
			case cli.RouteWithdrawn:
				line += " " + r.Before
			default:
				line += " " + r.Before + " to " + r.After
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// TestPlansTellWhatSpeakersDo: the sessions, routes and eligible nodes that a plan of
// a change has are those that speakers make of what the API has then.
func TestPlansTellWhatSpeakersDo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawForeseen(t)
		change := f.change()
		plan, err := cli.PlanFor(f.cluster, change, false)
		if err != nil {
			t.Fatal(err)
		}
		r := f.rehearsal()
		before := f.speakersOf(r.Objects())
		for _, o := range change.Put {
			if err := r.Put(o); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range change.Delete {
			if err := r.Delete(o); err != nil {
				t.Fatal(err)
			}
		}
		after := f.speakersOf(r.Objects())
		if diff := cmp.Diff(linesOf(before, after), plannedLines(plan)); diff != "" {
			t.Fatalf("the plan is wrong (-speakers +plan):\n%s", diff)
		}
		for _, s := range plan.Services {
			if s.After == nil {
				continue
			}
			for _, a := range s.After.Announcements {
				if diff := cmp.Diff(after.eligible[netip.MustParseAddr(a.Address).String()], a.Nodes); diff != "" {
					t.Fatalf("the plan has other nodes for %s of Service %s (-speakers +plan):\n%s", a.Address, s.Name, diff)
				}
			}
		}
	})
}
