package l2

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mdlayher/arp"
	"golang.org/x/net/bpf"

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
// its own; announce is called by the scheduler; all else belongs to the loop.
type port struct {
	key     portKey
	id      identity
	conn    Conn
	desired *atomic.Pointer[Desired]
	metrics portMetrics
	opened  time.Time

	closing chan struct{} // closed when close begins
	done    chan struct{} // closed when serve has returned

	held           map[netip.Addr]struct{}
	groups         *groups                 // NDP only
	groupless      map[netip.Addr]struct{} // whose group is not joined yet, NDP only
	groupErr       error                   // why one of them could not be
	groupRetry     time.Time               // not to be tried before, if groupErr
	limit          int                     // of instructions of the filter
	carrierChanges uint32
}

// filterFor returns the filter of a port that holds addrs.
func filterFor(proto Protocol, addrs []netip.Addr, limit int) []bpf.Instruction {
	if proto == ARP {
		return FilterARP(addrs, limit)
	}
	return FilterNDP(addrs, limit)
}

// minProgram is what FilterARP and FilterNDP can always do with. No kernel is
// known to refuse so few.
const minProgram = 64

// setFilter lets in requests for the addresses that are held. The kernel charges
// a program to the socket's option memory, next to the one it replaces, and
// classic instructions grow when translated; where that fails (kernels before
// 6.7 grant 20 KiB), a coarser program is tried.
func (p *port) setFilter() error {
	addrs := make([]netip.Addr, 0, len(p.held))
	for a := range p.held {
		addrs = append(addrs, a)
	}
	for {
		err := p.conn.SetFilter(filterFor(p.key.proto, addrs, p.limit))
		if !errors.Is(err, ErrFilterSize) || p.limit/2 < minProgram {
			return err
		}
		p.limit /= 2
	}
}

// owns reports whether addr is to be answered for here, now.
func (p *port) owns(addr netip.Addr) bool {
	return p.desired.Load().answers(addr, p.key.ifname)
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
			p.send(reply, p.metrics.replied.Inc)
		}
	}
}

// respond returns the frame, appended to out, that answers frame, or nil.
func (p *port) respond(out, frame []byte) []byte {
	parse, reply := p.id.self.parseARP, p.id.self.appendARPReply
	if p.key.proto == NDP {
		parse, reply = p.id.self.parseNDP, p.id.self.appendNDPReply
	}
	q, err := parse(frame)
	if errors.Is(err, errMalformed) {
		p.metrics.malformed.Inc()
		return nil
	}
	if err != nil || !p.owns(q.target) {
		return nil
	}
	p.metrics.received.Inc()
	return reply(out, q)
}

// announce sends one turn of gratuitous packets for addr, unless it has been
// withdrawn meanwhile.
func (p *port) announce(addr netip.Addr) {
	if !p.owns(addr) {
		return
	}
	if p.key.proto == NDP {
		p.send(p.id.self.appendUnsolicitedNA(nil, addr), p.metrics.gratuitous.Inc)
		return
	}
	for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
		p.send(p.id.self.appendGratuitousARP(nil, op, addr), p.metrics.gratuitous.Inc)
	}
}

// send sends a frame and counts it. A loss is only counted: the asker asks again,
// and announcements are repeated.
func (p *port) send(frame []byte, sent func()) {
	switch err := p.conn.WriteFrame(frame); {
	case err == nil:
		sent()
	case !p.isClosing():
		p.metrics.send.Inc()
	}
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
