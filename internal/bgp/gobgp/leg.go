package gobgp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync/atomic"
	"time"

	"github.com/berth-lb/berth/internal/bgp/transport"
	"github.com/berth-lb/berth/internal/bgp/wire"
)

// A leg is the relay's end of the connection to an engine that does not exist
// yet: what the engine is to be depends on the router's OPEN, and some routers
// wait for ours before they send theirs. So the leg says our OPEN by itself,
// and leaves out the engine's.
type leg struct {
	*net.TCPConn
	in *bufio.Reader
	// left is what is to be read before anything else.
	left []byte
	// opened tells that the engine's OPEN was left out.
	opened bool
	// refresh is called in place of the engine being asked by a message; see
	// the variable calls.
	refresh func() error

	// endless tells that no hold time was agreed on, kept that the engine's first
	// KEEPALIVE has passed: no other may follow (RFC 4271 section 4.4).
	endless atomic.Bool
	kept    bool
}

// endlessHoldTime is what an engine is told that is to have none, because GoBGP
// then sends nothing at all. It is refreshed by keepAlive.
const (
	endlessHoldTime  = math.MaxUint16 * time.Second
	endlessKeepalive = time.Hour
)

// newLegs returns the relay's and the engine's end of a loopback connection that
// nobody else has a part in.
func newLegs(ctx context.Context, open wire.Open) (*leg, *net.TCPConn, error) {
	greeting, err := open.Append(nil)
	if err != nil {
		return nil, nil, err
	}
	loopback, err := transport.ListenLoopback()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = loopback.Close() }()
	engine, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(loopback.Addr()))
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // the address is another one each time
		}
		return nil, nil, fmt.Errorf("connecting to ourselves: %w", err)
	}
	relay, err := loopback.Accept(ctx)
	if err != nil {
		_ = engine.Close()
		return nil, nil, err
	}
	if relay.RemoteAddr().String() != engine.LocalAddr().String() {
		_, _ = relay.Close(), engine.Close()
		return nil, nil, fmt.Errorf("connecting to ourselves: somebody else was faster")
	}
	return &leg{TCPConn: relay, in: bufio.NewReaderSize(relay, wire.MaxLen), left: greeting}, engine, nil
}

// Read implements net.Conn.
func (l *leg) Read(b []byte) (int, error) {
	for len(l.left) == 0 {
		if err := l.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, l.left)
	l.left = l.left[n:]
	return n, nil
}

// next makes left what the engine says next, if that is to be passed on.
func (l *leg) next() error {
	head, err := l.in.Peek(wire.HeaderLen)
	if err != nil {
		return err
	}
	header, err := wire.ParseHeader(head)
	if err != nil {
		return fmt.Errorf("reading from the BGP engine: %w", err)
	}
	msg, err := l.in.Peek(header.Len)
	if err != nil {
		return err
	}
	if l.pass(header.Type) {
		l.left = append(l.left[:0], msg...)
	}
	_, err = l.in.Discard(header.Len)
	return err
}

func (l *leg) pass(t wire.Type) bool {
	switch {
	case t == wire.TypeOpen && !l.opened:
		l.opened = true
		return false
	case t == wire.TypeKeepalive && l.kept && l.endless.Load():
		return false
	case t == wire.TypeKeepalive:
		l.kept = true
	}
	return true
}

// Write implements net.Conn. The relay writes whole messages.
func (l *leg) Write(b []byte) (int, error) {
	header, err := wire.ParseHeader(b)
	switch {
	case err == nil && header.Type == wire.TypeRouteRefresh:
		return len(b), l.refresh()
	case err == nil && header.Type == wire.TypeOpen && l.endless.Load():
		return len(b), l.writeOpen(b)
	}
	return l.TCPConn.Write(b)
}

// writeOpen tells the engine of a hold time where there is none.
func (l *leg) writeOpen(b []byte) error {
	open, err := wire.ParseOpen(b)
	if err != nil {
		return err
	}
	open.HoldTime = uint16(endlessHoldTime / time.Second)
	if b, err = open.Append(nil); err != nil {
		return err
	}
	_, err = l.TCPConn.Write(b)
	return err
}

// keepAlive keeps an engine without a hold time from missing the router.
func (l *leg) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(endlessKeepalive)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_, _ = l.TCPConn.Write(wire.AppendKeepalive(nil)) // its failure is the relay's to see
		case <-ctx.Done():
			return
		}
	}
}
