package l2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// A fixture is an Announcer on a FakeWire. Its clock stands still unless a
// helper moves it, so that repetitions are not taken for first announcements.
type fixture struct {
	*Announcer
	t     *testing.T
	time  *clocktesting.FakeClock
	wire  *FakeWire
	links *netif.Fake
	log   *logLines
	stop  func()
}

// logLines collects log lines.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Log(kv ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for i := 0; i+1 < len(kv); i += 2 {
		fmt.Fprintf(&b, "%v=%v ", kv[i], kv[i+1])
	}
	l.lines = append(l.lines, b.String())
	return nil
}

func (l *logLines) count(substr string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, substr) {
			n++
		}
	}
	return n
}

// start runs an Announcer with eth0 (index 2) and eth1 (index 3).
func start(t *testing.T, wire *FakeWire) *fixture {
	t.Helper()
	return startWith(t, wire, func(*Config) {})
}

// startWith is start with another configuration.
func startWith(t *testing.T, wire *FakeWire, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, wire: wire, links: netif.NewFake(), log: &logLines{}, time: clocktesting.NewFakeClock(time.Unix(1000, 0))}
	f.links.Set(testLink(2, "eth0"), testLink(3, "eth1"))
	var err error
	cfg := Config{Links: f.links, Wire: wire, Clock: f.time, Logger: f.log, Metrics: NewMetrics(prometheus.NewRegistry())}
	change(&cfg)
	f.Announcer, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// on is Desired for addresses on eth0.
func on(addrs ...string) Desired {
	d := make(Desired)
	for _, a := range addrs {
		d[ip(a)] = Announcement{Interfaces: []string{"eth0"}}
	}
	return d
}

// await waits until cond holds, moving the clock by the least that makes the
// Announcer go on, and by less than announceInterval in all.
func (f *fixture) await(what string, cond func() bool) {
	f.t.Helper()
	for step := range 40 {
		for range min(5+step*step, 300) { // milliseconds, more as patience is needed
			if cond() {
				return
			}
			time.Sleep(time.Millisecond)
		}
		f.time.Step(convergeInterval)
	}
	f.t.Fatalf("waited in vain for %s; sent:\n%s", what, f.wire)
}

// applied waits until the addresses on eth0 are those of d.
func (f *fixture) applied(d Desired) {
	f.t.Helper()
	f.await(fmt.Sprintf("%d addresses to be applied", len(d)), func() bool {
		s := f.Applied()
		if len(s.Addresses) != len(d) {
			return false
		}
		for a := range d {
			if !slices.Contains(s.Addresses[a], "eth0") {
				return false
			}
		}
		return f.Lag() == 0
	})
}

// sent waits until a line that contains substr has been sent n times.
func (f *fixture) sent(n int, substr string) {
	f.t.Helper()
	f.await(substr, func() bool { return strings.Count(f.wire.String(), substr) >= n })
}

func (f *fixture) state(name string, proto Protocol) InterfaceState {
	for _, s := range f.Applied().Interfaces {
		if s.Name == name && s.Protocol == proto {
			return s
		}
	}
	return InterfaceState{}
}

func TestApplyConvergesAndReports(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	changed, cancel := f.Subscribe()
	defer cancel()
	d := on("192.0.2.10", "2001:db8::10")
	d[ip("192.0.2.11")] = Announcement{Interfaces: []string{"eth0", "eth1", "eth7"}}
	f.Apply(d)
	f.applied(d)
	<-changed
	s := f.Applied()
	if got := s.Addresses[ip("192.0.2.11")]; !slices.Equal(got, []string{"eth0", "eth1"}) {
		t.Errorf("192.0.2.11 is applied on %v", got)
	}
	var got []string
	for _, i := range s.Interfaces {
		got = append(got, fmt.Sprintf("%s/%s %d %v", i.Name, i.Protocol, i.Addresses, i.Err))
	}
	want := []string{"eth0/arp 2 <nil>", "eth0/ndp 1 <nil>", "eth1/arp 1 <nil>", "eth7/arp 0 interface eth7: no such interface"}
	if !slices.Equal(got, want) {
		t.Errorf("got interfaces %q\nwant %q", got, want)
	}
	if v := gather(f.metrics.addresses)["eth0/arp"]; v != 2 {
		t.Errorf("berth_l2_addresses is %v, want 2", v)
	}

	// The same again moves nothing, logs nothing, and tells nobody.
	lines := f.log.count("")
	f.wire.Reset()
	for len(changed) > 0 {
		<-changed
	}
	f.Apply(d)
	f.await("convergence", func() bool { return f.Lag() == 0 })
	if n := f.log.count(""); n != lines || len(changed) != 0 {
		t.Errorf("applying the same again logged %d lines and notified %d times", n-lines, len(changed))
	}
	f.Apply(Desired{})
	f.applied(Desired{})
	if n := len(f.Applied().Interfaces); n != 0 {
		t.Errorf("%d interfaces are left", n)
	}
	if n := len(gather(f.metrics.received)); n != 0 {
		t.Errorf("%d series are left of interfaces that are not used", n)
	}
}

func TestApplyKeepsNoReference(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	d := on("192.0.2.10")
	d[ip("::ffff:192.0.2.11")] = Announcement{Interfaces: []string{"eth0"}}
	f.Apply(d)
	d[ip("192.0.2.10")].Interfaces[0] = "eth1"
	clear(d)
	f.applied(on("192.0.2.10", "192.0.2.11"))
}

func TestWithdrawnAddressIsSilentAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	f.Apply(on("192.0.2.10", "192.0.2.11"))
	f.applied(on("192.0.2.10", "192.0.2.11"))
	// The Announcer is busy elsewhere: Apply alone has to do.
	f.stop()
	p := f.newPort(portKey{"eth0", ARP}, identity{2, ourself()})
	if p.respond(nil, arpFrame{}.bytes(t)) == nil {
		t.Fatal("no answer for an address that is owned")
	}
	f.Apply(on("192.0.2.11"))
	if reply := p.respond(nil, arpFrame{}.bytes(t)); reply != nil {
		t.Fatalf("answered after withdrawal: %s", describe(reply))
	}
}

func TestAnnounceAgain(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	f.Apply(on("192.0.2.10", "2001:db8::10"))
	f.sent(1, "na 2001:db8::10 > ff02::1 target 2001:db8::10")
	f.sent(1, "operationreply 192.0.2.10")
	f.wire.Reset()
	f.Announce(ip("192.0.2.10"), ip("192.0.2.99"))
	f.sent(1, "operationreply 192.0.2.10")
	if s := f.wire.String(); strings.Contains(s, "2001:db8::10") || strings.Contains(s, "192.0.2.99") {
		t.Errorf("announced more than asked for:\n%s", s)
	}
	f.wire.Reset()
	f.Announce()
	f.sent(1, "target 2001:db8::10")
	f.sent(1, "operationreply 192.0.2.10")
}

func TestCarrierFlapAnnouncesAgain(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	f.Apply(on("192.0.2.10"))
	f.sent(1, "operationreply 192.0.2.10")
	f.wire.Reset()
	flapped := testLink(2, "eth0")
	flapped.CarrierChanges = 2
	f.links.Set(flapped)
	f.sent(1, "operationreply 192.0.2.10")
	f.wire.Reset()
	flapped.MAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x77}
	f.links.Set(flapped)
	f.sent(1, "operationreply 192.0.2.10 is-at 02:00:00:00:00:77")
}

func TestLinkFailsAndRecovers(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	f.Apply(on("192.0.2.10"))
	f.sent(1, "operationreply 192.0.2.10")
	down := testLink(2, "eth0")
	down.Up = false
	f.links.Set(down)
	f.await("the interface to be reported", func() bool { return errors.Is(f.state("eth0", ARP).Err, netif.ErrDown) })
	if n := len(f.Applied().Addresses); n != 0 {
		t.Errorf("%d addresses are applied on a link that is down", n)
	}
	if f.wire.Deliver("eth0", arpFrame{}.bytes(t)) {
		t.Error("the socket is still open")
	}
	f.wire.Reset()
	f.links.Set(testLink(2, "eth0"))
	f.sent(1, "operationreply 192.0.2.10")
	if n := f.log.count("cannot announce"); n != 1 {
		t.Errorf("the failure was logged %d times, want once", n)
	}
}

func TestSocketFailsAndIsRetried(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	f.Apply(on("192.0.2.10", "2001:db8::10"))
	f.applied(on("192.0.2.10", "2001:db8::10"))
	f.wire.Break("eth0", unix.ENETDOWN) // while the Announcer rests from applying
	f.await("the failure to be reported", func() bool {
		return errors.Is(f.state("eth0", ARP).Err, unix.ENETDOWN) && errors.Is(f.state("eth0", NDP).Err, unix.ENETDOWN)
	})
	attempts := func() float64 { return gather(f.metrics.errors)["eth0/"+kindOpen+"/arp"] }
	f.await("more attempts", func() bool { return attempts() >= 2 })
	f.wire.Reset()
	f.wire.Break("eth0", nil)
	f.applied(on("192.0.2.10", "2001:db8::10"))
	f.sent(1, "operationreply 192.0.2.10")
	if n := f.log.count("cannot announce"); n != 2 {
		t.Errorf("two failures were logged %d times", n)
	}
}

// TestUnsentIsTold: that no packet leaves is known as long as none does.
func TestUnsentIsTold(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	f.wire.Refuse("eth0", unix.ENOBUFS)
	f.Apply(on("192.0.2.10"))
	f.await("a packet that does not leave", func() bool { return f.state("eth0", ARP).SendErrors >= 2 })
	first := f.state("eth0", ARP)
	if u := first.Unsent; !errors.Is(u.Err, unix.ENOBUFS) || u.First.IsZero() || first.Err != nil {
		t.Errorf("Unsent is %+v, Err %v", u, first.Err)
	}
	f.time.Step(announceInterval)
	f.await("the next announcement", func() bool { return f.state("eth0", ARP).SendErrors >= first.SendErrors+2 })
	if u := f.state("eth0", ARP).Unsent; !u.First.Equal(first.Unsent.First) || u.Last.Sub(u.First) < announceInterval {
		t.Errorf("Unsent is %+v, was %+v a second ago", u, first.Unsent)
	}
	f.wire.Refuse("eth0", nil)
	f.time.Step(announceInterval)
	f.sent(1, "operationreply 192.0.2.10")
	if s := f.state("eth0", ARP); s.Unsent != (Unsent{}) || s.SendErrors < 4 {
		t.Errorf("after a packet has left: %+v, %d errors", s.Unsent, s.SendErrors)
	}
}

// TestLinkThatReturnsIsTriedAtOnce: the back-off of a socket that failed for long
// must not delay an address whose link has come back.
func TestLinkThatReturnsIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	f.wire.Break("eth0", unix.EPERM)
	f.Apply(on("192.0.2.10"))
	eventually(t, "a long back-off", func() bool {
		f.time.Step(time.Second)
		return gather(f.metrics.errors)["eth0/"+kindOpen+"/arp"] >= 9
	})
	f.wire.Break("eth0", nil)
	down := testLink(2, "eth0")
	down.Up = false
	f.links.Set(down)
	f.await("the loss of the link to show", func() bool { return errors.Is(f.state("eth0", ARP).Err, netif.ErrDown) })
	f.links.Set(testLink(2, "eth0"))
	f.applied(on("192.0.2.10"))
}

func TestGroupsFollowAddresses(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{GroupLimit: 3})
	groups := func(want ...string) {
		t.Helper()
		f.await(fmt.Sprintf("groups %v", want), func() bool {
			return fmt.Sprint(f.wire.Groups(2)) == fmt.Sprint(want)
		})
	}
	// ::10 and 1::10 share a group; 8 groups need three sockets of three.
	var many []string
	var manyGroups []string
	for i := range 8 {
		many = append(many, fmt.Sprintf("2001:db8::1%d", i))
		manyGroups = append(manyGroups, fmt.Sprintf("ff02::1:ff00:1%d", i))
	}
	f.Apply(on(append(many, "2001:db8:1::10")...))
	groups(manyGroups...)
	f.Apply(on("2001:db8:1::10", "2001:db8::17"))
	groups("ff02::1:ff00:10", "ff02::1:ff00:17")
	f.Apply(on("2001:db8::17", "192.0.2.10"))
	groups("ff02::1:ff00:17")
	f.Apply(on(many...))
	groups(manyGroups...)
	f.Apply(on("192.0.2.10"))
	groups()
}

func TestGroupThatCannotBeJoinedIsReported(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{GroupLimit: -1})
	f.Apply(on("2001:db8::10"))
	f.await("the failure to be reported", func() bool { return errors.Is(f.state("eth0", NDP).Err, ErrGroupsFull) })
	f.applied(on("2001:db8::10")) // it answers what reaches it all the same
	f.wire.Deliver("eth0", nsFrame{}.bytes(t))
	f.sent(1, "na 2001:db8::10 > fe80::99 target 2001:db8::10")
	f.Apply(on("192.0.2.10"))
	f.await("the protocol to be forgotten", func() bool { return f.state("eth0", NDP) == (InterfaceState{}) })
}

func TestWhatNoHostCanHaveIsLeftOut(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	d := on("192.0.2.10", "224.0.0.1", "127.0.0.1", "::", "ff02::1", "::1")
	d[netip.Addr{}] = Announcement{Interfaces: []string{"eth0"}}
	f.Apply(d)
	f.applied(on("192.0.2.10"))
}

func TestManyAddressesAreAppliedAndForeignOnesDoNotWake(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	d := make(Desired)
	for i := range uint32(10000) {
		d[addr4(0x0a000000+i)] = Announcement{Interfaces: []string{"eth0"}}
		d[addr6(1, i)] = Announcement{Interfaces: []string{"eth0"}}
	}
	before := time.Now()
	f.Apply(d)
	f.applied(d)
	t.Logf("20,000 addresses applied in %v", time.Since(before))
	for _, a := range []netip.Addr{addr4(0x0a000000 + 10000), addr4(0x09ffffff), ip("192.0.2.10")} {
		if f.wire.Deliver("eth0", arpFrame{target: a}.bytes(t)) {
			t.Errorf("foreign %s wakes the reader", a)
		}
	}
	if f.wire.Deliver("eth0", nsFrame{target: addr6(1, 10000)}.bytes(t)) || f.wire.Deliver("eth0", nsFrame{target: addr6(2, 1)}.bytes(t)) {
		t.Error("a foreign IPv6 address wakes the reader")
	}
	f.wire.Deliver("eth0", arpFrame{target: addr4(0x0a000000 + 9999)}.bytes(t))
	f.sent(1, "is-at 02:00:00:00:00:01 to 192.0.2.99")
	malformed := nsFrame{target: addr6(1, 7), changeAfterwards: func(b []byte) []byte { b[etherLen+ether.IPv6Len+3]++; return b }}.bytes(t)
	f.wire.Deliver("eth0", malformed)
	f.await("the malformed packet to be counted", func() bool {
		return gather(f.metrics.errors)["eth0/"+kindMalformed+"/ndp"] == 1
	})
}

func TestNewNeedsLinks(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil {
		t.Fatal("New without Links succeeded")
	}
}
