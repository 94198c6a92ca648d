package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
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
)

// stage runs a speaker's loop on node "a" among fakes, in a bubble of synctest:
// time stands still until nothing is left to do.
type stage struct {
	t       *testing.T
	speaker *speaker
	cache   *k8s.Cache
	objects *apiObjects
	group   *fakeGroup
	links   *fakeLinks
	l2      *fakeAnnouncer
	writer  *fakeWriter
	health  *daemon.Health
	stop    func()
}

// fakeGroup is a membership whose view the test sets. What the speaker says of
// itself is in its own entry, as in the real one.
type fakeGroup struct {
	view    membership.View
	changes chan struct{}
	told    []membership.Info
	peers   []membership.Peer
	rejoins int
}

func (g *fakeGroup) View() *membership.View {
	v := g.view
	v.Members = slices.Clone(v.Members)
	return &v
}

func (g *fakeGroup) Changes() <-chan struct{} { return g.changes }

func (g *fakeGroup) SetLocal(info membership.Info) {
	m := g.view.Member("a")
	if !m.Info.Equal(info) {
		g.told = append(g.told, info)
	}
	m.Info = info
}

func (g *fakeGroup) SetPeers(peers []membership.Peer) { g.peers = peers }

func (g *fakeGroup) Rejoin() {
	g.rejoins++
	g.view.Settled = false
}

// set changes the view and tells of it.
func (g *fakeGroup) set(change func(v *membership.View)) {
	change(&g.view)
	slices.SortFunc(g.view.Members, func(a, b membership.Member) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
	g.changes <- struct{}{}
}

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

type fakeAnnouncer struct {
	desired   l2.Desired
	applies   int
	announced []netip.Addr
	lag       atomic.Int64 // a time.Duration
	state     atomic.Pointer[l2.State]
	changed   chan struct{}
}

func (a *fakeAnnouncer) Apply(d l2.Desired) {
	a.applies++
	a.desired = d
}

func (a *fakeAnnouncer) Announce(addrs ...netip.Addr) {
	a.announced = append(a.announced, addrs...)
	slices.SortFunc(a.announced, netip.Addr.Compare)
}

func (a *fakeAnnouncer) Lag() time.Duration { return time.Duration(a.lag.Load()) }

func (a *fakeAnnouncer) Applied() *l2.State                   { return a.state.Load() }
func (a *fakeAnnouncer) Subscribe() (<-chan struct{}, func()) { return a.changed, func() {} }

// newStage has nodes a and b, a speaker on a only, and a Service default/web
// with an address of each family.
func newStage(t *testing.T) *stage {
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{
		t: t, cache: cache,
		objects: &apiObjects{
			services: []*corev1.Service{loadBalancer("web", v4, v6)},
			slices: []*discoveryv1.EndpointSlice{
				sliceOf("web-4", "web", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")),
				sliceOf("web-6", "web", discoveryv1.AddressTypeIPv6, endpointIn("a", "ready")),
			},
			nodes:   []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Name: "b"}}},
			adverts: []*v1beta1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}},
		},
		group:  &fakeGroup{changes: make(chan struct{}, 1)},
		links:  &fakeLinks{synced: make(chan struct{}), changed: make(chan struct{}, 1)},
		l2:     &fakeAnnouncer{changed: make(chan struct{}, 1)},
		writer: &fakeWriter{pending: map[k8s.Key][]byte{}},
		health: daemon.NewHealth(clock.RealClock{}, 5*time.Second),
	}
	s.l2.state.Store(&l2.State{})
	s.objects.fill(t, cache)
	s.group.view = membership.View{Members: []membership.Member{{Node: "a", Known: true}}}
	s.links.links = []netif.Link{kernelLink(1, "eth0", "192.0.2.1/24", "2001:db8::1/64")}
	close(s.links.synced)
	s.speaker = newSpeaker(speaker{
		self: "a", changes: cache, world: newWorld(cache, k8s.Class{Default: true}, 7956),
		links: s.links, members: s.group, announcer: s.l2,
		reporter: newReporter(reporter{
			self: "a", services: cache.Services, writer: s.writer, events: fakeEvents{&desk{}}, clock: clock.RealClock{},
		}),
		clock: clock.RealClock{}, logger: log.NewNopLogger(), health: s.health, metrics: newMetrics(prometheus.NewRegistry()),
	})
	return s
}

// start runs the loop and waits until it is idle.
func (s *stage) start() {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 3)
	go func() { done <- s.cache.Run(ctx) }()
	go func() { done <- s.speaker.pump(ctx) }()
	go func() { done <- s.speaker.run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		for range 3 {
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
	time.Sleep(50 * time.Millisecond)
	synctest.Wait()
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

func TestNothingIsTakenBeforeTheViewSettles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.start()
		s.want()
		if s.health.Ready() == nil {
			t.Error("ready before the view has settled")
		}
		if last := s.group.told[len(s.group.told)-1]; !last.Abstains || len(last.Links) != 1 {
			t.Errorf("told the others %+v; wants to be counted out, with its link", last)
		}
		s.settle()
		s.want(v4, v6)
		if last := s.group.told[len(s.group.told)-1]; last.Abstains {
			t.Error("still wants to be counted out")
		}
		if err := s.health.Ready(); err != nil {
			t.Error(err)
		}
		if len(s.writer.pending) != 1 {
			t.Errorf("%d reports, want one", len(s.writer.pending))
		}
	})
}

// Speakers with another key may hold any address, so this one is of no use.
func TestRefusedSpeakerIsNotReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.group.set(func(v *membership.View) { v.Settled, v.Refused = false, []string{"b", "c"} })
		s.idle()
		s.want(v4, v6)
		if err := s.health.Ready(); err == nil || !strings.Contains(err.Error(), "on b, c have another membership key") {
			t.Errorf("ready: %v", err)
		}
		s.group.set(func(v *membership.View) { v.Settled, v.Refused = true, nil })
		s.idle()
		if err := s.health.Ready(); err != nil {
			t.Error(err)
		}
	})
}

func TestBurstMakesOnePlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		before := s.l2.applies
		for i := range 100 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}).String()
			svc := loadBalancer(a, a)
			s.objects.services = append(s.objects.services, svc)
			s.objects.slices = append(s.objects.slices, sliceOf(a, a, discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
		}
		s.objects.fill(t, s.cache)
		for _, svc := range s.objects.services[1:] {
			s.cache.Add(k8s.Key{Kind: k8s.KindEndpointSlice, Namespace: "default", Name: svc.Name})
			s.cache.Add(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: svc.Name})
		}
		s.idle()
		if len(s.l2.desired) != 102 {
			t.Errorf("answers for %d addresses, want 102", len(s.l2.desired))
		}
		if n := s.l2.applies - before; n != 1 {
			t.Errorf("applied %d times", n)
		}
		s.cache.Add(k8s.Key{Kind: k8s.KindNode, Name: "b"})
		s.idle()
		if n := s.l2.applies - before; n != 1 {
			t.Errorf("applied %d times after an event that changes nothing", n)
		}
	})
}

func TestCarrierLostAndBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.want(v4, v6)
		down := s.links.links[0]
		up := down
		down.Carrier = false
		s.links.set(down)
		s.idle()
		s.want()
		if s.group.rejoins != 0 {
			t.Error("rejoined because the link was lost")
		}
		told := len(s.group.told)
		s.links.set(up)
		s.idle()
		s.want() // others may have them
		if s.group.rejoins != 1 {
			t.Errorf("rejoined %d times", s.group.rejoins)
		}
		if since := s.group.told[told:]; len(since) != 1 || !since[0].Abstains || len(since[0].Links) != 1 {
			t.Errorf("told the others %+v; the link must come with the wish to be counted out", since)
		}
		s.settle()
		s.want(v4, v6)
	})
}

func TestKeepsAnsweringInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.writer.pending = map[k8s.Key][]byte{}
		second := kernelLink(2, "eth1", "192.0.2.2/24")
		s.links.set(s.links.links[0], second) // puts the view in doubt
		s.idle()
		s.want(v4, v6)
		if s.group.view.Settled || s.group.view.Member("a").Info.Abstains {
			t.Error("who holds addresses must not ask to be counted out")
		}
		if len(s.writer.pending) != 0 {
			t.Error("reports though the view is in doubt")
		}
	})
}

// While one link is away, others have the addresses there. They must not give
// them up when it is back before this node takes them, though it still holds
// addresses on another link.
func TestRegainedLinkIsToldWhenTheViewHasSettled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const elsewhere = "198.51.100.10"
		s := newStage(t)
		s.objects.services = append(s.objects.services, loadBalancer("two", elsewhere))
		s.objects.slices = append(s.objects.slices, sliceOf("two-4", "two", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
		s.objects.fill(t, s.cache)
		eth0, eth1 := s.links.links[0], kernelLink(2, "eth1", "198.51.100.1/24")
		down := eth1
		down.Carrier = false
		s.links.links = []netif.Link{eth0, down}
		s.group.view.Settled = true
		s.start()
		s.want(v4, v6)
		s.links.set(eth0, eth1)
		s.idle()
		if s.group.rejoins != 1 || s.group.view.Settled {
			t.Fatalf("rejoined %d times", s.group.rejoins)
		}
		if told := s.group.view.Member("a").Info; len(told.Links) != 1 || told.Abstains {
			t.Errorf("told the others %+v though it takes nothing yet", told)
		}
		// What is lost meanwhile is told at once.
		narrower := eth0
		narrower.Prefixes = narrower.Prefixes[:1]
		s.links.set(narrower, eth1)
		s.idle()
		if told := s.group.view.Member("a").Info; len(told.Links) != 1 || len(told.Links[0].Prefixes) != 1 {
			t.Errorf("told the others %+v, want one link with one subnet", told)
		}
		s.want(v4)
		s.settle()
		s.want(v4, elsewhere)
		if told := s.group.view.Member("a").Info; len(told.Links) != 2 {
			t.Errorf("told the others %+v, want both links", told)
		}
	})
}

// The bridge of a node's Pods gets carrier with the first Pod.
func TestOtherLinksPutNothingInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.links.set(s.links.links[0], kernelLink(2, "cni0", "10.244.0.1/24"))
		s.idle()
		if s.group.rejoins != 0 || !s.group.view.Settled {
			t.Error("a link that no address can be announced on put the view in doubt")
		}
		if told := s.group.view.Member("a").Info; len(told.Links) != 2 {
			t.Errorf("told the others %+v, want both links", told)
		}
	})
}

// A member that was out of sight may have answered for our addresses.
func TestAnnouncesAgainWhenAMemberIsGained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		if len(s.l2.announced) != 0 {
			t.Errorf("announced %v again though nobody was gained", s.l2.announced)
		}
		s.group.set(func(v *membership.View) {
			v.Members = append(v.Members, membership.Member{Node: "b", Known: true}) // has no link
		})
		s.idle()
		s.want(v4, v6)
		if want := []netip.Addr{addr(v4), addr(v6)}; !slices.Equal(s.l2.announced, want) {
			t.Errorf("announced %v again, want %v", s.l2.announced, want)
		}
		s.group.set(func(v *membership.View) { v.Members = v.Members[:1] })
		s.idle()
		if len(s.l2.announced) != 2 {
			t.Errorf("announced %v again because a member was lost", s.l2.announced)
		}
	})
}

func TestPodsMoveThePeers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.start()
		s.change(k8s.Key{Kind: k8s.KindPod, Namespace: "berth-system", Name: "speaker-b"}, func(o *apiObjects) {
			o.pods = []*corev1.Pod{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: "speaker-b"},
				Spec:       corev1.PodSpec{NodeName: "b"}, Status: corev1.PodStatus{PodIP: "192.0.2.2", Phase: corev1.PodRunning},
			}}
		})
		want := []membership.Peer{{Node: "b", Addr: netip.MustParseAddrPort("192.0.2.2:7956")}}
		if !slices.Equal(s.group.peers, want) || s.speaker.speakers != 2 {
			t.Errorf("peers are %v of %d speakers, want %v", s.group.peers, s.speaker.speakers, want)
		}
	})
}

func TestServiceGoneIsSilenced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.change(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "web"}, func(o *apiObjects) { o.services = nil })
		s.want()
		if len(s.writer.pending) != 0 {
			t.Error("a report for a Service that is gone was left to be sent")
		}
	})
}

// A condition must not say that an address is announced when it is not.
func TestFailingInterfaceIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		says := func() string {
			s.writer.mu.Lock()
			defer s.writer.mu.Unlock()
			for _, patch := range s.writer.pending {
				return string(patch)
			}
			return ""
		}
		if !strings.Contains(says(), `"reason":"Announced"`) {
			t.Fatalf("reports %s", says())
		}
		failing := l2.InterfaceState{Name: "eth0", Protocol: l2.ARP, Err: errors.New("no raw sockets for you"), Since: time.Now()}
		s.l2.state.Store(&l2.State{Interfaces: []l2.InterfaceState{failing}})
		s.l2.changed <- struct{}{}
		s.idle()
		if !strings.Contains(says(), `"reason":"Announced"`) {
			t.Errorf("reports what may pass in a moment: %s", says())
		}
		time.Sleep(2 * time.Second)
		s.idle()
		if got := says(); !strings.Contains(got, `"reason":"PartlyAnnounced"`) ||
			!strings.Contains(got, v4+" is not announced: its owner a cannot answer: no raw sockets for you; "+v6+" by NDP from a (eth0)") {
			t.Errorf("reports %s", got)
		}
		s.l2.state.Store(&l2.State{})
		s.l2.changed <- struct{}{}
		s.idle()
		if !strings.Contains(says(), `"reason":"Announced"`) {
			t.Errorf("all is well again, and it reports %s", says())
		}
	})
}

// What is announced stays announced while the speaker hands over.
func TestStopsPlanningNotAnswering(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		applies := s.l2.applies
		s.stop()
		if s.l2.applies != applies {
			t.Error("applied something on the way out")
		}
		s.want(v4, v6)
	})
}

func TestLateAnnouncementsAreUnhealthy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		time.Sleep(time.Minute)
		if err := s.health.Healthy(); err != nil {
			t.Fatalf("idle, and not healthy: %v", err)
		}
		s.l2.lag.Store(int64(time.Minute))
		time.Sleep(10 * time.Second)
		if s.health.Healthy() == nil {
			t.Error("healthy though announcements are a minute late")
		}
		s.l2.lag.Store(0)
		time.Sleep(2 * time.Second)
		if err := s.health.Healthy(); err != nil {
			t.Errorf("announcements keep up again: %v", err)
		}
	})
}
