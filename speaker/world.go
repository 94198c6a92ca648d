package main

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/membership"
)

// world is what the API server said last, in the form that a plan needs. It is
// kept up object by object, because an event seldom concerns more than one.
type world struct {
	cache *k8s.Cache
	class k8s.Class
	clock clock.PassiveClock
	// peerPort is where the other speakers listen.
	peerPort uint16

	config   *config.Snapshot
	services map[serviceKey]*service
	nodes    map[string]*node
	// slices are the EndpointSlices of each Service, by their names.
	slices map[serviceKey]map[string]*discoveryv1.EndpointSlice
	// sliceOwner is the Service that a slice belonged to when it was seen last.
	sliceOwner map[serviceKey]serviceKey
	fresh      freshness
	// loaded says that everything was read once.
	loaded bool

	// Sorted forms of the above, nil when out of date.
	sortedServices []*service
	sortedNodes    []*node
}

func newWorld(cache *k8s.Cache, class k8s.Class, peerPort uint16, clk clock.PassiveClock) *world {
	return &world{
		cache: cache, class: class, peerPort: peerPort, clock: clk,
		config:     &config.Snapshot{},
		services:   map[serviceKey]*service{},
		nodes:      map[string]*node{},
		slices:     map[serviceKey]map[string]*discoveryv1.EndpointSlice{},
		sliceOwner: map[serviceKey]serviceKey{},
		fresh:      newFreshness(),
	}
}

// load reads everything.
func (w *world) load() {
	w.configure()
	for _, s := range w.cache.EndpointSlices.List() {
		w.updateSlice(s.Namespace, s.Name)
	}
	for _, s := range w.cache.Services.List() {
		w.updateService(serviceKey{s.Namespace, s.Name})
	}
	for _, n := range w.cache.Nodes.List() {
		w.updateNode(n.Name)
	}
	w.loaded = true
}

// update takes in a change of one object.
func (w *world) update(key k8s.Key) {
	switch key.Kind {
	case k8s.KindService:
		w.updateService(serviceKey{key.Namespace, key.Name})
	case k8s.KindEndpointSlice:
		w.updateSlice(key.Namespace, key.Name)
	case k8s.KindNode:
		w.updateNode(key.Name)
	case k8s.KindIPAddressPool, k8s.KindL2Advertisement,
		k8s.KindBGPPeer, k8s.KindBGPAdvertisement, k8s.KindCommunity, k8s.KindBFDProfile, k8s.KindSecret:
		w.configure()
	}
}

func (w *world) configure() {
	objects := config.Objects{
		IPAddressPools:    w.cache.IPAddressPools.List(),
		L2Advertisements:  w.cache.L2Advertisements.List(),
		BGPPeers:          w.cache.BGPPeers.List(),
		BGPAdvertisements: w.cache.BGPAdvertisements.List(),
		Communities:       w.cache.Communities.List(),
		BFDProfiles:       w.cache.BFDProfiles.List(),
		Before:            w.config,
	}
	for _, object := range w.cache.Secrets.List() {
		objects.Secrets = append(objects.Secrets, config.NewSecret(object))
	}
	// The verdicts are the controller's to tell.
	w.config, _ = config.Build(objects)
}

// selfNode returns what BGP needs to know of a node; nothing but its name if
// there is no such Node.
func (w *world) selfNode(name string) config.Node {
	object, ok := w.cache.Nodes.Get("", name)
	if !ok {
		return config.Node{Name: name}
	}
	return config.NewNode(object)
}

func (w *world) updateService(key serviceKey) {
	w.sortedServices = nil
	before, had := w.services[key]
	s := &service{}
	if object, ok := w.cache.Services.Get(key.namespace, key.name); ok && w.class.Owns(object) {
		s = newService(key, object)
	}
	if had && before.uid != s.uid { // deleted, and perhaps created again
		w.fresh.move(before.uid, before.addresses, nil, w.clock.Now(), false)
		had = false
	}
	if !had {
		before = &service{}
	}
	w.fresh.move(s.uid, before.addresses, s.addresses, w.clock.Now(), !w.loaded)
	if len(s.addresses) == 0 {
		delete(w.services, key)
		return
	}
	s.backends = w.backendsOf(key)
	if had {
		for f := range s.backends {
			s.backends[f].follow(before.backends[f], w.clock.Now())
		}
	}
	w.fresh.serve(s, w.clock.Now())
	w.services[key] = s
}

func newService(key serviceKey, object *corev1.Service) *service {
	s := &service{
		key: key, uid: object.UID, labels: object.Labels,
		local: object.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	for _, ingress := range object.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(ingress.IP)
		if err != nil {
			continue // a host name, which is nobody's address
		}
		if addr = addr.Unmap().WithZone(""); !slices.Contains(s.addresses, addr) {
			s.addresses = append(s.addresses, addr)
		}
	}
	if c := meta.FindStatusCondition(object.Status.Conditions, v1beta1.ConditionAnnounced); c != nil {
		s.announcers = announcersIn(c.Message, s.addresses)
	}
	for name := range strings.SplitSeq(object.Annotations[v1beta1.AnnotationIPAllocatedFromPool], ",") {
		if name = strings.TrimSpace(name); name != "" {
			s.pools = append(s.pools, name)
		}
	}
	return s
}

func (w *world) updateSlice(namespace, name string) {
	sliceKey := serviceKey{namespace, name}
	object, ok := w.cache.EndpointSlices.Get(namespace, name)
	owner := serviceKey{}
	if ok {
		owner = serviceKey{namespace, object.Labels[discoveryv1.LabelServiceName]}
	}
	if before, had := w.sliceOwner[sliceKey]; had && before != owner {
		delete(w.slices[before], name)
		if len(w.slices[before]) == 0 {
			delete(w.slices, before)
		}
		delete(w.sliceOwner, sliceKey)
		w.refreshBackends(before)
	}
	if owner.name == "" {
		return
	}
	w.sliceOwner[sliceKey] = owner
	if w.slices[owner] == nil {
		w.slices[owner] = map[string]*discoveryv1.EndpointSlice{}
	}
	w.slices[owner][name] = object
	w.refreshBackends(owner)
}

// refreshBackends replaces the Service by a copy with its present backends: the
// last plan still points at the old one.
func (w *world) refreshBackends(key serviceKey) {
	s, ok := w.services[key]
	if !ok {
		return
	}
	fresh := *s
	fresh.backends = w.backendsOf(key)
	for f, before := range s.backends {
		fresh.backends[f].follow(before, w.clock.Now())
	}
	w.fresh.serve(&fresh, w.clock.Now())
	w.services[key] = &fresh
	w.sortedServices = nil
}

func (w *world) backendsOf(key serviceKey) [families]*backends {
	all := [families]*backends{ipv4: {}, ipv6: {}}
	for _, s := range w.slices[key] {
		switch s.AddressType {
		case discoveryv1.AddressTypeIPv4:
			all[ipv4].add(s.Endpoints)
		case discoveryv1.AddressTypeIPv6:
			all[ipv6].add(s.Endpoints)
		}
	}
	return all
}

func (w *world) updateNode(name string) {
	w.sortedNodes = nil
	object, ok := w.cache.Nodes.Get("", name)
	if !ok {
		delete(w.nodes, name)
		return
	}
	_, draining := object.Annotations[v1beta1.AnnotationDrain]
	n := &node{name: name, labels: object.Labels, draining: draining}
	for _, c := range object.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionTrue {
			n.networkUnavailable = true
		}
	}
	w.nodes[name] = n
}

// relevantLinks says which links of this node may have to do with who owns an
// address, if self is where the other speakers reach it.
func (w *world) relevantLinks(self netip.Addr) relevance {
	r := relevance{named: map[string]bool{}, self: self, serves: w.addressIn}
	for _, a := range w.config.L2Advertisements {
		for _, name := range a.Interfaces {
			r.named[name] = true
		}
	}
	return r
}

// addressIn says whether an address of a pool or of a Service is in the subnet.
func (w *world) addressIn(subnet netip.Prefix) bool {
	whole := ipam.RangeOf(subnet)
	for _, p := range w.config.Pools {
		if slices.ContainsFunc(p.Ranges, whole.Overlaps) {
			return true
		}
	}
	for _, s := range w.services {
		if slices.ContainsFunc(s.addresses, subnet.Contains) {
			return true
		}
	}
	return false
}

// servicesInOrder returns the Services in the order of their keys.
func (w *world) servicesInOrder() []*service {
	if w.sortedServices == nil {
		w.sortedServices = slices.SortedFunc(maps.Values(w.services), func(a, b *service) int { return a.key.compare(b.key) })
	}
	return w.sortedServices
}

// nodesInOrder returns the Nodes in the order of their names.
func (w *world) nodesInOrder() []*node {
	if w.sortedNodes == nil {
		w.sortedNodes = slices.SortedFunc(maps.Values(w.nodes), func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	}
	return w.sortedNodes
}

// peers returns the speakers that have a Pod which may run.
func (w *world) peers() []membership.Peer {
	var peers []membership.Peer
	for _, pod := range w.cache.Pods.List() {
		// A speaker uses its node's network, so the address of the Pod is the
		// node's.
		addr, err := netip.ParseAddr(cmp.Or(pod.Status.PodIP, pod.Status.HostIP))
		if err != nil || pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		peers = append(peers, membership.Peer{Node: pod.Spec.NodeName, Addr: netip.AddrPortFrom(addr, w.peerPort)})
	}
	return peers
}
