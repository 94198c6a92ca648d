package main

import (
	"net/netip"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// family is an address family: kube-proxy serves each by its own endpoints.
type family uint8

const (
	ipv4 family = iota
	ipv6
	families
)

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return ipv4
	}
	return ipv6
}

// backends say where one family of a Service can be served, as kube-proxy does
// it (k8s.io/kubernetes/pkg/proxy/topology.go): by endpoints that are ready, or,
// where there are none, by endpoints that are terminating and still serving.
// publishNotReadyAddresses needs no attention here: the endpoints of such a
// Service are marked ready.
type backends struct {
	// anywhere says that some node has a usable endpoint: what traffic under
	// externalTrafficPolicy Cluster needs.
	anywhere bool
	// ready and draining are the nodes that have endpoints which are ready, and
	// which are terminating but serve: what traffic under Local needs.
	ready, draining map[string]bool
	// since is when nodes came to serve, of those that did not before.
	since map[string]time.Time
}

// youth is how long an endpoint has to serve before a node counts as fully able:
// kube-proxy gathers changes for a second before it writes them, and an endpoint
// that flaps should attract nothing.
const youth = 3 * time.Second

// young says whether the node has only just come to serve.
func (b *backends) young(node string, now time.Time) bool {
	since, known := b.since[node]
	return known && now.Sub(since) < youth
}

// grownUp returns when the node will not be young any more; zero if it is not.
func (b *backends) grownUp(node string, now time.Time) time.Time {
	if !b.young(node, now) {
		return time.Time{}
	}
	return b.since[node].Add(youth)
}

// follow notes which nodes have come to serve that did not in before, at now.
func (b *backends) follow(before *backends, now time.Time) {
	for _, nodes := range []map[string]bool{b.ready, b.draining} {
		for node := range nodes {
			since, known := before.since[node]
			if !before.serves(node) {
				since, known = now, true
			}
			if known && now.Sub(since) < youth {
				if b.since == nil {
					b.since = map[string]time.Time{}
				}
				b.since[node] = since
			}
		}
	}
}

// serves says whether kube-proxy on node has an endpoint of its own to use.
func (b *backends) serves(node string) bool { return b.ready[node] || b.draining[node] }

// add takes in the endpoints of one slice.
func (b *backends) add(endpoints []discoveryv1.Endpoint) {
	for i := range endpoints {
		e := &endpoints[i]
		into := &b.ready
		if !isReady(e) {
			if !isServing(e) || !isTerminating(e) {
				continue
			}
			into = &b.draining
		}
		b.anywhere = true
		if e.NodeName == nil {
			continue
		}
		if *into == nil {
			*into = map[string]bool{}
		}
		(*into)[*e.NodeName] = true
	}
}

// A condition that is not set counts as true for ready and serving, and as
// false for terminating (discovery/v1 EndpointConditions).
func isReady(e *discoveryv1.Endpoint) bool {
	return e.Conditions.Ready == nil || *e.Conditions.Ready
}

func isServing(e *discoveryv1.Endpoint) bool {
	return e.Conditions.Serving == nil || *e.Conditions.Serving
}

func isTerminating(e *discoveryv1.Endpoint) bool {
	return e.Conditions.Terminating != nil && *e.Conditions.Terminating
}
