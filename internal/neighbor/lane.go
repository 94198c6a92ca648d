package neighbor

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-kit/log/level"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// protocol is the address resolution protocol of one address family.
type protocol uint8

const (
	protoARP protocol = iota + 1
	protoNDP
)

func (p protocol) String() string {
	if p == protoARP {
		return "arp"
	}
	return "ndp"
}

func (p protocol) etherType() uint16 {
	if p == protoARP {
		return unix.ETH_P_ARP
	}
	return unix.ETH_P_IPV6
}

func protocolOf(addr netip.Addr) protocol {
	if addr.Is4() {
		return protoARP
	}
	return protoNDP
}

// frameSize is more than any frame that matters. Longer ones are cut and then
// found malformed.
const frameSize = 2048

// laneKey names a lane.
type laneKey struct {
	ifname string
	proto  protocol
}

// identity is what must not change under an open socket.
type identity struct {
	ifindex int
	mac     ether.MAC
}

func identify(l *netif.Link) identity {
	id := identity{ifindex: l.Index}
	copy(id.mac[:], l.MAC)
	return id
}

// A lane is where one protocol is spoken on one link, for as long as anybody is
// asked there. Its socket comes and goes with the link. The mutex of the Prober
// guards it.
type lane struct {
	prober  *Prober
	key     laneKey
	metrics laneMetrics
	entries map[netip.Addr][]*entry
	jobs    map[netip.Addr][]*job
	groups  map[netip.Addr]int // joined, and for how many jobs
	until   time.Time          // kept so long if nobody needs it

	// While conn is nil, err says why, or is nil as well before the first
	// attempt.
	conn   Conn
	err    error
	id     identity
	link   netif.Link
	opened time.Time
	lost   uint64 // frames for which the socket had no room
	retry  time.Time
	pause  time.Duration // before retry
	logged bool          // that it does not work

	in  [frameSize]byte
	out []byte
}

// lane returns the lane for addr on an interface.
func (p *Prober) lane(ifname string, addr netip.Addr) *lane {
	k := laneKey{ifname, protocolOf(addr)}
	l := p.lanes[k]
	if l == nil {
		l = &lane{
			prober: p, key: k, metrics: p.metrics.forLane(k),
			entries: make(map[netip.Addr][]*entry), jobs: make(map[netip.Addr][]*job),
			groups: make(map[netip.Addr]int), out: make([]byte, 0, 128),
		}
		p.lanes[k] = l
	}
	return l
}

// ask sends one question for addr: to one station, or to everyone if to is zero.
// As a probe it does not tell an address of ours.
func (l *lane) ask(addr netip.Addr, to ether.MAC, probe bool) error {
	q := question{self: l.id.mac, target: addr, to: to}
	frame := l.out[:0]
	if l.key.proto == protoARP {
		q.source = netip.IPv4Unspecified()
		if !probe {
			q.source = l.source4(addr)
		}
		frame = q.appendARP(frame)
	} else {
		q.source = netip.IPv6Unspecified()
		if !probe {
			q.source = l.link.LinkLocal
		}
		frame = q.appendNDP(frame)
	}
	if err := l.conn.WriteFrame(frame); err != nil {
		l.metrics.send.Inc()
		return fmt.Errorf("asking for %s on %s: %w", addr, l.key.ifname, err)
	}
	l.metrics.probes.Inc()
	return nil
}

// source4 returns the sender address for a question about addr: one in the same
// subnet, so that the other host's cache learns or keeps what is right. Without
// one the question is sent as a probe is, which hosts answer as well and which
// teaches them nothing (RFC 5227 section 2.1.1).
func (l *lane) source4(addr netip.Addr) netip.Addr {
	for _, p := range l.link.Prefixes {
		if p.Addr().Is4() && p.Contains(addr) {
			return p.Addr()
		}
	}
	return netip.IPv4Unspecified()
}

// serve takes in what arrives until the socket is no longer the lane's.
func (l *lane) serve(conn Conn) {
	defer l.prober.serving.Done()
	defer func() { _ = conn.Close() }() // takes the kernel long: not under the mutex
	for {
		err := conn.Wait()
		l.prober.mu.Lock()
		current := l.conn == conn
		if current && err != nil {
			l.fail(err)
		} else if current {
			l.drain()
			current = l.conn == conn
		}
		l.prober.mu.Unlock()
		if !current || err != nil {
			return
		}
	}
}

// drain takes in all that has arrived. When it returns, whatever the kernel
// received before the call has been heard.
func (l *lane) drain() {
	for l.conn != nil {
		n, err := l.conn.ReadFrame(l.in[:])
		if errors.Is(err, ErrNoFrame) {
			return
		}
		if err != nil {
			l.fail(err)
			return
		}
		h, ok, err := parse(l.key.proto, l.id.mac, l.in[:n])
		if err != nil {
			l.metrics.malformed.Inc()
		} else if ok {
			l.hear(h)
		}
	}
}

// hear tells those who asked. What comes from this node itself, looped back by
// the network or through another of its interfaces, says nothing.
func (l *lane) hear(h heard) {
	if l.prober.isOwn(h.mac) || l.prober.isOwn(h.src) {
		return
	}
	if h.reply && len(l.entries[h.addr]) > 0 {
		l.metrics.answers.Inc()
		for _, e := range l.entries[h.addr] {
			e.answered(h.mac)
		}
	}
	jobs := l.jobs[h.addr]
	for i := len(jobs) - 1; i >= 0; i-- { // one that ends takes itself out
		jobs[i].hear(h)
	}
}

func (p *Prober) isOwn(mac ether.MAC) bool {
	_, ok := p.own[mac]
	return ok
}

// excuse reports whether a probe without an answer is this node's own fault, and
// if that is likely to last, why.
func (l *lane) excuse(b *probe) (bool, error) {
	if n, err := l.conn.Lost(); err == nil && n > 0 {
		l.lost += uint64(n)
		l.metrics.lost.Add(float64(n))
	}
	if b.lost != l.lost {
		return true, nil
	}
	if up, err := l.conn.Carrier(); err == nil && !up {
		return true, fmt.Errorf("interface %s %w", l.key.ifname, netif.ErrNoCarrier)
	}
	return false, nil
}

// fail gives up the socket, to open another after a while, which is twice as long
// each time. A link that goes down breaks it, often before the event arrives.
func (l *lane) fail(err error) {
	l.prober.metrics.failed(l.key, kindRead)
	if l.prober.clock.Since(l.opened) > maxBackoff {
		l.pause = 0 // it worked for long: begin anew
	}
	l.backOff()
	l.down(fmt.Errorf("reading %s on %s: %w", l.key.proto, l.key.ifname, err))
	notify(l.prober.wake)
}

func (l *lane) backOff() {
	l.pause = min(max(2*l.pause, minBackoff), maxBackoff)
	l.retry = l.prober.clock.Now().Add(l.pause)
}

// down releases the socket, if there is one, and tells everyone who asks why.
func (l *lane) down(err error) {
	if l.conn != nil {
		l.conn.Interrupt() // serve closes it
		l.conn = nil
		clear(l.groups)
	}
	if err != nil && !errors.Is(err, errStopped) && !l.logged {
		l.logged = true
		level.Warn(l.prober.logger).Log("msg", "cannot ask on interface", "interface", l.key.ifname, "protocol", l.key.proto, "err", err)
	}
	l.err = err
	for _, entries := range l.entries {
		for _, e := range entries {
			e.void()
			e.blame(err)
		}
	}
	for _, jobs := range l.jobs {
		for i := len(jobs) - 1; i >= 0; i-- {
			jobs[i].finish(outcome{err: err})
		}
	}
}

// up gives the lane its socket.
func (l *lane) up(conn Conn) {
	l.conn, l.err, l.opened, l.lost = conn, nil, l.prober.clock.Now(), 0
	if l.logged {
		l.logged = false
		level.Info(l.prober.logger).Log("msg", "asking on interface again", "interface", l.key.ifname, "protocol", l.key.proto)
	}
	for _, entries := range l.entries {
		for _, e := range entries {
			e.blame(nil)
		}
	}
	for _, jobs := range l.jobs {
		for _, j := range jobs {
			l.prober.agenda.set(j, l.opened)
		}
	}
	l.prober.serving.Add(1)
	go l.serve(conn)
}
