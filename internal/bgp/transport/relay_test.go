package transport

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/internal/bgp/wire"
)

// announcement is an UPDATE with a prefix.
var announcement = update(0, 0, 0, 0, 24, 198, 51, 100)

// update makes an UPDATE out of a body.
func update(body ...byte) []byte {
	b := wire.AppendEndOfRIB(nil, wire.IPv4Unicast)[:wire.HeaderLen]
	b = append(b, body...)
	b[16], b[17] = byte(len(b)>>8), byte(len(b))
	return b
}

func refresh(f wire.Family) []byte { return wire.RouteRefresh{Family: f}.Append(nil) }

func TestOpensAreRewritten(t *testing.T) {
	t.Parallel()
	var changes atomic.Int64
	r := newRig(t, func(c *RelayConfig) {
		c.RewriteOpen = func(o *wire.Open) { o.Capabilities.GracefulRestart.Restarting = true }
		c.Changed = func() { changes.Add(1) }
	})
	r.engine.send(encode(engineOpen()))
	ours := engineOpen()
	ours.Capabilities.GracefulRestart.Restarting = true
	r.router.expect("our OPEN", encode(ours))

	r.router.send(encode(routerOpen()))
	known := routerOpen()
	known.Capabilities.Families = known.Capabilities.Families[:2]
	known.Capabilities.ExtendedNextHop = known.Capabilities.ExtendedNextHop[:1]
	known.Capabilities.GracefulRestart.Families = known.Capabilities.GracefulRestart.Families[1:]
	known.Capabilities.Other = nil
	r.engine.expect("router's OPEN", encode(known))

	eventually(t, "both OPENs", func() bool { return r.relay.Session().PeerOpen != nil && r.relay.Session().LocalOpen != nil })
	s := r.relay.Session()
	theirs := routerOpen()
	if !reflect.DeepEqual(s.LocalOpen, &ours) || !reflect.DeepEqual(s.PeerOpen, &theirs) {
		t.Errorf("session has %+v and %+v", s.LocalOpen, s.PeerOpen)
	}
	if want := []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast}; !reflect.DeepEqual(s.Families, want) || s.HoldTime != 9*time.Second || !s.Established.IsZero() {
		t.Errorf("session is %+v", s)
	}
	if s.Local != addrPort(r.router.conn.RemoteAddr()) || s.Remote != addrPort(r.router.conn.LocalAddr()) {
		t.Errorf("session is from %s to %s", s.Local, s.Remote)
	}
	r.engine.send(keepalive)
	r.router.send(keepalive)
	r.engine.expect("keepalive", keepalive)
	if r.relay.Session().Established.IsZero() || changes.Load() < 3 {
		t.Errorf("session is %+v after %d changes", r.relay.Session(), changes.Load())
	}
}

func TestUpdatesBecomeKeepalives(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	r := newRig(t, func(c *RelayConfig) { c.Clock = clock })
	r.establish()
	// Within the interval nothing passes, and afterwards one; the notification
	// that follows shows what did.
	r.router.send(announcement, announcement, keepalive)
	eventually(t, "three messages", func() bool { m := r.relay.Session().Received; return m.Update == 2 && m.Keepalive == 2 })
	clock.SetTime(clock.Now().Add(keepaliveInterval))
	r.router.send(announcement, announcement, keepalive, update(0xff, 0xff, 0, 0))
	r.engine.expect("keepalive", keepalive)
	r.router.send(wire.Shutdown(wire.SubcodeAdminReset, "done").Append(nil))
	r.engine.expectNotification(wire.CodeCease, wire.SubcodeAdminReset)
	if got, want := r.relay.Session().Received, (Messages{Open: 1, Update: 5, Keepalive: 3, Notification: 1}); got != want {
		t.Errorf("received %+v", got)
	}
}

func TestShortHoldTimeIsKept(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	r := newRig(t, func(c *RelayConfig) {
		c.Clock = clock
		c.RewriteOpen = func(o *wire.Open) { o.HoldTime = 3 }
	})
	r.establish()
	clock.SetTime(clock.Now().Add(500 * time.Millisecond))
	r.router.send(announcement)
	r.engine.expect("keepalive", keepalive)
}

func TestEndOfRIBPassesOnce(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	r := newRig(t, func(c *RelayConfig) { c.Clock = clock })
	r.establish()
	long := update(0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1)
	other := update(0, 0, 0, 6, 0x80, 15, 3, 0, 25, 70)
	r.router.send(other, wire.AppendEndOfRIB(nil, wire.IPv4Unicast), long, wire.AppendEndOfRIB(nil, wire.IPv4Unicast), long)
	r.engine.expect("IPv4", wire.AppendEndOfRIB(nil, wire.IPv4Unicast))
	r.engine.expect("IPv6", wire.AppendEndOfRIB(nil, wire.IPv6Unicast))
	r.router.send(wire.Notification{Code: wire.CodeCease}.Append(nil))
	r.engine.expectNotification(wire.CodeCease, 0)
}

func TestRouteRefreshIsCoalesced(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.establish()
	start := time.Now()
	enhanced := wire.RouteRefresh{Family: wire.IPv4Unicast, Subtype: 1}.Append(nil)
	r.router.send(enhanced, refresh(wire.Family{AFI: 25, SAFI: 70}))
	r.router.send(bytes.Repeat(refresh(wire.IPv4Unicast), 1000), bytes.Repeat(refresh(wire.IPv6Unicast), 1000))
	r.engine.expect("first of IPv4", refresh(wire.IPv4Unicast))
	r.engine.expect("first of IPv6", refresh(wire.IPv6Unicast))
	// What came too early comes later, without a further message.
	var late [][]byte
	for range 2 {
		_, msg := r.engine.receive()
		late = append(late, msg)
	}
	if d := time.Since(start); d < refreshInterval {
		t.Errorf("asked again after %s", d)
	}
	slices.SortFunc(late, bytes.Compare)
	if !bytes.Equal(late[0], refresh(wire.IPv4Unicast)) || !bytes.Equal(late[1], refresh(wire.IPv6Unicast)) {
		t.Errorf("got %x", late)
	}
	r.router.send(wire.Notification{Code: wire.CodeCease}.Append(nil))
	r.engine.expectNotification(wire.CodeCease, 0)
}

func TestNotificationFromRouter(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.establish()
	n := wire.Shutdown(wire.SubcodeAdminShutdown, "maintenance")
	r.router.send(n.Append(nil))
	r.engine.expect("notification", n.Append(nil))
	_ = r.engine.conn.Close()
	err := r.wait()
	if err == nil || !strings.Contains(err.Error(), "administrative shutdown: maintenance") {
		t.Errorf("relay ended with %v", err)
	}
	s := r.relay.Session()
	if s.NotificationReceived == nil || s.NotificationReceived.Text() != "maintenance" || s.NotificationSent != nil || !errors.Is(s.Err, err) {
		t.Errorf("session is %+v", s)
	}
	r.router.expectEnd()
}

func TestNotificationOfUnknownDataIsCut(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.establish()
	r.router.send(wire.Notification{Code: wire.CodeUpdate, Subcode: 9, Data: make([]byte, 4000)}.Append(nil))
	r.engine.expect("notification", wire.Notification{Code: wire.CodeUpdate, Subcode: 9}.Append(nil))
}

func TestNotificationFromEngine(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.establish()
	// Even with something unread on its way, the router gets it.
	r.router.send(announcement)
	r.engine.send(wire.Shutdown(wire.SubcodeAdminShutdown, "drained").Append(nil))
	_ = r.engine.conn.Close()
	if n := r.router.expectNotification(wire.CodeCease, wire.SubcodeAdminShutdown); n.Text() != "drained" {
		t.Errorf("router is told %s", n)
	}
	r.router.expectEnd()
	_ = r.router.conn.Close()
	if err := r.wait(); !strings.Contains(err.Error(), "sent notification: cease: administrative shutdown: drained") {
		t.Errorf("relay ended with %v", err)
	}
	if s := r.relay.Session(); s.NotificationSent == nil || s.Sent.Notification != 1 {
		t.Errorf("session is %+v", s)
	}
}

func TestEndTellsRouter(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.establish()
	r.relay.End(wire.Notification{Code: wire.CodeCease, Subcode: wire.SubcodeBFDDown})
	r.relay.End(wire.Notification{Code: wire.CodeCease})
	r.router.expectNotification(wire.CodeCease, wire.SubcodeBFDDown)
	r.router.expectEnd()
	r.engine.expectEnd()
	_, _ = r.router.conn.Close(), r.engine.conn.Close()
	if err := r.wait(); !strings.Contains(err.Error(), "BFD down") {
		t.Errorf("relay ended with %v", err)
	}
	if s := r.relay.Session(); s.NotificationSent == nil || s.NotificationSent.Subcode != wire.SubcodeBFDDown || s.Sent.Notification != 1 {
		t.Errorf("session is %+v", s)
	}
}

func TestContextEndsQuietly(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.establish()
	start := time.Now()
	r.cancel()
	if err := r.wait(); !errors.Is(err, context.Canceled) || time.Since(start) > lingerTimeout {
		t.Errorf("relay ended with %v after %s", err, time.Since(start))
	}
	r.router.expectEnd()
	r.engine.expectEnd()
}

func TestEitherSideCloses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		close func(*rig)
		want  string
	}{
		"router":      {func(r *rig) { _ = r.router.conn.Close() }, "router closed the connection"},
		"mid-message": {func(r *rig) { r.router.send(announcement[:25]); _ = r.router.conn.Close() }, "in the middle of a message"},
		"mid-header":  {func(r *rig) { r.router.send(announcement[:5]); _ = r.router.conn.Close() }, "in the middle of a message"},
		"engine":      {func(r *rig) { _ = r.engine.conn.Close() }, "closed by the BGP engine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.establish()
			c.close(r)
			if err := r.wait(); !strings.Contains(err.Error(), c.want) {
				t.Errorf("relay ended with %v", err)
			}
			if s := r.relay.Session(); s.NotificationSent != nil || s.Sent.Notification != 0 {
				t.Errorf("session is %+v", s)
			}
		})
	}
}

// The text of an error is the same one on every connection.
func TestErrorsNameNoPort(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.establish()
	_ = r.router.conn.SetLinger(0)
	_ = r.router.conn.Close()
	if err := r.wait(); err.Error() != "reading from router: read: connection reset by peer" {
		t.Errorf("relay ended with %v", err)
	}
	l := leg{conn: r.relay.config.Router, name: "router"}
	if err := l.write(keepalive); err == nil || err.Error() != "writing to router: use of closed network connection" {
		t.Errorf("writing ended with %v", err)
	}
}

func TestOpenIsRefused(t *testing.T) {
	t.Parallel()
	bad := encode(routerOpen())
	bad[wire.HeaderLen] = 3
	foreign := routerOpen()
	foreign.Capabilities.Families = foreign.Capabilities.Families[2:]
	for name, c := range map[string]struct {
		send []byte
		want [2]uint8
	}{
		"version":  {bad, [2]uint8{wire.CodeOpen, wire.SubcodeVersion}},
		"families": {encode(foreign), [2]uint8{wire.CodeOpen, wire.SubcodeUnsupportedCapability}},
		"check":    {encode(engineOpen()), [2]uint8{wire.CodeOpen, wire.SubcodeBadPeerAS}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(rc *RelayConfig) {
				rc.CheckOpen = func(o wire.Open) (*wire.Notification, error) {
					if o.ASN != routerOpen().ASN {
						return &wire.Notification{Code: wire.CodeOpen, Subcode: wire.SubcodeBadPeerAS}, errors.New("AS number differs")
					}
					return nil, nil
				}
			})
			r.router.send(c.send)
			r.router.expectNotification(c.want[0], c.want[1])
			r.engine.expectEnd()
		})
	}
}

func TestBrokenProtocolIsAnswered(t *testing.T) {
	t.Parallel()
	marker := bytes.Clone(keepalive)
	marker[0] = 0
	long := bytes.Clone(announcement)
	long[16], long[17] = 0x10, 0x01
	kind := bytes.Clone(keepalive)
	kind[18] = 77
	header := func(sub uint8) [2]uint8 { return [2]uint8{wire.CodeHeader, sub} }
	fsm := func(sub uint8) [2]uint8 { return [2]uint8{wire.CodeStateMachine, sub} }
	for name, c := range map[string]struct {
		send  []byte
		phase phase
		want  [2]uint8
	}{
		"marker":                 {marker, established, header(wire.SubcodeNotSynchronized)},
		"length":                 {long, established, header(wire.SubcodeBadLength)},
		"type":                   {kind, established, header(wire.SubcodeBadType)},
		"marker at first":        {marker, openSent, header(wire.SubcodeNotSynchronized)},
		"update at first":        {announcement, openSent, fsm(wire.SubcodeUnexpectedInOpenSent)},
		"keepalive at first":     {keepalive, openSent, fsm(wire.SubcodeUnexpectedInOpenSent)},
		"update unconfirmed":     {announcement, openConfirm, fsm(wire.SubcodeUnexpectedInOpenConfirm)},
		"open twice":             {encode(routerOpen()), openConfirm, fsm(wire.SubcodeUnexpectedInOpenConfirm)},
		"open while established": {encode(routerOpen()), established, fsm(wire.SubcodeUnexpectedInEstablished)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			switch c.phase {
			case openConfirm:
				r.router.send(encode(routerOpen()))
				r.engine.receive()
			case established:
				r.establish()
			}
			// What follows does not get through, and does not keep the answer
			// from arriving.
			r.router.send(c.send, bytes.Repeat(announcement, 1000))
			r.router.expectNotification(c.want[0], c.want[1])
			r.router.expectEnd()
			r.engine.expectEnd()
			_, _ = r.router.conn.Close(), r.engine.conn.Close()
			if err := r.wait(); !strings.Contains(err.Error(), "router broke the protocol") {
				t.Errorf("relay ended with %v", err)
			}
		})
	}
}

func TestRouterWithoutOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *RelayConfig) {
		c.OpenTimeout, c.Silence = 20*time.Millisecond, Options{MinTTL: 255}.SilentReasons()
	})
	r.router.expectNotification(wire.CodeHoldTimer, 0)
	_, _ = r.router.conn.Close(), r.engine.conn.Close()
	if err := r.wait(); !strings.Contains(err.Error(), "router sent no OPEN for 20ms (so it looks, too, when ttlSecurity") {
		t.Errorf("relay ended with %v", err)
	}
}

// What is waited for is the OPEN, not more.
func TestOpenTimeoutEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *RelayConfig) { c.OpenTimeout = 2 * time.Second })
	r.establish()
	select {
	case err := <-r.ended:
		t.Errorf("relay ended with %v", err)
	case <-time.After(3 * time.Second):
	}
}

func TestOutboundIsUntouched(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.establish()
	// Larger than a batch, in pieces that cut messages apart.
	var sent []byte
	for i := range 5000 {
		sent = append(sent, update(0, 0, 0, 0, 32, 10, 0, byte(i>>8), byte(i))...)
	}
	sent = append(sent, update(make([]byte, wire.MaxLen-wire.HeaderLen)...)...)
	sent = append(append(sent, keepalive...), refresh(wire.IPv6Unicast)...)
	go func() {
		for part := range slices.Chunk(sent, 1337) {
			if _, err := r.engine.conn.Write(part); err != nil {
				t.Error(err)
			}
		}
	}()
	var got []byte
	for len(got) < len(sent) {
		_, msg := r.router.receive()
		got = append(got, msg...)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what arrived is not what was sent")
	}
	if m, want := r.relay.Session().Sent, (Messages{Open: 1, Update: 5001, Keepalive: 2, RouteRefresh: 1}); m != want {
		t.Errorf("sent %+v", m)
	}
}

// A router that reads nothing costs its session within the hold time, not the
// memory for all that it does not read.
func TestStuckRouter(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *RelayConfig) {
		c.RewriteOpen = func(o *wire.Open) { o.HoldTime = 3 }
	})
	r.establish()
	start := time.Now()
	full := update(make([]byte, wire.MaxLen-wire.HeaderLen)...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := r.engine.conn.Write(full); err != nil {
				return
			}
		}
	}()
	err := r.wait()
	<-done
	if !strings.Contains(err.Error(), "router has read nothing for 3s") {
		t.Errorf("relay ended with %v", err)
	}
	if d := time.Since(start); d < 3*time.Second || d > patience {
		t.Errorf("relay ended after %s", d)
	}
}
