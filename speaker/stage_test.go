package main

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/ownership"
)

// stage runs a speaker's loop on node "a" among fakes, in a bubble of synctest:
// time stands still until nothing is left to do.
type stage struct {
	*turn
	t       *testing.T
	speaker *speaker
	cache   *k8s.Cache
	objects *apiObjects
	group   *fakeGroup
	others  *fakeOthers
	proxy   *fakeProxy
	links   *fakeLinks
	l2      *fakeAnnouncer
	writer  *fakeWriter
	health  *daemon.Health
	stop    func()
}

// turn puts what the test and the speaker do to the fakes in an order that the race
// detector knows: synctest tells it when the speaker has come to rest, but not that
// the test has.
type turn struct{ atomic.Int64 }

func (t *turn) next() { t.Add(1) }

// fakeGroup is a membership whose view the test sets. What the speaker says of
// itself is in its own entry, as in the real one.
type fakeGroup struct {
	*turn
	view    membership.View
	changes chan struct{}
	told    []membership.Info
	claimed []map[netip.Addr]membership.Claim
	// said is in which order it said something new: "abstains", "takes" or "claims".
	said    []string
	met     []string
	peers   []membership.Peer
	rejoins int
}

func (g *fakeGroup) View() *membership.View {
	g.next()
	v := g.view
	v.Members = slices.Clone(v.Members)
	return &v
}

func (g *fakeGroup) Changes() <-chan struct{} { return g.changes }

func (g *fakeGroup) SetLocal(info membership.Info) {
	g.next()
	m := g.view.Member("a")
	if !m.Info.Equal(info) {
		g.told = append(g.told, info)
		said := "takes"
		if info.Abstains {
			said = "abstains"
		}
		g.said = append(g.said, said)
	}
	m.Info = info
}

func (g *fakeGroup) SetPeers(peers []membership.Peer) { g.peers = peers }

func (g *fakeGroup) SetClaims(claims map[netip.Addr]membership.Claim) {
	g.claimed, g.said = append(g.claimed, claims), append(g.said, "claims")
	g.view.Member("a").Claims = membership.NewClaims(claims)
}

func (g *fakeGroup) Meet(node string) { g.met = append(g.met, node) }

func (g *fakeGroup) Rejoin() {
	g.rejoins++
	g.view.Settled = false
}

// set changes the view and tells of it.
func (g *fakeGroup) set(change func(v *membership.View)) {
	change(&g.view)
	slices.SortFunc(g.view.Members, func(a, b membership.Member) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(g.view.Gone, func(a, b membership.Gone) int { return cmp.Compare(a.Node, b.Node) })
	g.changes <- struct{}{}
}

// claims returns what the speaker claims now.
func (g *fakeGroup) claims() map[netip.Addr]membership.Claim {
	if len(g.claimed) == 0 {
		return nil
	}
	return g.claimed[len(g.claimed)-1]
}

// fakeOthers are other nodes that the test judges.
type fakeOthers struct {
	nodes    map[string]nodeStanding
	isolated bool
	ring     func(node string) []string
	changed  chan struct{}
}

func (o *fakeOthers) standing() *standing {
	return &standing{nodes: maps.Clone(o.nodes), isolated: o.isolated, ring: o.ring}
}

func (o *fakeOthers) Changes() <-chan struct{} { return o.changed }

// set judges a node.
func (o *fakeOthers) set(node string, state ownership.State, away bool) {
	o.nodes[node] = nodeStanding{state: state, away: away}
	signal(o.changed)
}

// fakeProxy is a kube-proxy that is as the test says.
type fakeProxy struct {
	unwell  bool
	changed chan struct{}
}

func (p *fakeProxy) down() bool               { return p.unwell }
func (p *fakeProxy) changes() <-chan struct{} { return p.changed }

type fakeLinks struct {
	links   []netif.Link
	synced  chan struct{}
	changed chan struct{}
}

func (l *fakeLinks) Links() []netif.Link                  { return l.links }
func (l *fakeLinks) Synced() <-chan struct{}              { return l.synced }
func (l *fakeLinks) Subscribe() (<-chan struct{}, func()) { return l.changed, func() {} }

func (l *fakeLinks) set(links ...netif.Link) {
	l.links = links
	l.changed <- struct{}{}
}

// fakeAnnouncer applies at once, unless the test keeps it waiting.
type fakeAnnouncer struct {
	*turn
	desired   l2.Desired
	applies   int
	announced []netip.Addr
	lag       atomic.Int64 // a time.Duration
	waits     bool
	state     atomic.Pointer[l2.State]
	changed   chan struct{}
	rivals    chan l2.Rival
	// applied and repeated are told of what it answers for, and of what it announces
	// again; they may be nil.
	applied  func(d l2.Desired)
	repeated func(addrs []netip.Addr)
	peers    []l2.MAC
}

func newFakeAnnouncer(t *turn) *fakeAnnouncer {
	a := &fakeAnnouncer{turn: t, changed: make(chan struct{}, 1), rivals: make(chan l2.Rival)}
	a.state.Store(&l2.State{})
	return a
}

func (a *fakeAnnouncer) Apply(d l2.Desired) {
	a.applies++
	a.desired = d
	if !a.waits {
		a.finish()
	}
}

// finish has what is desired be applied, and tells of it.
func (a *fakeAnnouncer) finish() {
	if a.applied != nil {
		a.applied(a.desired)
	}
	state := *a.state.Load()
	state.Addresses = map[netip.Addr][]string{}
	for addr, announcement := range a.desired {
		if announcement.StandIn == nil {
			state.Addresses[addr] = announcement.Interfaces
		}
	}
	a.state.Store(&state)
	signal(a.changed)
}

// fare sets how interfaces fare.
func (a *fakeAnnouncer) fare(interfaces ...l2.InterfaceState) {
	state := *a.state.Load()
	state.Interfaces = interfaces
	a.state.Store(&state)
	signal(a.changed)
}

func (a *fakeAnnouncer) Announce(addrs ...netip.Addr) {
	a.announced = append(a.announced, addrs...)
	slices.SortFunc(a.announced, netip.Addr.Compare)
	if a.repeated != nil {
		a.repeated(addrs)
	}
}

func (a *fakeAnnouncer) Lag() time.Duration {
	a.next()
	return time.Duration(a.lag.Load())
}

func (a *fakeAnnouncer) Applied() *l2.State {
	a.next()
	return a.state.Load()
}

func (a *fakeAnnouncer) Subscribe() (<-chan struct{}, func()) { return a.changed, func() {} }
func (a *fakeAnnouncer) Rivals() <-chan l2.Rival              { return a.rivals }
func (a *fakeAnnouncer) SetPeers(macs []l2.MAC)               { a.peers = macs }

// newStage has nodes a and b, a speaker on a only, and a Service default/web
// with an address of each family.
func newStage(t *testing.T) *stage {
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		t.Fatal(err)
	}
	turn := &turn{}
	s := &stage{
		t: t, cache: cache, turn: turn,
		objects: &apiObjects{
			services: []*corev1.Service{loadBalancer("web", v4, v6)},
			slices: []*discoveryv1.EndpointSlice{
				sliceOf("web-4", "web", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")),
				sliceOf("web-6", "web", discoveryv1.AddressTypeIPv6, endpointIn("a", "ready")),
			},
			nodes:   []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Name: "b"}}},
			adverts: []*v1beta1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}},
		},
		group:  &fakeGroup{turn: turn, changes: make(chan struct{}, 1)},
		others: &fakeOthers{nodes: map[string]nodeStanding{}, changed: make(chan struct{}, 1)},
		proxy:  &fakeProxy{changed: make(chan struct{}, 1)},
		links:  &fakeLinks{synced: make(chan struct{}), changed: make(chan struct{}, 1)},
		l2:     newFakeAnnouncer(turn),
		writer: &fakeWriter{pending: map[k8s.Key][]byte{}},
		health: daemon.NewHealth(clock.RealClock{}, 5*time.Second),
	}
	s.others.ring = func(node string) []string { return ringOf(s.group.View(), node) }
	s.objects.fill(t, cache)
	s.group.view = membership.View{Members: []membership.Member{{Node: "a", Known: true}}}
	s.links.links = []netif.Link{kernelLink(1, "eth0", "192.0.2.1/24", "2001:db8::1/64")}
	close(s.links.synced)
	s.speaker = newSpeaker(withDefaults(speaker{
		self: "a", links: s.links, members: s.group, others: s.others, announcer: s.l2, proxy: s.proxy, health: s.health,
	}, cache, s.writer))
	return s
}

// withDefaults adds to a speaker what is the same in all tests.
func withDefaults(s speaker, cache *k8s.Cache, writer *fakeWriter) speaker {
	clk, logger := clock.RealClock{}, log.NewNopLogger()
	s.changes, s.world = cache, newWorld(cache, k8s.Class{Default: true}, 7956, clk)
	s.standIns, s.watchPort = true, 7955
	if s.conflicts == nil {
		s.conflicts = newConflicts(nil, nil, false, logger)
	}
	s.audits = newAudits(nil, logger, func() {})
	s.reporter = newReporter(reporter{self: s.self, services: cache.Services, writer: writer, events: fakeEvents{&desk{}}, clock: clk})
	s.routers = newRouters(routers{
		node: s.self, sessions: newFakeSessions(), bfd: newFakeBFD(), ready: make(chan struct{}), clock: clk, logger: logger,
	})
	s.nodeState = &nodeReporter{writer: &fakeWriter{pending: map[k8s.Key][]byte{}}, logger: logger}
	s.clock, s.logger, s.metrics = clk, logger, newMetrics(prometheus.NewRegistry())
	return s
}

// start runs the loop and waits until it is idle.
func (s *stage) start() {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 4)
	go func() { done <- s.cache.Run(ctx) }()
	go func() { done <- s.speaker.pump(ctx) }()
	go func() { done <- s.speaker.conflicts.run(ctx) }()
	go func() { done <- s.speaker.run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		for range 4 {
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		}
	})
	s.t.Cleanup(s.stop)
	s.idle()
}

// idle lets everything that is due happen.
func (s *stage) idle() {
	s.pass(50 * time.Millisecond)
}

// pass lets time pass, and happen what is due.
func (s *stage) pass(d time.Duration) {
	s.next()
	time.Sleep(d)
	synctest.Wait()
	s.next()
}

// change changes objects and tells of one.
func (s *stage) change(key k8s.Key, change func(o *apiObjects)) {
	s.t.Helper()
	change(s.objects)
	s.objects.fill(s.t, s.cache)
	s.speaker.reporter.services = s.cache.Services
	s.cache.Add(key)
	s.idle()
}

func (s *stage) settle() {
	s.group.set(func(v *membership.View) { v.Settled = true })
	s.idle()
}

func (s *stage) want(addresses ...string) {
	s.t.Helper()
	var got []string
	for a := range s.l2.desired {
		got = append(got, a.String())
	}
	slices.Sort(got)
	if !slices.Equal(got, addresses) {
		s.t.Errorf("answers for %q, want %q", got, addresses)
	}
}
