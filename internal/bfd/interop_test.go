package bfd

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/internal/netnstest"
)

// A lab is a Monitor and another's router on one Ethernet.
type lab struct {
	t       testing.TB
	ns      [2]*netnstest.NS
	monitor *Monitor
	router  router
	stop    func()
}

func newLab(t testing.TB, start func(testing.TB, *netnstest.NS) router) *lab {
	t.Helper()
	l := &lab{t: t, ns: [2]*netnstest.NS{netnstest.New(t), netnstest.New(t)}}
	netnstest.Connect(l.ns[0], "eth0", l.ns[1], "eth0")
	for i, ns := range l.ns {
		ns.AddAddress("eth0", []string{"192.0.2.1/24", "192.0.2.2/24"}[i])
		ns.AddAddress("eth0", []string{"2001:db8::1/64", "2001:db8::2/64"}[i])
		ns.AddAddress("eth0", []string{"fe80::1/64", "fe80::2/64"}[i])
		settled(t, ns)
	}
	l.router = start(t, l.ns[1])
	l.monitor = New(Options{Logger: testLogger{t}, Metrics: NewMetrics(prometheus.NewRegistry())})
	l.stop = l.ns[0].Run(l.monitor.Run)
	return l
}

func (l *lab) state() Status { return stateOf(l.t, l.monitor, "s") }

func (l *lab) await(what string, cond func() bool) {
	l.t.Helper()
	defer func() {
		if !cond() {
			l.t.Logf("we: %+v", l.state())
		}
	}()
	netnstest.Eventually(l.t, what, cond)
}

// interop are sessions as we have them and as the router has them.
func interop() map[string]struct {
	ours   Config
	theirs routerSession
} {
	type both = struct {
		ours   Config
		theirs routerSession
	}
	theirs := routerSession{peer: ip("192.0.2.1"), receive: 200 * ms, transmit: 100 * ms, multiplier: 4}
	ours := Config{Name: "s", Peer: ip("192.0.2.2"), Receive: 60 * ms, Transmit: 60 * ms, DetectMultiplier: 5}
	v6, local, multi, multi6, weArePassive, theyArePassive := both{ours, theirs}, both{ours, theirs}, both{ours, theirs}, both{ours, theirs}, both{ours, theirs}, both{ours, theirs}
	v6.ours.Peer, v6.theirs.peer, v6.theirs.local = ip("2001:db8::2"), ip("2001:db8::1"), ip("2001:db8::2")
	local.ours.Peer, local.theirs.peer, local.theirs.local = ip("fe80::2%eth0"), ip("fe80::1%eth0"), ip("fe80::2")
	// BIRD sends over several hops with the kernel's TTL, which is 64.
	multi.ours.MinimumTTL, multi6.ours.MinimumTTL = 64, 64
	multi.ours.Multihop, multi.theirs.multihop, multi.theirs.local = true, true, ip("192.0.2.2")
	multi6.ours.Multihop, multi6.theirs.multihop = true, true
	multi6.ours.Peer, multi6.theirs.peer, multi6.theirs.local = ip("2001:db8::2"), ip("2001:db8::1"), ip("2001:db8::2")
	weArePassive.ours.Passive = true
	theyArePassive.theirs.passive = true
	return map[string]both{
		"IPv4": {ours, theirs}, "IPv6": v6, "link-local": local, "multihop": multi, "multihop6": multi6,
		"we are passive": weArePassive, "they are passive": theyArePassive,
	}
}

// TestInterop takes sessions of every kind with other implementations through
// their life: both come up and agree on rates and detection times, either end's
// changes are negotiated without a failure, a peer that hangs is noticed in time
// and an orderly end on either side is understood as such.
func TestInterop(t *testing.T) {
	t.Parallel()
	for kind, start := range routers() {
		for name, tc := range interop() {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, start)
				live(l, tc.ours, tc.theirs)
			})
		}
	}
}

func live(l *lab, ours Config, theirs routerSession) {
	t := l.t
	l.router.configure([]routerSession{theirs})
	l.monitor.Apply([]Config{ours})
	agreed := func(interval, detection, theirInterval, theirDetection time.Duration) func() bool {
		return func() bool {
			we, they := l.state(), l.router.state(theirs.peer)
			return we.State == Up && we.TransmitInterval == interval && we.DetectionTime == detection &&
				they.state == "up" && they.interval == theirInterval && they.detection == theirDetection
		}
	}
	l.await("agreement", agreed(200*ms, 400*ms, 100*ms, time.Second))
	up := l.state()
	time.Sleep(2 * time.Second) // nothing must happen while it passes

	ours.Receive, ours.Transmit = 150*ms, 250*ms
	l.monitor.Apply([]Config{ours})
	l.await("agreement after our change", agreed(250*ms, 600*ms, 150*ms, 1250*ms))
	theirs.receive, theirs.transmit = 300*ms, 50*ms
	l.router.configure([]routerSession{theirs})
	l.await("agreement after the router's change", agreed(300*ms, 600*ms, 150*ms, 1500*ms))
	if now := l.state(); now.Failures != 0 || !now.Since.Equal(up.Since) {
		t.Errorf("the session failed on a good path: %+v, then %+v", up, now)
	}

	stopped := time.Now()
	l.router.pause(true)
	l.await("detection", func() bool { return l.state().State != Up })
	t.Logf("the failure was detected after %v, 600ms are agreed", time.Since(stopped))
	if s := l.state(); s.Failures != 1 || s.Diagnostic != DetectionExpired {
		t.Errorf("after a failure: %+v", s)
	}
	l.router.pause(false)
	l.await("recovery", agreed(300*ms, 600*ms, 150*ms, 1500*ms))

	failures := l.state().Failures
	theirs.shutdown = true
	l.router.configure([]routerSession{theirs})
	l.await("the router's orderly end", func() bool { return l.state().State == Down })
	// BIRD just falls silent, which is a failure.
	_, silent := l.router.(*bird)
	if s := l.state(); silent != (s.Failures == failures+1) || silent != (s.RemoteState != AdminDown) {
		t.Errorf("after the router's orderly end: %+v", s)
	}
	theirs.shutdown = false
	l.router.configure([]routerSession{theirs})
	l.await("recovery", agreed(300*ms, 600*ms, 150*ms, 1500*ms))

	l.monitor.Apply(nil)
	l.await("the router to notice our orderly end", func() bool { return l.router.state(theirs.peer).state != "up" })
	if s := l.router.state(theirs.peer); !silent && s.diagnostic != "neighbor signaled session down" {
		t.Errorf("the router thinks that we went away because: %s", s.diagnostic)
	}
}

// A testLogger logs to its test.
type testLogger struct{ t testing.TB }

func (l testLogger) Log(keyvals ...any) error {
	l.t.Log(append([]any{time.Now().Format("05.000")}, keyvals...)...)
	return nil
}

// TestInteropEcho: FRR's echo packets come back through our kernel and ours
// through its.
func TestInteropEcho(t *testing.T) {
	t.Parallel()
	l := newLab(t, newFRR)
	for _, ns := range l.ns {
		forward(ns, true)
	}
	l.router.configure([]routerSession{{
		peer: ip("192.0.2.1"), local: ip("192.0.2.2"), receive: 100 * ms, transmit: 100 * ms, multiplier: 3, echo: true, echoInterval: 50 * ms,
	}})
	l.monitor.Apply([]Config{{Name: "s", Peer: ip("192.0.2.2"), Receive: 100 * ms, Transmit: 100 * ms, Echo: 50 * ms, EchoMode: true}})
	l.await("our echo packets to return", func() bool { return l.state().Echo })
	counters := func() (out struct {
		Input  int `json:"echo-packet-input"`
		Output int `json:"echo-packet-output"`
		Downs  int `json:"session-down"`
	}) {
		b := l.router.(*frr).vtysh("--command", "show bfd peer 192.0.2.1 local-address 192.0.2.2 counters json")
		if err := json.Unmarshal(b, &out); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		return out
	}
	l.await("FRR's echo packets to return", func() bool { return counters().Input >= 50 })
	if c, s := counters(), l.state(); c.Downs != 0 || s.Failures != 0 || !s.Echo || c.Output-c.Input > 5 {
		t.Errorf("%+v, %+v", c, s)
	}
}

// TestInteropRenewed: FRR makes its BFD session anew when the BGP session that
// it is for is established. It has not lost the path.
func TestInteropRenewed(t *testing.T) {
	t.Parallel()
	l := newLab(t, newFRR)
	l.router.(*frr).startBGP("router bgp 65002", "neighbor 192.0.2.1 remote-as 65001", "neighbor 192.0.2.1 bfd", "neighbor 192.0.2.1 passive")
	l.monitor.Apply([]Config{{Name: "s", Peer: ip("192.0.2.2"), Receive: 100 * ms, Transmit: 100 * ms}})
	l.await("the session to be up", func() bool { return l.state().State == Up })
	before := l.state().Since
	l.ns[0].Run(establishBGP)
	l.await("the new session to be up", func() bool { s := l.state(); return s.State == Up && s.Since.After(before) })
	if s := l.state(); s.Failures != 0 {
		t.Errorf("a failure was seen: %+v", s)
	}
}

// establishBGP is as much of BGP (RFC 4271) as it takes to establish a session
// with FRR: an OPEN of AS 65001 and a KEEPALIVE, again whenever FRR ends it.
func establishBGP(ctx context.Context) error {
	marker := bytes.Repeat([]byte{0xff}, 16)
	open := append(slices.Clone(marker), 0, 29, 1, 4, 65001>>8, 65001&0xff, 0, 180, 192, 0, 2, 1, 0)
	hello := append(append(open, marker...), 0, 19, 4)
	for ctx.Err() == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", "192.0.2.2:179")
		if err != nil {
			time.Sleep(100 * ms) // bgpd does not listen yet
			continue
		}
		end := context.AfterFunc(ctx, func() { _ = conn.Close() })
		if _, err := conn.Write(hello); err == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
		end()
		_ = conn.Close()
		time.Sleep(100 * ms) // nor may it be ready
	}
	return nil
}
