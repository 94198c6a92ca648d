package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/ownership"
)

const (
	// quiet is the least time between two plans. It gathers the many events that
	// one change makes, and is short beside the failover goal.
	quiet = 5 * time.Millisecond
	// restFactor bounds planning to a third of a core in a cluster so large and so
	// busy that planning takes long.
	restFactor = 2
	// checkInterval is the time between looks at whether announcements keep up.
	checkInterval = time.Second
	// maxLag is how late announcements may be before the speaker calls that work
	// that is waiting.
	maxLag = 2 * time.Second
	// restartGrace is how long after its start a speaker takes up what it had.
	restartGrace = 5 * time.Second
)

// changes tells which objects have changed; *k8s.Cache is one.
type changes interface {
	Next() (k8s.Key, bool)
	Done(key k8s.Key)
}

// links is what the speaker sees of its network interfaces; *netif.Watcher is
// one.
type links interface {
	Links() []netif.Link
	Synced() <-chan struct{}
	Subscribe() (changed <-chan struct{}, cancel func())
}

// members is what the speaker sees of the others; *membership.Membership is one.
type members interface {
	View() *membership.View
	Changes() <-chan struct{}
	SetLocal(info membership.Info)
	SetPeers(peers []membership.Peer)
	SetClaims(claims map[netip.Addr]membership.Claim)
	Meet(node string)
	Rejoin()
}

// others is what the speaker thinks of the other nodes; *nodeWatch is one.
type others interface {
	standing() *standing
	Changes() <-chan struct{}
}

// announcer answers for addresses; *l2.Announcer is one.
type announcer interface {
	Apply(d l2.Desired)
	Announce(addrs ...netip.Addr)
	Lag() time.Duration
	Applied() *l2.State
	Subscribe() (changed <-chan struct{}, cancel func())
	Rivals() <-chan l2.Rival
	SetPeers(macs []l2.MAC)
}

// speaker runs the loop that keeps what this node announces in step with the
// cluster. All its fields but keys belong to that loop.
type speaker struct {
	self      string
	addr      netip.Addr // where the other speakers reach this one
	changes   changes
	world     *world
	links     links
	members   members
	others    others
	announcer announcer
	conflicts *conflicts
	audits    *audits
	proxy     proxyState
	// recallsFrom asks for the conflicts that the former process told of; it may be
	// nil.
	recallsFrom func(context.Context) ([]v1beta1.AddressConflict, error)
	standIns    bool   // whether speakers stand in for each other
	watchPort   uint16 // where the others notice the end of this one
	reporter    *reporter
	routers     *routers
	nodeState   *nodeReporter
	clock       clock.WithTicker
	logger      log.Logger
	health      *daemon.Health
	metrics     *metrics

	keys     chan k8s.Key
	watch    linkWatch
	speakers int             // how many the API knows of, this one included
	info     membership.Info // what there is to tell
	told     membership.Info // what the others were told last
	present  map[string]bool // the members that the last plan counted with
	held     l2.Desired      // what this node answers for as the owner
	applied  l2.Desired      // held, and what it stands in for
	failing  failures
	unfit    unfit
	macs     []l2.MAC // of all speakers' links
	holdings
	successors successors
	// again is when the reporter or the routing wants to be called again; zero for
	// never.
	again time.Time
}

func newSpeaker(s speaker) *speaker {
	s.keys = make(chan k8s.Key)
	s.held = l2.Desired{}
	s.holdings = newHoldings()
	s.unfit, s.successors = unfit{}, newSuccessors(latePatience+formingPatience+s.world.fresh.wait, s.logger)
	return &s
}

// pump hands the keys of changed objects to run until the source of changes
// stops or ctx ends.
func (s *speaker) pump(ctx context.Context) error {
	for {
		key, ok := s.changes.Next()
		if !ok {
			return nil
		}
		select {
		case s.keys <- key:
			s.changes.Done(key)
		case <-ctx.Done():
			return nil
		}
	}
}

// run keeps announcements in step until ctx ends. What is announced then stays
// announced. The cache has to be synced and pump to be running.
func (s *speaker) run(ctx context.Context) error {
	select {
	case <-s.links.Synced():
	case <-ctx.Done():
		return nil
	}
	linksChanged, cancel := s.links.Subscribe()
	defer cancel()
	appliedChanged, cancelApplied := s.announcer.Subscribe()
	defer cancelApplied()
	check := s.clock.NewTicker(checkInterval)
	defer check.Stop()
	due := s.clock.NewTimer(quiet)
	defer due.Stop()
	later := s.clock.NewTimer(checkInterval)
	defer later.Stop()

	s.world.load()
	s.recallConflicts(ctx)
	s.lookAtLinks()
	s.lookAtPeers()
	ready, dirty, rest := s.routers.ready, true, quiet
	for {
		touched := false
		select {
		case <-ctx.Done():
			return nil
		case key := <-s.keys:
			touched = s.take(key)
		case <-s.members.Changes():
			touched = true
		case <-linksChanged:
			s.lookAtLinks()
			touched = true
		case <-later.C():
			touched = !s.again.IsZero()
		case <-check.C():
			touched = s.checkFailures()
			s.checkLag()
			s.reportNode()
		case <-appliedChanged:
			touched = s.checkFailures() || s.waiting
		case <-s.others.Changes():
			touched = true
		case <-s.proxy.changes():
			touched = true
		case rival := <-s.announcer.Rivals():
			touched = s.meetRival(rival)
		case <-s.audits.changed:
			s.tellOthers(s.members.View())
		case <-s.conflicts.changes():
			touched = true
		case <-ready:
			ready, touched = nil, true
		case <-s.routers.sessions.Changes():
			s.routers.look()
			touched = true
		case <-s.routers.bfd.Changes():
			s.routers.look() // at once: it ends sessions
			touched = true
		case <-due.C():
			rest, dirty = max(restFactor*s.converge(), quiet), false
			s.callAgain(later)
		}
		if touched && !dirty {
			dirty = true
			s.health.Queued()
			due.Reset(rest)
		}
	}
}

// callAgain sets the timer to when there is to be another plan.
func (s *speaker) callAgain(timer clock.Timer) {
	if !s.again.IsZero() {
		timer.Reset(max(s.again.Sub(s.clock.Now()), 0))
	}
}

// take takes in the change of one object and says whether a plan may depend on
// it.
func (s *speaker) take(key k8s.Key) bool {
	if key.Kind == k8s.KindPod {
		s.lookAtPeers()
		return false // who is alive is the membership's to say
	}
	s.world.update(key)
	return true
}

// lookAtPeers tells the membership whom to look for.
func (s *speaker) lookAtPeers() {
	peers := s.world.peers()
	nodes := map[string]bool{s.self: true}
	for _, p := range peers {
		nodes[p.Node] = true
	}
	s.speakers = len(nodes)
	s.members.SetPeers(peers)
}

// lookAtLinks tells the others what links this node has. A link that came back
// puts the view in doubt first: others may have taken over what was announced
// there.
func (s *speaker) lookAtLinks() {
	info, regained := s.watch.look(s.links.Links(), s.world.relevantLinks(s.addr))
	s.info = info
	s.routers.knownAt = time.Time{} // routes change with links
	if regained {
		level.Info(s.logger).Log("msg", "a link has become usable; asking the other speakers before taking addresses")
		s.members.Rejoin()
	}
	s.tellOthers(s.members.View())
}

// tellOthers says what this speaker is good for. As long as the view is in doubt
// it takes no addresses, so others must not give it any: if it has none either,
// they count it out, and if it has some, it keeps to itself what links it has
// gained. What it claimed before it was restarted stays its own meanwhile.
func (s *speaker) tellOthers(view *membership.View) {
	tell := s.info
	tell.Sessions, tell.Mute = s.routers.established(), s.audits.found()
	tell.ProxyDown, tell.WatchPort = s.proxy.down(), s.watchPort
	switch {
	case !s.joined || s.resuming():
		tell.Abstains = true
	case view.Settled:
	case len(s.held) == 0:
		tell.Abstains = true
	default:
		tell.Links = alreadyTold(s.told.Links, s.info.Links)
	}
	tell.Links = s.unfit.mark(tell.Links)
	s.told = tell
	s.members.SetLocal(tell)
}

// checkFailures says whether what fails has changed.
func (s *speaker) checkFailures() bool {
	state, now := s.announcer.Applied(), s.clock.Now()
	failing := failuresIn(state, now, failureGrace)
	changed := !maps.Equal(failing, s.failing)
	for p, why := range failing {
		if _, known := s.failing[p]; !known {
			level.Warn(s.logger).Log("msg", "cannot answer on an interface; others that can are to have its addresses", "interface", p.name, "protocol", p.protocol, "why", why)
		}
	}
	s.failing = failing
	return s.unfit.follow(failing, state, s.info.Links, now) || changed
}

// reportNode says how this node's sessions with routers are doing.
func (s *speaker) reportNode() {
	object, found := s.world.cache.Nodes.Get("", s.self)
	if !found {
		return
	}
	s.nodeState.layer2 = s.reportLayer2()
	s.metrics.proxyARP.Set(float64(len(s.conflicts.proxies())))
	status := s.routers.nodeState(s.nodeState.last())
	meta.SetStatusCondition(&status.Conditions, proxyCondition(s.proxy, s.clock.Now()))
	s.nodeState.report(object, status)
}

// reportLayer2 says what this node does on layer 2.
func (s *speaker) reportLayer2() *nodeLayer2 {
	report := &nodeLayer2{conflicts: s.conflicts.report(), standingInFor: s.standingInFor}
	for addr := range s.held {
		if addr.Is4() {
			report.ownedIPv4++
		} else {
			report.ownedIPv6++
		}
	}
	return report
}

// checkLag lets announcements that are late count as work that waits.
func (s *speaker) checkLag() {
	if s.announcer.Lag() > maxLag || s.checkAccusations() {
		s.health.Queued()
	} else {
		s.health.Applied()
	}
}

// converge makes a plan, applies it and reports. It returns how long that took.
func (s *speaker) converge() time.Duration {
	start := s.clock.Now()
	view := s.members.View()
	switch {
	case !s.joined && view.Settled:
		s.join(view) // and says so once it answers for what it took up
	default:
		s.tellOthers(view)
		view = s.members.View() // with what was just told
	}
	s.conflicts.take(s.speakerWith)
	heard := s.followOverheard(view)
	in := s.planInput(view)
	p := makePlan(in)
	again := earlier(heard, s.withhold(p))
	s.yields = p.yields
	s.metrics.planDuration.Observe(s.clock.Since(start).Seconds())
	s.apply(p, view)
	again = earlier(again, p.due)
	again = earlier(again, s.successors.follow(p, view.Settled && !p.minority, s.clock.Now()))
	s.metrics.observe(p, s.conflicts)
	s.audits.set(s.auditTargets(p))
	s.again = earlier(again, s.routers.converge(s.world, p, s.links.Links()))
	s.again = earlier(s.again, s.claim(p))
	if view.Settled {
		again := s.reporter.report(p, in.services, reportView{
			members: view, speakers: s.speakers, held: s.held, restarted: s.freshlyJoined(), former: s.former,
			conflicts: s.conflicts.news(s.self), failing: s.failing,
		})
		s.again = earlier(s.again, again)
		s.awaitRouters()
	} else {
		s.reporter.withdrawAll() // a view in doubt is good for keeping addresses, not for telling others
		if len(view.Refused) > 0 {
			s.health.NotReady("taking no addresses: the speakers on " + strings.Join(view.Refused, ", ") + " have another membership key")
		}
	}
	s.held = p.desired
	if s.told.Abstains {
		s.tellOthers(view) // it may answer by now for what it took up
		switch {
		case !s.told.Abstains:
			s.again = s.clock.Now() // to plan as one of them
		case s.resuming():
			s.waiting, s.again = true, earlier(s.again, s.joinedAt.Add(resumePatience))
		}
	}
	s.checkLag()
	return s.clock.Since(start)
}

// awaitRouters is ready as soon as the routers are.
func (s *speaker) awaitRouters() {
	why, until := s.routers.awaited()
	if why != "" {
		s.health.NotReady(why)
		s.again = earlier(s.again, until)
		return
	}
	s.health.SetReady(true)
}

// apply makes this node answer for what the plan gives it. If a node was
// gained, it may have answered for our addresses while it could not see us, so
// those that we keep are announced again.
func (s *speaker) apply(p *plan, view *membership.View) {
	s.lookAtMACs()
	gained := s.meetReturned(view)
	all := maps.Clone(p.desired)
	maps.Copy(all, p.standIns)
	if !maps.EqualFunc(s.applied, all, sameAnnouncement) {
		s.announcer.Apply(all)
		s.applied = all
	}
	s.tellStandIns(p.standingInFor)
	var taken, kept, given []netip.Addr
	owned := [families]int{}
	for addr := range p.desired {
		owned[familyOf(addr)]++
		if _, had := s.held[addr]; had {
			kept = append(kept, addr)
		} else {
			taken = append(taken, addr)
		}
	}
	for addr := range s.held {
		if _, have := p.desired[addr]; !have {
			given = append(given, addr)
		}
	}
	if gained && len(kept) > 0 {
		s.announcer.Announce(kept...)
	}
	if disputed := s.disputes(p); len(disputed) > 0 {
		s.announcer.Announce(disputed...)
	}
	s.metrics.owned.WithLabelValues("ipv4").Set(float64(owned[ipv4]))
	s.metrics.owned.WithLabelValues("ipv6").Set(float64(owned[ipv6]))
	s.metrics.taken.Add(float64(len(taken)))
	s.metrics.given.Add(float64(len(given)))
	if len(taken)+len(given) > 0 {
		level.Info(s.logger).Log("msg", "addresses moved", "taken", someOf(taken), "given", someOf(given), "owned", len(p.desired))
	}
}

// lookAtMACs tells the announcer which MACs are speakers'.
func (s *speaker) lookAtMACs() {
	if macs := s.speakerMACs(); !slices.Equal(macs, s.macs) {
		s.macs = macs
		s.announcer.SetPeers(macs)
	}
}

// meetReturned has the claims of this node and of those that were thought lost be
// exchanged: what was said meanwhile may have reached neither. It says whether
// there are any.
func (s *speaker) meetReturned(view *membership.View) bool {
	present, standing := make(map[string]bool, len(view.Members)), s.others.standing()
	gained := false
	for i := range view.Members {
		name := view.Members[i].Node
		if name != s.self && standing.of(name, true).state == ownership.Down {
			continue
		}
		present[name] = true
		if s.present != nil && !s.present[name] && name != s.self {
			gained = true
			s.members.Meet(name)
		}
	}
	for i := range view.Gone {
		// A speaker that returns to its node has missed nothing that matters to others.
		if name := view.Gone[i].Node; standing.of(name, false).state == ownership.Orphaned {
			present[name] = true
		}
	}
	s.present = present
	return gained
}

func sameAnnouncement(a, b l2.Announcement) bool {
	return slices.Equal(a.Interfaces, b.Interfaces) && a.Armed == b.Armed && (a.StandIn == nil) == (b.StandIn == nil) && maps.Equal(a.StandIn, b.StandIn)
}

// someOf renders a few of the addresses and how many more there are.
func someOf(addrs []netip.Addr) string {
	const few = 5
	slices.SortFunc(addrs, netip.Addr.Compare)
	texts := make([]string, 0, few)
	for _, a := range addrs[:min(few, len(addrs))] {
		texts = append(texts, a.String())
	}
	text := strings.Join(texts, ",")
	if more := len(addrs) - few; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
