package watch

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"k8s.io/utils/clock"
)

// A watch connection carries nothing but the greeting, by which the one who accepts says that it is a speaker and lives:
// the kernel alone completes connections for a process that has stopped. All that matters is when it ends.
const greeting = "berth\n"

const (
	dialTimeout  = 300 * time.Millisecond // shorter than TCP's first retransmission (1 s, RFC 6298 section 2)
	greetTimeout = time.Second
	// redialEvery is the time between attempts to connect, redialSlowly that after redialTries of them failed.
	redialEvery  = 200 * time.Millisecond
	redialSlowly = 2 * time.Second
	redialTries  = 50
	// bindRetry is the time between attempts to listen: at boot the node may not have its address yet.
	bindRetry = time.Second
)

// kernel is the network of this process. Keepalives are off: a connection is to tell of the process at its other end, and
// a node that falls silent is noticed sooner by other means.
type kernel struct{}

func (kernel) Listen(ctx context.Context, at netip.AddrPort) (*net.TCPListener, error) {
	c := net.ListenConfig{KeepAlive: -1}
	ln, err := c.Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

func (kernel) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	return d.DialContext(ctx, "tcp", to.String())
}

// A dialer holds a connection to one process of one speaker, and tells when it stands and when it has ended.
type dialer struct {
	dial
	from    netip.Addr
	network network
	clock   clock.Clock
	logger  log.Logger
	metrics *Metrics
	report  func(up bool)
}

func (d dialer) run(ctx context.Context) {
	stood := false
	for failed := 0; ctx.Err() == nil; {
		conn, err := d.connect(ctx)
		if err == nil {
			failed, stood = 0, true
			d.metrics.connections.WithLabelValues("out").Inc()
			d.report(true)
			untilEnd(ctx, conn)
			d.metrics.connections.WithLabelValues("out").Dec()
			if ctx.Err() == nil {
				d.report(false)
			}
		} else if failed++; failed == redialTries && !stood {
			level.Warn(d.logger).Log("msg", "cannot connect to a speaker that it watches, so the end of its process is noticed late; is there a firewall?",
				"node", d.node, "addr", d.addr, "err", err)
		}
		pause := redialEvery
		if failed >= redialTries {
			pause = redialSlowly
		}
		select {
		case <-ctx.Done():
		case <-d.clock.After(pause):
		}
	}
}

// connect returns a connection on which the greeting was received.
func (d dialer) connect(ctx context.Context) (net.Conn, error) {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.network.Dial(dialing, d.from, d.addr)
	if err != nil {
		return nil, err
	}
	if err := awaitGreeting(ctx, conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func awaitGreeting(ctx context.Context, conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(greetTimeout)); err != nil {
		return err
	}
	defer interrupt(ctx, conn)()
	heard := make([]byte, len(greeting))
	if _, err := io.ReadFull(conn, heard); err != nil {
		return err
	}
	if string(heard) != greeting {
		return errors.New("it is not a speaker that answers there")
	}
	return conn.SetReadDeadline(time.Time{})
}

// interrupt ends reads from conn when ctx ends, until it is called off.
func interrupt(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
}

// untilEnd waits until the other end closes conn or says anything, or ctx ends. Then conn is closed.
func untilEnd(ctx context.Context, conn net.Conn) {
	defer interrupt(ctx, conn)()
	if ctx.Err() == nil {
		_, _ = conn.Read(make([]byte, 1))
	}
	_ = conn.Close()
}

// listener accepts watch connections, one from each address that is a speaker's. A new one takes the place of the
// former: its speaker may have ended without a word.
type listener struct {
	at      netip.AddrPort
	network network
	logger  log.Logger
	metrics *Metrics
	opened  chan struct{} // closed once it listens

	mu       sync.Mutex
	admitted map[netip.Addr]bool
	conns    map[netip.Addr]net.Conn
}

func newListener(at netip.AddrPort, network network, logger log.Logger, metrics *Metrics, opened chan struct{}) *listener {
	return &listener{at: at, network: network, logger: logger, metrics: metrics, opened: opened, conns: map[netip.Addr]net.Conn{}}
}

// admit replaces the set of addresses that may connect. Connections from others end.
func (l *listener) admit(addrs map[netip.Addr]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.admitted = addrs
	for addr, conn := range l.conns {
		if !addrs[addr] {
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// run accepts until ctx ends.
func (l *listener) run(ctx context.Context) error {
	ln := l.open(ctx)
	if ln == nil {
		return nil
	}
	close(l.opened)
	defer func() { _ = ln.Close() }()
	defer context.AfterFunc(ctx, func() { _ = ln.SetDeadline(time.Unix(1, 0)) })()
	var served sync.WaitGroup
	defer served.Wait()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			// Out of file descriptors, or the other end was faster; not a reason to give up, nor to be busy.
			level.Warn(l.logger).Log("msg", "cannot accept a watch connection", "err", err)
			pause(ctx, redialEvery)
			continue
		}
		if addr, ok := l.enter(conn); ok {
			served.Go(func() { l.serve(ctx, addr, conn) })
		} else {
			l.metrics.refused.Inc()
			_ = conn.Close()
		}
	}
}

// open listens, trying again until that succeeds. It returns nil if ctx ends before.
func (l *listener) open(ctx context.Context) *net.TCPListener {
	for reported := false; ctx.Err() == nil; pause(ctx, bindRetry) {
		ln, err := l.network.Listen(ctx, l.at)
		if err == nil {
			return ln
		}
		if !reported && ctx.Err() == nil {
			level.Error(l.logger).Log("msg", "cannot listen for watch connections yet; trying again every second", "addr", l.at, "err", err)
			reported = true
		}
	}
	return nil
}

// enter takes conn in if it comes from a speaker.
func (l *listener) enter(conn net.Conn) (netip.Addr, bool) {
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}, false
	}
	addr := remote.Addr().Unmap().WithZone("")
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.admitted[addr] {
		return addr, false
	}
	if former := l.conns[addr]; former != nil {
		_ = former.SetReadDeadline(time.Unix(1, 0))
	}
	l.conns[addr] = conn
	return addr, true
}

func (l *listener) serve(ctx context.Context, addr netip.Addr, conn net.Conn) {
	l.metrics.connections.WithLabelValues("in").Inc()
	defer l.metrics.connections.WithLabelValues("in").Dec()
	// A greeting fits in the buffer of a new connection, so this does not wait.
	if _, err := io.WriteString(conn, greeting); err == nil {
		untilEnd(ctx, conn)
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		_ = conn.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns[addr] == conn {
		delete(l.conns, addr)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
