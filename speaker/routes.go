package main

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
)

// reannounceDelay is the least time between the end of an address's last
// endpoint on this node, which withdraws its route at once, and the route's next
// announcement. So an endpoint that flaps makes a router take in two changes in
// this time at most.
const reannounceDelay = 3 * time.Second

// drainNotice is how long a node that is being drained goes on announcing its
// routes with the community GRACEFUL_SHUTDOWN (RFC 8326) before it withdraws
// them: routers find other paths first, and no packet is without one.
const drainNotice = 5 * time.Second

// routing is what this node is to have with routers and to tell them.
type routing struct {
	sessions  []config.Session
	problems  []config.SessionProblem
	routes    map[string][]bgp.Route // by session
	conflicts []config.Conflict
	// drain is how far the node is drained.
	drain drainState
	// again is when something will change by itself; zero for never.
	again time.Time
}

// drainState is how far a node is drained.
type drainState uint8

const (
	inService drainState = iota
	draining             // its routes are told as going away
	drained              // it has no routes
)

// routeInput is what the routing depends on.
type routeInput struct {
	config *config.Snapshot
	self   config.Node
	// excluded says why the node is to announce nothing, eligible if it may.
	excluded verdict
	// drainingSince is when the node began to be drained; zero if it is not.
	drainingSince time.Time
	services      []*service
	placements    map[netip.Addr]*placement
	fresh         map[netip.Addr]time.Time
	now           time.Time
}

// planRoutes decides what this node tells which router. Unlike layer 2, every
// node that can serve an address announces it, so a plan depends on no other
// speaker: neither on who lives nor on who owns.
func planRoutes(in routeInput, holds *holdDown) routing {
	var r routing
	r.sessions, r.problems = config.SessionsOf(in.config, in.self)
	if len(r.sessions) == 0 {
		return r
	}
	if !in.drainingSince.IsZero() {
		r.drain = draining
		if r.again = in.drainingSince.Add(drainNotice); !in.now.Before(r.again) {
			r.drain, r.again = drained, time.Time{}
		}
	}
	var announced []config.Announced
	if in.excluded == eligible && r.drain != drained {
		announced = r.served(in, holds)
	} else {
		clear(holds.serving) // nothing is told
	}
	router := config.NewRouter(in.config, labels.Set(in.self.Labels), r.sessions)
	r.routes, r.conflicts = router.Routes(announced)
	if r.drain == draining {
		for _, routes := range r.routes {
			for i := range routes {
				routes[i].Communities = append(routes[i].Communities, bgp.GracefulShutdown)
			}
		}
	}
	return r
}

// served returns the Services with those of their addresses that this node can
// serve.
func (r *routing) served(in routeInput, holds *holdDown) []config.Announced {
	serves := make(map[netip.Addr]bool, len(in.placements))
	for addr, p := range in.placements {
		// What is told already is not taken back for this.
		fresh, waits := in.fresh[addr]
		waits = waits && !holds.serving[addr]
		ok, until := holds.allow(addr, !waits && servedHere(p, in.self.Name), in.now)
		serves[addr] = ok
		r.again = earlier(r.again, until)
		if waits {
			r.again = earlier(r.again, fresh)
		}
	}
	holds.forget(in.placements, in.now)
	var announced []config.Announced
	for _, s := range in.services {
		svc := announcedService(s)
		svc.Addresses = nil
		for _, addr := range s.addresses {
			if serves[addr] {
				svc.Addresses = append(svc.Addresses, addr)
			}
		}
		if len(svc.Addresses) > 0 {
			announced = append(announced, svc)
		}
	}
	return announced
}

// announcedService describes a Service to the configuration.
func announcedService(s *service) config.Announced {
	return config.Announced{Name: s.key.String(), Labels: s.labels, Addresses: s.addresses, Pools: s.pools}
}

// servedHere says whether kube-proxy on the node brings traffic for an address
// to an endpoint: of whichever node under externalTrafficPolicy Cluster, of its
// own under Local.
func servedHere(p *placement, node string) bool {
	local, serving := needs(p)
	if !serving {
		return false
	}
	for _, b := range local {
		if !b.serves(node) {
			return false
		}
	}
	return true
}

// nodeExcluded says why a node announces nothing at all.
func nodeExcluded(n *node) verdict {
	switch _, isExcluded := n.labels[corev1.LabelNodeExcludeBalancers]; {
	case isExcluded:
		return excluded
	case n.networkUnavailable:
		return networkUnavailable
	}
	return eligible
}

// holdDown keeps an address that was just withdrawn from being announced again
// at once.
type holdDown struct {
	serving   map[netip.Addr]bool
	withdrawn map[netip.Addr]time.Time
}

func newHoldDown() *holdDown {
	return &holdDown{serving: map[netip.Addr]bool{}, withdrawn: map[netip.Addr]time.Time{}}
}

// allow says whether an address may be announced that can be served or not, and
// if it must wait, until when.
func (h *holdDown) allow(addr netip.Addr, serves bool, now time.Time) (ok bool, until time.Time) {
	if !serves {
		if h.serving[addr] {
			delete(h.serving, addr)
			h.withdrawn[addr] = now
		}
		return false, time.Time{}
	}
	if at, was := h.withdrawn[addr]; was && now.Before(at.Add(reannounceDelay)) {
		return false, at.Add(reannounceDelay)
	}
	delete(h.withdrawn, addr)
	h.serving[addr] = true
	return true, time.Time{}
}

// forget drops what is of no consequence any more.
func (h *holdDown) forget(placements map[netip.Addr]*placement, now time.Time) {
	for addr := range h.serving {
		if placements[addr] == nil {
			delete(h.serving, addr)
		}
	}
	for addr, at := range h.withdrawn {
		if !now.Before(at.Add(reannounceDelay)) {
			delete(h.withdrawn, addr)
		}
	}
}
