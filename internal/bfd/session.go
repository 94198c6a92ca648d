package bfd

import (
	"time"
)

// slowest is the interval that a session which is not up does not go below
// (RFC 5880 section 6.8.3), nor one whose echo packets watch the path wants the
// peer's control packets to.
const slowest = time.Second

// A session is the state machine of RFC 5880 section 6.8. It owns no clock, no
// timer and no socket: it is told the time with every event, says with sendAt and
// expireAt when it wants to be called without one, and hands out packets by
// transmit.
// The names of the RFC's variables (section 6.8.1) are in the comments.
type session struct {
	cfg Config
	// random returns a number in [0, 1), for the jitter.
	random func() float64
	// reflects says that this host forwards echo packets back.
	reflects bool

	state       State      // bfd.SessionState
	diag        Diagnostic // bfd.LocalDiag
	local       uint32     // bfd.LocalDiscr
	remote      uint32     // bfd.RemoteDiscr
	remoteState State      // bfd.RemoteSessionState
	remoteDiag  Diagnostic

	desiredTx  time.Duration // bfd.DesiredMinTxInterval
	requiredRx time.Duration // bfd.RequiredMinRxInterval
	// usedTx and usedRx are what transmission and detection go by: the values
	// above, or the former ones until a Poll Sequence has ended (section 6.8.3).
	usedTx, usedRx time.Duration

	remoteRx     time.Duration // bfd.RemoteMinRxInterval
	remoteTx     time.Duration // the peer's Desired Min TX Interval
	remoteEcho   time.Duration // the peer's Required Min Echo RX Interval
	remoteMult   uint8
	remoteDemand bool // bfd.RemoteDemandMode

	poll      bool // a Poll Sequence is being transmitted
	pollAgain bool // our values changed meanwhile: another one is to follow
	final     bool // a Poll of the peer's is to be answered

	// listenUntil is until when nothing is said, because a former process may have
	// left the session to us; zero from the first packet on.
	listenUntil time.Time

	said     Packet        // what was last sent, without Poll and Final
	sent     time.Time     // when the last packet was sent that was no Final
	interval time.Duration // the one that next was computed from, 0 if none
	next     time.Time     // of the next periodic packet
	heard    time.Time     // when the last packet was received

	echo echo
}

// newSession returns a session that is down and, unless it is passive, has a
// packet to send at once.
func newSession(cfg Config, discriminator uint32, random func() float64) *session {
	s := &session{
		cfg: cfg, random: random, local: discriminator,
		state: Down, remoteState: Down, remoteRx: time.Microsecond, next: never,
	}
	s.echo.next = never
	s.desiredTx, s.requiredRx = max(cfg.Transmit, slowest), cfg.Receive
	s.usedTx, s.usedRx = s.desiredTx, s.requiredRx
	return s
}

// configure changes the parameters of a running session (section 6.8.3).
func (s *session) configure(now time.Time, cfg Config, reflects bool) {
	s.cfg, s.reflects = cfg, reflects
	s.updateEcho(now)
	s.negotiate()
	s.schedule(now)
}

// receive handles a packet that has passed Packet.Parse and was found to be of
// this session (section 6.8.6, from "Set bfd.RemoteDiscr" on).
func (s *session) receive(now time.Time, p *Packet) {
	if s.state == AdminDown {
		return
	}
	s.remote, s.remoteState, s.remoteDiag = p.MyDiscriminator, p.State, p.Diagnostic
	s.remoteDemand, s.remoteMult = p.Demand, p.DetectMultiplier
	s.remoteRx, s.remoteTx, s.remoteEcho = p.RequiredMinRx, p.DesiredMinTx, p.RequiredMinEchoRx
	s.heard = now
	resumed := !s.listenUntil.IsZero() && p.State == Up
	s.listenUntil = time.Time{}
	if s.poll && p.Final {
		s.endPoll()
	}
	switch {
	case p.State == AdminDown:
		if s.state != Down {
			s.enter(Down, NeighborDown)
		}
	case s.state == Down && p.State == Down:
		s.enter(Init, s.diag)
	case s.state == Down && p.State == Init, s.state == Init && p.State != Down, resumed:
		s.enter(Up, NoDiagnostic)
	case s.state == Up && p.State == Down:
		s.enter(Down, NeighborDown)
	}
	s.final = s.final || p.Poll
	s.updateEcho(now)
	s.negotiate()
	s.schedule(now)
}

// expired reports whether the peer, or our echo packets, have not been heard of
// for the detection time. The caller makes sure that nothing of the peer's is
// waiting to be read before it goes on to expire.
func (s *session) expired(now time.Time) bool {
	return !now.Before(s.expireAt())
}

// expire takes the session down if its detection time is over (sections 6.8.4
// and 6.8.5).
func (s *session) expire(now time.Time) {
	switch {
	case !now.Before(s.detectAt()):
		if s.state == Init || s.state == Up {
			s.enter(Down, DetectionExpired)
		}
		s.forget()
	case !now.Before(s.echo.detectAt()):
		s.enter(Down, EchoFailed)
	default:
		return
	}
	s.updateEcho(now)
	s.negotiate()
	s.schedule(now)
}

// forget drops what is known of a peer that has fallen silent (section 6.8.1,
// bfd.RemoteDiscr). Whatever comes next may be a peer that has restarted, so
// that a wish of the former one not to be sent packets is dropped too.
func (s *session) forget() {
	s.remote, s.remoteState = 0, Down
	s.remoteRx, s.remoteTx, s.remoteEcho = time.Microsecond, 0, 0
	s.remoteDemand, s.remoteMult = false, 0
	s.poll, s.pollAgain, s.final = false, false, false
}

// disable takes the session down on purpose (section 6.8.16) and returns for how
// long it should go on sending, so that the peer learns of it even if the first
// packet is lost.
func (s *session) disable(now time.Time) time.Duration {
	s.enter(AdminDown, AdministrativelyDown)
	s.poll, s.pollAgain, s.final = false, false, false
	s.updateEcho(now)
	s.negotiate()
	s.schedule(now)
	if s.remote == 0 {
		return 0
	}
	return time.Duration(s.cfg.DetectMultiplier) * s.transmitInterval()
}

func (s *session) enter(state State, diag Diagnostic) {
	s.state, s.diag = state, diag
}

// negotiate brings our own two intervals in line with state and configuration
// and starts a Poll Sequence if one of them has changed (section 6.8.3).
func (s *session) negotiate() {
	tx, rx := s.cfg.Transmit, s.cfg.Receive
	if s.state != Up {
		tx = max(tx, slowest)
	}
	if s.echo.proven {
		rx = max(rx, slowest)
	}
	if tx != s.desiredTx || rx != s.requiredRx {
		s.desiredTx, s.requiredRx = tx, rx
		s.startPoll()
	}
	// A slower rate of ours must not be used, nor a faster one of the peer's be
	// expected, before the peer has confirmed to know of it.
	if !s.poll || s.state != Up || tx < s.usedTx {
		s.usedTx = tx
	}
	if !s.poll || s.state != Up || rx > s.usedRx {
		s.usedRx = rx
	}
}

// startPoll begins a Poll Sequence; there is none with a peer that is unknown.
// A Final that is under way may answer what we said before, so that a change
// during a sequence needs another one.
func (s *session) startPoll() {
	if s.remote == 0 || s.state == AdminDown {
		return
	}
	s.pollAgain = s.poll
	s.poll = true
}

func (s *session) endPoll() {
	s.poll, s.pollAgain = s.pollAgain, false
}

// transmitInterval is the longest time between two periodic packets, 0 if there
// are to be none (section 6.8.7).
func (s *session) transmitInterval() time.Duration {
	switch {
	case s.remote == 0 && s.cfg.Passive,
		s.remoteRx == 0,
		s.remoteDemand && s.state == Up && s.remoteState == Up && !s.poll:
		return 0
	}
	return max(s.usedTx, s.remoteRx)
}

// detectionTime is how long the peer may be silent (section 6.8.4), 0 if nothing
// is known of it.
func (s *session) detectionTime() time.Duration {
	return time.Duration(s.remoteMult) * max(s.usedRx, s.remoteTx)
}

func (s *session) detectAt() time.Time {
	if s.remote == 0 || s.state == AdminDown {
		return never
	}
	return s.heard.Add(s.detectionTime())
}

// schedule computes the time of the next periodic packet anew if the interval is
// not the one that it was computed from.
func (s *session) schedule(now time.Time) {
	interval := s.transmitInterval()
	if interval == s.interval {
		return
	}
	s.interval = interval
	s.next = never
	if interval != 0 {
		s.next = s.sent.Add(s.jitter(interval))
		if s.next.Before(now) {
			s.next = now
		}
	}
}

// jitter shortens an interval by up to a quarter, and by a tenth at least where
// a single lost packet is a failure (section 6.8.7).
func (s *session) jitter(interval time.Duration) time.Duration {
	share := 0.25 * s.random()
	if s.cfg.DetectMultiplier == 1 {
		share = 0.10 + 0.6*share
	}
	return interval - time.Duration(share*float64(interval))
}

// transmit puts the next packet that is due into p, and returns false if there
// is none.
func (s *session) transmit(now time.Time, p *Packet) bool {
	if now.Before(s.listenUntil) {
		return false
	}
	s.listenUntil = time.Time{}
	switch {
	case s.final:
		// At once, whatever the timers say; it carries all we have to say.
		*p = s.content()
		s.final, s.said = false, *p
		p.Final = true
		return true
	case s.hasNews(), !now.Before(s.next):
		*p = s.content()
		s.sent, s.said, s.next = now, *p, never
		p.Poll = s.poll
		if s.interval = s.transmitInterval(); s.interval != 0 {
			s.next = now.Add(s.jitter(s.interval))
		}
		return true
	}
	return false
}

// content is what we have to say at present.
func (s *session) content() Packet {
	return Packet{
		Diagnostic:        s.diag,
		State:             s.state,
		DetectMultiplier:  s.cfg.DetectMultiplier,
		MyDiscriminator:   s.local,
		YourDiscriminator: s.remote,
		DesiredMinTx:      s.desiredTx,
		RequiredMinRx:     s.requiredRx,
		RequiredMinEchoRx: s.offeredEcho(),
	}
}

// hasNews reports whether what we have to say differs from what we last said; a
// passive session has nothing to say to a peer that it does not know.
func (s *session) hasNews() bool {
	return s.content() != s.said && (s.remote != 0 || !s.cfg.Passive)
}

// repeat makes the session say anew what may not have been heard.
func (s *session) repeat() { s.said = Packet{} }

// sendAt is when the session next has a packet to send, expireAt when it is next
// to be asked whether it has expired.
func (s *session) sendAt() time.Time {
	if !s.listenUntil.IsZero() {
		return s.listenUntil
	}
	if s.final || s.hasNews() {
		return time.Time{}
	}
	return earliest(s.next, s.echo.next)
}

func (s *session) expireAt() time.Time { return earliest(s.detectAt(), s.echo.detectAt()) }
