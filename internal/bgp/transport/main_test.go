package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-lb/berth/internal/bgp/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}

// tcpPair returns both ends of a loopback connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// A speaker is the test's end of a connection.
type speaker struct {
	t    testing.TB
	conn *net.TCPConn
	in   *bufio.Reader
}

func newSpeaker(t testing.TB, c *net.TCPConn) *speaker {
	return &speaker{t: t, conn: c, in: bufio.NewReaderSize(c, wire.MaxLen)}
}

func (s *speaker) send(msgs ...[]byte) {
	s.t.Helper()
	if _, err := s.conn.Write(bytes.Join(msgs, nil)); err != nil {
		s.t.Fatalf("sending: %v", err)
	}
}

// receive returns the next message.
func (s *speaker) receive() (wire.Type, []byte) {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(patience))
	msg, h, err := peekMessage(s.in)
	if err != nil {
		s.t.Fatalf("receiving: %v", err)
	}
	msg = bytes.Clone(msg)
	_, _ = s.in.Discard(h.Len)
	return h.Type, msg
}

// expect demands that the next message is exactly this one.
func (s *speaker) expect(what string, want []byte) {
	s.t.Helper()
	if _, got := s.receive(); !bytes.Equal(got, want) {
		s.t.Fatalf("%s: got %x, want %x", what, got, want)
	}
}

// expectEnd demands that nothing follows but the end of the connection.
func (s *speaker) expectEnd() {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(patience))
	if b, err := s.in.Peek(1); !errors.Is(err, io.EOF) {
		s.t.Fatalf("got %x (%v) instead of the end", b, err)
	}
}

func (s *speaker) expectNotification(code, subcode uint8) wire.Notification {
	s.t.Helper()
	_, msg := s.receive()
	n, err := wire.ParseNotification(msg)
	if err != nil || n.Code != code || n.Subcode != subcode {
		s.t.Fatalf("got %x, %s (%v), want notification %d/%d", msg, n, err, code, subcode)
	}
	return n
}

func encode(o wire.Open) []byte {
	b, err := o.Append(nil)
	if err != nil {
		panic(err)
	}
	return b
}

func routerOpen() wire.Open {
	return wire.Open{
		ASN: 64512, HoldTime: 9, RouterID: netip.MustParseAddr("192.0.2.1"),
		Capabilities: wire.Capabilities{
			Families:        []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast, {AFI: 25, SAFI: 70}},
			RouteRefresh:    true,
			ExtendedNextHop: []wire.ExtendedNextHop{{Family: wire.IPv4Unicast, NextHopAFI: wire.AFIIPv6}, {Family: wire.Family{AFI: 1, SAFI: 128}, NextHopAFI: 2}},
			GracefulRestart: &wire.GracefulRestart{Time: 120, Families: []wire.RestartFamily{{Family: wire.Family{AFI: 25, SAFI: 70}}, {Family: wire.IPv4Unicast}}},
			FourOctetASN:    true,
			Other:           []wire.Capability{{Code: 69, Value: []byte{0, 1, 1, 3}}, {Code: 73, Value: []byte("\x02r1\x00")}},
		},
	}
}

func engineOpen() wire.Open {
	return wire.Open{
		ASN: 4200000001, HoldTime: 90, RouterID: netip.MustParseAddr("192.0.2.9"),
		Capabilities: wire.Capabilities{
			Families:        []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast},
			RouteRefresh:    true,
			GracefulRestart: &wire.GracefulRestart{Time: 120, Families: []wire.RestartFamily{{Family: wire.IPv4Unicast}}},
			FourOctetASN:    true,
		},
	}
}

var keepalive = wire.AppendKeepalive(nil)

// A rig is a relay with a test at both ends.
type rig struct {
	t              testing.TB
	relay          *Relay
	router, engine *speaker
	cancel         context.CancelFunc
	ended          chan error
}

// newRig runs a relay; change may alter its configuration.
func newRig(t testing.TB, change func(*RelayConfig)) *rig {
	t.Helper()
	ours, routers := tcpPair(t)
	inner, engines := tcpPair(t)
	c := RelayConfig{Router: ours, Engine: inner}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &rig{t: t, relay: NewRelay(c), router: newSpeaker(t, routers), engine: newSpeaker(t, engines), cancel: cancel, ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- r.relay.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

// establish brings the session up.
func (r *rig) establish() {
	r.t.Helper()
	r.engine.send(encode(engineOpen()))
	r.router.receive()
	r.router.send(encode(routerOpen()))
	r.engine.receive()
	r.engine.send(keepalive)
	r.router.expect("keepalive", keepalive)
	r.router.send(keepalive)
	r.engine.expect("keepalive", keepalive)
}

// wait returns why the relay ended.
func (r *rig) wait() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		r.t.Fatal("relay does not end")
		return nil
	}
}

// eventually waits until cond holds and fails the test if it does not.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
