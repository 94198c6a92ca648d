package gobgp

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/transport"
	"github.com/berth-lb/berth/internal/bgp/wire"
)

// Config configures a Speaker.
type Config struct {
	// Logger defaults to a no-op.
	Logger log.Logger
	// Registerer gets the metrics; nil is nobody.
	Registerer prometheus.Registerer
	// Clock of back-off and of the times in states; it defaults to the real one.
	// The timers of a session, which are GoBGP's, do not follow it.
	Clock clock.Clock
	// Inside runs a function that opens sockets to routers, in the network
	// namespace they are to be in. It defaults to running it where it is.
	Inside func(func() error) error
	// Random returns a number from 0 to 1 for the jitter of back-off.
	Random func() float64
}

// A Speaker is a bgp.Speaker.
type Speaker struct {
	cfg      Config
	listener *transport.Listener
	changes  chan struct{}
	wake     chan struct{}

	mu       sync.Mutex
	peers    map[string]bgp.Peer
	routes   map[string]bgp.Routes
	held     map[string]string
	draining string
	drained  bool
	sessions map[string]*session
	// parting are sessions that were removed and may not have ended.
	parting map[string]<-chan struct{}
}

var _ bgp.Speaker = (*Speaker)(nil)

// New returns a Speaker without peers.
func New(cfg Config) *Speaker {
	if cfg.Logger == nil {
		cfg.Logger = log.NewNopLogger()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Inside == nil {
		cfg.Inside = func(f func() error) error { return f() }
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	s := &Speaker{
		cfg:      cfg,
		listener: transport.NewListener(cfg.Logger),
		changes:  make(chan struct{}, 1),
		wake:     make(chan struct{}, 1),
		peers:    make(map[string]bgp.Peer),
		routes:   make(map[string]bgp.Routes),
		held:     make(map[string]string),
		sessions: make(map[string]*session),
		parting:  make(map[string]<-chan struct{}),
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(newCollector(s))
	}
	return s
}

// Apply implements bgp.Speaker. Of several peers with one name the last counts.
func (s *Speaker) Apply(peers []bgp.Peer, routes map[string][]bgp.Route) {
	byName := make(map[string]bgp.Peer, len(peers))
	indexed := make(map[string]bgp.Routes, len(peers))
	for _, p := range peers {
		byName[p.Name] = p.Clone()
		indexed[p.Name] = bgp.NewRoutes(routes[p.Name])
	}
	s.mu.Lock()
	s.peers, s.routes = byName, indexed
	s.mu.Unlock()
	notify(s.wake)
}

// States implements bgp.Speaker. Before Run there are none.
func (s *Speaker) States() []bgp.PeerState {
	s.mu.Lock()
	sessions := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	slices.SortFunc(sessions, func(a, b *session) int { return strings.Compare(a.name, b.name) })
	states := make([]bgp.PeerState, len(sessions))
	for i, session := range sessions {
		states[i] = session.snapshot()
	}
	return states
}

// Changes implements bgp.Speaker.
func (s *Speaker) Changes() <-chan struct{} { return s.changes }

// PeerDown implements bgp.Speaker.
func (s *Speaker) PeerDown(name, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name] = reason
	if session := s.sessions[name]; session != nil {
		session.hold(reason)
	}
}

// PeerUp implements bgp.Speaker.
func (s *Speaker) PeerUp(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, name)
	if session := s.sessions[name]; session != nil {
		session.hold("")
	}
}

// Drain implements bgp.Speaker.
func (s *Speaker) Drain(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining, s.drained = reason, true
	for _, session := range s.sessions {
		session.drain()
	}
}

// Run implements bgp.Speaker. It may be called once.
func (s *Speaker) Run(ctx context.Context) error {
	listening, stopListening := context.WithCancel(context.WithoutCancel(ctx))
	defer stopListening()
	listener, failed := errgroup.WithContext(listening)
	listener.Go(func() error { return s.listener.Run(listening) })
	// Sessions outlive ctx until they have said good-bye.
	sessions, keeping := errgroup.WithContext(context.WithoutCancel(ctx))
	for running := true; running; {
		select {
		case <-s.wake:
			s.converge(keeping, sessions)
		case <-failed.Done():
			running = false
		case <-ctx.Done():
			running = false
		}
	}
	s.endAll()
	err := sessions.Wait()
	stopListening()
	return errors.Join(err, listener.Wait())
}

// converge makes the sessions be those of the peers that were applied last.
func (s *Speaker) converge(ctx context.Context, tasks *errgroup.Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, old := range s.sessions {
		if _, ok := s.peers[name]; !ok {
			old.end(&wire.Notification{Code: wire.CodeCease, Subcode: wire.SubcodeDeconfigured})
			s.parting[name] = old.done
			delete(s.sessions, name)
			s.changed()
		}
	}
	for name, peer := range s.peers {
		if present := s.sessions[name]; present != nil {
			present.update(peer, s.routes[name])
			continue
		}
		added := newSession(s, peer, s.routes[name], s.held[name])
		added.draining = s.drained
		before := s.parting[name]
		delete(s.parting, name)
		s.sessions[name] = added
		s.changed()
		tasks.Go(func() error { added.run(ctx, before); return nil })
	}
	for name, done := range s.parting {
		select {
		case <-done:
			delete(s.parting, name)
		default:
		}
	}
}

// endAll ends all sessions: with graceful restart so that the peer keeps our
// routes, by closing the connection without a word (RFC 4724 section 5); those
// without, and all of them when the node was drained, with a Cease.
func (s *Speaker) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := "speaker stopped"
	if s.drained {
		text = s.draining
	}
	farewell := wire.Shutdown(wire.SubcodeAdminShutdown, text)
	for _, session := range s.sessions {
		if !s.drained && session.restartsGracefully() {
			session.end(nil)
		} else {
			session.end(&farewell)
		}
	}
}

// changed tells that States may return something else.
func (s *Speaker) changed() { notify(s.changes) }

// notify puts a value into a channel of capacity one unless one is there.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
