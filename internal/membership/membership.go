package membership

import (
	"cmp"
	"errors"
	"fmt"
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

// View is what this speaker sees. It is immutable.
type View struct {
	// Members are the living speakers in the order of their names, this one included.
	Members []Member
	// Settled is false while there may be living speakers that this one has not spoken with yet. A speaker whose view is
	// not settled keeps the addresses that it has and takes no further ones.
	Settled bool
	// Refused names, while the view is not settled, the speakers known from the API that keep it from settling: they have
	// another key, so that it cannot be known what they do.
	Refused []string
	// Gone are the speakers that failed or left and have not come back, in the order of their names. A speaker is forgotten
	// ten minutes later, or when it has left for good and the API does not know of it any more.
	Gone []Gone
	// Former is what the former process on this node claimed, as the others tell. It is empty once this process has said
	// what it claims itself and no longer abstains. It is never nil.
	Former *Claims
	// Known is how many speakers exist: those that the API knows of, the members, and those that are gone, unless the API
	// has dropped them.
	Known int
}

// Member is a living speaker.
type Member struct {
	Node string
	Addr netip.AddrPort
	// Info is what the member said about itself; Known is false as long as nothing was heard.
	Info  Info
	Known bool
	// Epoch tells one process of the speaker from another: a later one has a higher epoch. It is 0 while Known is false.
	Epoch uint64
	// Claims is what the member claims, never nil. As long as it abstains, what its former process claimed is part of it.
	Claims *Claims
}

// Gone is a speaker that failed or left, with what it said last.
type Gone struct {
	Member
	// Since is when it was found to be gone.
	Since time.Time
	// Left says that it said so itself. Returns then says that it means to come back, and StandIn which node stands in for
	// it meanwhile, if any does.
	Left, Returns bool
	StandIn       string
}

// Member returns the living speaker on node, or nil.
func (v *View) Member(node string) *Member {
	i, ok := slices.BinarySearchFunc(v.Members, node, func(m Member, n string) int { return cmp.Compare(m.Node, n) })
	if !ok {
		return nil
	}
	return &v.Members[i]
}

func (v *View) equal(o *View) bool {
	return v.Settled == o.Settled && slices.Equal(v.Refused, o.Refused) && slices.EqualFunc(v.Members, o.Members, func(a, b Member) bool {
		return a.Node == b.Node && a.Addr == b.Addr && a.Known == b.Known && a.Info.Equal(b.Info)
	})
}

// Membership is one speaker's part in the group. Its methods may be called at any time, before, during and after Run,
// from any goroutine; none of them waits for the network except Leave.
type Membership struct {
	cfg     Config
	logger  log.Logger
	metrics *Metrics

	view     atomic.Pointer[View]
	size     atomic.Int64 // living speakers, for the retransmit limit of the broadcast queue
	changes  chan struct{}
	started  chan struct{}
	sendKick chan struct{}
	joinKick chan struct{}
	keyKick  chan struct{}

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
	left      map[string]departure
	unreached map[string]*failure
	refused   map[string]time.Time // by node: when a known peer last refused our key, or we its
	newest    []byte               // the key that is or will be sent with
	peers     []Peer
	hasPeers  bool // whether SetPeers was called
	settling  settling
	unsent    map[string]int  // members this speaker's own record has to be sent to, and how often that failed
	silent    map[string]bool // what was reported and need not be again
	leaving   bool
	queue     memberlist.TransmitLimitedQueue
}

// departure remembers which process of a speaker said that it leaves, and when.
type departure struct {
	epoch uint64
	at    time.Time
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
		cfg:       cfg,
		logger:    log.With(cfg.Logger, "component", "membership"),
		metrics:   cfg.Metrics,
		changes:   make(chan struct{}, 1),
		started:   make(chan struct{}),
		sendKick:  make(chan struct{}, 1),
		joinKick:  make(chan struct{}, 1),
		keyKick:   make(chan struct{}, 1),
		ring:      ring,
		newest:    slices.Clone(cfg.Key),
		refused:   map[string]time.Time{},
		store:     newStore(cfg.Node, uint64(max(now.UnixNano(), 1)), now),
		alive:     map[string]netip.AddrPort{},
		left:      map[string]departure{},
		unsent:    map[string]int{},
		silent:    map[string]bool{},
		unreached: map[string]*failure{},
	}
	m.queue.RetransmitMult = retransmitMult
	m.queue.NumNodes = func() int { return int(m.size.Load()) }
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
		m.announce()
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
	m.peers, m.hasPeers = peers, true
	for node := range m.unreached {
		if !slices.ContainsFunc(peers, func(p Peer) bool { return p.Node == node }) {
			delete(m.unreached, node)
		}
	}
	for node := range m.refused {
		if !slices.ContainsFunc(peers, func(p Peer) bool { return p.Node == node }) {
			delete(m.refused, node)
		}
	}
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

// announce has this speaker's record sent to all members. The caller holds mu.
func (m *Membership) announce() {
	own := m.store.own()
	if msg := recordMessage(own); len(msg) <= maxGossip {
		m.queue.QueueBroadcast(&broadcast{node: own.node, msg: msg})
	}
	clear(m.unsent)
	for node := range m.alive {
		if node != m.cfg.Node {
			m.unsent[node] = 0
		}
	}
	kick(m.sendKick)
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

func (m *Membership) snapshot() *View {
	v := &View{Settled: m.settling.settled()}
	if !v.Settled {
		v.Refused = m.refusedPeers()
	}
	for node, addr := range m.alive {
		if node != m.cfg.Node && !m.departed(node) {
			info, known := m.store.info(node)
			v.Members = append(v.Members, Member{Node: node, Addr: addr, Info: info, Known: known})
		}
	}
	own := m.store.own()
	v.Members = append(v.Members, Member{Node: m.cfg.Node, Addr: m.addr, Info: own.info, Known: true})
	slices.SortFunc(v.Members, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	return v
}

// departed reports whether node said a moment ago that it leaves and has not come back since. The caller holds mu.
func (m *Membership) departed(node string) bool {
	d, ok := m.left[node]
	if !ok || m.cfg.Clock.Since(d.at) > departureHold {
		return false
	}
	e, ok := m.store.records[node]
	return !ok || e.epoch <= d.epoch
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
