package bfd

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"k8s.io/utils/clock"
)

// Options configure a Monitor.
type Options struct {
	// Logger defaults to a no-op.
	Logger log.Logger
	// Metrics defaults to metrics that are registered nowhere.
	Metrics *Metrics
	// Clock defaults to the real one.
	Clock clock.Clock
}

// A Monitor keeps BFD sessions. Its methods may be called from any goroutine.
//
// One goroutine, that of Run, keeps all timers and opens all sockets; one per
// receiving socket reads packets. What they share is behind mu.
type Monitor struct {
	logger  log.Logger
	metrics *Metrics
	clock   clock.Clock
	wake    chan struct{} // for Run: there is something to do
	changes chan struct{}

	mu        sync.Mutex
	wanted    []Config // what Run has not taken up, if pending
	pending   bool
	invalid   []Status // of Configs that cannot be kept
	links     map[key]*link
	byNumber  map[uint32]*link
	byMatch   map[match]*link
	ports     map[portKey]*port
	echoPorts map[echoKey]*echoPort
	queue     queue
	sleeping  time.Time // until when Run sleeps, unless woken
	departing bool      // Run is about to end
	packet    Packet    // to work with
	buf       []byte    // likewise
}

// New returns a Monitor without sessions.
func New(o Options) *Monitor {
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Monitor{
		logger:    o.Logger,
		metrics:   o.Metrics,
		clock:     o.Clock,
		wake:      make(chan struct{}, 1),
		changes:   make(chan struct{}, 1),
		links:     make(map[key]*link),
		byNumber:  make(map[uint32]*link),
		byMatch:   make(map[match]*link),
		ports:     make(map[portKey]*port),
		echoPorts: make(map[echoKey]*echoPort),
		buf:       make([]byte, 0, 128),
	}
}

// Apply makes configs the complete set of sessions. It returns at once; sessions
// come up in the background. It may be called again with the same value at no
// cost. A session whose timers change goes on and negotiates them with its peer;
// one whose addresses change is another session. A session that is left out ends
// in order: its peer is told that it is down on purpose. Apply keeps no reference
// to configs.
func (m *Monitor) Apply(configs []Config) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Equal(configs, m.wanted) {
		return
	}
	m.wanted, m.pending = slices.Clone(configs), true
	notify(m.wake)
}

// States returns what is known of every session, ordered by name. Configs that
// Run has not taken up yet are missing.
func (m *Monitor) States() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(m.invalid)
	for _, l := range m.links {
		for _, name := range l.names {
			st := l.status(name)
			if st.Err == nil && l.port != nil {
				st.Err = l.port.err
			}
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Changes returns a channel that gets a value after the state or the error of a
// session has changed. Changes coalesce, and the channel has one reader.
func (m *Monitor) Changes() <-chan struct{} { return m.changes }

// Run keeps the sessions until ctx is done; then it tells every peer that the
// session is down on purpose and returns nil. Sessions with an Absence that are up
// stay so, for the peers that agree to wait: the next process with the same
// session goes on with it. All sockets are opened by the
// goroutine that calls Run, hence in its network namespace.
func (m *Monitor) Run(ctx context.Context) error {
	timer := m.clock.NewTimer(time.Hour)
	defer timer.Stop()
	var readers sync.WaitGroup
	for ctx.Err() == nil {
		m.converge()
		pause := m.work(ctx, &readers)
		if pause == 0 {
			continue
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-timer.C():
		}
	}
	m.depart(context.WithoutCancel(ctx), timer, &readers)
	m.end()
	readers.Wait()
	return nil
}

// converge takes up what Apply wants.
func (m *Monitor) converge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.pending {
		return
	}
	m.pending = false
	now := m.clock.Now()
	wanted := m.sortOut(m.wanted)
	for k, l := range m.links {
		if _, ok := wanted[k]; !ok && l.leaving.Equal(never) {
			m.retire(now, l)
		}
	}
	for k, w := range wanted {
		m.keep(now, k, w)
	}
	notify(m.changes)
}

// A want is a session that is wanted under some names.
type want struct {
	cfg   Config
	names []string
}

// sortOut sorts good Configs by session and remembers what is wrong with others.
// Where several share a session, the parameters of the first name count.
func (m *Monitor) sortOut(configs []Config) map[key]*want {
	slices.SortStableFunc(configs, func(a, b Config) int { return strings.Compare(a.Name, b.Name) })
	m.invalid = nil
	wanted := make(map[key]*want)
	for _, c := range configs {
		c = c.normalise()
		if err := c.validate(); err != nil {
			m.invalid = append(m.invalid, Status{Name: c.Name, Peer: c.Peer, Local: c.Local, State: Down, RemoteState: Down, Err: err})
			continue
		}
		k := keyOf(c)
		w := wanted[k]
		if w == nil {
			w = &want{cfg: c}
			wanted[k] = w
		}
		w.names = append(w.names, c.Name)
	}
	return wanted
}

// work does what is due and returns the time until it is to be called again; 0
// if that is at once.
func (m *Monitor) work(ctx context.Context, readers *sync.WaitGroup) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sleeping = time.Time{} // so that no reader bothers to wake us
	now := m.clock.Now()
	m.tendPorts(ctx, now, readers)
	// The lock is given up every now and then, so that packets get their turn.
	for range 32 {
		if first := m.queue.first(); first.After(now) {
			m.sleeping = earliest(first, m.nextPort())
			return max(m.sleeping.Sub(m.clock.Now()), time.Microsecond)
		}
		m.tend(now, m.queue[0], readers)
	}
	return 0
}

// end says farewell to all peers, but for those that wait for another process, and
// ends the readers.
func (m *Monitor) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	for _, l := range m.links {
		if l.leaving.Equal(never) && (!l.survives() || !l.session.left()) {
			m.retire(now, l)
		}
		m.drop(l)
	}
	for _, p := range m.ports {
		p.stop()
	}
	clear(m.ports)
	notify(m.changes)
}

// notify puts a value into a channel of capacity one unless one is there.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
