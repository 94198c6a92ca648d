package bfd

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"
)

// drainLimit bounds how many packets are read before a verdict is given: more
// than a socket's buffer holds.
const drainLimit = 8192

// A port is a receiving socket and those who wait for it. Its fields belong to
// the Monitor's mu.
type port struct {
	key   portKey
	users int
	// guard, for a port that is bound to a VRF, is the one that is not. It is
	// opened first and kept, because it alone keeps other programs off.
	guard    *port
	receiver *receiver // nil if it is not open
	err      error
	retry    time.Time // when to open it, never if it is open
	checks   []*link   // to be told that all that had arrived is read
	stopped  bool
}

// usePort returns the port with the given key, which Run is going to open.
func (m *Monitor) usePort(k portKey) *port {
	p := m.ports[k]
	if p == nil {
		p = &port{key: k}
		m.ports[k] = p
		if k.device != "" {
			plain := k
			plain.device = ""
			p.guard = m.usePort(plain)
		}
	}
	p.users++
	return p
}

func (m *Monitor) releasePort(p *port) {
	if p.users--; p.users > 0 {
		return
	}
	p.stop()
	delete(m.ports, p.key)
	if p.guard != nil {
		m.releasePort(p.guard)
	}
}

// stop makes the reader return. The UDP port is free again when stop returns,
// for whoever opens it next.
func (p *port) stop() {
	p.stopped = true
	if p.receiver != nil {
		p.receiver.close()
	}
}

// check has l told once everything that had arrived before is read; it returns
// false if nothing can have arrived.
func (p *port) check(l *link) bool {
	if p.receiver == nil {
		return false
	}
	p.checks = append(p.checks, l)
	p.receiver.interrupt()
	return true
}

// tendPorts opens the ports that are not open, guards first.
func (m *Monitor) tendPorts(ctx context.Context, now time.Time, readers *sync.WaitGroup) {
	for _, guarded := range []bool{false, true} {
		for _, p := range m.ports {
			if (p.guard != nil) == guarded && !p.retry.After(now) {
				m.openPort(ctx, now, p, readers)
			}
		}
	}
}

func (m *Monitor) openPort(ctx context.Context, now time.Time, p *port, readers *sync.WaitGroup) {
	if p.guard != nil && p.guard.receiver == nil {
		m.failPort(now, p, p.guard.err)
		return
	}
	r, err := openReceiver(ctx, p.key)
	if err != nil {
		m.failPort(now, p, err)
		return
	}
	if p.err != nil {
		m.logger.Log("msg", "receiving BFD packets again", "port", p.key.number(), "ipv6", p.key.ipv6, "vrf", p.key.device)
		notify(m.changes)
	}
	p.receiver, p.err, p.retry = r, nil, never
	readers.Go(func() { m.read(p, r) })
}

func (m *Monitor) failPort(now time.Time, p *port, err error) {
	if p.err == nil || p.err.Error() != err.Error() {
		m.logger.Log("msg", "cannot receive BFD packets", "port", p.key.number(), "ipv6", p.key.ipv6, "vrf", p.key.device, "err", err)
		notify(m.changes)
	}
	p.receiver, p.err, p.retry = nil, err, now.Add(reopen)
	notify(m.wake)
}

// nextPort is when a port needs attention.
func (m *Monitor) nextPort() time.Time {
	next := never
	for _, p := range m.ports {
		next = earliest(next, p.retry)
	}
	return next
}

// read reads a port until it is stopped or its socket breaks.
func (m *Monitor) read(p *port, r *receiver) {
	var d datagram
	for {
		err := r.read(&d, true)
		switch {
		case err == nil:
			m.receive(p, &d)
		case errors.Is(err, os.ErrDeadlineExceeded):
			checks := m.interrupted(p, r)
			for n := 0; n < drainLimit && r.read(&d, false) == nil; n++ {
				m.receive(p, &d)
			}
			m.mu.Lock()
			m.settle(checks)
			m.mu.Unlock()
		default:
			m.broken(p, r, err)
			return
		}
	}
}

// interrupted takes the reason for which a reader was interrupted.
func (m *Monitor) interrupted(p *port, r *receiver) []*link {
	m.mu.Lock()
	defer m.mu.Unlock()
	checks := p.checks
	p.checks = nil
	r.resume()
	return checks
}

// broken handles the end of a socket.
func (m *Monitor) broken(p *port, r *receiver, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.stopped {
		return
	}
	r.close()
	m.failPort(m.clock.Now(), p, err)
	checks := p.checks
	p.checks = nil
	m.settle(checks)
}

// settle gives the verdict on sessions whose detection time was over before all
// packets were read.
func (m *Monitor) settle(checks []*link) {
	now := m.clock.Now()
	for _, l := range checks {
		l.checking = false
		if m.links[l.key] != l {
			continue // dropped meanwhile
		}
		m.expire(now, l)
		m.attend(now, l)
	}
}

// receive handles a control packet (RFC 5880 section 6.8.6).
func (m *Monitor) receive(p *port, d *datagram) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// RFC 5881 section 5: what has crossed a router is not the neighbour's.
	if !p.key.multihop && d.ttl != maxTTL {
		m.metrics.discarded.WithLabelValues(discardTTL).Inc()
		return
	}
	packet := &m.packet
	if packet.Parse(d.payload) != nil {
		m.metrics.discarded.WithLabelValues(discardMalformed).Inc()
		return
	}
	l := m.find(p.key, d, packet)
	switch {
	case l == nil:
		m.metrics.discarded.WithLabelValues(discardUnknown).Inc()
		return
	case p.key.multihop && d.ttl < int(l.session.cfg.MinimumTTL):
		m.metrics.discarded.WithLabelValues(discardTTL).Inc()
		m.noteTTL(l, d.ttl)
		return
	}
	m.noteTTL(l, 0)
	l.metrics.received.Inc()
	now, before := m.clock.Now(), l.session.state
	l.session.receive(now, packet)
	m.transition(now, l, before)
	m.attend(now, l)
	if m.departing {
		notify(m.wake)
	}
}

// noteTTL remembers with what TTL packets of a session come that does not come up
// because of it, 0 if there is nothing wrong with it. A session that is up has
// better packets than these.
func (m *Monitor) noteTTL(l *link, ttl int) {
	if ttl == l.lowTTL || ttl != 0 && l.session.state == Up {
		return
	}
	l.lowTTL = ttl
	notify(m.changes)
}

// find returns the link that a packet belongs to, nil if there is none. Its own
// discriminator tells it alone, even if address or interface of the peer have
// changed (RFC 5880 section 6.3), but no packet with a weaker check of its TTL
// may get at a session over a single hop.
func (m *Monitor) find(k portKey, d *datagram, packet *Packet) *link {
	number := packet.YourDiscriminator
	if number == 0 {
		return m.match(k, d)
	}
	l := m.byNumber[number]
	switch {
	case l == nil:
		return m.resume(k, d, packet)
	case l.port.key != k:
		return nil
	}
	return l
}

// match returns the link with the peer that has sent a packet.
func (m *Monitor) match(k portKey, d *datagram) *link {
	for _, ifindex := range [...]int{d.ifindex, 0} {
		for _, local := range [...]netip.Addr{d.local, {}} {
			if l := m.byMatch[match{port: k, peer: d.peer, local: local, ifindex: ifindex}]; l != nil {
				return l
			}
		}
	}
	return nil
}
