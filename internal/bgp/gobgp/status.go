package gobgp

import (
	"errors"
	"maps"
	"time"

	"github.com/go-kit/log/level"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/transport"
)

// status is what a session remembers of itself.
type status struct {
	state          bgp.State
	since          time.Time
	lastError      string
	lastErrorAt    time.Time
	logged         loggedErrors
	sent, received bgp.Messages // of connections that are gone
	flaps          uint64
}

// enter changes the state. The caller holds mu.
func (s *session) enter(state bgp.State) {
	if s.status.state == state {
		return
	}
	s.status.state, s.status.since = state, s.speaker.cfg.Clock.Now()
	s.speaker.changed()
}

// observe follows a relay's progress. The relay calls it.
func (s *session) observe(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.interrupted || s.current != a {
		return
	}
	known := a.relay.Session()
	switch {
	case known.Err != nil: // over follows
	case !known.Established.IsZero():
		if s.status.state == bgp.Established {
			return
		}
		s.enter(bgp.Established)
		clear(s.status.logged)
		level.Info(s.logger).Log("msg", "BGP session is established", "address", known.Remote, "asn", known.PeerOpen.ASN,
			"router_id", known.PeerOpen.RouterID, "hold_time", known.HoldTime, "graceful_restart", gracefulRestart(known))
	case known.PeerOpen != nil:
		s.enter(bgp.OpenConfirm)
	default:
		s.enter(bgp.OpenSent)
	}
}

const (
	// forgetAfter is after how long without it an error is news again.
	forgetAfter = 10 * time.Minute
	// maxLogged is how many errors are told apart meanwhile. Some of them are in
	// the router's words.
	maxLogged = 8
)

// loggedErrors are errors that were logged, with when they were last seen.
type loggedErrors map[string]time.Time

// add reports whether an error is to be logged: not while it lasts, nor when it
// takes turns with others.
func (l loggedErrors) add(text string, now time.Time) bool {
	maps.DeleteFunc(l, func(_ string, seen time.Time) bool { return now.Sub(seen) >= forgetAfter })
	_, known := l[text]
	if !known && len(l) >= maxLogged {
		return false
	}
	l[text] = now
	return !known
}

// report records why a session was lost after it was up for a while, or could
// not be made, and logs it unless it was logged not long ago. The caller holds
// mu.
func (s *session) report(up time.Duration, err error) {
	if err == nil || errors.Is(err, errInterrupted) {
		return
	}
	s.status.lastError, s.status.lastErrorAt = err.Error(), s.speaker.cfg.Clock.Now()
	s.speaker.changed()
	news := s.status.logged.add(err.Error(), s.status.lastErrorAt)
	switch {
	case up > 0:
		level.Warn(s.logger).Log("msg", "BGP session is lost", "err", err, "up", up.Round(time.Second))
	case news:
		level.Warn(s.logger).Log("msg", "BGP session cannot be established", "err", err)
	}
}

// snapshot returns the session's state.
func (s *session) snapshot() bgp.PeerState {
	s.mu.Lock()
	st := s.status
	out := bgp.PeerState{
		Name: s.name, State: st.state, Since: st.since, LastError: st.lastError, LastErrorAt: st.lastErrorAt,
		HeldDown: s.held, Sent: st.sent, Received: st.received, Flaps: st.flaps,
	}
	a := s.current
	if a == nil || a.relay == nil {
		s.mu.Unlock()
		return out
	}
	relay, announcer := a.relay, a.announcer
	s.mu.Unlock()

	known := relay.Session()
	out.Sent, out.Received = addMessages(st.sent, known.Sent), addMessages(st.received, known.Received)
	if st.state < bgp.OpenConfirm || known.PeerOpen == nil {
		return out
	}
	out.LocalAddress, out.RemoteAddress = known.Local, known.Remote
	out.RemoteASN, out.RemoteRouterID = known.PeerOpen.ASN, known.PeerOpen.RouterID
	out.HoldTime, out.Families = known.HoldTime, families(known.Families)
	out.Capabilities = capabilityNames(known.PeerOpen.Capabilities)
	out.GracefulRestart = gracefulRestart(known)
	if st.state == bgp.Established {
		out.Announced, out.Problem = announcer.count()
	}
	return out
}

// gracefulRestart reports whether both sides have agreed on RFC 4724.
func gracefulRestart(known transport.Session) bool {
	return known.LocalOpen != nil && known.LocalOpen.Capabilities.GracefulRestart != nil &&
		known.PeerOpen != nil && known.PeerOpen.Capabilities.GracefulRestart != nil
}

func addMessages(a bgp.Messages, b transport.Messages) bgp.Messages {
	return bgp.Messages{
		Open: a.Open + b.Open, Update: a.Update + b.Update, Notification: a.Notification + b.Notification,
		Keepalive: a.Keepalive + b.Keepalive, RouteRefresh: a.RouteRefresh + b.RouteRefresh,
	}
}
