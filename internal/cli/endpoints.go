package cli

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoints are those of one family of a Service, by what kube-proxy makes of
// them.
type endpoints struct {
	// ready, and terminating but serving, by node; those of no node are under "".
	ready, terminating map[string]int
	// unready is how many there are that get nothing.
	unready int
}

// endpointsOf reads the EndpointSlices of a Service that have the family of addr.
func (c *Cluster) endpointsOf(svc *corev1.Service, addr netip.Addr) endpoints {
	return endpointsIn(c.EndpointSlices, svc, addr)
}

func endpointsIn(all []*discoveryv1.EndpointSlice, svc *corev1.Service, addr netip.Addr) endpoints {
	e := endpoints{ready: map[string]int{}, terminating: map[string]int{}}
	want := discoveryv1.AddressTypeIPv4
	if addr.Is6() {
		want = discoveryv1.AddressTypeIPv6
	}
	for _, s := range all {
		if s.Namespace != svc.Namespace || s.Labels[discoveryv1.LabelServiceName] != svc.Name || s.AddressType != want {
			continue
		}
		for i := range s.Endpoints {
			e.add(&s.Endpoints[i])
		}
	}
	return e
}

// A condition that is not set counts as true for ready and serving, and as false
// for terminating (discovery/v1 EndpointConditions).
func (e *endpoints) add(endpoint *discoveryv1.Endpoint) {
	node := ""
	if endpoint.NodeName != nil {
		node = *endpoint.NodeName
	}
	is := func(c *bool, unset bool) bool {
		if c == nil {
			return unset
		}
		return *c
	}
	switch c := endpoint.Conditions; {
	case is(c.Ready, true):
		e.ready[node]++
	case is(c.Serving, true) && is(c.Terminating, false):
		e.terminating[node]++
	default:
		e.unready++
	}
}

// serve says whether any of them takes traffic.
func (e *endpoints) serve() bool { return len(e.ready)+len(e.terminating) > 0 }

// on says whether any on that node takes traffic.
func (e *endpoints) on(node string) bool { return e.ready[node]+e.terminating[node] > 0 }

func isLocal(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// sharers returns Berth's Services that have an address, in the order of their
// names.
func (c *Cluster) sharers(addr netip.Addr) []*corev1.Service {
	var services []*corev1.Service
	for _, svc := range c.ours() {
		if slices.Contains(addressesOf(svc), addr) {
			services = append(services, svc)
		}
	}
	return services
}

// served is what there is behind an address.
type served struct {
	// anywhere says that some endpoint takes traffic.
	anywhere bool
	// local are the endpoints, of Services with externalTrafficPolicy Local, that a
	// node needs some of.
	local []endpoints
}

// servedAt says what there is behind an address of these Services. One without any
// endpoint does not count where another has some.
func (c *Cluster) servedAt(addr netip.Addr, services []*corev1.Service) served {
	return servedAt(addr, services, c.endpointsOf)
}

func servedAt(addr netip.Addr, services []*corev1.Service, endpointsOf func(*corev1.Service, netip.Addr) endpoints) served {
	var s served
	for _, svc := range services {
		e := endpointsOf(svc, addr)
		if !e.serve() {
			continue
		}
		s.anywhere = true
		if isLocal(svc) {
			s.local = append(s.local, e)
		}
	}
	return s
}

// servedEverywhere says what there is behind each address of Berth's Services, which
// it returns as well, by address.
func (c *Cluster) servedEverywhere() (map[netip.Addr]served, map[netip.Addr][]*corev1.Service) {
	ofService := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range c.EndpointSlices {
		name := s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
		ofService[name] = append(ofService[name], s)
	}
	sharers := map[netip.Addr][]*corev1.Service{}
	for _, svc := range c.ours() {
		for _, addr := range addressesOf(svc) {
			sharers[addr] = append(sharers[addr], svc)
		}
	}
	all := make(map[netip.Addr]served, len(sharers))
	for addr, services := range sharers {
		all[addr] = servedAt(addr, services, func(svc *corev1.Service, addr netip.Addr) endpoints {
			return endpointsIn(ofService[nameOf(svc)], svc, addr)
		})
	}
	return all, sharers
}

// on says whether a node can serve the address.
func (s *served) on(node string) bool {
	return s.anywhere && !slices.ContainsFunc(s.local, func(e endpoints) bool { return !e.on(node) })
}

// nodesIn returns the names of the nodes of some endpoints, in order.
func nodesIn(counts map[string]int) []string {
	var names []string
	for name := range counts {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func sum(counts map[string]int) int {
	total := 0
	for _, n := range counts {
		total += n
	}
	return total
}
