package watch

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

const ms = time.Millisecond

// A sim is a cluster in simulated time: machines, the kernels that they ask, a membership that finds failed speakers after
// 1 to 2 seconds, and a gateway. Everything is decided by its random numbers.
type sim struct {
	*rand.Rand
	now     time.Time
	queue   simQueue
	nodes   []*simNode
	loss    float64       // of each message and each question
	wait    time.Duration // after which a question of the prober counts as missed
	gateway bool          // there is one, and it is known to answer
	packets int
	onMove  func(n *simNode, t transition)
}

// simNode is a node of a sim.
type simNode struct {
	*sim
	index   int
	name    string
	m       *machine
	kernel  bool      // it runs
	speaker bool      // its process lives
	cut     bool      // from everybody else
	proxy   bool      // kube-proxy is well
	proxyAt time.Time // when that changed
	// okSince is since when the node runs and is not cut off.
	okSince time.Time
	epoch   uint64
	abstain bool
	paused  time.Time // until when its process is stopped
	backlog []func()  // what waits for that
	health  map[Target]Health
	probes  map[Target]uint64 // the generation of the probing of each
	conns   map[dial]bool
	gone    map[string]departure // who is not a member in its eyes
}

type departure struct {
	since         time.Time
	left, returns bool
}

type simEvent struct {
	at  time.Time
	seq int
	do  func()
}

type simQueue struct {
	events []simEvent
	seq    int
}

func (q *simQueue) Len() int { return len(q.events) }
func (q *simQueue) Less(i, j int) bool {
	a, b := &q.events[i], &q.events[j]
	return a.at.Before(b.at) || a.at.Equal(b.at) && a.seq < b.seq
}
func (q *simQueue) Swap(i, j int) { q.events[i], q.events[j] = q.events[j], q.events[i] }
func (q *simQueue) Push(x any)    { q.events = append(q.events, x.(simEvent)) }
func (q *simQueue) Pop() any {
	e := q.events[len(q.events)-1]
	q.events = q.events[:len(q.events)-1]
	return e
}

func newSim(seed uint64, count int, loss float64) *sim {
	s := &sim{Rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_000_000, 0), loss: loss, wait: 50 * ms, gateway: true}
	metrics := NewMetrics(nil)
	for i := range count {
		s.nodes = append(s.nodes, &simNode{
			sim: s, index: i, name: fmt.Sprintf("node-%d", i), kernel: true, speaker: true, proxy: true, okSince: s.now, epoch: 1,
			health: map[Target]Health{}, probes: map[Target]uint64{}, conns: map[dial]bool{}, gone: map[string]departure{},
		})
	}
	for _, n := range s.nodes {
		n.m = newMachine(n.name, DefaultStandInLimit, true, metrics)
		n.showView()
		s.after(time.Duration(s.Int64N(int64(tickEvery))), n.tick)
	}
	return s
}

func (s *sim) after(d time.Duration, do func()) {
	s.queue.seq++
	heap.Push(&s.queue, simEvent{s.now.Add(d), s.queue.seq, do})
}

// run passes time.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for s.queue.Len() > 0 && !s.queue.events[0].at.After(end) {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.do()
	}
	s.now = end
}

// until passes time until cond holds or limit is over, and returns how long that took.
func (s *sim) until(limit time.Duration, cond func() bool) (time.Duration, bool) {
	start := s.now
	for !cond() {
		if s.now.Sub(start) > limit {
			return limit, false
		}
		s.run(ms)
	}
	return s.now.Sub(start), true
}

func (n *simNode) addr() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(n.index / 250), byte(1 + n.index%250)})
}

func (n *simNode) link() Link {
	return Link{
		Name: "eth0", MAC: [6]byte{2, 0, 0, 0, byte(n.index >> 8), byte(n.index)}, Addr4: n.addr(),
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
	}
}

func (s *sim) owner(addr netip.Addr) *simNode {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *simNode) bool { return n.addr() == addr })]
}

// reaches reports whether packets get from n to o and back but for loss.
func (n *simNode) reaches(o *simNode) bool { return n.kernel && !n.cut && o.kernel && !o.cut }

func (n *simNode) works() bool { return n.kernel && n.speaker }

// event has the machine of n take in something, once its process runs.
func (n *simNode) event(do func(m *machine)) {
	switch {
	case !n.works():
	case n.now.Before(n.paused):
		n.backlog = append(n.backlog, func() { n.event(do) })
	default:
		n.m.setHeard(n.now, n.health)
		do(n.m)
		n.act()
	}
}

func (n *simNode) tick() {
	n.after(tickEvery, n.tick)
	if n.works() && !n.now.Before(n.paused) {
		n.event(func(m *machine) { m.tick(n.now) })
	}
}

// act does what the machine wants.
func (n *simNode) act() {
	todo := n.m.take()
	for _, t := range todo.moved {
		if n.onMove != nil {
			n.onMove(n, t)
		}
	}
	for _, v := range todo.verdicts {
		for _, o := range n.nodes {
			if o == n {
				continue
			}
			n.packets++
			if n.reaches(o) && n.Float64() >= n.loss {
				n.after(time.Duration(n.Int64N(int64(2*ms))), func() { o.event(func(m *machine) { m.setVerdict(o.now, v) }) })
			}
		}
	}
	for _, o := range todo.asks {
		took, answered := n.ask(n.owner(o.targets[0].Addr), o.tries, o.every)
		n.reply(took, answered, func(m *machine, answered bool) {
			m.setReply(n.now, o.id, o.node, reply{answered: answered, from: o.targets[0]})
		})
	}
	for _, o := range todo.proxies {
		n.checkProxy(o, n.now)
	}
	if o := todo.witness; o != nil {
		n.askWitness(o)
	}
	if todo.touched {
		n.watch()
		n.dial()
	}
}

// checkProxy asks a kube-proxy, again if there is no answer in time.
func (n *simNode) checkProxy(o proxyOrder, started time.Time) {
	state := proxyUnknown
	switch to := n.owner(o.addr); {
	case n.reaches(to) && to.proxy:
		state = proxyHealthy
	case n.reaches(to):
		state = proxyUnhealthy
	case n.now.Sub(started) >= proxyLimit:
		state = proxySilent
	default:
		n.after(proxyTry, func() { n.checkProxy(o, started) })
		return
	}
	n.after(5*ms, func() { n.event(func(m *machine) { m.setProxy(n.now, o.id, o.node, state) }) })
}

// ask says how long a question takes and whether it is answered.
func (n *simNode) ask(to *simNode, tries int, every time.Duration) (time.Duration, bool) {
	for i := range tries {
		n.packets++
		if n.reaches(to) && n.Float64() >= n.loss && n.Float64() >= n.loss {
			return time.Duration(i)*every + ms/2, true
		}
	}
	return time.Duration(tries) * every, false
}

// reply hands an answer over. If the process is stopped by then, the answer waits in its socket.
func (n *simNode) reply(took time.Duration, answered bool, take func(m *machine, answered bool)) {
	n.after(took, func() { n.event(func(m *machine) { take(m, answered) }) })
}

func (n *simNode) askWitness(o *witnessOrder) {
	took, answered, known := time.Duration(confirmTries)*confirmEvery, false, o.counted
	for _, targets := range o.targets {
		if t, ok := n.ask(n.owner(targets[0].Addr), confirmTries, confirmEvery); ok {
			took, answered = min(took, t), true
		}
	}
	if n.gateway {
		known++
		n.packets++
		if !n.cut {
			took, answered = ms/2, true
		}
	}
	if known == 0 && len(o.targets) == 0 {
		took = 0
	}
	n.reply(took, answered, func(m *machine, answered bool) { m.setWitness(n.now, o.id, answered, known) })
}

// watch probes what the machine watches, in the manner of the prober.
func (n *simNode) watch() {
	wanted := map[Target]bool{}
	for _, t := range n.m.watching() {
		wanted[t] = true
		if n.probes[t] == 0 {
			n.queue.seq++
			n.probes[t] = uint64(n.queue.seq)
			n.health[t] = Health{}
			generation := n.probes[t]
			n.after(time.Duration(n.Int64N(int64(100*ms))), func() { n.probe(t, generation) })
		}
	}
	for t := range n.probes {
		if !wanted[t] {
			delete(n.probes, t)
			delete(n.health, t)
		}
	}
}

func (n *simNode) probe(t Target, generation uint64) {
	if n.probes[t] != generation {
		return
	}
	n.after(100*ms, func() { n.probe(t, generation) })
	if !n.works() || n.now.Before(n.paused) {
		return
	}
	n.packets++
	sent := n.now
	if to := n.owner(t.Addr); n.reaches(to) && n.Float64() >= n.loss && n.Float64() >= n.loss {
		n.after(ms/2, func() {
			if n.probes[t] == generation && !n.now.Before(n.paused) {
				n.health[t] = Health{Answered: sent}
				n.event(func(*machine) {})
			}
		})
		return
	}
	n.after(n.wait, func() {
		if n.probes[t] == generation && !n.now.Before(n.paused) && n.paused.Before(sent) {
			h := n.health[t]
			h.Missed++
			n.health[t] = h
			n.event(func(*machine) {})
		}
	})
}

// dial holds connections as the machine wants.
func (n *simNode) dial() {
	wanted := n.m.dialing()
	for d := range n.conns {
		if !wanted[d] {
			delete(n.conns, d)
		}
	}
	for _, d := range slices.SortedFunc(maps.Keys(wanted), func(a, b dial) int { return cmp.Compare(a.node, b.node) }) {
		if _, ok := n.conns[d]; !ok {
			n.conns[d] = false
			n.after(ms, func() { n.connect(d) })
		}
	}
}

func (n *simNode) connect(d dial) {
	up, ok := n.conns[d]
	to := n.owner(d.addr.Addr())
	if !ok || up {
		return
	}
	if n.works() && n.reaches(to) && to.speaker && to.epoch == d.epoch && !n.now.Before(to.paused) {
		n.conns[d] = true
		n.event(func(m *machine) { m.setConnected(n.now, d, true) })
		return
	}
	n.after(redialEvery, func() { n.connect(d) })
}

// showView has the machine take in the membership's view, as it is by then.
func (n *simNode) showView() {
	n.event(func(m *machine) {
		v := View{Links: []Link{n.link()}}
		for _, o := range n.nodes {
			x := Node{Name: o.name, Addr: o.addr(), WatchPort: 7955, Epoch: o.epoch, Links: []Link{o.link()}, Abstains: o.abstain}
			if d, gone := n.gone[o.name]; gone {
				x.Gone, x.Since, x.Left, x.Returns = true, d.since, d.left, d.returns
			}
			v.Nodes = append(v.Nodes, x)
		}
		m.setView(n.now, v)
	})
}

// member changes whether o is a member in the eyes of n.
func (n *simNode) member(o *simNode, is bool) {
	if _, gone := n.gone[o.name]; gone == !is {
		return
	}
	if is {
		delete(n.gone, o.name)
	} else {
		n.gone[o.name] = departure{since: n.now}
	}
	n.showView()
}

// settleMembership lets the membership find out, as late as it does, who reaches n and whom n reaches.
func (n *simNode) settleMembership() {
	for _, o := range n.nodes {
		if o != n {
			n.settleMember(o)
			o.settleMember(n)
		}
	}
}

// settleMember lets n find out whether o is a member.
func (n *simNode) settleMember(o *simNode) {
	alive := func() bool { return n.reaches(o) && o.speaker && !n.now.Before(o.paused) }
	n.after(time.Second+time.Duration(n.Int64N(int64(time.Second))), func() {
		if n.works() && !alive() {
			n.member(o, false)
		}
	})
	n.after(400*ms+time.Duration(n.Int64N(int64(400*ms))), func() {
		if n.works() && alive() {
			n.member(o, true)
		}
	})
}

// The faults.

func (n *simNode) setCut(cut bool) {
	n.cut = cut
	n.okSince = n.now
	n.settleMembership()
}

// crash stops the node as a whole.
func (n *simNode) crash() {
	n.kernel, n.speaker, n.okSince = false, false, n.now
	n.settleMembership()
}

// exit ends the speaker's process. The kernel closes its connections.
func (n *simNode) exit() {
	n.speaker = false
	for _, o := range n.nodes {
		for _, d := range slices.SortedFunc(maps.Keys(o.conns), func(a, b dial) int { return cmp.Compare(a.node, b.node) }) {
			up := o.conns[d]
			if d.node != n.name || !up || !o.reaches(n) {
				continue
			}
			o.after(ms, func() {
				if o.conns[d] {
					o.conns[d] = false
					o.event(func(m *machine) { m.setConnected(o.now, d, false) })
					o.after(redialEvery, func() { o.connect(d) })
				}
			})
		}
	}
	n.settleMembership()
}

// leave tells the others, then exits.
func (n *simNode) leave(returns bool) {
	for _, o := range n.nodes {
		if o != n && n.reaches(o) {
			o.gone[n.name] = departure{since: n.now, left: true, returns: returns}
			o.showView()
		}
	}
	n.exit()
}

// start runs a new process on the node, which abstains for a second, booting the node if need be.
func (n *simNode) start() {
	if !n.kernel {
		n.kernel, n.okSince = true, n.now
	}
	n.speaker, n.abstain, n.paused, n.backlog = true, true, time.Time{}, nil
	n.epoch++
	n.m = newMachine(n.name, n.m.limit, true, n.m.metrics)
	clear(n.gone)
	clear(n.conns)
	clear(n.probes)
	clear(n.health)
	n.showView()
	n.settleMembership()
	epoch := n.epoch
	n.after(time.Second, func() {
		if n.epoch == epoch {
			n.abstain = false
			for _, o := range n.nodes {
				o.showView()
			}
		}
	})
}

// pause stops the process for a while. Then it finds that all others seem to have failed, and joins them again.
func (n *simNode) pause(d time.Duration) {
	n.paused = n.now.Add(d)
	n.settleMembership()
	n.after(d, func() {
		if !n.works() || n.now.Before(n.paused) {
			return
		}
		backlog := n.backlog
		n.backlog = nil
		for t, h := range n.health {
			h.Missed += 3 // even if the prober were wrong
			n.health[t] = h
		}
		if d > time.Second {
			for _, o := range n.nodes {
				if _, gone := n.gone[o.name]; o != n && !gone {
					n.gone[o.name] = departure{since: n.now}
				}
			}
			n.showView()
		}
		for _, do := range backlog {
			do()
		}
		n.settleMembership()
	})
}

// others returns the working nodes but n.
func (n *simNode) others() []*simNode {
	return slices.DeleteFunc(slices.Clone(n.nodes), func(o *simNode) bool { return o == n || !o.works() })
}
