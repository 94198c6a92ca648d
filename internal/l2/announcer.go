package l2

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/netif"
)

// Links is where an Announcer learns of interfaces; *netif.Watcher is one.
type Links interface {
	// Links returns the present snapshot.
	Links() []netif.Link
	// Subscribe returns a coalescing channel that fires after each change.
	Subscribe() (changed <-chan struct{}, cancel func())
}

// Config configures an Announcer.
type Config struct {
	// Links is required.
	Links Links
	// Logger defaults to a no-op.
	Logger log.Logger
	// Metrics defaults to metrics that are registered nowhere.
	Metrics *Metrics
	// Clock defaults to the real one.
	Clock clock.Clock
	// Refresh is the period in which every address that is owned is announced
	// again, against switches and hosts that forget it; 0 turns it off. The
	// announcements are spread evenly over the period.
	Refresh time.Duration
	// Wire opens the sockets; it defaults to packet sockets of the network
	// namespace in which the goroutine of Run lives.
	Wire Wire
}

// DefaultRefresh is the period that suits most networks: less than the five
// minutes after which a switch usually forgets a station.
const DefaultRefresh = 2 * time.Minute

// An Announcer answers ARP and NDP for the addresses it is told to, and for no
// others. Its methods may be called from any goroutine.
type Announcer struct {
	links   Links
	logger  log.Logger
	metrics *Metrics
	clock   clock.Clock
	wire    Wire
	refresh time.Duration
	rivals  *rivalry

	// desired is consulted for every request that passes the kernel's filter,
	// so that a withdrawn address is silent as soon as Apply returns.
	desired atomic.Pointer[Desired]
	state   atomic.Pointer[State]
	wake    chan struct{}
	// open are the ports that Apply has to flush, macs those of this node's
	// interfaces. Both are replaced by Run, never modified.
	open atomic.Pointer[[]*port]
	macs atomic.Pointer[map[MAC]struct{}]
	// peers are other speakers.
	peers atomic.Pointer[map[MAC]struct{}]

	mu      sync.Mutex
	pending time.Time // of the oldest Apply that Run has not taken up; zero if none
	working time.Time // of the oldest Apply that Run is converging to; zero if none
	again   map[netip.Addr]struct{}
	subs    map[chan struct{}]struct{}
	askers  map[portKey]*askers
}

// New returns an Announcer that answers for nothing until Apply and Run.
func New(cfg Config) (*Announcer, error) {
	if cfg.Links == nil {
		return nil, fmt.Errorf("l2: Config.Links is required, set it to a *netif.Watcher")
	}
	if cfg.Logger == nil {
		cfg.Logger = log.NewNopLogger()
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Wire == nil {
		cfg.Wire = PacketWire{}
	}
	a := &Announcer{
		links:   cfg.Links,
		logger:  cfg.Logger,
		metrics: cfg.Metrics,
		clock:   cfg.Clock,
		wire:    cfg.Wire,
		refresh: cfg.Refresh,
		rivals:  newRivalry(),
		wake:    make(chan struct{}, 1),
		again:   make(map[netip.Addr]struct{}),
		subs:    make(map[chan struct{}]struct{}),
		askers:  make(map[portKey]*askers),
	}
	a.desired.Store(&Desired{})
	a.open.Store(&[]*port{})
	a.macs.Store(&map[MAC]struct{}{})
	a.SetPeers(nil)
	a.state.Store(&State{})
	return a, nil
}

// Run answers and announces until ctx is done; then it falls silent and returns
// nil. Sockets that fail are opened again, with back-off. All sockets are opened
// by the goroutine that calls Run, hence in its network namespace.
func (a *Announcer) Run(ctx context.Context) error {
	return newLoop(a).run(ctx)
}

// Apply makes d the complete set of addresses to answer for. It does not wait
// for Run: when it returns, an address that is no longer in d is silent, one that
// was armed and is not any more is answered for, and what was asked for it within
// the last second has been answered. All else is converged to by Run. It may be
// called again with the same value at no cost to the network. Apply keeps no
// reference to d.
func (a *Announcer) Apply(d Desired) {
	// To copy many addresses takes milliseconds: those who asked come first.
	for _, p := range *a.open.Load() {
		p.flush(d, true)
	}
	d = d.normalise()
	a.mu.Lock()
	a.desired.Store(&d)
	if a.pending.IsZero() {
		a.pending = a.clock.Now()
	}
	a.mu.Unlock()
	for _, p := range *a.open.Load() {
		p.flush(*a.desired.Load(), false)
	}
	notify(a.wake)
}

// Rivals returns a channel with those who claim an address that this node
// answers for as its owner, at most once a second for each address and MAC.
// What does not fit into the channel is lost and reported when it is heard again.
// The channel is never closed.
func (a *Announcer) Rivals() <-chan Rival { return a.rivals.reports }

// Announce sends gratuitous announcements, and updates to those who asked of
// late, again for those of addrs that are owned, as at a takeover; with no
// argument for all of them. It serves when another node may have claimed the
// addresses meanwhile.
func (a *Announcer) Announce(addrs ...netip.Addr) {
	if len(addrs) == 0 {
		for addr := range *a.desired.Load() {
			addrs = append(addrs, addr)
		}
	}
	a.mu.Lock()
	for _, addr := range addrs {
		a.again[addr.Unmap().WithZone("")] = struct{}{}
	}
	a.mu.Unlock()
	notify(a.wake)
}

// Applied returns what is really applied at present.
func (a *Announcer) Applied() *State { return a.state.Load().current() }

// Subscribe returns a channel that gets a value after each change of Applied.
// Changes coalesce. The channel is never closed; cancel ends the subscription.
func (a *Announcer) Subscribe() (changed <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	a.mu.Lock()
	a.subs[ch] = struct{}{}
	a.mu.Unlock()
	return ch, func() {
		a.mu.Lock()
		delete(a.subs, ch)
		a.mu.Unlock()
	}
}

// Lag returns for how long the oldest Apply that is not converged to has been
// waiting, 0 if there is none. A value that grows means that Run is stuck. An
// interface that fails is not lag; see State.Interfaces.
func (a *Announcer) Lag() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	oldest := a.pending
	if oldest.IsZero() || !a.working.IsZero() && a.working.Before(oldest) {
		oldest = a.working
	}
	if oldest.IsZero() {
		return 0
	}
	return a.clock.Since(oldest)
}

// begin takes the work that has come in since the last call.
func (a *Announcer) begin() (Desired, map[netip.Addr]struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.working, a.pending = a.pending, time.Time{}
	again := a.again
	a.again = make(map[netip.Addr]struct{})
	return *a.desired.Load(), again
}

// finish ends what begin began and publishes the outcome.
func (a *Announcer) finish(s *State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.working = time.Time{}
	if s.equal(a.state.Load()) {
		return
	}
	a.state.Store(s)
	for ch := range a.subs {
		notify(ch)
	}
}

// notify puts a value into a channel of capacity one unless one is there.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
