package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/bgp/wire"
)

const (
	// keepaliveInterval is how often UPDATEs are told to the engine, as
	// KEEPALIVEs, at most; it is less with a short hold time.
	keepaliveInterval = time.Second
	// refreshInterval is how often a router may have a family's routes again.
	refreshInterval = time.Second
)

// phase is how far a router has come, in the terms of RFC 4271 section 8.2.2.
type phase int

const (
	openSent phase = iota
	openConfirm
	established
)

// inbound is the state of the direction from a router to the engine. Whatever
// the router sends, it is of constant size.
type inbound struct {
	*Relay
	in    *bufio.Reader
	out   []byte
	phase phase

	hold      time.Duration // agreed on, or stuckTimeout
	told      time.Time     // when the engine last got a KEEPALIVE
	endOfRIB  map[wire.Family]bool
	refreshed map[wire.Family]time.Time // when the engine was last asked
	pending   map[wire.Family]bool      // to be asked once the interval is over
}

func newInbound(r *Relay) *inbound {
	return &inbound{
		Relay:     r,
		hold:      stuckTimeout,
		in:        bufio.NewReaderSize(r.router.conn, wire.MaxLen),
		endOfRIB:  make(map[wire.Family]bool),
		refreshed: make(map[wire.Family]time.Time),
		pending:   make(map[wire.Family]bool),
	}
}

func (r *inbound) run(ctx context.Context) error {
	if err := r.wake(ctx, r.config.OpenTimeout); err != nil {
		return err
	}
	for {
		msg, h, err := peekMessage(r.in)
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			if r.phase == openSent {
				n := wire.Notification{Code: wire.CodeHoldTimer}
				return &endError{err: fmt.Errorf("router sent no OPEN for %s%s", r.config.OpenTimeout, r.config.Silence), send: &n}
			}
			if err := r.refreshPending(ctx); err != nil {
				return err
			}
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return r.failed(err)
		}
		r.received[h.Type].Add(1)
		if err := r.handle(ctx, msg, h.Type); err != nil {
			return r.failed(err)
		}
		if _, err := r.in.Discard(h.Len); err != nil {
			return err
		}
	}
}

// failed makes an error out of what the router did wrong that says so to the
// router, if it can still be told.
func (r *inbound) failed(err error) error {
	var e *wire.Error
	var end *endError
	switch {
	case errors.As(err, &end):
		return err
	case errors.As(err, &e):
		return &endError{err: fmt.Errorf("router broke the protocol: %w", err), send: &e.Notification}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("router closed the connection in the middle of a message")
	case errors.Is(err, io.EOF):
		return errors.New("router closed the connection")
	}
	return fmt.Errorf("reading from router: %w", withoutAddresses(err))
}

// handle does with a whole message what its type asks for.
func (r *inbound) handle(ctx context.Context, msg []byte, t wire.Type) error {
	if t != wire.TypeNotification && !r.expected(t) {
		subcode := [...]uint8{
			openSent: wire.SubcodeUnexpectedInOpenSent, openConfirm: wire.SubcodeUnexpectedInOpenConfirm,
			established: wire.SubcodeUnexpectedInEstablished,
		}[r.phase]
		// RFC 6608 section 3: the data is the type.
		n := wire.Notification{Code: wire.CodeStateMachine, Subcode: subcode, Data: []byte{byte(t)}}
		return &endError{err: fmt.Errorf("router broke the protocol: %s: %s", n, t), send: &n}
	}
	switch t {
	case wire.TypeOpen:
		return r.open(ctx, msg)
	case wire.TypeUpdate:
		return r.updateMessage(msg)
	case wire.TypeNotification:
		return r.notification(msg)
	case wire.TypeKeepalive:
		return r.keepalive()
	default:
		return r.routeRefresh(ctx, msg)
	}
}

func (r *inbound) expected(t wire.Type) bool {
	switch r.phase {
	case openSent:
		return t == wire.TypeOpen
	case openConfirm:
		return t == wire.TypeKeepalive
	}
	return t != wire.TypeOpen
}

// open checks the router's OPEN and tells the engine of it what the engine
// understands.
func (r *inbound) open(ctx context.Context, msg []byte) error {
	o, err := wire.ParseOpen(msg)
	if err != nil {
		return err
	}
	r.update(func(s *Session) { s.PeerOpen = &o })
	if n, err := r.config.CheckOpen(o.Clone()); n != nil {
		return &endError{err: fmt.Errorf("router's OPEN is refused: %w", err), send: n}
	}
	known := o.Clone()
	if known.Capabilities, err = engineCapabilities(known.Capabilities); err != nil {
		n := wire.Notification{Code: wire.CodeOpen, Subcode: wire.SubcodeUnsupportedCapability}
		return &endError{err: err, send: &n}
	}
	b, err := known.Append(r.out[:0])
	if err != nil {
		return err
	}
	r.phase = openConfirm
	if err := r.tell(b); err != nil {
		return err
	}
	return r.wake(ctx, 0)
}

// engineCapabilities leaves only what matters for announcing unicast routes.
func engineCapabilities(c wire.Capabilities) (wire.Capabilities, error) {
	announced := func(f wire.Family) bool { return f == wire.IPv4Unicast || f == wire.IPv6Unicast }
	had := len(c.Families)
	c.Families = slices.DeleteFunc(c.Families, func(f wire.Family) bool { return !announced(f) })
	if had > 0 && len(c.Families) == 0 {
		// Without any, the engine would take the router for one of old that
		// means IPv4.
		return c, errors.New("router offers neither IPv4 nor IPv6 unicast")
	}
	c.ExtendedNextHop = slices.DeleteFunc(c.ExtendedNextHop, func(e wire.ExtendedNextHop) bool { return !announced(e.Family) })
	if c.GracefulRestart != nil {
		c.GracefulRestart.Families = slices.DeleteFunc(c.GracefulRestart.Families,
			func(f wire.RestartFamily) bool { return !announced(f.Family) })
	}
	c.Other = nil
	return c, nil
}

// keepalive passes a KEEPALIVE on, at most as often as UPDATEs.
func (r *inbound) keepalive() error {
	if r.phase == openConfirm {
		r.phase = established
		now := r.config.Clock.Now()
		r.update(func(s *Session) {
			s.Established = now
			if s.HoldTime > 0 {
				r.hold = s.HoldTime
			}
		})
		r.router.timeout.Store(int64(r.hold))
	}
	return r.tellAlive()
}

// tellAlive gives the engine a KEEPALIVE unless it had one just now.
func (r *inbound) tellAlive() error {
	now := r.config.Clock.Now()
	if now.Sub(r.told) < min(keepaliveInterval, r.hold/6) {
		return nil
	}
	r.told = now
	r.out = wire.AppendKeepalive(r.out[:0])
	return r.tell(r.out)
}

// updateMessage lets nothing of an UPDATE pass but that it came, and the first
// End-of-RIB of each family, for which an engine that restarted waits.
func (r *inbound) updateMessage(msg []byte) error {
	if f, ok := wire.EndOfRIB(msg); ok && !r.endOfRIB[f] && r.negotiated(f) {
		r.endOfRIB[f] = true
		r.out = wire.AppendEndOfRIB(r.out[:0], f)
		return r.tell(r.out)
	}
	return r.tellAlive()
}

// notification passes on why the router ends the session.
func (r *inbound) notification(msg []byte) error {
	n, err := wire.ParseNotification(msg)
	if err != nil {
		return fmt.Errorf("router's notification is malformed: %w", err)
	}
	r.update(func(s *Session) { s.NotificationReceived = &n })
	r.out = n.Canonical().Append(r.out[:0])
	if err := r.tell(r.out); err != nil {
		return err
	}
	return &endError{err: fmt.Errorf("router sent notification: %s", n)}
}

// routeRefresh passes a request on; those that come too fast become one.
func (r *inbound) routeRefresh(ctx context.Context, msg []byte) error {
	m, err := wire.ParseRouteRefresh(msg)
	if err != nil {
		return err
	}
	// Any other subtype belongs to a capability that is not offered; for a
	// family that was not agreed on, RFC 2918 section 4 says to ignore it.
	if m.Subtype == 0 && r.negotiated(m.Family) {
		r.pending[m.Family] = true
		return r.refreshPending(ctx)
	}
	return r.tellAlive()
}

// refreshPending asks the engine for what is due, and makes the next read end
// when more will be.
func (r *inbound) refreshPending(ctx context.Context) error {
	now := r.config.Clock.Now()
	var wait time.Duration
	for f := range r.pending {
		if left := refreshInterval - now.Sub(r.refreshed[f]); left > 0 {
			wait = max(wait, left)
			continue
		}
		delete(r.pending, f)
		r.refreshed[f] = now
		r.out = wire.RouteRefresh{Family: f}.Append(r.out[:0])
		if err := r.tell(r.out); err != nil {
			return err
		}
	}
	return r.wake(ctx, wait)
}

// wake makes the next read end after a time, unless that is zero.
func (r *inbound) wake(ctx context.Context, wait time.Duration) error {
	var deadline time.Time
	if wait > 0 {
		deadline = time.Now().Add(wait)
	}
	if err := r.router.conn.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("reading from router: %w", withoutAddresses(err))
	}
	// Had the relay been interrupted before, that deadline would be gone now.
	return ctx.Err()
}

// tell writes a message to the engine.
func (r *inbound) tell(msg []byte) error {
	if err := r.engine.write(msg); err != nil {
		return &endError{err: err}
	}
	return nil
}

func (r *inbound) negotiated(f wire.Family) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.session.Families, f)
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
