package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/bgp/wire"
)

const (
	// stuckTimeout is the hold time while none is agreed on, the "large value" of
	// RFC 4271 section 8.2.2.
	stuckTimeout = 4 * time.Minute
	// engineTimeout is how long the engine, in this very process, may take to
	// read a message.
	engineTimeout = 30 * time.Second
	// lingerTimeout is how long a session that ends waits for the other side to
	// have read the last message, and for a write under way to end.
	lingerTimeout = time.Second
	// batchLen is how much of what the engine sends is written at once.
	batchLen = 4 * wire.MaxLen
)

// A Conn is one leg of a relay; *net.TCPConn is one. The relay writes whole
// messages, and to the engine one at a time.
type Conn interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// RelayConfig configures a Relay.
type RelayConfig struct {
	// Router and Engine are required. Run closes them.
	Router, Engine Conn
	// RewriteOpen may change the engine's OPEN before it is sent.
	RewriteOpen func(*wire.Open)
	// CheckOpen may refuse the router's OPEN, which is well-formed, with a
	// NOTIFICATION and an error for the log.
	CheckOpen func(wire.Open) (*wire.Notification, error)
	// OpenTimeout is how long the router may take to send its OPEN, after which
	// the engine's hold timer is in charge. It defaults to 4 minutes.
	OpenTimeout time.Duration
	// Silence is what else may be the reason for that, as from SilentReasons.
	Silence string
	// Changed is called after each change of the Session other than of its
	// counters. It must not block.
	Changed func()
	// Clock defaults to the real one. Deadlines of sockets do not follow it.
	Clock clock.PassiveClock
}

// A Relay copies messages between a router and the engine until one of them
// closes its connection. See the package's description for what passes.
type Relay struct {
	config         RelayConfig
	router, engine leg
	sent, received counters
	end            chan wire.Notification

	mu      sync.Mutex
	session Session
}

// NewRelay returns a Relay; Run sets it going.
func NewRelay(c RelayConfig) *Relay {
	if c.RewriteOpen == nil {
		c.RewriteOpen = func(*wire.Open) {}
	}
	if c.CheckOpen == nil {
		c.CheckOpen = func(wire.Open) (*wire.Notification, error) { return nil, nil }
	}
	if c.OpenTimeout <= 0 {
		c.OpenTimeout = stuckTimeout
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	r := &Relay{
		config: c,
		router: leg{conn: c.Router, name: "router"},
		engine: leg{conn: c.Engine, name: "BGP engine"},
		end:    make(chan wire.Notification, 1),
	}
	r.router.timeout.Store(int64(stuckTimeout))
	r.engine.timeout.Store(int64(engineTimeout))
	r.session.Local, r.session.Remote = addrPort(c.Router.LocalAddr()), addrPort(c.Router.RemoteAddr())
	return r
}

// End sends the router a NOTIFICATION of ours and ends the session. The engine
// only sees its connection close. The first call counts.
func (r *Relay) End(n wire.Notification) {
	select {
	case r.end <- n.Clone():
	default:
	}
}

// An endError ends a session.
type endError struct {
	err error
	// send is what the router is to be told.
	send *wire.Notification
}

func (e *endError) Error() string { return e.err.Error() }
func (e *endError) Unwrap() error { return e.err }

// Run relays until the session ends and returns why, which is never nil. When
// ctx ends, the connections are closed at once and without a NOTIFICATION, so
// that a router with graceful restart keeps the routes (RFC 4724 section 5).
func (r *Relay) Run(ctx context.Context) error {
	defer func() { _, _ = r.router.conn.Close(), r.engine.conn.Close() }()
	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, func() {
		r.router.interrupt()
		r.engine.interrupt()
	})
	defer stop()
	g.Go(func() error { return newInbound(r).run(gctx) })
	g.Go(func() error { return r.outbound(gctx) })
	g.Go(func() error {
		select {
		case n := <-r.end:
			return &endError{err: fmt.Errorf("ended here: %s", n), send: &n}
		case <-gctx.Done():
			return gctx.Err()
		}
	})
	err := g.Wait()
	if ctx.Err() != nil {
		err = fmt.Errorf("closed without notification: %w", ctx.Err())
	} else {
		r.farewell(ctx, err)
	}
	r.update(func(s *Session) { s.Err = err })
	return err
}

// farewell sees to it that the last messages arrive: a connection that is
// closed with something still unread is reset, and takes them with it.
func (r *Relay) farewell(ctx context.Context, err error) {
	var end *endError
	if errors.As(err, &end) && end.send != nil && r.router.write(end.send.Append(nil)) == nil {
		r.notificationSent(*end.send)
	}
	r.engine.linger(ctx)
	r.router.linger(ctx)
}

// notificationSent records what the router was told.
func (r *Relay) notificationSent(n wire.Notification) {
	r.sent[wire.TypeNotification].Add(1)
	r.update(func(s *Session) { s.NotificationSent = &n })
}

// outbound copies what the engine says. Of messages in one go only the last
// write waits for the router.
func (r *Relay) outbound(ctx context.Context) error {
	in := bufio.NewReaderSize(r.engine.conn, batchLen)
	var batch []byte
	for {
		msg, h, err := peekMessage(in)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return r.engineEnded(err)
		}
		batch, err = r.appendOutbound(batch, msg, h.Type)
		if err != nil {
			return err
		}
		r.sent[h.Type].Add(1)
		if _, err := in.Discard(h.Len); err != nil {
			return err
		}
		if h.Type == wire.TypeUpdate && hasMessage(in) && len(batch) < batchLen-wire.MaxLen {
			continue
		}
		if err := r.router.write(batch); err != nil {
			return err
		}
		batch = batch[:0]
	}
}

// appendOutbound appends to a batch what becomes of the engine's message.
func (r *Relay) appendOutbound(batch, msg []byte, t wire.Type) ([]byte, error) {
	switch t {
	case wire.TypeOpen:
		o, err := wire.ParseOpen(msg)
		if err != nil {
			return nil, fmt.Errorf("reading the BGP engine's OPEN: %w", err)
		}
		r.config.RewriteOpen(&o)
		if batch, err = o.Append(batch); err != nil {
			return nil, err
		}
		o = o.Clone()
		r.update(func(s *Session) { s.LocalOpen = &o })
		return batch, nil
	case wire.TypeNotification:
		if n, err := wire.ParseNotification(msg); err == nil {
			r.update(func(s *Session) { s.NotificationSent = &n })
		}
	}
	return append(batch, msg...), nil
}

// engineEnded says why the engine's side ended.
func (r *Relay) engineEnded(err error) error {
	r.mu.Lock()
	n := r.session.NotificationSent
	r.mu.Unlock()
	switch {
	case n != nil:
		return fmt.Errorf("sent notification: %s", n)
	case errors.Is(err, io.EOF):
		return errors.New("closed by the BGP engine")
	}
	return fmt.Errorf("reading from the BGP engine: %w", withoutAddresses(err))
}

// peekMessage returns the next message, which is valid until in is read from or
// its part discarded. The error is an *wire.Error if it is the sender's fault.
func peekMessage(in *bufio.Reader) ([]byte, wire.Header, error) {
	b, err := in.Peek(wire.HeaderLen)
	if err != nil {
		if len(b) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, wire.Header{}, err
	}
	h, err := wire.ParseHeader(b)
	if err != nil {
		return nil, wire.Header{}, err
	}
	b, err = in.Peek(h.Len)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, h, err
}

// hasMessage returns whether peekMessage would not block.
func hasMessage(in *bufio.Reader) bool {
	n := in.Buffered()
	if n < wire.HeaderLen {
		return false
	}
	b, err := in.Peek(wire.HeaderLen)
	if err != nil {
		return true
	}
	h, err := wire.ParseHeader(b)
	return err != nil || h.Len <= n
}

// A leg is one of the two connections, with its writers taking turns.
type leg struct {
	conn Conn
	name string

	// timeout is in nanoseconds.
	timeout atomic.Int64
	ending  atomic.Bool

	mu     sync.Mutex
	broken bool // a message was cut off; nothing can follow it
}

// write writes whole messages. It fails if that takes longer than the timeout,
// so that a router that reads nothing cannot make what it should read pile up
// (compare RFC 9687).
func (l *leg) write(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return fmt.Errorf("writing to %s: %w", l.name, net.ErrClosed)
	}
	timeout := time.Duration(l.timeout.Load())
	err := l.conn.SetWriteDeadline(time.Now().Add(timeout))
	if err == nil && l.ending.Load() {
		timeout = lingerTimeout
		err = l.conn.SetWriteDeadline(time.Now().Add(timeout))
	}
	if err != nil {
		return fmt.Errorf("writing to %s: %w", l.name, withoutAddresses(err))
	}
	if _, err := l.conn.Write(b); err != nil {
		l.broken = true
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%s has read nothing for %s", l.name, timeout)
		}
		return fmt.Errorf("writing to %s: %w", l.name, withoutAddresses(err))
	}
	return nil
}

// interrupt makes a pending read end, and a pending write soon.
func (l *leg) interrupt() {
	l.ending.Store(true)
	_ = l.conn.SetReadDeadline(time.Unix(1, 0))
	_ = l.conn.SetWriteDeadline(time.Now().Add(lingerTimeout))
}

// linger closes the connection for writing, and waits a moment for the other
// side to do the same. What it says meanwhile is lost. From one that is broken
// nothing is to be waited for, and what the kernel still holds is thrown away.
func (l *leg) linger(ctx context.Context) {
	l.mu.Lock()
	broken := l.broken
	l.mu.Unlock()
	if broken {
		_ = l.conn.SetLinger(0)
		return
	}
	if l.conn.CloseWrite() != nil || l.conn.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _ = io.Copy(io.Discard, l.conn)
}
