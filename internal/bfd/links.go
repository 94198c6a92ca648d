package bfd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reopen is the pause before a socket that failed is opened again.
	reopen = time.Second
	// recheck is how often a session that sends nothing makes sure that its
	// interface is still the same one.
	recheck = 5 * time.Second
	// patience is how long a session that its peer took down without a reason
	// may take to come back: a few packets of a session that is not up.
	patience = 3 * slowest
)

// keep makes a session, or changes the parameters of the one there is.
func (m *Monitor) keep(now time.Time, k key, w *want) {
	l := m.links[k]
	if l != nil && l.leaving.Equal(never) {
		l.names = w.names
		l.session.configure(now, w.cfg, l.session.reflects)
		m.attend(now, l)
		return
	}
	port := m.usePort(k.port())
	if l != nil {
		m.drop(l) // its peer must not hear two stories at the same time
	}
	number := rand.Uint32()
	for number == 0 || m.byNumber[number] != nil {
		number = rand.Uint32()
	}
	l = &link{
		key: k, names: w.names, session: newSession(w.cfg, number, rand.Float64), metrics: m.metrics.forLink(k),
		port: port, retry: now, leaving: never, doubt: never, since: now, due: now,
	}
	l.session.echo.secret = rand.Uint64()
	if w.cfg.Absence > 0 {
		l.session.listen(now)
	}
	m.links[k], m.byNumber[number] = l, l
	m.queue.add(l)
}

// retire ends a session in order: its peer is told, more than once.
func (m *Monitor) retire(now time.Time, l *link) {
	before := l.session.state
	l.leaving = now.Add(l.session.disable(now))
	l.names = nil
	m.transition(now, l, before)
	m.attend(now, l)
}

// drop ends a session at once.
func (m *Monitor) drop(l *link) {
	m.shut(l)
	m.queue.remove(l)
	m.releasePort(l.port)
	delete(m.links, l.key)
	delete(m.byNumber, l.session.local)
	m.metrics.forget(l.key)
}

// tend does what is due for a link.
func (m *Monitor) tend(now time.Time, l *link, readers *sync.WaitGroup) {
	if !l.leaving.After(now) {
		m.drop(l)
		return
	}
	if !l.retry.After(now) {
		m.open(now, l)
	}
	if !l.doubt.After(now) {
		m.lost(l)
	}
	if !l.checking && l.session.expired(now) {
		// If it was this process that slept, what tells of the peer's life is
		// waiting to be read. The reader knows, and says when it has read all.
		if l.check(now) {
			l.checking = true
		} else {
			m.expire(now, l)
		}
	}
	if l.wantsEcho() && !l.echoRetry.After(now) {
		m.readyEcho(now, l, readers)
	}
	m.attend(now, l)
}

// check asks the reader of the packets that are missing; it returns false if
// there is none.
func (l *link) check(now time.Time) bool {
	if now.Before(l.session.detectAt()) {
		return l.echoPort != nil && l.echoPort.check(l)
	}
	return l.port.check(l)
}

func (m *Monitor) expire(now time.Time, l *link) {
	before := l.session.state
	l.session.expire(now)
	m.transition(now, l, before)
}

// attend sends what a link has to send and sets its alarm.
func (m *Monitor) attend(now time.Time, l *link) {
	for l.session.transmit(now, &m.packet) {
		m.send(now, l, m.packet.AppendTo(m.buf[:0]))
	}
	m.sendEchoes(now, l)
	m.queue.set(l, l.nextDue())
	if l.due.Before(m.sleeping) {
		notify(m.wake)
	}
}

// transition tells of a change of state, if it is one.
func (m *Monitor) transition(now time.Time, l *link, before State) {
	s := l.session
	if s.state == before {
		return
	}
	l.since = now
	if s.state == Up || s.state == AdminDown {
		l.doubt = never
	}
	if s.state != Up {
		m.closeEcho(now, l)
	}
	switch {
	case s.state == Up:
		l.metrics.up.Set(1)
		l.metrics.ups.Inc()
	case before == Up:
		l.metrics.up.Set(0)
		l.metrics.downs.Inc()
		m.judge(now, l)
	}
	m.logger.Log("msg", "BFD session changed its state", "peer", l.key, "state", s.state, "was", before,
		"reason", s.diag, "peerState", s.remoteState, "peerReason", s.remoteDiag)
	notify(m.changes)
}

// judge decides whether a session that was up went down because the path was
// lost. It was not if either end took the session down on purpose. Nor was it if
// the peer says that we signaled the session down while we are up: FRR says so
// when it makes its session anew, because the BGP session was established or
// ended and its own address is known or not. Such a session comes back.
func (m *Monitor) judge(now time.Time, l *link) {
	s := l.session
	switch {
	case s.state == AdminDown, s.diag == NeighborDown && s.remoteState == AdminDown:
	case s.diag == NeighborDown && s.remoteDiag == NeighborDown:
		l.doubt = now.Add(patience)
	default:
		m.lost(l)
	}
}

// lost notes that the path was lost.
func (m *Monitor) lost(l *link) {
	l.failures++
	l.doubt = never
	notify(m.changes)
}

// open opens the socket of a link, or looks whether it is still good.
func (m *Monitor) open(now time.Time, l *link) {
	index := 0
	if l.key.ifname != "" {
		ifi, err := net.InterfaceByName(l.key.ifname)
		if err != nil {
			m.shut(l)
			m.fail(now, l, fmt.Errorf("interface %s: %w", l.key.ifname, err))
			return
		}
		index = ifi.Index
	}
	l.retry = never
	if index != 0 && l.session.transmitInterval() == 0 {
		l.retry = now.Add(recheck)
	}
	if l.conn != nil && l.ifindex == index {
		return
	}
	m.shut(l)
	conn, err := openSender(l.key, index, l.source)
	if err != nil {
		m.fail(now, l, err)
		return
	}
	l.conn, l.source, l.ifindex = conn, conn.source, index
	m.byMatch[l.match()] = l
	l.session.configure(now, l.session.cfg, reflects(l))
	l.session.repeat()
	m.setError(l, nil)
}

// reflects reports whether the kernel sends the peer's echo packets back to it.
func reflects(l *link) bool {
	ifname := l.key.ifname
	if ifname == "" {
		ifi, err := interfaceOf(l.conn.local)
		if err != nil {
			return false
		}
		ifname = ifi.Name
	}
	return !l.key.multihop && forwards(ifname, l.key.peer.Is6())
}

// shut closes the socket of a link.
func (m *Monitor) shut(l *link) {
	if l.conn == nil {
		return
	}
	m.closeEcho(m.clock.Now(), l)
	l.conn.close()
	l.conn = nil
	if m.byMatch[l.match()] == l {
		delete(m.byMatch, l.match())
	}
}

// fail notes that a link's socket is not open and when to try again.
func (m *Monitor) fail(now time.Time, l *link, err error) {
	l.retry = now.Add(reopen)
	m.setError(l, err)
}

// setError tells of an error that is new, or of its end.
func (m *Monitor) setError(l *link, err error) {
	if err == nil && l.err == nil || err != nil && l.err != nil && err.Error() == l.err.Error() {
		return
	}
	l.err = err
	notify(m.changes)
	if err != nil {
		m.logger.Log("msg", "BFD session cannot send", "peer", l.key, "err", err)
	} else {
		m.logger.Log("msg", "BFD session can send again", "peer", l.key)
	}
}

// send sends a control packet.
func (m *Monitor) send(now time.Time, l *link, b []byte) {
	if l.conn == nil {
		return
	}
	err := l.conn.send(b)
	if err == nil {
		l.metrics.sent.Inc()
		if l.err != nil {
			m.setError(l, nil)
		}
		return
	}
	l.metrics.sendErrors.Inc()
	for _, passing := range []error{unix.EAGAIN, unix.ENOBUFS, unix.ECONNREFUSED, unix.EHOSTUNREACH} {
		if errors.Is(err, passing) {
			return
		}
	}
	m.setError(l, err)
	if !errors.Is(err, unix.EPERM) { // a packet filter's verdict
		m.shut(l)
		l.retry = now.Add(reopen)
	}
}
