package watch

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// machine holds what is known of every other node and decides on it. It owns no clock and no socket: it is told the time
// with every event, has to be ticked every tickEvery, and says with take, watching and dialing what is to be done.
type machine struct {
	self string
	// limit is how long a node may be orphaned; 0 means not at all.
	limit time.Duration
	// asksProxy says that the kube-proxy of an orphaned node can be asked.
	asksProxy bool
	metrics   *Metrics

	links []Link
	nodes map[string]*node
	list  []*node // nodes in the order of their names, so that the same events have the same effect
	spot  spot    // of this node
	ring  ring
	dirty bool // the ring is out of date
	// cut says that nobody answers this node, blind that it has lost the links over which it asked others. Either makes
	// it isolated.
	cut, blind bool
	cutSince   time.Time
	witness    witness
	lastID     uint64
	todo       todo
}

// node is what is known of another node.
type node struct {
	Node
	spot     spot
	standing Standing
	why      string // the reason for standing
	// judged is false until the first judgement, which is no transition.
	judged bool

	targets []Target
	// answered says of each target whether it has answered before.
	answered map[Target]bool
	// via are the interfaces of this node over which it was last possible to ask.
	via []string
	// mine says that this node is one of its watchers; watched since when its targets are asked all the time.
	mine    bool
	watched time.Time

	lastAnswer time.Time
	missed     int // as of the last look
	cleared    int // what was missed when a confirmation was answered: that much is forgiven
	// silent says that its kernel does not answer, as was confirmed at silentAt.
	silent   bool
	silentAt time.Time
	ask      *asking
	askedAt  time.Time
	unable   int // attempts to ask that failed in a row

	verdicts map[string]time.Time // by whom it was called silent, and when
	saying   bool                 // what is being repeated to others
	saidAt   time.Time
	repeated int

	// connected says that the connection to its speaker stands, ended that it did and has not come back.
	connected, ended bool

	goneSince time.Time
	proxy     proxyState
	proxyAt   time.Time // when it was last asked
	proxyWell time.Time // when it last was healthy, or first asked
	proxyID   uint64    // of the question that is under way
}

// proxyState is what is known of a node's kube-proxy.
type proxyState uint8

const (
	// proxyUnknown: nothing was found out.
	proxyUnknown proxyState = iota
	proxyHealthy
	// proxyUnhealthy: nobody listens there, or it says so itself.
	proxyUnhealthy
	// proxySilent: there was no answer.
	proxySilent
)

// dial is a speaker that a watch connection is to be held to. Another process of it is another dial.
type dial struct {
	node  string
	addr  netip.AddrPort
	epoch uint64
}

// todo collects what has to be done once.
type todo struct {
	asks     []askOrder
	proxies  []proxyOrder
	verdicts []Verdict
	witness  *witnessOrder
	moved    []transition
	// touched says that the snapshot, and who is to be watched, may have changed.
	touched bool
}

type askOrder struct {
	id      uint64
	node    string
	targets []Target
	tries   int
	every   time.Duration
}

type proxyOrder struct {
	id   uint64
	node string
	addr netip.Addr
}

// transition is a line for the log. Without a node it is about this node's isolation.
type transition struct {
	node    string
	was, is Standing
	why     string
}

func newMachine(self string, limit time.Duration, asksProxy bool, metrics *Metrics) *machine {
	m := &machine{self: self, limit: limit, asksProxy: asksProxy, metrics: metrics, nodes: map[string]*node{}, spot: newSpot(self, true)}
	m.ring = newRing([]spot{m.spot})
	return m
}

// setView takes in what the membership says.
func (m *machine) setView(now time.Time, v View) {
	m.todo.touched = true
	relink := !slices.EqualFunc(m.links, v.Links, Link.equal)
	m.links = v.Links
	type change struct {
		n     *node
		was   Node
		fresh bool
	}
	var changes []change
	seen := make(map[string]bool, len(v.Nodes))
	for i := range v.Nodes {
		x := &v.Nodes[i]
		if x.Name == m.self || seen[x.Name] {
			continue
		}
		seen[x.Name] = true
		n := m.nodes[x.Name]
		fresh := n == nil
		if fresh {
			n = &node{spot: newSpot(x.Name, false), answered: map[Target]bool{}, verdicts: map[string]time.Time{}}
			m.nodes[x.Name] = n
		}
		changes = append(changes, change{n, n.Node, fresh})
		differs := fresh || !slices.EqualFunc(n.Links, x.Links, Link.equal)
		n.Node = *x
		if relink || differs {
			m.relink(n)
		}
	}
	maps.DeleteFunc(m.nodes, func(name string, _ *node) bool { return !seen[name] })
	if list := slices.SortedFunc(maps.Values(m.nodes), func(a, b *node) int { return cmp.Compare(a.Name, b.Name) }); !slices.Equal(list, m.list) {
		m.list, m.dirty = list, true
	}
	m.setIsolated(now, m.cut, m.isBlind())
	for _, c := range changes {
		m.follow(now, c.n, c.was, c.fresh)
		m.judge(now, c.n)
	}
	m.reorder(now)
}

// relink finds out anew where n can be asked.
func (m *machine) relink(n *node) {
	n.targets = targetsOf(m.links, n.Links)
	n.watched, m.dirty = time.Time{}, true
	maps.DeleteFunc(n.answered, func(t Target, _ bool) bool { return !slices.Contains(n.targets, t) })
	if len(n.targets) > 0 {
		n.via = nil
		for _, t := range n.targets {
			n.via = append(n.via, t.Interface)
		}
	}
}

// isBlind reports whether this node cannot ask anybody because its own links are gone: whom it could ask, it could over
// links that it does not have any more.
func (m *machine) isBlind() bool {
	lost := false
	for _, n := range m.list {
		if len(n.targets) > 0 {
			return false
		}
		lost = lost || len(n.via) > 0 && !slices.ContainsFunc(m.links, func(l Link) bool { return slices.Contains(n.via, l.Name) })
	}
	return lost
}

// follow takes in how the membership's opinion of n has changed.
func (m *machine) follow(now time.Time, n *node, was Node, fresh bool) {
	if n.Epoch != was.Epoch {
		n.connected, n.ended = false, false
		clear(n.verdicts)
	}
	switch {
	case n.Gone && (fresh || !was.Gone):
		n.goneSince = now
		if !n.Since.IsZero() && n.Since.Before(now) {
			n.goneSince = n.Since
		}
		n.connected, n.ended = false, false
		n.proxy, n.proxyAt, n.proxyWell, n.proxyID = proxyUnknown, time.Time{}, time.Time{}, 0
		if !n.mine || !n.fresh(now) {
			m.put(now, n, becauseGone, confirmTries)
		}
	case !n.Gone && was.Gone:
		n.goneSince, n.unable = time.Time{}, 0
		m.returned(now, n)
	}
}

// returned takes in that the speaker of n is back. A node that was Down has to answer first if it ever did.
func (m *machine) returned(now time.Time, n *node) {
	if n.standing.State != Down {
		n.silent = false
		return
	}
	n.silent, n.silentAt = n.verifiable(), now
	m.put(now, n, becauseUnsure, confirmTries)
}

// setConnected takes in that the connection to the speaker of a dial stands, or has ended.
func (m *machine) setConnected(now time.Time, d dial, up bool) {
	n := m.nodes[d.node]
	if n == nil || n.Epoch != d.epoch || n.Gone || !n.mine {
		return
	}
	if !up && !n.connected {
		return // it never stood: a firewall, or a speaker that is not ready; the membership knows
	}
	n.connected, n.ended = up, !up
	m.judge(now, n)
	m.reorder(now)
}

// setProxy takes in how the kube-proxy of a node is doing; proxyUnknown if that could not be found out.
func (m *machine) setProxy(now time.Time, id uint64, name string, state proxyState) {
	n := m.nodes[name]
	if n == nil || n.proxyID != id {
		return
	}
	n.proxyID = 0
	silence := state == proxySilent && len(n.targets) > 0 && !m.othersAnswered(nil, n.proxyAt)
	if state == proxyUnknown || silence || m.isolated() {
		n.proxyAt = time.Time{} // again as soon as possible
		return
	}
	n.proxy = state
	if state == proxyHealthy || n.proxyWell.IsZero() {
		n.proxyWell = now
	}
	m.judge(now, n)
	m.reorder(now)
}

// tick does what is due.
func (m *machine) tick(now time.Time) {
	if m.cut && now.Sub(m.witness.started) >= cutEvery {
		m.askWitness(now)
	}
	for _, n := range m.list {
		m.repeat(now, n)
		if m.isolated() {
			continue
		}
		m.askAgain(now, n)
		if n.silent && !n.Gone && !n.verifiable() && now.Sub(n.silentAt) >= hearsayFor {
			n.silent = false
		}
		m.judge(now, n)
	}
	m.reorder(now)
}

// askAgain puts the questions that recur.
func (m *machine) askAgain(now time.Time, n *node) {
	asked := now.Sub(n.askedAt)
	switch {
	case n.standing.State == Down && !n.Gone:
		if n.mine && asked >= returnEvery || asked >= returnSlowly {
			m.put(now, n, becauseUnsure, 1)
		}
	case !n.Gone && len(n.targets) > 0 && !n.verifiable() && (n.askedAt.IsZero() || asked >= unsureEvery):
		m.put(now, n, becauseUnsure, 1)
	case n.standing.State == Orphaned:
		if n.unable > 0 && asked >= unableEvery || (!n.mine || !n.verifiable()) && asked >= orphanEvery {
			m.put(now, n, becauseGone, confirmTries)
		}
		m.askProxy(now, n)
	case m.mayServe(now, n):
		if asked >= returnSlowly {
			m.put(now, n, becauseUnsure, 1)
		}
		if n.lastAnswer.After(n.standing.Since) {
			m.askProxy(now, n)
		}
	}
}

// askProxy asks the kube-proxy of a node whose speaker is gone, every now and then.
func (m *machine) askProxy(now time.Time, n *node) {
	if m.asksProxy && n.proxyID == 0 && now.Sub(n.proxyAt) >= proxyEvery {
		m.lastID++
		n.proxyID, n.proxyAt = m.lastID, now
		m.todo.proxies = append(m.todo.proxies, proxyOrder{id: m.lastID, node: n.Name, addr: n.Addr})
	}
}

// reorder makes the ring, and finds out whom this node watches.
func (m *machine) reorder(now time.Time) {
	if !m.dirty {
		return
	}
	m.dirty, m.todo.touched = false, true
	m.spot.links = m.links
	spots := []spot{m.spot}
	for _, n := range m.list {
		if n.standing.State != Down {
			n.spot.links = n.Links
			n.spot.living = n.standing.State == Up && !n.standing.SpeakerGone
			spots = append(spots, n.spot)
		}
	}
	m.ring = newRing(spots)
	for _, n := range m.list {
		n.mine = slices.Contains(m.ring.behind(n.Name), m.self)
		if watch := n.mine && len(n.targets) > 0 && n.standing.State != Down; watch != !n.watched.IsZero() {
			n.watched, n.missed, n.cleared = time.Time{}, 0, 0
			if watch {
				n.watched = now
			}
		}
		if !n.mine || n.standing.State == Down {
			n.connected, n.ended = false, false
		}
	}
}

// watching returns the targets that are to be asked all the time.
func (m *machine) watching() []Target {
	var targets []Target
	for _, n := range m.list {
		if !n.watched.IsZero() {
			targets = append(targets, n.targets...)
		}
	}
	return targets
}

// dialing returns the speakers to which connections are to be held.
func (m *machine) dialing() map[dial]bool {
	dials := map[dial]bool{}
	for _, n := range m.list {
		if n.mine && !n.Gone && n.standing.State != Down && n.WatchPort != 0 && n.Addr.IsValid() {
			dials[dial{node: n.Name, addr: netip.AddrPortFrom(n.Addr, n.WatchPort), epoch: n.Epoch}] = true
		}
	}
	return dials
}

// take returns what has to be done once, and forgets it.
func (m *machine) take() todo {
	t := m.todo
	m.todo = todo{}
	return t
}

func (m *machine) snapshot() *Snapshot {
	s := &Snapshot{Nodes: make(map[string]Standing, len(m.nodes)), Isolated: m.isolated(), ring: m.ring}
	for name, n := range m.nodes {
		s.Nodes[name] = n.standing
	}
	return s
}

// fresh reports whether n answered a moment ago.
func (n *node) fresh(now time.Time) bool {
	return !n.lastAnswer.IsZero() && now.Sub(n.lastAnswer) < freshFor
}

// verifiable reports whether n can be asked and has answered before, so that its silence means something.
func (n *node) verifiable() bool { return len(n.answered) > 0 }

// addresses returns where speakers may connect from.
func (m *machine) addresses() map[netip.Addr]bool {
	addrs := make(map[netip.Addr]bool, len(m.nodes))
	for _, n := range m.list {
		addrs[n.Addr.Unmap().WithZone("")] = true
	}
	return addrs
}
