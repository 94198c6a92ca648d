package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/go-kit/log"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/transport"
	"github.com/berth-lb/berth/internal/bgp/wire"
)

// A session keeps one peer's session going, for as long as the peer is
// configured. Its lock may be taken while the Speaker's is held, not the other
// way round.
type session struct {
	speaker *Speaker
	name    string
	logger  log.Logger
	done    chan struct{} // closed at the end
	wake    chan struct{} // something other than routes is to be different
	stale   chan struct{} // routes are to be different

	mu sync.Mutex
	// What is to be. Generation counts changes of peer that need a reset.
	peer       bgp.Peer
	generation int
	routes     bgp.Routes
	held       string
	draining   bool
	ended      bool
	// restarting tells that a process before this one may have had the session.
	restarting bool

	// What is: current is nil between attempts.
	current *attempt
	status  status
}

func newSession(s *Speaker, peer bgp.Peer, routes bgp.Routes, held string) *session {
	return &session{
		speaker: s, name: peer.Name, logger: log.With(s.cfg.Logger, "peer", peer.Name),
		done: make(chan struct{}), wake: make(chan struct{}, 1), stale: make(chan struct{}, 1),
		peer: peer, routes: routes, held: held, restarting: true,
		status: status{since: s.cfg.Clock.Now(), logged: make(loggedErrors)},
	}
}

// update makes the session be one with peer, and the routes those.
func (s *session) update(peer bgp.Peer, routes bgp.Routes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.peer
	s.peer, s.routes = peer, routes
	notify(s.stale)
	if !before.NeedsReset(peer) {
		return
	}
	s.generation++
	farewell := &wire.Notification{Code: wire.CodeCease, Subcode: wire.SubcodeConfigChange}
	if sameRouter(before, peer) && s.keepsRoutes() {
		farewell = nil // what the router has stays true while the session is made again
	}
	s.interrupt(farewell, "its configuration changed")
}

// sameRouter reports whether a session of a, made again as one of b, is with the
// same router, and is the same peer's to that.
func sameRouter(a, b bgp.Peer) bool {
	return a.LocalASN == b.LocalASN && a.PeerASN == b.PeerASN && a.Dynamic == b.Dynamic && a.SourceAddress == b.SourceAddress &&
		a.Address == b.Address && a.Interface == b.Interface && a.VRF == b.VRF && a.Port == b.Port
}

// keepsRoutes reports whether the router keeps our routes when the connection
// just closes (RFC 4724 section 4.2). The caller holds mu.
func (s *session) keepsRoutes() bool {
	if s.current == nil || s.current.relay == nil {
		return false
	}
	known := s.current.relay.Session()
	return !known.Established.IsZero() && gracefulRestart(known)
}

// hold keeps the session down for a reason, or lets it come up if there is none.
func (s *session) hold(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == reason {
		return
	}
	s.held = reason
	if reason == "" {
		notify(s.wake)
	} else {
		s.interrupt(&wire.Notification{Code: wire.CodeCease, Subcode: wire.SubcodeBFDDown}, reason)
	}
	s.speaker.changed()
}

// drain announces all routes again as ones that will go (RFC 8326).
func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	notify(s.stale)
}

// end ends the session for good, with a NOTIFICATION if there is one.
func (s *session) end(n *wire.Notification) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.interrupt(n, "")
}

// interrupt ends the attempt under way, if any, with a NOTIFICATION if it can be
// sent and there is one. The caller holds mu.
func (s *session) interrupt(n *wire.Notification, reason string) {
	notify(s.wake)
	a := s.current
	if a == nil {
		return
	}
	a.interrupted = true
	if reason != "" {
		a.reason = reason
	}
	if a.relay != nil && n != nil {
		a.relay.End(*n)
	} else {
		a.cancel()
	}
	s.enter(bgp.Idle)
}

// restartsGracefully reports whether the peer keeps our routes when the
// connection just closes: as was agreed on, or without a session, in which it may
// wait for one, as is configured.
func (s *session) restartsGracefully() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.state == bgp.Established {
		return s.keepsRoutes()
	}
	return s.peer.GracefulRestart != nil
}

// run keeps the session until end is called, after the one before has ended.
func (s *session) run(ctx context.Context, before <-chan struct{}) {
	defer close(s.done)
	if before != nil {
		<-before
	}
	for {
		s.mu.Lock()
		ended, peer, generation := s.ended, s.peer, s.generation
		select {
		case <-s.wake: // for what was just seen; another keep need not stop for it
		default:
		}
		s.mu.Unlock()
		if ended {
			return
		}
		s.keep(ctx, peer, generation)
	}
}

// keep keeps the session of one configuration.
func (s *session) keep(ctx context.Context, peer bgp.Peer, generation int) {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	from := &source{session: s, peer: peer, generation: generation}
	from.discover(ctx, &helpers)
	defer from.close()
	var retry backoff
	for s.wanted(generation) {
		if s.isHeld() {
			s.sleep(ctx, nil)
			continue
		}
		if !from.ready() {
			timer := s.speaker.cfg.Clock.NewTimer(retry.next(s.speaker.cfg.Random()))
			expired := s.sleep(ctx, timer.C())
			timer.Stop()
			if !expired {
				continue
			}
		}
		if up := s.attempt(ctx, from); up >= stableAfter {
			retry = backoff{}
		}
	}
}

// wanted reports whether the session of a configuration is to be kept.
func (s *session) wanted(generation int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended && s.generation == generation
}

func (s *session) isHeld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held != ""
}

// sleep waits for timer and reports whether that was it, and not a change.
func (s *session) sleep(ctx context.Context, timer <-chan time.Time) bool {
	select {
	case <-timer:
		return true
	case <-s.wake:
	case <-ctx.Done():
		// Nothing but end may end a session.
		<-s.wake
	}
	return false
}

// An attempt is one connection, or what may become one. Its fields belong to
// the session's lock.
type attempt struct {
	cancel context.CancelFunc
	relay  *transport.Relay
	// interrupted tells that we want it to end, reason why.
	interrupted bool
	reason      string
	announcer   *announcer
}

// attempt makes a connection and a session over it, until that ends. It returns
// for how long the session was established.
func (s *session) attempt(ctx context.Context, from *source) time.Duration {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &attempt{cancel: cancel}
	s.mu.Lock()
	// Since it was found to be time for it, all may have changed.
	if s.ended || s.held != "" || s.generation != from.generation {
		s.mu.Unlock()
		return 0
	}
	from.peer = s.peer // with what does not need a reset
	s.current = a
	s.enter(from.state())
	s.mu.Unlock()

	conn, err := from.connect(ctx)
	var up time.Duration
	if err == nil {
		up, err = s.serve(ctx, a, conn, from)
	}
	s.over(a, up, err)
	return up
}

// serve runs a session over a connection.
func (s *session) serve(ctx context.Context, a *attempt, conn *net.TCPConn, from *source) (time.Duration, error) {
	local := addrOf(conn.LocalAddr())
	s.mu.Lock()
	open := ourOpen(from.peer, local, s.restarting)
	s.mu.Unlock()
	leg, engineEnd, err := newLegs(ctx, open)
	if err != nil {
		_ = conn.Close()
		return 0, err
	}
	n := &announcer{session: s, peer: from.peer, local: local, link: from.link(local), open: open, leg: leg, conn: engineEnd}
	leg.refresh = n.refresh
	relay := transport.NewRelay(transport.RelayConfig{
		Router: conn, Engine: leg, Clock: s.speaker.cfg.Clock,
		OpenTimeout: openTimeout(from.peer), Silence: silence(from.peer),
		CheckOpen: n.checkOpen, Changed: func() { s.observe(a) },
	})
	s.mu.Lock()
	a.relay, a.announcer = relay, n
	if a.interrupted {
		a.cancel()
	}
	s.mu.Unlock()
	s.observe(a)

	helping, stop := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() { n.run(helping) })
	helpers.Go(func() { from.watch(helping, a) })
	err = relay.Run(ctx)
	stop()
	helpers.Wait()
	n.close()
	var up time.Duration
	if at := relay.Session().Established; !at.IsZero() {
		up = max(s.speaker.cfg.Clock.Since(at), 1)
	}
	return up, err
}

func addrOf(a net.Addr) netip.Addr { return a.(*net.TCPAddr).AddrPort().Addr().Unmap() }

// errInterrupted stands for an end that was wanted.
var errInterrupted = errors.New("ended by configuration")

// over records how an attempt ended.
func (s *session) over(a *attempt, up time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = nil
	if a.relay != nil {
		known := a.relay.Session()
		s.status.sent = addMessages(s.status.sent, known.Sent)
		s.status.received = addMessages(s.status.received, known.Received)
	}
	if up > 0 {
		s.status.flaps++
		s.restarting = false
	}
	if a.interrupted {
		if err = errInterrupted; a.reason != "" {
			err = fmt.Errorf("ended because %s", a.reason)
		}
	}
	s.enter(bgp.Idle)
	s.report(up, err)
}
