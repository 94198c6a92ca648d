package neighbor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/go-kit/log"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// Links is where a Prober learns of interfaces; *netif.Watcher is one.
type Links interface {
	// Links returns the present snapshot, nil before the first.
	Links() []netif.Link
	// Subscribe returns a coalescing channel that fires after each change.
	Subscribe() (changed <-chan struct{}, cancel func())
}

// Defaults of Config.
const (
	DefaultInterval     = 100 * time.Millisecond
	DefaultDetectProbes = 3
	DefaultDetectEvery  = 100 * time.Millisecond
)

// Config configures a Prober.
type Config struct {
	// Links is required.
	Links Links
	// Interval is the time between two probes of a watched target; it defaults
	// to DefaultInterval.
	Interval time.Duration
	// Wait is how long after a probe an answer is waited for. It must be less
	// than Interval and defaults to half of it. A host whose answers take longer
	// still counts as heard, between misses.
	Wait time.Duration
	// DetectProbes and DetectEvery are how many probes Detect sends and how long
	// it waits after each; they default to 3 and 100 ms. RFC 5227 section 1.1
	// has seconds, for networks of another age.
	DetectProbes int
	DetectEvery  time.Duration
	// Logger defaults to a no-op.
	Logger log.Logger
	// Metrics defaults to metrics that are registered nowhere.
	Metrics *Metrics
	// Clock defaults to the real one.
	Clock clock.Clock
	// Wire opens the sockets; it defaults to packet sockets of the network
	// namespace in which the goroutine of Run lives.
	Wire Wire
}

// A Target is a host that is asked for an address of its own on one link.
type Target struct {
	// Interface is the name of the link.
	Interface string
	// Addr is the address asked for. Its zone, if any, is ignored.
	Addr netip.Addr
	// MAC is who is asked, so that the question disturbs no one else. If zero,
	// everyone is asked until someone answers, and that one from then on until
	// it misses a probe.
	MAC ether.MAC
}

func (t Target) String() string {
	if t.MAC == (ether.MAC{}) {
		return t.Addr.String() + " on " + t.Interface
	}
	return t.Addr.String() + " at " + t.MAC.String() + " on " + t.Interface
}

// Health is what is known of a watched target.
type Health struct {
	// Answered is when the last probe was sent that got an answer: the target
	// lived then or later. Zero if it never answered.
	Answered time.Time
	// Missed counts the probes in a row that had no answer although they were
	// sent and listened for without fail during the whole wait.
	Missed int
	// MAC is who answered last. It is not compared with Target.MAC: bonds answer
	// from any of their ports.
	MAC ether.MAC
	// Err says why the target cannot be asked at present, by no fault of its
	// own. While it is set Missed stands still. Links without carrier give an
	// error that wraps netif.ErrNoCarrier.
	Err error
}

// A Prober asks other hosts. Its methods may be called from any goroutine.
type Prober struct {
	cfg     Config
	logger  log.Logger
	metrics *Metrics
	clock   clock.Clock
	changes chan struct{}
	wake    chan struct{}
	detects chan struct{} // one for each Detect under way

	// mu guards what follows and the use of all Conns.
	mu      sync.Mutex
	lanes   map[laneKey]*lane
	entries map[Target]*entry
	agenda  agenda
	slots   slots
	own     map[ether.MAC]struct{} // of all links
	stopped bool
	serving sync.WaitGroup
}

// New returns a Prober that asks nobody until Run.
func New(cfg Config) (*Prober, error) {
	if cfg.Links == nil {
		return nil, errors.New("neighbor: Config.Links is required, set it to a *netif.Watcher")
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Wait == 0 {
		cfg.Wait = cfg.Interval / 2
	}
	if cfg.DetectProbes == 0 {
		cfg.DetectProbes = DefaultDetectProbes
	}
	if cfg.DetectEvery == 0 {
		cfg.DetectEvery = DefaultDetectEvery
	}
	if cfg.Interval < 0 || cfg.Wait < 0 || cfg.Wait >= cfg.Interval {
		return nil, fmt.Errorf("neighbor: Config.Wait is %v, it must be less than Config.Interval, %v", cfg.Wait, cfg.Interval)
	}
	if cfg.DetectProbes < 0 || cfg.DetectEvery < 0 {
		return nil, fmt.Errorf("neighbor: Config.DetectProbes is %d and Config.DetectEvery %v, they must be positive", cfg.DetectProbes, cfg.DetectEvery)
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
	return &Prober{
		cfg:     cfg,
		logger:  cfg.Logger,
		metrics: cfg.Metrics,
		clock:   cfg.Clock,
		changes: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		detects: make(chan struct{}, maxDetects),
		lanes:   make(map[laneKey]*lane),
		entries: make(map[Target]*entry),
		slots:   newSlots(cfg.Clock.Now(), cfg.Interval),
	}, nil
}

// Run asks until ctx is done and returns nil. Sockets that fail are opened again,
// with back-off. All sockets are opened by the goroutine that calls Run, hence in
// its network namespace.
func (p *Prober) Run(ctx context.Context) error {
	changed, cancel := p.cfg.Links.Subscribe()
	defer cancel()
	defer p.shut()
	timer := p.clock.NewTimer(0)
	defer timer.Stop()
	reconcile := p.converge()
	for {
		next := earlier(p.step(), reconcile)
		if wait := next.Sub(p.clock.Now()); next.IsZero() || wait > 0 {
			if next.IsZero() {
				wait = time.Hour
			}
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
				reconcile = p.converge()
			case <-p.wake:
				reconcile = p.converge()
			case <-timer.C():
			}
		}
		if !reconcile.IsZero() && !p.clock.Now().Before(reconcile) {
			reconcile = p.converge()
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// Watch makes targets the complete set of those that are asked continuously. Of
// targets that were watched before, what is known of them is kept. It does not
// block and keeps no reference to targets.
func (p *Prober) Watch(targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := make(map[Target]struct{}, len(targets))
	changed := false
	for _, t := range targets {
		want[t] = struct{}{}
		if p.entries[t] == nil {
			p.add(t)
			changed = true
		}
	}
	for t, e := range p.entries {
		if _, ok := want[t]; !ok {
			p.remove(e)
			changed = true
		}
	}
	if changed {
		notify(p.changes)
		notify(p.wake)
	}
}

// Heard returns what is known of each watched target. The map belongs to the
// caller.
func (p *Prober) Heard() map[Target]Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[Target]Health, len(p.entries))
	for t, e := range p.entries {
		out[t] = e.health
	}
	return out
}

// Changes returns a channel that gets a value after each change of what Heard
// returns, other than a later Answered. Changes coalesce. The channel is never
// closed; it is the same at each call.
func (p *Prober) Changes() <-chan struct{} { return p.changes }

// notify puts a value into a channel of capacity one unless one is there.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// earlier returns the earlier of two times; zero stands for never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
