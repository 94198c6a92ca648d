package membership

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
	"k8s.io/utils/clock"
)

// Config says who this speaker is and where it listens.
type Config struct {
	// Node is the name of this node, unique among the speakers.
	Node string
	// Bind is the address and port, both TCP and UDP, to listen on. With port 0 the kernel chooses one.
	Bind netip.AddrPort
	// Advertise is where others reach this speaker; the zero value means the address of Bind, which then has to be a
	// particular one. The port is that of Bind.
	Advertise netip.Addr
	// Key encrypts and authenticates everything that is sent: 32 bytes for AES-256. Without a key everything is sent
	// and believed in the clear.
	Key []byte
	// Logger gets a line per transition.
	Logger log.Logger
	// Metrics is required; see NewMetrics.
	Metrics *Metrics
	// Clock gives the epoch of this process; nil means the system's.
	Clock clock.PassiveClock

	// keyDelay is keyDelay but in tests.
	keyDelay time.Duration
	// wrap lets tests cut the network.
	wrap func(memberlist.NodeAwareTransport) memberlist.NodeAwareTransport
}

// Peer is a speaker that the API knows of.
type Peer struct {
	Node string
	Addr netip.AddrPort
}

// Membership is one speaker's part in the group. Its methods may be called at any time, before, during and after Run,
// from any goroutine; none of them waits for the network except Leave.
type Membership struct {
	cfg     Config
	logger  log.Logger
	metrics *Metrics

	view       atomic.Pointer[View]
	size       atomic.Int64 // living speakers, for the retransmit limit of the broadcast queues
	changes    chan struct{}
	started    chan struct{}
	sendKick   chan struct{}
	streamKick chan struct{}
	joinKick   chan struct{}
	keyKick    chan struct{}
	meets      chan string
	outbox     chan Verdict
	verdicts   chan Verdict

	ring *memberlist.Keyring // nil without encryption; it has a lock of its own

	// running is held for writing while the list is being shut down, and for reading by who must not be overtaken by it.
	running sync.RWMutex
	list    *memberlist.Memberlist

	// mu guards what follows. memberlist calls the delegate with locks of its own held, so nothing that takes those
	// locks may be called with mu held.
	mu        sync.Mutex
	addr      netip.AddrPort
	store     *store
	alive     map[string]netip.AddrPort
	gone      map[string]*departure // who failed or left, for some time also who is forgotten
	farewell  *notice               // what this speaker said when it left
	unreached map[string]*failure
	refused   map[string]time.Time // by node: when a known peer last refused our key, or we its
	newest    []byte               // the key that is or will be sent with
	peers     []Peer
	hasPeers  bool            // whether SetPeers was called
	removed   map[string]bool // peers that are no longer in the list
	settling  settling
	newsInfo  bool                // whether this speaker's record has to be sent to all
	newsParts []int               // which of its chunks have to be sent to all
	joined    map[string]struct{} // members that have not been told anything yet
	unsent    map[string]int      // members that have to be told all over a stream, and how often that failed
	silent    map[string]bool     // what was reported and need not be again
	leaving   bool

	queue  memberlist.TransmitLimitedQueue // of records and farewells
	chunks memberlist.TransmitLimitedQueue // behind those
}

// New checks the configuration. Nothing is opened or started before Run.
func New(cfg Config) (*Membership, error) {
	switch {
	case cfg.Node == "" || len(cfg.Node) > maxNodeName:
		return nil, fmt.Errorf("membership: node name %q must have 1 to %d bytes", cfg.Node, maxNodeName)
	case !cfg.Bind.IsValid():
		return nil, errors.New("membership: bind address is missing")
	case cfg.Bind.Addr().IsUnspecified() && !cfg.Advertise.IsValid():
		return nil, fmt.Errorf("membership: binding to %s needs an advertise address", cfg.Bind.Addr())
	case len(cfg.Key) != 0 && len(cfg.Key) != keyBytes:
		return nil, fmt.Errorf("membership: key has %d bytes; AES-256 needs %d", len(cfg.Key), keyBytes)
	}
	ring, err := newRing(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	cfg.keyDelay = cmp.Or(cfg.keyDelay, keyDelay)
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if !cfg.Advertise.IsValid() {
		cfg.Advertise = cfg.Bind.Addr()
	}
	now := cfg.Clock.Now()
	m := &Membership{
		cfg:        cfg,
		logger:     log.With(cfg.Logger, "component", "membership"),
		metrics:    cfg.Metrics,
		changes:    make(chan struct{}, 1),
		started:    make(chan struct{}),
		sendKick:   make(chan struct{}, 1),
		streamKick: make(chan struct{}, 1),
		joinKick:   make(chan struct{}, 1),
		keyKick:    make(chan struct{}, 1),
		meets:      make(chan string, maxMeets),
		outbox:     make(chan Verdict, maxVerdicts),
		verdicts:   make(chan Verdict, maxVerdicts),
		ring:       ring,
		newest:     slices.Clone(cfg.Key),
		refused:    map[string]time.Time{},
		store:      newStore(cfg.Node, uint64(max(now.UnixNano(), 1)), now),
		alive:      map[string]netip.AddrPort{},
		gone:       map[string]*departure{},
		removed:    map[string]bool{},
		joined:     map[string]struct{}{},
		unsent:     map[string]int{},
		silent:     map[string]bool{},
		unreached:  map[string]*failure{},
	}
	m.queue.RetransmitMult = retransmitMult
	m.chunks.RetransmitMult = retransmitMult
	m.queue.NumNodes = func() int { return int(m.size.Load()) }
	m.chunks.NumNodes = m.queue.NumNodes
	m.settling.doubt(startLimit)
	m.view.Store(m.snapshot())
	return m, nil
}

// View returns what this speaker sees now.
func (m *Membership) View() *View { return m.view.Load() }

// Changes receives a value after the view has changed. Several changes may make one value; there is one receiver.
func (m *Membership) Changes() <-chan struct{} { return m.changes }

// Started is closed once the speaker listens.
func (m *Membership) Started() <-chan struct{} { return m.started }

// Addr returns where others reach this speaker; it is valid once Started is closed.
func (m *Membership) Addr() netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addr
}

// tooMuch is the key in silent of the report that not everything could be told.
const tooMuch = "too much to tell"

// SetLocal replaces what this speaker says about itself. News goes out to all members at once. If it is more than a
// record can hold, some links are left out: first those without subnets, which are seldom of use.
func (m *Membership) SetLocal(info Info) {
	info, left := info.normalized().bounded()
	m.mu.Lock()
	defer m.mu.Unlock()
	if full := len(left) > 0; full != m.silent[tooMuch] {
		m.silent[tooMuch] = full
		if full {
			level.Error(m.logger).Log("msg", "this node has more interfaces or subnets than can be told to the other speakers; "+
				"it is not asked to announce on what is left out", "left_out", len(left), "first", left[0])
		}
	}
	if m.store.setOwn(info) {
		m.tellParts(m.store.spoken())
		m.tellInfo()
		m.publish()
	}
}

// tooManyClaims is the key in silent of the report that not all claims could be told.
const tooManyClaims = "too many claims"

// SetClaims replaces what this speaker claims, all of it. What has changed goes out to all members at once. What is for
// no address, or offered to what cannot be the name of a node, is left out.
func (m *Membership) SetClaims(claims map[netip.Addr]Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	parts, left := m.store.setClaims(claims)
	if full := left > 0; full != m.silent[tooManyClaims] {
		m.silent[tooManyClaims] = full
		if full {
			level.Error(m.logger).Log("msg", "this node claims more addresses than can be told to the other speakers", "left_out", left)
		}
	}
	if len(parts) > 0 {
		m.tellParts(parts)
		m.publish()
	}
}

// SetPeers tells which speakers the API knows of; this node itself may be among them. Those that are not members are
// joined at once, and tried again until they are members or no longer in the list.
func (m *Membership) SetPeers(peers []Peer) {
	peers = slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool {
		return p.Node == m.cfg.Node || !p.Addr.IsValid()
	})
	slices.SortFunc(peers, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), a.Addr.Compare(b.Addr))
	})
	peers = slices.Compact(peers)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hasPeers && slices.Equal(m.peers, peers) {
		return
	}
	listed := func(node string) bool { return slices.ContainsFunc(peers, func(p Peer) bool { return p.Node == node }) }
	for _, p := range m.peers {
		m.removed[p.Node] = true
	}
	for _, p := range peers {
		delete(m.removed, p.Node)
	}
	m.peers, m.hasPeers = peers, true
	maps.DeleteFunc(m.unreached, func(node string, _ *failure) bool { return !listed(node) })
	maps.DeleteFunc(m.refused, func(node string, _ time.Time) bool { return !listed(node) })
	m.publish()
	kick(m.joinKick)
}

// Rejoin is to be called when this node's link has come back, before anything is decided on the strength of that: when
// it returns, the view is not settled, and it will be once every known peer was spoken with or did not answer.
func (m *Membership) Rejoin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settling.doubt(startLimit)
	m.publish()
	kick(m.joinKick)
}

// publish makes the view current and tells of it if it has changed. The caller holds mu.
func (m *Membership) publish() {
	if m.leaving {
		// Who leaves keeps its last view: the others go on without it, and it makes no more decisions.
		return
	}
	old, view := m.view.Load(), m.snapshot()
	if view.equal(old) {
		return
	}
	m.view.Store(view)
	m.metrics.observe(view)
	kick(m.changes)
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
