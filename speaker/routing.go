package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bfd"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/netif"
)

// bfdPatience is how long a session that BFD has ended waits for BFD to see the
// peer again. After that it may come up without: a router that was replaced, or
// whose BFD was switched off, is not lost for ever.
const bfdPatience = 30 * time.Second

// arrival is how long a speaker that has started waits for its sessions with
// routers before it calls itself ready all the same.
const arrival = 10 * time.Second

// bfdWatch is what there is to BFD; bfd.Monitor is one.
type bfdWatch interface {
	Apply(configs []bfd.Config)
	States() []bfd.Status
	Changes() <-chan struct{}
}

// routers keeps what this node has with routers in step. It belongs to the
// speaker's loop.
type routers struct {
	node     string
	sessions bgp.Speaker
	bfd      bfdWatch
	gateways func() ([]netip.Addr, error)
	clock    clock.PassiveClock
	logger   log.Logger
	// ready is closed once anything may be announced.
	ready <-chan struct{}
	holds *holdDown
	// draining is since when the node is drained; begun when routers were told
	// anything first.
	draining, begun time.Time
	last            routing
	states          []bgp.PeerState
	watched         []bfd.Status
	watching        []bfd.Config
	// failures is how often BFD had lost each session's peer when that was last
	// dealt with, and lost since when the session waits for it.
	failures map[string]uint64
	lost     map[string]time.Time
	// routes to a default gateway are read when a link changes, and now and then.
	known    []netip.Addr
	knownAt  time.Time
	disputes string
	// began is when sessions were first to be made, and arrived says that the
	// speaker has waited enough for them.
	began   time.Time
	arrived bool
	// troubled is since when there is what stands against a session.
	troubled map[config.SessionProblem]time.Time
}

// gatewayInterval is how old the knowledge of default routes may be.
const gatewayInterval = 10 * time.Second

func newRouters(r routers) *routers {
	r.holds = newHoldDown()
	r.failures, r.lost = map[string]uint64{}, map[string]time.Time{}
	return &r
}

// isReady says whether anything may be announced.
func (r *routers) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// converge makes sessions and routes be what they should. It returns when it
// wants to be called again; zero for never.
func (r *routers) converge(w *world, p *plan, links []netif.Link) (again time.Time) {
	self, n := w.selfNode(r.node), w.nodes[r.node]
	if n == nil {
		return time.Time{}
	}
	now := r.clock.Now()
	self.Local, self.Interfaces, self.Gateways = true, interfacesOf(links), r.defaultGateways(w.config, now)
	r.noteDrain(self, now)
	r.last = planRoutes(routeInput{
		config: w.config, self: self, excluded: nodeExcluded(n), drainingSince: r.draining,
		services: w.servicesInOrder(), placements: p.placements, fresh: p.fresh, now: now,
	}, r.holds)
	if !r.isReady() {
		return time.Time{}
	}
	if r.begun.IsZero() {
		r.begun = now
	}
	peers := make([]bgp.Peer, len(r.last.sessions))
	for i, s := range r.last.sessions {
		peers[i] = s.Peer
	}
	r.sessions.Apply(peers, r.last.routes)
	r.look()
	r.noteProblems(now)
	r.watching = bfdConfigs(r.last.sessions, r.states, self, r.watching)
	r.bfd.Apply(r.watching)
	r.tellDisputes()
	again = r.last.again
	if usesGateways(w.config) {
		again = earlier(again, r.knownAt.Add(gatewayInterval))
	}
	for _, since := range r.lost {
		again = earlier(again, since.Add(bfdPatience))
	}
	return again
}

// awaited says why the speaker is not to call itself ready yet, and until when at
// the most: a rolling restart goes on to the next node as soon as it does, and
// would overtake the routers, which learn the routes of this one only with its
// sessions. Once it is ready, a session that ends does not change that.
func (r *routers) awaited() (why string, until time.Time) {
	now := r.clock.Now()
	if r.began.IsZero() {
		r.began = now
	}
	if until = r.began.Add(arrival); r.arrived || !now.Before(until) {
		r.arrived = true
		return "", time.Time{}
	}
	for _, s := range r.last.sessions {
		if state := stateOf(r.states, s.Name); state.State != bgp.Established {
			return "waiting for the BGP session " + s.Name, until
		}
	}
	r.arrived = true
	return "", time.Time{}
}

// noteDrain follows the annotation of the node.
func (r *routers) noteDrain(self config.Node, now time.Time) {
	_, asked := self.Annotations[v1beta1.AnnotationDrain]
	switch {
	case asked && r.draining.IsZero() && r.begun.IsZero():
		r.draining = now.Add(-drainNotice) // it was drained before this speaker started
	case asked && r.draining.IsZero():
		r.draining = now
		level.Info(r.logger).Log("msg", "draining: routers are told to find other paths", "for", drainNotice)
	case !asked && !r.draining.IsZero():
		r.draining = time.Time{}
		level.Info(r.logger).Log("msg", "not drained any more")
	}
}

// noteProblems remembers since when there are those of the last plan.
func (r *routers) noteProblems(now time.Time) {
	before := r.troubled
	r.troubled = make(map[config.SessionProblem]time.Time, len(r.last.problems))
	for _, p := range r.last.problems {
		since, known := before[p]
		if !known {
			since = now
			level.Warn(r.logger).Log("msg", "no BGP session", "session", p.Name, "reason", p.Reason, "err", p.Message)
		}
		r.troubled[p] = since
	}
}

// look takes in how sessions are doing, and passes on what BFD sees.
func (r *routers) look() {
	r.states, r.watched = r.sessions.States(), r.bfd.States()
	now := r.clock.Now()
	seen := map[string]bool{}
	for _, s := range r.watched {
		seen[s.Name] = true
		before, known := r.failures[s.Name]
		r.failures[s.Name] = s.Failures
		if known && s.Failures > before { // fewer than before are those of another BFD session
			r.lost[s.Name] = now
			r.sessions.PeerDown(s.Name, "BFD has lost the peer: "+s.Diagnostic.String())
		}
		since, waits := r.lost[s.Name]
		if waits && (s.State == bfd.Up || !now.Before(since.Add(bfdPatience))) {
			delete(r.lost, s.Name)
			r.sessions.PeerUp(s.Name)
		}
	}
	for name := range r.failures {
		if seen[name] {
			continue
		}
		delete(r.failures, name)
		if _, waits := r.lost[name]; waits { // nobody watches it any more
			delete(r.lost, name)
			r.sessions.PeerUp(name)
		}
	}
}

// established returns with which BGPPeers the node has a session for which
// family, as toldOf has it.
func (r *routers) established() []string {
	var told []string
	for _, s := range r.last.sessions {
		state := stateOf(r.states, s.Name)
		if state.State != bgp.Established || state.Problem != "" && state.Announced == 0 {
			continue
		}
		for _, f := range state.Families {
			told = append(told, toldOf(f, s.Object))
		}
	}
	slices.Sort(told)
	return slices.Compact(told)
}

// toldOf is how speakers tell each other that they tell a peer of a family.
func toldOf(f bgp.Family, peer string) string { return f.String() + " " + peer }

// tellDisputes logs where advertisements disagree, once.
func (r *routers) tellDisputes() {
	text := ""
	if len(r.last.conflicts) > 0 {
		text = r.last.conflicts[0].Message
	}
	if text != "" && text != r.disputes {
		level.Warn(r.logger).Log("msg", "BGPAdvertisements disagree", "conflicts", len(r.last.conflicts), "first", text)
	}
	r.disputes = text
}

func (r *routers) defaultGateways(snapshot *config.Snapshot, now time.Time) []netip.Addr {
	if !usesGateways(snapshot) || now.Before(r.knownAt.Add(gatewayInterval)) {
		return r.known
	}
	gateways, err := r.gateways()
	if err != nil {
		level.Warn(r.logger).Log("msg", "cannot read the default routes, going by what they were", "err", err)
		r.knownAt = now
		return r.known
	}
	r.knownAt = now
	if len(gateways) > 0 { // where there is none any more, sessions end by themselves
		r.known = gateways
	}
	return r.known
}

func usesGateways(snapshot *config.Snapshot) bool {
	return slices.ContainsFunc(snapshot.BGPPeers, (*config.BGPPeer).IsDefaultGateway)
}

// leave has the routers find other paths before this speaker ends: those that
// would forget its routes at once. It returns when they have had time for it.
func (r *routers) leave(ctx context.Context) {
	if !r.isReady() {
		return // they were told nothing
	}
	if r.last.drain != inService {
		r.sessions.Drain("node " + r.node + " is drained") // for good, so that nobody waits for a restart
		r.bfd.Apply(withoutAbsence(r.watching))
		return
	}
	routes, peers := map[string][]bgp.Route{}, make([]bgp.Peer, 0, len(r.last.sessions))
	told := false
	for _, s := range r.last.sessions {
		peers = append(peers, s.Peer)
		routes[s.Name] = slices.Clone(r.last.routes[s.Name])
		if restartsGracefully(s, stateOf(r.states, s.Name)) {
			continue
		}
		for i := range routes[s.Name] {
			route := &routes[s.Name][i]
			route.Communities = append(slices.Clone(route.Communities), bgp.GracefulShutdown)
			told = true
		}
	}
	if told {
		r.sessions.Apply(peers, routes)
		sleep(ctx, leaveNotice)
	}
}

// restartsGracefully reports whether the router of a session keeps this node's
// routes while the speaker is away: as was agreed on, or as is configured while
// there is no session.
func restartsGracefully(s config.Session, state bgp.PeerState) bool {
	return s.GracefulRestart != nil && (state.State != bgp.Established || state.GracefulRestart)
}

// leaveNotice is how long routers have to find other paths than those of a
// speaker that ends and has no graceful restart with them.
const leaveNotice = time.Second

// run keeps sessions and BFD until ctx is done. BFD ends last: a router that was
// told by BFD first could take its own end of the session for lost.
func (r *routers) run(ctx context.Context, watch func(context.Context) error) error {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	return daemon.Run(ctx,
		daemon.Task{Name: "BFD", Run: func(context.Context) error { return watch(watching) }},
		daemon.Task{Name: "BGP", Run: func(ctx context.Context) error {
			defer stop()
			return r.sessions.Run(ctx)
		}},
	)
}

func interfacesOf(links []netif.Link) []config.Interface {
	interfaces := make([]config.Interface, 0, len(links))
	for i := range links {
		interfaces = append(interfaces, config.Interface{Name: links[i].Name, Addresses: links[i].Prefixes})
	}
	return interfaces
}

// bfdConfigs returns the BFD sessions that watch the BGP sessions. A peer whose
// address is not known before it speaks is watched from then on. How far away a
// peer is is decided once: a link that goes down takes its subnet with it, which
// must not end the session that is to notice. Where routes outlive the speaker, so
// do the sessions that watch their way, for as long.
func bfdConfigs(sessions []config.Session, states []bgp.PeerState, self config.Node, before []bfd.Config) []bfd.Config {
	var configs []bfd.Config
	for _, s := range sessions {
		if s.BFD == nil {
			continue
		}
		state := stateOf(states, s.Name)
		peer := s.Address
		if !peer.IsValid() {
			peer = state.RemoteAddress.Addr()
		}
		if !peer.IsValid() {
			continue
		}
		multihop := s.Multihop || !self.OnLink(peer)
		if i := slices.IndexFunc(before, func(b bfd.Config) bool { return b.Name == s.Name && b.Peer == peer }); i >= 0 && !s.Multihop {
			multihop = before[i].Multihop
		}
		var absence time.Duration
		if restartsGracefully(s, state) {
			absence = s.GracefulRestart.RestartTime
		}
		configs = append(configs, bfd.Config{
			Name: s.Name, Absence: absence, Peer: peer, Local: s.SourceAddress, Interface: s.Interface, VRF: s.VRF,
			Multihop: multihop, MinimumTTL: s.BFD.MinimumTTL,
			Receive: s.BFD.Receive, Transmit: s.BFD.Transmit, Echo: s.BFD.Echo,
			DetectMultiplier: s.BFD.DetectMultiplier, Passive: s.BFD.Passive, EchoMode: s.BFD.EchoMode,
		})
	}
	return configs
}

// withoutAbsence returns the same sessions, with nobody to go on with them.
func withoutAbsence(configs []bfd.Config) []bfd.Config {
	configs = slices.Clone(configs)
	for i := range configs {
		configs[i].Absence = 0
	}
	return configs
}

// stateOf returns the state of a session; zero if there is none yet.
func stateOf(states []bgp.PeerState, name string) bgp.PeerState {
	i := slices.IndexFunc(states, func(s bgp.PeerState) bool { return s.Name == name })
	if i < 0 {
		return bgp.PeerState{}
	}
	return states[i]
}

// earlier returns the earlier of two times of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// String is for tests and logs.
func (d drainState) String() string { return [...]string{"in service", "draining", "drained"}[d] }
