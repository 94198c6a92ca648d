package bfd

import (
	"encoding/binary"
	"time"
)

// echoSize is the length of the payload of our echo packets, whose form is our
// own affair (RFC 5880 section 5).
const echoSize = 24

// echoMagic tells our echo packets from those of another program on this host.
const echoMagic = 0x42455254

// echo is the part of a session that sends echo packets to itself through the
// peer. Packets that have never returned prove nothing: a peer may offer to
// forward them and have a firewall that does not. Thus the path is judged by
// them only once one has come back; until then, control packets alone count.
type echo struct {
	ready  bool   // there is a way to send
	secret uint64 // so that nobody off the path can make up a packet's return

	active bool
	proven bool
	seq    uint64 // of the last one sent
	got    uint64 // of the last one returned

	next  time.Time
	heard time.Time
	// timeout is the detection time (RFC 5880 section 6.8.5).
	timeout time.Duration
}

func (e *echo) detectAt() time.Time {
	if !e.proven {
		return never
	}
	return e.heard.Add(e.timeout)
}

// offeredEcho is the Required Min Echo RX Interval that we tell the peer.
func (s *session) offeredEcho() time.Duration { return offeredEcho(s.cfg, s.reflects) }

func offeredEcho(cfg Config, reflects bool) time.Duration {
	if cfg.Multihop || !reflects { // RFC 5883 section 3
		return 0
	}
	return cfg.Echo
}

// echoInterval is the longest time between two echo packets, 0 if there are to
// be none (RFC 5880 section 6.8.9).
func (s *session) echoInterval() time.Duration {
	if !s.cfg.EchoMode || !s.echo.ready || s.cfg.Multihop || s.state != Up || s.remoteState != Up || s.remoteEcho == 0 {
		return 0
	}
	return max(s.cfg.Echo, s.remoteEcho)
}

// updateEcho starts or stops the echo function as state, configuration and the
// peer's offer demand.
func (s *session) updateEcho(now time.Time) {
	e := &s.echo
	interval := s.echoInterval()
	e.timeout = time.Duration(s.cfg.DetectMultiplier) * interval
	switch {
	case interval == 0:
		e.active, e.proven, e.next = false, false, never
	case !e.active:
		e.active, e.next = true, now
	}
}

// setEchoReady says whether there is a way to send echo packets.
func (s *session) setEchoReady(now time.Time, ready bool) {
	if s.echo.ready == ready {
		return
	}
	s.echo.ready = ready
	s.updateEcho(now)
	s.negotiate()
	s.schedule(now)
}

// transmitEcho appends the payload of the echo packet that is due to b, and
// returns false if none is.
func (s *session) transmitEcho(now time.Time, b []byte) ([]byte, bool) {
	e := &s.echo
	if !e.active || now.Before(e.next) {
		return b, false
	}
	e.seq++
	e.next = now.Add(s.jitter(s.echoInterval()))
	b = binary.BigEndian.AppendUint32(b, echoMagic)
	b = binary.BigEndian.AppendUint32(b, s.local)
	b = binary.BigEndian.AppendUint64(b, e.secret)
	return binary.BigEndian.AppendUint64(b, e.seq), true
}

// parseEcho returns the discriminator of the session that sent an echo packet.
func parseEcho(b []byte) (discriminator uint32, ok bool) {
	if len(b) != echoSize || binary.BigEndian.Uint32(b) != echoMagic {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[4:]), true
}

// receiveEcho handles the return of an echo packet. It returns false if the
// packet is not one of those under way.
func (s *session) receiveEcho(now time.Time, b []byte) bool {
	e := &s.echo
	secret, seq := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	if !e.active || secret != e.secret || seq > e.seq || seq <= e.got {
		return false
	}
	e.got, e.heard, e.proven = seq, now, true
	s.negotiate()
	s.schedule(now)
	return true
}
