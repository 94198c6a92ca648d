package gobgp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log/level"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/wire"
)

// An announcer tells one engine of a session's routes. It makes the engine when
// the router's OPEN is known.
type announcer struct {
	session *session
	peer    bgp.Peer
	local   netip.Addr
	link    []netip.Addr // the addresses of local's interface, if it is link-local
	open    wire.Open
	leg     *leg
	conn    *net.TCPConn // the engine's end

	mu     sync.Mutex
	engine *engine
	router wire.Open
	// told is what the engine knows, hops the next hops of that.
	told bgp.Routes
	hops nextHops
	// problem is why some routes are not told.
	problem string

	// published is what others may know without waiting for the engine.
	published atomic.Pointer[tally]
}

// A tally is how many routes a router knows, and why not all.
type tally struct {
	told    int
	problem string
}

// checkOpen implements transport.RelayConfig.CheckOpen: it starts the engine if
// the router may be the peer.
func (n *announcer) checkOpen(o wire.Open) (*wire.Notification, error) {
	if refusal, err := checkOpen(n.peer, o); refusal != nil {
		return refusal, err
	}
	both := families(wire.NegotiatedFamilies(n.open.Capabilities, o.Capabilities))
	if len(both) == 0 {
		return &wire.Notification{Code: wire.CodeOpen, Subcode: wire.SubcodeUnsupportedCapability},
			errors.New("it offers none of the address families that are configured")
	}
	hold := time.Duration(min(n.open.HoldTime, o.HoldTime)) * time.Second
	keepalive := keepaliveTime(n.peer, hold)
	if hold == 0 {
		n.leg.endless.Store(true)
		hold, keepalive = endlessHoldTime, endlessHoldTime/3
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.router = o.Clone()
	routes, hops := n.desired(both)
	engine, err := startEngine(engineConfig{
		localASN: n.peer.LocalASN, remoteASN: o.ASN, routerID: n.peer.RouterID, families: both,
		holdTime: hold, keepaliveTime: keepalive, nextHops: hops,
		endOfRIB: n.peer.GracefulRestart != nil && o.Capabilities.GracefulRestart != nil,
		logger:   n.session.logger,
	}, routes, n.conn)
	if err != nil {
		return &wire.Notification{Code: wire.CodeCease, Subcode: wire.SubcodeOutOfResources}, err
	}
	n.engine, n.told, n.hops = engine, routes, hops
	n.publish()
	return nil, nil
}

// desired returns what the router is to know, and the next hops. The caller
// holds mu.
func (n *announcer) desired(both []bgp.Family) (bgp.Routes, nextHops) {
	s := n.session
	s.mu.Lock()
	peer, routes, draining := s.peer, s.routes, s.draining
	s.mu.Unlock()
	var hops nextHops
	hops, n.problem = chooseNextHops(peer, both, n.local, n.link, n.router.Capabilities)
	out := make(bgp.Routes, len(routes))
	for prefix, route := range routes {
		if _, ok := hops[route.Family()]; !ok {
			continue
		}
		if draining {
			route.Communities = append([]bgp.Community{bgp.GracefulShutdown}, route.Communities...)
			route = route.Normalise()
		}
		out[prefix] = route
	}
	return out, hops
}

// run keeps the engine's routes up to date until ctx ends.
func (n *announcer) run(ctx context.Context) {
	var lonely sync.WaitGroup
	defer lonely.Wait()
	lonely.Go(func() { n.leg.keepAlive(ctx) })
	for {
		select {
		case <-n.session.stale:
			if err := n.converge(); err != nil {
				level.Error(n.session.logger).Log("msg", "cannot announce", "err", err)
			}
		case <-ctx.Done():
			// What came with it is for the next session, which begins with all.
			return
		}
	}
}

// converge tells the engine what has changed, and nothing else.
func (n *announcer) converge() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.engine == nil {
		return nil // checkOpen will begin with all
	}
	both := families(wire.NegotiatedFamilies(n.open.Capabilities, n.router.Capabilities))
	want, hops := n.desired(both)
	known := maps.Clone(n.told)
	for prefix, route := range known {
		_, stays := want[prefix]
		if stays && hops[route.Family()] != n.hops[route.Family()] {
			delete(known, prefix) // so that it is told again
		}
	}
	announce, withdraw := known.Diff(want)
	n.engine.paths.nextHops = hops
	n.hops = hops
	var errs []error
	// What comes may stand in for what goes, an aggregate for its addresses.
	for _, route := range announce {
		errs = append(errs, n.engine.announce(route))
	}
	for _, prefix := range withdraw {
		errs = append(errs, n.engine.withdraw(prefix))
	}
	n.told = want
	if n.publish() {
		n.session.speaker.changed()
	}
	return errors.Join(errs...)
}

// refresh tells the router everything again.
func (n *announcer) refresh() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.engine == nil {
		return errors.New("routes were asked for before the session was up")
	}
	if err := n.engine.refresh(); err != nil {
		return fmt.Errorf("announcing all routes again: %w", err)
	}
	return nil
}

// publish makes count return what is told now, and reports whether that is
// something else than before. The caller holds mu.
func (n *announcer) publish() bool {
	now := tally{told: len(n.told), problem: n.problem}
	before := n.published.Swap(&now)
	return before == nil || *before != now
}

// count returns how many prefixes the router knows, and why not all. It waits
// for nothing.
func (n *announcer) count() (int, string) {
	known := n.published.Load()
	if known == nil {
		return 0, ""
	}
	return known.told, known.problem
}

// close ends the engine.
func (n *announcer) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.engine == nil {
		_ = n.conn.Close()
		return
	}
	n.engine.stop()
}
