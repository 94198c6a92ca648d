package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"
)

// Config says who this speaker is and whom it asks.
type Config struct {
	// Node is the name of this node.
	Node string
	// Bind is where watch connections are accepted; those to other speakers come from its address, by which they
	// recognise this one.
	Bind netip.AddrPort
	// StandInLimit is how long a node may be orphaned before its addresses are taken over. With 0 a speaker that has gone
	// takes its node Down at once. See DefaultStandInLimit.
	StandInLimit time.Duration
	// ProxyURL is where the kube-proxy of this node says that it is healthy; on other nodes the host is theirs. It may be
	// empty, then kube-proxy is not asked.
	ProxyURL string

	Members Members
	Prober  Prober
	// Witnesses may be nil.
	Witnesses Witnesses

	// Logger gets a line per transition.
	Logger log.Logger
	// Metrics defaults to metrics that are registered nowhere.
	Metrics *Metrics
	// Clock defaults to the real one.
	Clock clock.WithTicker

	// network is replaced in tests that are in a namespace of their own.
	network network
}

// network opens connections.
type network interface {
	Listen(ctx context.Context, at netip.AddrPort) (*net.TCPListener, error)
	Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error)
}

// Watch judges the other nodes. Its methods may be called at any time from any goroutine.
type Watch struct {
	cfg       Config
	logger    log.Logger
	metrics   *Metrics
	clock     clock.WithTicker
	listener  *listener
	proxy     *proxyChecker
	panel     *panel
	changes   chan struct{}
	listening chan struct{}
	snapshot  atomic.Pointer[Snapshot]

	// events are inputs for the machine, which belongs to the loop, as all else below does.
	events  chan func(now time.Time)
	workers sync.WaitGroup
	machine *machine
	dialers map[dial]context.CancelFunc
	watched []Target
}

// New checks the configuration. Nothing is opened or started before Run.
func New(cfg Config) (*Watch, error) {
	switch {
	case cfg.Node == "":
		return nil, errors.New("watch: node name is missing")
	case !cfg.Bind.IsValid():
		return nil, errors.New("watch: bind address is missing")
	case cfg.StandInLimit < 0:
		return nil, fmt.Errorf("watch: stand-in limit %v is negative", cfg.StandInLimit)
	case cfg.Members == nil || cfg.Prober == nil:
		return nil, errors.New("watch: members or prober is missing")
	}
	var proxyURL *url.URL
	if cfg.ProxyURL != "" {
		var err error
		if proxyURL, err = url.Parse(cfg.ProxyURL); err != nil || proxyURL.Host == "" {
			return nil, fmt.Errorf("watch: kube-proxy health URL %q must be a URL with a host", cfg.ProxyURL)
		}
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
	if cfg.network == nil {
		cfg.network = kernel{}
	}
	logger := log.With(cfg.Logger, "component", "watch")
	w := &Watch{
		cfg: cfg, logger: logger, metrics: cfg.Metrics, clock: cfg.Clock,
		proxy:   newProxyChecker(proxyURL),
		panel:   newPanel(),
		changes: make(chan struct{}, 1), listening: make(chan struct{}),
		events:  make(chan func(time.Time)),
		machine: newMachine(cfg.Node, cfg.StandInLimit, proxyURL != nil, cfg.Metrics),
		dialers: map[dial]context.CancelFunc{},
	}
	w.listener = newListener(cfg.Bind, cfg.network, logger, cfg.Metrics, w.listening)
	w.snapshot.Store(w.machine.snapshot())
	return w, nil
}

// Standing returns the present judgement.
func (w *Watch) Standing() *Snapshot { return w.snapshot.Load() }

// Changes receives a value after Standing has changed. Several changes may make one value; there is one receiver.
func (w *Watch) Changes() <-chan struct{} { return w.changes }

// Listening is closed once watch connections are accepted.
func (w *Watch) Listening() <-chan struct{} { return w.listening }

// Run judges until ctx ends, and returns nil. Then all watch connections are closed, which is how the other speakers
// learn at once that this one is gone: it should be the last thing that a speaker stops.
func (w *Watch) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.listener.run(ctx) })
	g.Go(func() error { return w.loop(ctx) })
	return g.Wait()
}

func (w *Watch) loop(ctx context.Context) error {
	defer w.workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.workers.Go(func() { w.checkWitnesses(ctx) })
	ticker := w.clock.NewTicker(tickEvery)
	defer ticker.Stop()
	m := w.machine
	m.setView(w.clock.Now(), w.cfg.Members.View())
	w.apply(ctx)
	for {
		var event func(time.Time)
		select {
		case <-ctx.Done():
			return nil
		case <-w.cfg.Members.Changes():
			event = func(now time.Time) { m.setView(now, w.cfg.Members.View()) }
		case v := <-w.cfg.Members.Verdicts():
			event = func(now time.Time) { m.setVerdict(now, v) }
		case <-w.cfg.Prober.Changes():
		case event = <-w.events:
		case <-ticker.C():
			event = m.tick
		}
		// What was heard comes first, for it may be the proof that another event needs.
		now := w.clock.Now()
		m.setHeard(now, w.cfg.Prober.Heard())
		if event != nil {
			event(now)
		}
		w.apply(ctx)
	}
}

// apply does what the machine wants, and publishes what it has decided.
func (w *Watch) apply(ctx context.Context) {
	todo := w.machine.take()
	for _, t := range todo.moved {
		w.report(t)
	}
	for _, v := range todo.verdicts {
		w.cfg.Members.Broadcast(v)
	}
	for _, o := range todo.asks {
		w.workers.Go(func() { w.ask(ctx, o) })
	}
	for _, o := range todo.proxies {
		w.workers.Go(func() {
			state := w.proxy.check(ctx, o.addr)
			w.metrics.proxyChecks.WithLabelValues(proxyResults[state]).Inc()
			w.send(ctx, func(now time.Time) { w.machine.setProxy(now, o.id, o.node, state) })
		})
	}
	if o := todo.witness; o != nil {
		w.workers.Go(func() { w.askWitnesses(ctx, *o) })
	}
	if !todo.touched {
		return
	}
	w.watch()
	w.dial(ctx)
	w.listener.admit(w.machine.addresses())
	if s := w.machine.snapshot(); !s.equal(w.snapshot.Load()) {
		w.snapshot.Store(s)
		w.metrics.observe(s)
		select {
		case w.changes <- struct{}{}:
		default:
		}
	}
}

// watch tells the prober whom to ask all the time.
func (w *Watch) watch() {
	targets := w.machine.watching()
	slices.SortFunc(targets, Target.compare)
	if !slices.Equal(targets, w.watched) {
		w.watched = targets
		w.cfg.Prober.Watch(slices.Clone(targets))
	}
}

// dial starts and ends dialers.
func (w *Watch) dial(ctx context.Context) {
	wanted := w.machine.dialing()
	maps.DeleteFunc(w.dialers, func(d dial, cancel context.CancelFunc) bool {
		if !wanted[d] {
			cancel()
		}
		return !wanted[d]
	})
	for d := range wanted {
		if w.dialers[d] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		w.dialers[d] = cancel
		w.workers.Go(func() {
			defer cancel()
			dialer{dial: d, from: w.cfg.Bind.Addr(), network: w.cfg.network, clock: w.clock, logger: w.logger, metrics: w.metrics,
				report: func(up bool) {
					w.send(ctx, func(now time.Time) {
						if ctx.Err() == nil {
							w.machine.setConnected(now, d, up)
						}
					})
				},
			}.run(ctx)
		})
	}
}

// send hands an event to the loop, unless ctx ends first.
func (w *Watch) send(ctx context.Context, event func(time.Time)) {
	select {
	case w.events <- event:
	case <-ctx.Done():
	}
}

// report logs and counts a transition.
func (w *Watch) report(t transition) {
	switch {
	case t.node == "" && t.is.State == Down:
		level.Warn(w.logger).Log("msg", "this node seems to be cut off; it takes nothing over", "why", t.why)
		return
	case t.node == "":
		level.Info(w.logger).Log("msg", "this node is not cut off any more", "why", t.why)
		return
	case t.is == t.was:
		return // for another reason now
	case t.is.State == Down && t.was.State != Down:
		level.Warn(w.logger).Log("msg", "node is down", "node", t.node, "was", t.was.State, "why", t.why)
	case t.is.State != t.was.State:
		level.Info(w.logger).Log("msg", "node is "+t.is.State.String(), "node", t.node, "was", t.was.State, "why", t.why)
	case t.is.SpeakerGone:
		level.Info(w.logger).Log("msg", "speaker is gone", "node", t.node, "state", t.is.State, "why", t.why)
	default:
		level.Info(w.logger).Log("msg", "speaker is back", "node", t.node, "why", t.why)
	}
	if t.is.State != t.was.State {
		w.metrics.transitions.WithLabelValues(t.is.State.String()).Inc()
	}
}
