package l2

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log/level"
	"github.com/mdlayher/arp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/bpf"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// frameSize is more than any frame that is answered. Longer ones are cut by the
// kernel and then found malformed.
const frameSize = 2048

// portKey names a port.
type portKey struct {
	ifname string
	proto  Protocol
}

// identity is what must not change under an open port.
type identity struct {
	ifindex int
	self    self
}

func identify(l *netif.Link) identity {
	return identity{ifindex: l.Index, self: self{mac: MAC(l.MAC)}}
}

// A port answers one protocol on one interface. serve runs in a goroutine of
// its own; announce and update are called by the scheduler, flush by Apply; all
// else belongs to the loop.
type port struct {
	*Announcer
	key     portKey
	id      identity
	conn    Conn
	metrics portMetrics
	stats   *portStats
	askers  *askers
	waiting waiting
	opened  time.Time
	// miscorrected logs once that correct fails.
	miscorrected sync.Once

	closing chan struct{} // closed when close begins
	done    chan struct{} // closed when serve has returned

	held           map[netip.Addr]role
	groups         *groups                 // NDP only
	groupless      map[netip.Addr]struct{} // whose group is not joined yet, NDP only
	groupErr       error                   // why one of them could not be
	groupRetry     time.Time               // not to be tried before, if groupErr
	limit          int                     // of instructions of the filter
	carrierChanges uint32
}

// portStats outlive the port, so that they count on when it is opened again.
type portStats struct {
	queries    atomic.Uint64
	lastQuery  atomic.Int64 // Unix time in nanoseconds, 0 if none
	sendErrors atomic.Uint64
	unsent     atomic.Pointer[Unsent] // nil if the last packet left
}

// newPort returns a port that has yet to be opened.
func (a *Announcer) newPort(k portKey, id identity) *port {
	p := &port{
		Announcer: a, key: k, id: id, metrics: a.metrics.forPort(k), stats: &portStats{},
		askers: a.rememberAskers(k), opened: a.clock.Now(),
		closing: make(chan struct{}), done: make(chan struct{}),
		held: make(map[netip.Addr]role), limit: maxProgram,
	}
	if k.proto == NDP {
		p.groupless = make(map[netip.Addr]struct{})
	}
	return p
}

// filter returns the program that lets in what concerns the addresses held.
func (p *port) filter() []bpf.Instruction {
	asked := make([]netip.Addr, 0, len(p.held))
	owned := make([]netip.Addr, 0, len(p.held))
	for a, r := range p.held {
		asked = append(asked, a)
		if r == owner {
			owned = append(owned, a)
		}
	}
	return filterFor(p.key.proto, asked, owned, p.limit)
}

// filterFor returns the filter of a port that is asked for some addresses and
// watches for rivals of those it owns.
func filterFor(proto Protocol, asked, owned []netip.Addr, limit int) []bpf.Instruction {
	if proto == ARP {
		return FilterARP(asked, owned, limit)
	}
	return FilterNDP(asked, limit)
}

// minProgram is what FilterARP and FilterNDP can always do with. No kernel is
// known to refuse so few.
const minProgram = 64

// setFilter lets in what concerns the addresses held. The kernel charges a
// program to the socket's option memory, next to the one it replaces, and
// classic instructions grow when translated; where that fails (kernels before
// 6.7 grant 20 KiB), a coarser program is tried.
func (p *port) setFilter() error {
	for {
		err := p.conn.SetFilter(p.filter())
		if !errors.Is(err, ErrFilterSize) || p.limit/2 < minProgram {
			return err
		}
		p.limit /= 2
	}
}

// role returns what this node is to addr here, now.
func (p *port) role(addr netip.Addr) (role, MAC) {
	return p.desired.Load().role(addr, p.key.ifname)
}

// serve answers until the port is closed, which returns nil, or the socket fails.
func (p *port) serve() error {
	defer close(p.done)
	in, out := make([]byte, frameSize), make([]byte, 0, 128)
	for {
		n, err := p.conn.ReadFrame(in)
		if p.isClosing() {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s on %s: %w", p.key.proto, p.key.ifname, err)
		}
		if reply := p.respond(out, in[:n]); reply != nil {
			p.send(reply, p.metrics.replied)
		}
	}
}

// respond takes in a frame and returns the one, appended to out, that answers
// it, or nil.
func (p *port) respond(out, frame []byte) []byte {
	parse := p.id.self.parseARP
	if p.key.proto == NDP {
		parse = p.id.self.parseNDP
	}
	m, err := parse(frame)
	if errors.Is(err, errMalformed) {
		p.metrics.malformed.Inc()
	}
	if err != nil {
		return nil
	}
	if m.claimed.IsValid() {
		p.watch(m)
	}
	if !m.asks {
		return nil
	}
	return p.answer(out, m.query)
}

// watch reports a claim to an address that we own. A claim for one of our own
// interfaces is none: it is a stand-in's, or two interfaces are on one Ethernet.
func (p *port) watch(m message) {
	if r, _ := p.role(m.claimed); r != owner {
		return
	}
	if _, ours := (*p.macs.Load())[m.claimant]; ours {
		return
	}
	p.metrics.rivals.Inc()
	p.rivals.report(Rival{Addr: m.claimed, Interface: p.key.ifname, MAC: m.claimant, At: p.clock.Now()})
}

// answer returns the answer to q, or nil if there is none, or none yet.
func (p *port) answer(out []byte, q query) []byte {
	r, is := p.role(q.target)
	if r == stranger || q.askerMAC == is {
		return nil // an owner that asks for its own address wants to know of others
	}
	now := p.clock.Now()
	p.metrics.received.Inc()
	p.stats.queries.Add(1)
	p.stats.lastQuery.Store(now.UnixNano())
	if _, peer := (*p.peers.Load())[q.askerMAC]; !peer {
		p.askers.saw(q, now)
	}
	if r == armed {
		r, is = p.waiting.keep(q, now, func() (role, MAC) { return p.role(q.target) })
	}
	return p.reply(out, q, r, is)
}

// reply returns the answer of one in role r, or nil.
func (p *port) reply(out []byte, q query, r role, is MAC) []byte {
	switch r {
	case owner:
		is = p.id.self.mac
	case standIn:
		p.metrics.stoodIn.Inc()
	default:
		return nil
	}
	if p.key.proto == NDP {
		return p.id.self.appendNDPReply(out, q, is)
	}
	return p.id.self.appendARPReply(out, q, is)
}

// flush answers what was asked for addresses that d makes active. Other queries
// are kept as long as they are for addresses that are armed, or, if early, at any
// rate. It gives up when the link does not take a frame, for Apply waits for it.
func (p *port) flush(d Desired, early bool) {
	due := p.waiting.take(p.clock.Now(), func(q query) role {
		r, _ := d.role(q.target, p.key.ifname)
		if early && r == stranger {
			r = armed
		}
		return r
	})
	for _, q := range due {
		r, is := d.role(q.target, p.key.ifname)
		if !p.send(p.reply(nil, q, r, is), p.metrics.replied) {
			return
		}
	}
}

// announce sends one turn of gratuitous packets for addr, unless it has been
// withdrawn meanwhile. None of them reaches this node's own kernel, which may still
// remember the former owner as a neighbour. Packets of connections that the former
// owner had are not translated here but forwarded there, and their senders are
// redirected to its MAC (RFC 4861 section 8.2). So the kernel is told before.
func (p *port) announce(addr netip.Addr) {
	if r, _ := p.role(addr); r != owner {
		return
	}
	s := p.id.self
	if p.key.proto == NDP {
		p.correct(addr)
		p.send(s.appendUnsolicitedNA(nil, addr, s.mac), p.metrics.gratuitous)
		return
	}
	for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
		p.send(s.appendGratuitousARP(nil, ether.Broadcast, op, addr), p.metrics.gratuitous)
	}
}

// correct tells this node's own kernel that addr is here. It costs the network
// nothing, so that it need not wait for its turn.
func (p *port) correct(addr netip.Addr) {
	err := p.conn.Correct(addr, p.id.self.mac)
	if err == nil || p.isClosing() {
		return
	}
	p.metrics.correct.Inc()
	p.miscorrected.Do(func() {
		level.Warn(p.logger).Log("msg", "cannot tell the node's own kernel which addresses are announced; it may redirect IPv6 clients to former owners", "interface", p.key.ifname, "err", err)
	})
}

// update tells one station of addr that may not heed gratuitous packets.
func (p *port) update(addr netip.Addr, to Asker) {
	if r, _ := p.role(addr); r != owner {
		return
	}
	s, q := p.id.self, query{target: addr, asker: to.Addr, askerMAC: to.MAC}
	if p.key.proto == NDP {
		p.send(s.appendNA(nil, naOverride, q, s.mac), p.metrics.updates)
		return
	}
	// Linux takes a change less than a second after the last only from a packet
	// that looks gratuitous, be it for it alone (neigh/*/locktime); others may
	// heed just what looks like an answer.
	p.send(s.appendGratuitousARP(nil, to.MAC, arp.OperationReply, addr), p.metrics.updates)
	p.send(s.appendARPReply(nil, q, s.mac), p.metrics.updates)
}

// send sends a frame, counts it, and reports whether that succeeded. A loss is
// only counted: the asker asks again, and announcements are repeated.
func (p *port) send(frame []byte, sent prometheus.Counter) bool {
	err := p.conn.WriteFrame(frame)
	switch {
	case err == nil:
		sent.Inc()
		p.stats.sent(time.Time{}, nil)
	case !p.isClosing():
		p.metrics.send.Inc()
		p.stats.sent(p.clock.Now(), err)
	}
	return err == nil
}

func (p *port) isClosing() bool {
	select {
	case <-p.closing:
		return true
	default:
		return false
	}
}

// close ends serve, leaves the groups and releases the socket.
func (p *port) close() {
	close(p.closing)
	_ = p.conn.SetReadDeadline(time.Unix(1, 0))
	<-p.done
	_ = p.conn.Close()
	if p.groups != nil {
		p.groups.close()
	}
}
