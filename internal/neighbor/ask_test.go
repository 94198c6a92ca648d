package neighbor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

func TestAsk(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"192.0.2.9", "2001:db8::9", "fe80::9"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			host, target := r.host(addr)
			ask := func(target Target) (mac ether.MAC, took time.Duration, err error) {
				took = r.during(func() { mac, err = r.p.Ask(t.Context(), target, 3, 40*time.Millisecond) })
				return mac, took, err
			}
			for _, to := range []ether.MAC{host.mac, {}} {
				target.MAC = to
				if mac, took, err := ask(target); mac != host.mac || err != nil || took > 43*time.Millisecond {
					t.Errorf("got %s, %v after %v", mac, err, took)
				}
			}
			host.dead = true
			r.wire.Reset()
			if mac, took, err := ask(target); !errors.Is(err, ErrNoAnswer) || took < 120*time.Millisecond || took > 123*time.Millisecond {
				t.Errorf("got %s, %v after %v", mac, err, took)
			}
			if n := strings.Count(r.wire.String(), "who has "+addr); n != 3 {
				t.Errorf("asked %d times", n)
			}
			r.wire.Unplug("eth0", true)
			if _, _, err := ask(target); !errors.Is(err, netif.ErrNoCarrier) || errors.Is(err, ErrNoAnswer) {
				t.Errorf("without carrier got %v", err)
			}
			target.Interface = "eth1"
			if _, _, err := ask(target); !errors.Is(err, errNoInterface) {
				t.Errorf("on a missing interface got %v", err)
			}
			target.Interface = "eth0"
			r.wire.Break("eth0", unix.ENETDOWN)
			if _, _, err := ask(target); !errors.Is(err, unix.ENETDOWN) {
				t.Errorf("on a broken socket got %v", err)
			}
		})
	}
}

// TestAskAgain: the first answer may be lost.
func TestAskAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	host, target := r.host("192.0.2.9")
	host.dead = true
	r.onAsk = func(netip.Addr, bool) {
		host.dead = strings.Count(r.wire.String(), "request") < 3
	}
	var err error
	took := r.during(func() { _, err = r.p.Ask(t.Context(), target, 3, 40*time.Millisecond) })
	if err != nil || took < 80*time.Millisecond || took > 84*time.Millisecond {
		t.Errorf("got %v after %v", err, took)
	}
}

// TestAskStalled: the answer waits in the socket when the time is long over.
func TestAskStalled(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	_, target := r.host("192.0.2.9")
	answer := make(chan error, 1)
	go func() {
		_, err := r.p.Ask(t.Context(), target, 1, 40*time.Millisecond)
		answer <- err
	}()
	eventually(t, "the question", func() bool { return r.jobs() == 1 })
	r.advance(0)
	r.stall(time.Second)
	r.advance(time.Millisecond)
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

func TestAskEndsWithContext(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	_, target := r.host("192.0.2.9")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.p.Ask(ctx, target, 3, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("Ask returned %v", err)
	}
	if _, _, err := r.p.Detect(ctx, "eth0", target.Addr); !errors.Is(err, context.Canceled) {
		t.Errorf("Detect returned %v", err)
	}
	if r.jobs() != 0 {
		t.Error("a job is left")
	}
	r.p.shut()
	if _, err := r.p.Ask(t.Context(), target, 3, time.Second); !errors.Is(err, errStopped) {
		t.Errorf("Ask returned %v after the end", err)
	}
}

// TestSocketLingers: questions come in series, and end some day.
func TestSocketLingers(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	_, target := r.host("192.0.2.9")
	for range 3 {
		r.during(func() { _, _ = r.p.Ask(t.Context(), target, 1, 40*time.Millisecond) })
		r.advance(linger / 2)
	}
	if n := len(r.wire.on("eth0")); n != 1 {
		t.Fatalf("%d sockets are open", n)
	}
	r.advance(linger)
	r.p.serving.Wait()
	if n := len(r.wire.on("eth0")); n != 0 || len(r.p.lanes) != 0 {
		t.Errorf("%d sockets are left open", n)
	}
}

func TestDetectAsksAsItShould(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.9":   "eth0 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff arp operationrequest who has 192.0.2.9 tell 0.0.0.0 at 02:00:00:00:00:01",
		"2001:db8::9": "eth0 02:00:00:00:00:01 > 33:33:ff:00:00:09 ns :: > ff02::1:ff00:9 who has 2001:db8::9",
	} {
		r := newRig(t, Config{})
		var found bool
		var err error
		took := r.during(func() { _, found, err = r.p.Detect(t.Context(), "eth0", ip(addr)) })
		if found || err != nil || took < 300*time.Millisecond || took > 302*time.Millisecond {
			t.Errorf("%s: got %t, %v after %v", addr, found, err, took)
		}
		if got := r.wire.String(); got != want+"\n"+want+"\n"+want {
			t.Errorf("%s: sent\n%s", addr, got)
		}
		if g := r.wire.Groups("eth0"); len(g) != 0 {
			t.Errorf("%s: groups %v are left", addr, g)
		}
	}
}

// TestDetectHears delivers one frame while an address is being detected.
func TestDetectHears(t *testing.T) {
	t.Parallel()
	a4, a6, group := ip("192.0.2.9"), ip("2001:db8::9"), ip("ff02::1:ff00:9")
	rival, stranger := ether.ARPSide{MAC: peerMAC, IP: a4}, ether.ARPSide{IP: ip("192.0.2.77")}
	probe := func(mac ether.MAC) []byte {
		return arpFrame(ether.Broadcast, arp.OperationRequest, ether.ARPSide{MAC: mac, IP: ip("0.0.0.0")}, ether.ARPSide{IP: a4})
	}
	dad := func(mac ether.MAC, target netip.Addr) []byte {
		return ndpFrame(t, ether.GroupMAC(group), mac, ip("::"), group, &ndp.NeighborSolicitation{TargetAddress: target})
	}
	na := func(mac ether.MAC, target netip.Addr) []byte {
		return ndpFrame(t, ether.AllNodes, mac, target, ip("ff02::1"), &ndp.NeighborAdvertisement{
			Override: true, TargetAddress: target, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac[:]}},
		})
	}
	for _, tc := range []struct {
		name      string
		addr      netip.Addr
		frame     []byte
		disregard []ether.MAC
		want      bool
	}{
		{"reply", a4, arpReply(peerMAC, a4), nil, true},
		{"announcement", a4, arpFrame(ether.Broadcast, arp.OperationRequest, rival, ether.ARPSide{IP: a4}), nil, true},
		{"question by the rival", a4, arpFrame(ether.Broadcast, arp.OperationRequest, rival, stranger), nil, true},
		{"another's probe", a4, probe(peerMAC), nil, true},
		{"our own probe, looped back", a4, probe(ourMAC), nil, false},
		{"a speaker's probe", a4, probe(peerMAC), []ether.MAC{{1}, peerMAC}, false},
		{"a speaker's reply", a4, arpReply(peerMAC, a4), []ether.MAC{peerMAC}, false},
		{"a client's question", a4, arpFrame(ether.Broadcast, arp.OperationRequest, ether.ARPSide{MAC: peerMAC, IP: ip("192.0.2.77")}, ether.ARPSide{IP: a4}), nil, false},
		{"reply for another address", a4, arpReply(peerMAC, ip("192.0.2.8")), nil, false},
		{"malformed", a4, arpReply(ether.Broadcast, a4), nil, false},
		{"advertisement", a6, na(peerMAC, a6), nil, true},
		{"another's probe, IPv6", a6, dad(peerMAC, a6), nil, true},
		{"our own probe, looped back, IPv6", a6, dad(ourMAC, a6), nil, false},
		{"a speaker's probe, IPv6", a6, dad(peerMAC, a6), []ether.MAC{peerMAC}, false},
		{"a speaker's advertisement", a6, na(peerMAC, a6), []ether.MAC{peerMAC}, false},
		{"another's probe for another address with the same end", a6, dad(peerMAC, ip("2001:db8:1::9")), nil, false},
		{"a client's question, IPv6", a6, ndpFrame(t, ether.GroupMAC(group), peerMAC, peerLL, group, &ndp.NeighborSolicitation{TargetAddress: a6}), nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			sent := 0
			r.onAsk = func(netip.Addr, bool) {
				if sent++; sent == 2 {
					r.post(20*time.Millisecond, tc.frame)
				}
			}
			var mac ether.MAC
			var found bool
			var err error
			r.during(func() { mac, found, err = r.p.Detect(t.Context(), "eth0", tc.addr, tc.disregard...) })
			if found != tc.want || err != nil || found && mac != peerMAC {
				t.Errorf("got %s, %t, %v", mac, found, err)
			}
			if n := r.counter("conflicts_total"); n != 0 != tc.want {
				t.Errorf("%v conflicts counted", n)
			}
		})
	}
}

func TestDetectFails(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"192.0.2.9", "2001:db8::9"} {
		r := newRig(t, Config{})
		sent := 0
		r.onAsk = func(netip.Addr, bool) {
			if sent++; sent == 2 {
				r.wire.Unplug("eth0", true)
			}
		}
		var err error
		r.during(func() { _, _, err = r.p.Detect(t.Context(), "eth0", ip(addr)) })
		if !errors.Is(err, netif.ErrNoCarrier) {
			t.Errorf("%s: got %v", addr, err)
		}
	}
}

// TestDetectMany detects more addresses than are allowed at once, some of which
// share a group, beside a watched target.
func TestDetectMany(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	_, target := r.host("2001:db8::9")
	r.host("2001:db8::7")
	r.p.Watch([]Target{target})
	const many = 2*maxDetects + 50
	var done sync.WaitGroup
	var mu sync.Mutex
	found := make(map[netip.Addr]bool)
	for i := range many {
		done.Go(func() {
			addr := ip(fmt.Sprintf("2001:db8:0:%x::%x", i/300, i%300))
			_, is, err := r.p.Detect(t.Context(), "eth0", addr)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("%s: %v", addr, err)
			}
			found[addr] = is
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(found) }
	eventually(t, "the first to begin", func() bool { return r.jobs() == maxDetects })
	eventually(t, "all to end", func() bool { r.advance(10 * time.Millisecond); return count() == many })
	done.Wait()
	for addr, is := range found {
		if is != (addr == ip("2001:db8::9") || addr == ip("2001:db8::7")) {
			t.Errorf("%s: found %t", addr, is)
		}
	}
	if h := r.health(target); h.Missed != 0 {
		t.Errorf("health %+v", h)
	}
	if g := r.wire.Groups("eth0"); len(g) != 0 {
		t.Errorf("groups %v are left", g)
	}
}

// TestRun has Run make the steps, with everything at once.
func TestRun(t *testing.T) {
	t.Parallel()
	links := netif.NewFake()
	links.Set(testLink(2, "eth0"))
	wire := &FakeWire{}
	wire.OnSend = func(ifname string, frame []byte) {
		var p arp.Packet
		if p.UnmarshalBinary(frame[ether.HeaderLen:]) == nil && p.TargetIP != ip("192.0.2.200") {
			wire.Deliver(ifname, arpReply(peerMAC, p.TargetIP))
		}
	}
	p, err := New(Config{Links: links, Wire: wire, Interval: 10 * time.Millisecond, DetectEvery: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	alive, dead := Target{Interface: "eth0", Addr: ip("192.0.2.9"), MAC: peerMAC}, Target{Interface: "eth0", Addr: ip("192.0.2.200")}
	p.Watch([]Target{alive, dead})
	for p.Heard()[dead].Missed < 3 || p.Heard()[alive].Answered.IsZero() {
		<-p.Changes()
	}
	if mac, err := p.Ask(ctx, alive, 1, time.Second); mac != peerMAC || err != nil {
		t.Errorf("Ask returned %s, %v", mac, err)
	}
	if _, err := p.Ask(ctx, dead, 2, 5*time.Millisecond); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("Ask returned %v", err)
	}
	if _, found, err := p.Detect(ctx, "eth0", alive.Addr); !found || err != nil {
		t.Errorf("Detect returned %t, %v", found, err)
	}
	if _, found, err := p.Detect(ctx, "eth0", dead.Addr); found || err != nil {
		t.Errorf("Detect returned %t, %v", found, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(wire.on("eth0")); n != 0 {
		t.Errorf("%d sockets are left open", n)
	}
}

// eventually waits until cond holds and fails the test if it does not.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
