package bfd

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// A session can outlive the process that keeps it. What is needed for that is in
// RFC 5880: before it ends, the process tells the peer that it will send so rarely
// that the peer waits for its successor (section 6.8.3). The successor has
// forgotten the discriminators, which the peer's next packet brings back: it is to
// listen for one before it says anything, as what it would say is that the session
// is down. To the peer, nothing has happened.

const (
	// listenTime is for how long a session listens: nobody who is up has to be
	// waited for longer than an interval of the peer's, which is rarely more.
	listenTime = slowest
	// farewellTime is how long the peer's answer is waited for.
	farewellTime = time.Second
)

// listen has the session say nothing for a while.
func (s *session) listen(now time.Time) { s.listenUntil = now.Add(listenTime) }

// adopt makes the number by which the peer knows the session the session's.
func (s *session) adopt(number uint32) { s.local = number }

// leave prepares the session for the time without a process. It is to be up.
func (s *session) leave(now time.Time) {
	s.cfg.Transmit = max(s.cfg.Transmit, s.absentInterval())
	s.negotiate()
	s.schedule(now)
}

// left reports whether the peer has said that it will wait.
func (s *session) left() bool {
	return s.state == Up && !s.poll && s.usedTx >= s.absentInterval()
}

// absentInterval between our packets makes the peer wait for as long as it should.
func (s *session) absentInterval() time.Duration {
	return s.cfg.Absence / time.Duration(s.cfg.DetectMultiplier)
}

// survives reports whether a session is to go on without this process.
func (l *link) survives() bool {
	return l.session.cfg.Absence > 0 && l.leaving.Equal(never) && l.session.state == Up
}

// depart asks the peers of all sessions that are to survive to wait, and returns
// when they have answered or had the time to.
func (m *Monitor) depart(ctx context.Context, timer clock.Timer, readers *sync.WaitGroup) {
	m.converge() // what was applied last counts
	m.mu.Lock()
	now := m.clock.Now()
	until := now.Add(farewellTime)
	m.departing = true
	for _, l := range m.links {
		if l.survives() {
			l.session.leave(now)
			m.attend(now, l)
		}
	}
	m.mu.Unlock()
	for m.waits(until) {
		pause := m.work(ctx, readers)
		timer.Reset(min(max(pause, time.Millisecond), farewellTime))
		select {
		case <-m.wake:
		case <-timer.C():
		}
	}
}

// waits reports whether a peer's answer is still to be waited for.
func (m *Monitor) waits(until time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.clock.Now().Before(until) {
		return false
	}
	for _, l := range m.links {
		if l.survives() && !l.session.left() {
			return true
		}
	}
	return false
}

// resume finds the session that a former process had with the peer under a number
// that nobody has now; nil if there is none.
func (m *Monitor) resume(k portKey, d *datagram, packet *Packet) *link {
	if packet.State != Up {
		return nil
	}
	l := m.match(k, d)
	if l == nil || l.session.listenUntil.IsZero() {
		return nil
	}
	if k.multihop && d.ttl < int(l.session.cfg.MinimumTTL) {
		return l // to be refused
	}
	delete(m.byNumber, l.session.local)
	l.session.adopt(packet.YourDiscriminator)
	m.byNumber[l.session.local] = l
	m.logger.Log("msg", "going on with a BFD session of the process before", "peer", l.key)
	return l
}
