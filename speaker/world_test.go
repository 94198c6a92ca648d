package main

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/netif"
)

// apiObjects are what a cache holds.
type apiObjects struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	nodes    []*corev1.Node
	pods     []*corev1.Pod
	pools    []*v1beta1.IPAddressPool
	adverts  []*v1beta1.L2Advertisement
}

// fill puts the objects into the cache.
func (o *apiObjects) fill(t testing.TB, cache *k8s.Cache) {
	t.Helper()
	var errs [6]error
	cache.Services, errs[0] = k8s.StoreOf(o.services...)
	cache.EndpointSlices, errs[1] = k8s.StoreOf(o.slices...)
	cache.Nodes, errs[2] = k8s.StoreOf(o.nodes...)
	cache.Pods, errs[3] = k8s.StoreOf(o.pods...)
	cache.IPAddressPools, errs[4] = k8s.StoreOf(o.pools...)
	cache.L2Advertisements, errs[5] = k8s.StoreOf(o.adverts...)
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func loadBalancer(name string, addresses ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	for _, a := range addresses {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return s
}

func sliceOf(name, service string, addressType discoveryv1.AddressType, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: addressType, Endpoints: endpoints,
	}
}

func newTestWorld(t testing.TB, objects *apiObjects) *world {
	t.Helper()
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		t.Fatal(err)
	}
	objects.fill(t, cache)
	w := newWorld(cache, k8s.Class{Name: v1beta1.LoadBalancerClass, Default: true}, 7956, clock.RealClock{})
	w.load()
	return w
}

func TestWhichServicesAreOurs(t *testing.T) {
	t.Parallel()
	foreign, ours, other := loadBalancer("foreign", "192.0.2.1"), loadBalancer("ours", "192.0.2.2"), "example.org/other"
	foreign.Spec.LoadBalancerClass = &other
	class := v1beta1.LoadBalancerClass
	ours.Spec.LoadBalancerClass = &class
	clusterIP := loadBalancer("cluster-ip", "192.0.2.3")
	clusterIP.Spec.Type = corev1.ServiceTypeClusterIP
	odd := loadBalancer("odd", "::ffff:192.0.2.4", "192.0.2.4", "not an address", "fe80::1%eth0")
	odd.Status.LoadBalancer.Ingress = append(odd.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{Hostname: "host.example"})
	odd.Annotations = map[string]string{v1beta1.AnnotationIPAllocatedFromPool: "p1, p2,"}
	odd.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	w := newTestWorld(t, &apiObjects{services: []*corev1.Service{
		foreign, ours, clusterIP, odd, loadBalancer("unclassed", "192.0.2.5"), loadBalancer("pending"),
	}})
	var names []string
	for _, s := range w.servicesInOrder() {
		names = append(names, s.key.name)
	}
	if want := []string{"odd", "ours", "unclassed"}; !slices.Equal(names, want) {
		t.Errorf("Services are %q, want %q", names, want)
	}
	got := w.services[serviceKey{"default", "odd"}]
	if want := []netip.Addr{addr("192.0.2.4"), addr("fe80::1")}; !slices.Equal(got.addresses, want) {
		t.Errorf("addresses are %v, want %v", got.addresses, want)
	}
	if !got.local || !slices.Equal(got.pools, []string{"p1", "p2"}) {
		t.Errorf("local %v, pools %q", got.local, got.pools)
	}
}

// Slices come in several, per family, before or after their Service, and may
// change owners or go.
func TestEndpointSlicesAddUp(t *testing.T) {
	t.Parallel()
	objects := &apiObjects{
		services: []*corev1.Service{loadBalancer("web", v4), loadBalancer("db", v6)},
		slices: []*discoveryv1.EndpointSlice{
			sliceOf("web-1", "web", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")),
			sliceOf("web-2", "web", discoveryv1.AddressTypeIPv4, endpointIn("b", "draining"), endpointIn("c", "notready")),
			sliceOf("web-6", "web", discoveryv1.AddressTypeIPv6, endpointIn("c", "ready")),
			sliceOf("fqdn", "web", discoveryv1.AddressTypeFQDN, endpointIn("c", "ready")),
			sliceOf("stray", "", discoveryv1.AddressTypeIPv4, endpointIn("c", "ready")),
		},
	}
	w := newTestWorld(t, objects)
	serves := func(name string, f family) (nodes string) {
		b := w.services[serviceKey{"default", name}].backends[f]
		for _, n := range []string{"a", "b", "c"} {
			if b.serves(n) {
				nodes += n
			}
		}
		if b.anywhere != (nodes != "") {
			t.Errorf("%s: serves on %q, anywhere: %v", name, nodes, b.anywhere)
		}
		return nodes
	}
	if got := serves("web", ipv4) + "/" + serves("web", ipv6) + "/" + serves("db", ipv4); got != "ab/c/" {
		t.Errorf("serving nodes are %s", got)
	}
	before := w.services[serviceKey{"default", "web"}]

	objects.slices[1] = sliceOf("web-2", "db", discoveryv1.AddressTypeIPv4, endpointIn("b", "ready"))
	objects.slices = slices.Delete(objects.slices, 0, 1)
	objects.fill(t, w.cache)
	w.update(k8s.Key{Kind: k8s.KindEndpointSlice, Namespace: "default", Name: "web-1"})
	w.update(k8s.Key{Kind: k8s.KindEndpointSlice, Namespace: "default", Name: "web-2"})
	if got := serves("web", ipv4) + "/" + serves("web", ipv6) + "/" + serves("db", ipv4); got != "/c/b" {
		t.Errorf("after the change serving nodes are %s", got)
	}
	if !before.backends[ipv4].serves("a") {
		t.Error("a plan's Service has changed under it")
	}

	// The Service goes and comes back; its slices were there all the time.
	kept := objects.services
	objects.services = nil
	objects.fill(t, w.cache)
	w.update(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "web"})
	if len(w.servicesInOrder()) != 1 {
		t.Errorf("%d Services left, want db alone", len(w.servicesInOrder()))
	}
	objects.services = kept
	objects.fill(t, w.cache)
	w.update(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "web"})
	if got := serves("web", ipv6); got != "c" {
		t.Errorf("the Service that came back is served on %q", got)
	}
}

func TestNodesAndConfiguration(t *testing.T) {
	t.Parallel()
	objects := &apiObjects{
		nodes: []*corev1.Node{
			{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue},
			}}},
			{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"k": "v"}}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionUnknown},
			}}},
		},
	}
	w := newTestWorld(t, objects)
	got := w.nodesInOrder()
	if len(got) != 2 || got[0].name != "a" || got[0].networkUnavailable || got[0].labels["k"] != "v" || !got[1].networkUnavailable {
		t.Errorf("nodes are %+v and %+v", got[0], got[1])
	}
	objects.nodes = objects.nodes[1:]
	objects.adverts = []*v1beta1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}}
	objects.fill(t, w.cache)
	w.update(k8s.Key{Kind: k8s.KindNode, Name: "b"})
	w.update(k8s.Key{Kind: k8s.KindL2Advertisement, Name: "all"})
	if len(w.nodesInOrder()) != 1 || len(w.config.L2Advertisements) != 1 {
		t.Errorf("%d nodes, %d advertisements, want one of each", len(w.nodesInOrder()), len(w.config.L2Advertisements))
	}
}

func TestPeersAreRunningPods(t *testing.T) {
	t.Parallel()
	pod := func(name, node, ip string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: name},
			Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{PodIP: ip, Phase: phase},
		}
	}
	w := newTestWorld(t, &apiObjects{pods: []*corev1.Pod{
		pod("1", "a", "192.0.2.1", corev1.PodRunning),
		pod("2", "b", "2001:db8::2", corev1.PodPending),
		pod("3", "c", "192.0.2.3", corev1.PodFailed),
		pod("4", "d", "", corev1.PodPending),
		pod("5", "", "192.0.2.5", corev1.PodPending),
	}})
	got := w.peers()
	slices.SortFunc(got, func(a, b membership.Peer) int { return a.Addr.Compare(b.Addr) })
	want := []membership.Peer{
		{Node: "a", Addr: netip.MustParseAddrPort("192.0.2.1:7956")},
		{Node: "b", Addr: netip.MustParseAddrPort("[2001:db8::2]:7956")},
	}
	if !slices.Equal(got, want) {
		t.Errorf("peers are %v, want %v", got, want)
	}
}

func kernelLink(index int, name string, prefixes ...string) netif.Link {
	l := netif.Link{
		Index: index, Name: name, MAC: []byte{2, 0, 0, 0, 0, byte(index)}, Up: true, Carrier: true,
		Broadcast: true, Multicast: true, LinkLocal: addr("fe80::1"),
	}
	for _, p := range prefixes {
		l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
	}
	return l
}

func TestLinksThatOthersAreTold(t *testing.T) {
	t.Parallel()
	down, v4only, loopback := kernelLink(2, "eth1", "192.0.2.1/24"), kernelLink(3, "eth2", "192.0.2.1/24"), kernelLink(4, "lo")
	down.Carrier, v4only.LinkLocal, loopback.Loopback = false, netip.Addr{}, true
	var w linkWatch
	got, _ := w.look([]netif.Link{kernelLink(1, "eth0", "192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"), down, v4only, loopback}, relevance{})
	eth0, eth2 := ethernet("eth0", "192.0.2.0/24", "2001:db8::/64"), ethernet("eth2", "192.0.2.0/24")
	eth0.MAC, eth0.Addr4, eth0.Addr6 = membership.MAC{2, 0, 0, 0, 0, 1}, addr("192.0.2.1"), addr("fe80::1")
	eth2.MAC, eth2.Addr4, eth2.NDP = membership.MAC{2, 0, 0, 0, 0, 3}, addr("192.0.2.1"), false
	want := membership.Info{Links: []membership.Link{eth0, eth2}}
	if !got.Equal(want) {
		t.Errorf("told %+v\nwant %+v", got, want)
	}
}

func TestLinkThatComesBack(t *testing.T) {
	t.Parallel()
	up, down := kernelLink(1, "eth0", "192.0.2.1/24"), kernelLink(1, "eth0", "192.0.2.1/24")
	down.Carrier = false
	flapped, recreated, moreAddresses, otherSubnet, noNDP, v6 := up, up, up, up, up, kernelLink(1, "eth0", "2001:db8::1/64")
	flapped.CarrierChanges += 2
	recreated.Index = 7
	moreAddresses.Prefixes = append(slices.Clone(up.Prefixes), netip.MustParsePrefix("192.0.2.9/24"))
	otherSubnet.Prefixes = append(slices.Clone(up.Prefixes), netip.MustParsePrefix("10.244.1.1/24"))
	noNDP.LinkLocal = netip.Addr{}
	noV6 := v6
	noV6.Prefixes = nil // as long as duplicates of it are looked for
	bridge, bridgeUp := kernelLink(2, "cni0", "10.244.0.1/24"), kernelLink(2, "cni0", "10.244.0.1/24")
	bridge.Carrier = false
	named, host := kernelLink(3, "named0"), kernelLink(4, "host0", "203.0.113.1/24")
	matters := relevance{
		named: map[string]bool{"named0": true}, self: addr("203.0.113.1"),
		serves: func(subnet netip.Prefix) bool {
			return subnet.Contains(addr(v4)) || subnet.Contains(addr("2001:db8::10"))
		},
	}
	for name, tt := range map[string]struct {
		before, after []netif.Link
		regained      bool
	}{
		"nothing changed":          {[]netif.Link{up}, []netif.Link{up}, false},
		"carrier lost":             {[]netif.Link{up}, []netif.Link{down}, false},
		"carrier back":             {[]netif.Link{down}, []netif.Link{up}, true},
		"flapped between looks":    {[]netif.Link{up}, []netif.Link{flapped}, true},
		"another of that name":     {[]netif.Link{up}, []netif.Link{recreated}, true},
		"new link":                 {[]netif.Link{}, []netif.Link{up}, true},
		"another address only":     {[]netif.Link{up}, []netif.Link{moreAddresses}, false},
		"another subnet of no use": {[]netif.Link{up}, []netif.Link{otherSubnet}, false},
		"IPv6 that nobody needs":   {[]netif.Link{noNDP}, []netif.Link{up}, false},
		"IPv6 address usable":      {[]netif.Link{noV6}, []netif.Link{v6}, true},
		"IPv6 is no longer there":  {[]netif.Link{v6}, []netif.Link{noV6}, false},
		"bridge of the first Pod":  {[]netif.Link{up, bridge}, []netif.Link{up, bridgeUp}, false},
		"named interface":          {[]netif.Link{up}, []netif.Link{up, named}, true},
		"way to the others":        {[]netif.Link{up}, []netif.Link{up, host}, true},
	} {
		var w linkWatch
		if _, regained := w.look(tt.before, matters); regained {
			t.Errorf("%s: regained at the first look", name)
		}
		if _, regained := w.look(tt.after, matters); regained != tt.regained {
			t.Errorf("%s: regained %v, want %v", name, regained, tt.regained)
		}
	}
}

func TestRelevantLinks(t *testing.T) {
	t.Parallel()
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		t.Fatal(err)
	}
	objects := &apiObjects{
		services: []*corev1.Service{loadBalancer("web", "198.51.100.7")}, // of no pool
		pools: []*v1beta1.IPAddressPool{{
			ObjectMeta: metav1.ObjectMeta{Name: "pool"},
			Spec:       v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"192.0.2.10-192.0.2.20", "2001:db8::/120"}},
		}},
		adverts: []*v1beta1.L2Advertisement{
			{ObjectMeta: metav1.ObjectMeta{Name: "some"}, Spec: v1beta1.L2AdvertisementSpec{Interfaces: []v1beta1.InterfaceName{"eth7"}}},
		},
	}
	objects.fill(t, cache)
	w := newWorld(cache, k8s.Class{Default: true}, 7956, clock.RealClock{})
	w.load()
	r := w.relevantLinks(addr("203.0.113.1"))
	if !r.named["eth7"] || len(r.named) != 1 || r.self != addr("203.0.113.1") {
		t.Errorf("%+v", r)
	}
	for subnet, want := range map[string]bool{
		"192.0.2.0/24": true, "192.0.2.16/29": true, "192.0.2.0/29": false, "198.51.100.0/24": true,
		"10.244.0.0/16": false, "2001:db8::/64": true, "2001:db8:1::/64": false,
	} {
		if got := r.serves(netip.MustParsePrefix(subnet)); got != want {
			t.Errorf("%s is of use: %v, want %v", subnet, got, want)
		}
	}
}
