package main

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
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

// What a town's news takes: from one speaker to another, from the end of a process
// until others know, from the end of a node until others know, and from the start
// of a speaker until it has spoken with the others.
const (
	newsDelay   = 5 * time.Millisecond
	endDelay    = 10 * time.Millisecond
	silentDelay = 300 * time.Millisecond
	townLimit   = 10 * time.Second // of stand-ins
	joinDelay   = 100 * time.Millisecond
)

// town is several speakers whose loops run, in a bubble of synctest, among nodes
// that come and go and a membership that delivers after a while.
type town struct {
	*turn
	t       *testing.T
	objects *apiObjects

	mu        sync.Mutex
	residents []*resident // in the order of their names
	trouble   map[netip.Addr]*trouble
}

// resident is a node with its speaker, or without.
type resident struct {
	town  *town
	name  string
	mac   l2.MAC
	cache *k8s.Cache
	stop  func()
	l2    *fakeAnnouncer
	// epoch counts the processes of its speaker; running says that there is one.
	epoch   int
	running bool
	// off says that the node is; side that it hears but those of the same side.
	off  bool
	side int
	// group is likewise, of the membership alone; lost since when it lost others.
	group    int
	lost     map[string]time.Time
	rivals   map[rivalry]time.Time // when it was last told of them
	version  int
	said     saying
	heard    map[string]saying // by node
	judged   map[string]nodeStanding
	settled  bool
	former   *membership.Claims
	answers  l2.Desired
	changed  chan struct{} // of the membership
	rejudged chan struct{}
}

// rivalry is a resident that speaks for an address of another.
type rivalry struct {
	addr netip.Addr
	by   string
}

// saying is what one speaker has said, of itself and of what it claims: of that a
// new process has yet to speak, and what its former one said counts.
type saying struct {
	version, claimed int
	info             membership.Info
	claims           *membership.Claims
}

func newTown(t *testing.T, nodes, addresses int) *town {
	w := &town{
		turn: &turn{}, t: t, trouble: map[netip.Addr]*trouble{},
		objects: &apiObjects{adverts: []*v1beta1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}}},
	}
	w.addServices(addresses)
	for i := range nodes {
		name := string(rune('a' + i))
		w.objects.nodes = append(w.objects.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		cache, err := k8s.NewCache(k8s.CacheConfig{})
		if err != nil {
			t.Fatal(err)
		}
		w.residents = append(w.residents, &resident{
			town: w, name: name, mac: l2.MAC{2, 0, 0, 0, 0, byte(i)}, cache: cache,
		})
	}
	for _, r := range w.residents {
		w.objects.fill(t, r.cache)
		r.start()
	}
	t.Cleanup(func() {
		for _, r := range w.residents {
			r.kill()
		}
	})
	w.rest(time.Second)
	return w
}

// addServices adds a number of Services, each with an address, that no speaker has
// heard of.
func (w *town) addServices(count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range count {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + len(w.trouble))})
		w.objects.services = append(w.objects.services, loadBalancer(a.String(), a.String()))
		w.objects.slices = append(w.objects.slices, sliceOf(a.String(), a.String(), discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
		w.trouble[a] = &trouble{none: time.Now()}
	}
}

func (w *town) resident(name string) *resident {
	return w.residents[slices.IndexFunc(w.residents, func(r *resident) bool { return r.name == name })]
}

// rest lets time pass.
func (w *town) rest(d time.Duration) {
	w.next()
	time.Sleep(d)
	synctest.Wait()
	w.next()
}

// reaches says whether two residents hear each other. The caller holds mu.
func (r *resident) reaches(o *resident) bool {
	return r == o || !r.off && !o.off && r.side == o.side
}

// hears says whether two residents' memberships do. The caller holds mu.
func (r *resident) hears(o *resident) bool { return r.reaches(o) && r.group == o.group }

// start starts the speaker.
func (r *resident) start() {
	w := r.town
	w.mu.Lock()
	r.epoch++
	r.running, r.settled, r.former = true, false, nil
	r.changed, r.rejudged = make(chan struct{}, 1), make(chan struct{}, 1)
	r.said = saying{claims: membership.NewClaims(nil)}
	r.heard, r.judged, r.lost = map[string]saying{}, map[string]nodeStanding{}, map[string]time.Time{}
	r.rivals = map[rivalry]time.Time{}
	for _, o := range w.residents {
		if o != r {
			r.judge(o, silentDelay)
		}
	}
	epoch := r.epoch
	w.mu.Unlock()
	announcer := newFakeAnnouncer(w.turn)
	announcer.applied = func(d l2.Desired) { w.answer(r, epoch, d) }
	announcer.repeated = func(addrs []netip.Addr) { w.announce(r, epoch, addrs) }
	announcer.rivals = make(chan l2.Rival, 1024)
	r.l2 = announcer
	link := kernelLink(1, "eth0", "192.0.2.1/24")
	link.MAC = r.mac[:]
	links := &fakeLinks{links: []netif.Link{link}, synced: make(chan struct{}), changed: make(chan struct{}, 1)}
	close(links.synced)
	s := newSpeaker(withDefaults(speaker{
		conflicts: newConflicts(nil, townAsker{r}, false, log.NewNopLogger()),
		self:      r.name, links: links, members: townGroup{r, epoch}, others: townOthers{r}, announcer: announcer,
		proxy: &fakeProxy{changed: make(chan struct{}, 1)}, health: daemon.NewHealth(clock.RealClock{}, 5*time.Second),
	}, r.cache, &fakeWriter{pending: map[k8s.Key][]byte{}}))
	ctx, cancel := context.WithCancel(w.t.Context())
	var tasks sync.WaitGroup
	for _, run := range []func(context.Context) error{r.cache.Run, s.pump, s.conflicts.run, s.run} {
		tasks.Go(func() {
			if err := run(ctx); err != nil {
				w.t.Error(err)
			}
		})
	}
	r.stop = sync.OnceFunc(func() {
		cancel()
		tasks.Wait()
	})
	time.AfterFunc(joinDelay, func() { r.settle(epoch) })
	w.tellOfEnds(r)
}

// kill ends the process of the speaker at once.
func (r *resident) kill() {
	r.stop()
	w := r.town
	w.mu.Lock()
	if !r.running {
		w.mu.Unlock()
		return
	}
	r.running, r.answers = false, nil
	var err error
	r.cache, err = k8s.NewCache(k8s.CacheConfig{})
	w.observe()
	w.mu.Unlock()
	if err != nil {
		w.t.Error(err)
	}
	w.objects.fill(w.t, r.cache)
	w.tellOfEnds(r)
}

// power cuts a node, whose speaker runs on, or has it be back.
func (r *resident) power(on bool) {
	w := r.town
	w.mu.Lock()
	r.off = !on
	w.observe()
	w.mu.Unlock()
	w.meetAll()
	w.tellOfEnds(r)
}

// split puts residents on the other side, and all others on this one.
func (w *town) split(names ...string) {
	w.mu.Lock()
	for _, r := range w.residents {
		r.side = 0
		if slices.Contains(names, r.name) {
			r.side = 1
		}
	}
	w.observe()
	w.mu.Unlock()
	w.meetAll()
	for _, r := range w.residents {
		w.tellOfEnds(r)
	}
}

// unhear puts residents in another membership, out of which nothing is heard, for
// as long as it takes to be given up by others.
func (w *town) unhear(names ...string) {
	w.mu.Lock()
	for _, r := range w.residents {
		r.group = 0
		if slices.Contains(names, r.name) {
			r.group = 1
		}
	}
	w.mu.Unlock()
	w.meetAll()
	for _, r := range w.residents {
		w.tellOfEnds(r)
	}
}

// meetAll has all that can hear each other hear everything in a moment.
func (w *town) meetAll() {
	time.AfterFunc(endDelay, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, r := range w.residents {
			for _, o := range w.residents {
				r.exchange(o)
			}
		}
	})
}

// settle has the resident know what the others say, of itself too.
func (r *resident) settle(epoch int) {
	r.town.mu.Lock()
	defer r.town.mu.Unlock()
	if r.epoch != epoch || !r.running {
		return
	}
	if r.former == nil {
		for _, o := range r.town.residents {
			if h, knows := o.heard[r.name]; knows && o != r && o.running && r.hears(o) && (r.former == nil || h.claims.Len() > r.former.Len()) {
				r.former = h.claims
			}
		}
	}
	for _, o := range r.town.residents {
		r.exchange(o)
	}
	r.settled = true
	signal(r.changed)
}

// exchange has the resident hear what another says and knows, if it can. The caller
// holds mu.
func (r *resident) exchange(o *resident) {
	if o == r || !r.running || !o.running || !r.hears(o) {
		return
	}
	for name, h := range o.heard {
		if name != r.name {
			r.hear(r.town.resident(name), h)
		}
	}
	r.hear(o, o.said)
}

// hear takes in what another has said. The caller holds mu.
func (r *resident) hear(o *resident, s saying) {
	h := r.heard[o.name]
	if s.version > h.version {
		h.version, h.info = s.version, s.info
	}
	if s.claimed > h.claimed {
		h.claimed, h.claims = s.claimed, s.claims
	}
	if before := r.heard[o.name]; h.version != before.version || h.claimed != before.claimed {
		r.heard[o.name] = h
		signal(r.changed)
	}
}

// tell has all that can be reached hear what the resident says. The caller holds mu.
func (r *resident) tell() {
	s := r.said
	time.AfterFunc(newsDelay, func() {
		r.town.mu.Lock()
		defer r.town.mu.Unlock()
		for _, o := range r.town.residents {
			if o != r && r.hears(o) {
				o.hear(r, s)
			}
		}
	})
}

// tellOfEnds has all others judge the resident anew, and it them, when they have
// noticed.
func (w *town) tellOfEnds(r *resident) {
	for _, delay := range []time.Duration{endDelay, silentDelay, townLimit} {
		time.AfterFunc(delay, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, o := range w.residents {
				if o != r {
					o.judge(r, delay)
					r.judge(o, delay)
				}
			}
		})
	}
}

// judge takes in what became of another node. The caller holds mu.
func (r *resident) judge(o *resident, delay time.Duration) {
	var next nodeStanding
	switch {
	case !r.reaches(o) && delay < silentDelay:
		return // it might be heard yet
	case !r.reaches(o):
		next = nodeStanding{state: ownership.Down, away: true}
	case !o.running || r.group != o.group:
		next = nodeStanding{state: ownership.Orphaned, away: true}
		if r.lost[o.name].IsZero() {
			r.lost[o.name] = time.Now()
		}
		if o.running && time.Since(r.lost[o.name]) >= townLimit-silentDelay && !r.deaf() {
			next.state = ownership.Down
		}
	default:
		delete(r.lost, o.name)
	}
	if r.judged[o.name] != next {
		r.judged[o.name] = next
		signal(r.rejudged)
		signal(r.changed)
	}
}

// deaf says whether all others are lost though they are there, as in package watch.
// The caller holds mu.
func (r *resident) deaf() bool {
	lost := 0
	for _, o := range r.town.residents {
		if o != r && (!r.reaches(o) || o.running && o.group == r.group) {
			return false
		}
		lost++
	}
	return lost > 2
}

// change changes objects and tells all speakers of one, when they have dealt with
// the last.
func (w *town) change(key k8s.Key, change func(o *apiObjects)) {
	w.rest(4 * quiet)
	change(w.objects)
	for _, r := range w.residents {
		w.objects.fill(w.t, r.cache)
	}
	w.next()
	for _, r := range w.residents {
		r.cache.Add(key)
	}
}

func (w *town) drain(node string, drained bool) {
	i := slices.IndexFunc(w.residents, func(r *resident) bool { return r.name == node })
	w.change(k8s.Key{Kind: k8s.KindNode, Name: node}, func(o *apiObjects) {
		o.nodes[i] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
		if drained {
			o.nodes[i].Annotations = map[string]string{v1beta1.AnnotationDrain: ""}
		}
	})
}

func (w *town) rebalance(value string) {
	w.change(k8s.Key{Kind: k8s.KindL2Advertisement, Name: "all"}, func(o *apiObjects) {
		o.adverts[0] = &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{
			Name: "all", Annotations: map[string]string{v1beta1.AnnotationRebalance: value},
		}}
	})
}
