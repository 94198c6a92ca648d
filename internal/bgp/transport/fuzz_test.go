package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/bgp/wire"
)

// memConn is a connection that delivers what is given and remembers what is
// written.
type memConn struct {
	in  io.Reader
	out bytes.Buffer
}

func (c *memConn) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *memConn) Write(b []byte) (int, error) { return c.out.Write(b) }
func (*memConn) Close() error                  { return nil }
func (*memConn) CloseWrite() error             { return nil }
func (*memConn) SetLinger(int) error           { return nil }
func (*memConn) LocalAddr() net.Addr           { return &net.TCPAddr{} }
func (*memConn) RemoteAddr() net.Addr          { return &net.TCPAddr{} }
func (*memConn) SetDeadline(time.Time) error   { return nil }

func (*memConn) SetReadDeadline(time.Time) error  { return nil }
func (*memConn) SetWriteDeadline(time.Time) error { return nil }

// Whatever a router sends, at the beginning or once it is established, the
// engine gets well-formed, canonical messages only, and few.
func FuzzRouter(f *testing.F) {
	f.Add(false, encode(routerOpen()))
	f.Add(false, append(encode(routerOpen()), keepalive...))
	f.Add(true, announcement)
	f.Add(true, wire.AppendEndOfRIB(nil, wire.IPv6Unicast))
	f.Add(true, append(refresh(wire.IPv4Unicast), refresh(wire.IPv4Unicast)...))
	f.Add(true, wire.Shutdown(wire.SubcodeAdminShutdown, "bye").Append(nil))
	f.Fuzz(func(t *testing.T, established bool, sent []byte) {
		router, engine := &memConn{}, &memConn{in: bytes.NewReader(nil)}
		r := NewRelay(RelayConfig{Router: router, Engine: engine})
		if _, err := r.appendOutbound(nil, encode(engineOpen()), wire.TypeOpen); err != nil {
			t.Fatal(err)
		}
		if established {
			sent = bytes.Join([][]byte{encode(routerOpen()), keepalive, sent}, nil)
		}
		router.in = bytes.NewReader(sent)
		in := newInbound(r)
		err := in.run(context.Background())
		var end *endError
		if errors.As(err, &end) && end.send != nil {
			if _, err := wire.ParseNotification(end.send.Append(nil)); err != nil {
				t.Fatalf("%v cannot be answered: %v", end, err)
			}
		}
		checkEngine(t, engine.out.Bytes())
	})
}

// checkEngine demands that what the engine got is canonical.
func checkEngine(t *testing.T, got []byte) {
	t.Helper()
	in := bufio.NewReaderSize(bytes.NewReader(got), wire.MaxLen)
	count := make(map[wire.Type]int)
	for {
		msg, h, err := peekMessage(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("engine got %x: %v", got, err)
		}
		count[h.Type]++
		var again []byte
		switch h.Type {
		case wire.TypeOpen:
			o, _ := wire.ParseOpen(msg)
			again, _ = o.Append(nil)
		case wire.TypeUpdate:
			f, _ := wire.EndOfRIB(msg)
			again = wire.AppendEndOfRIB(nil, f)
		case wire.TypeNotification:
			n, _ := wire.ParseNotification(msg)
			again = n.Canonical().Append(nil)
		case wire.TypeRouteRefresh:
			m, _ := wire.ParseRouteRefresh(msg)
			again = m.Append(nil)
		case wire.TypeKeepalive:
			again = keepalive
		}
		if !bytes.Equal(msg, again) {
			t.Fatalf("engine got %x, whose canonical form is %x", msg, again)
		}
		_, _ = in.Discard(h.Len)
	}
	if count[wire.TypeOpen] > 1 || count[wire.TypeNotification] > 1 || count[wire.TypeUpdate] > 2 || count[wire.TypeRouteRefresh] > 2 || count[wire.TypeKeepalive] > 2 {
		t.Fatalf("engine got %v", count)
	}
}
