package neighbor

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

func TestWatchAsksAsItShould(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		target Target
		want   string
	}{
		{"ARP, unicast", Target{Interface: "eth0", Addr: ip("192.0.2.9"), MAC: peerMAC},
			"eth0 02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationrequest who has 192.0.2.9 tell 192.0.2.1 at 02:00:00:00:00:01"},
		{"ARP, everyone", Target{Interface: "eth0", Addr: ip("192.0.2.9")},
			"eth0 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff arp operationrequest who has 192.0.2.9 tell 192.0.2.1 at 02:00:00:00:00:01"},
		{"ARP beyond our subnets", Target{Interface: "eth0", Addr: ip("198.51.100.9"), MAC: peerMAC},
			"eth0 02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationrequest who has 198.51.100.9 tell 0.0.0.0 at 02:00:00:00:00:01"},
		{"NDP, unicast", Target{Interface: "eth0", Addr: ip("2001:db8::9"), MAC: peerMAC},
			"eth0 02:00:00:00:00:01 > 02:00:00:00:00:99 ns fe80::1 > 2001:db8::9 who has 2001:db8::9 tell 02:00:00:00:00:01"},
		{"NDP, everyone", Target{Interface: "eth0", Addr: ip("fe80::9%eth0")},
			"eth0 02:00:00:00:00:01 > 33:33:ff:00:00:09 ns fe80::1 > ff02::1:ff00:9 who has fe80::9 tell 02:00:00:00:00:01"},
	} {
		r := newRig(t, Config{})
		r.p.Watch([]Target{tc.target})
		r.advance(90 * time.Millisecond)
		if got := r.wire.String(); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func TestWatchCountsAnswersAndMisses(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"192.0.2.9", "2001:db8::9"} {
		r := newRig(t, Config{})
		host, target := r.host(addr)
		r.p.Watch([]Target{target})
		r.advance(5 * time.Second)
		h := r.health(target)
		if age := r.clock.Now().Sub(h.Answered); h.Missed != 0 || h.Err != nil || h.MAC != host.mac || age > 102*time.Millisecond {
			t.Fatalf("%s: health of one who lives is %+v, answered %v ago", addr, h, age)
		}
		if n := r.counter("probes_total"); n > r.counter("answers_total")+1 || n < 49 || n > 51 {
			t.Errorf("%s: %v probes and %v answers in 5 s", addr, n, r.counter("answers_total"))
		}
		r.pending()
		r.advance(time.Second)
		if r.pending() {
			t.Errorf("%s: a change was notified when nothing changed", addr)
		}
		host.dead = true
		died := r.clock.Now()
		for missed := range 5 {
			r.advance(100 * time.Millisecond)
			if h := r.health(target); h.Missed != missed && h.Missed != missed+1 {
				t.Errorf("%s: %d missed %v after death", addr, h.Missed, r.clock.Now().Sub(died))
			}
		}
		if !r.pending() {
			t.Errorf("%s: no change was notified", addr)
		}
		last := r.health(target).Answered
		if last.After(died) {
			t.Errorf("%s: answered after its death", addr)
		}
		host.dead = false
		r.advance(150 * time.Millisecond)
		if h := r.health(target); h.Missed != 0 || !h.Answered.After(died) || !r.pending() {
			t.Errorf("%s: health of one who is back is %+v", addr, h)
		}
	}
}

// TestLateAnswers: they come after a miss, which they take back.
func TestLateAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	host, target := r.host("192.0.2.9")
	host.delay = 70 * time.Millisecond
	r.p.Watch([]Target{target})
	for range 300 {
		r.advance(10 * time.Millisecond)
		if h := r.health(target); h.Missed > 1 {
			t.Fatalf("%d misses of one who answers late", h.Missed)
		}
	}
	if r.counter("missed_total") < 25 {
		t.Errorf("only %v misses: the test does not test what it should", r.counter("missed_total"))
	}
}

// TestStallsAreNotMisses stalls the Prober for any time: nobody is to blame but
// itself.
func TestStallsAreNotMisses(t *testing.T) {
	t.Parallel()
	for stall := 5 * time.Millisecond; stall < 2*time.Second; stall += 17 * time.Millisecond {
		r := newRig(t, Config{})
		host, target := r.host("192.0.2.9")
		host.delay = 40 * time.Millisecond
		r.p.Watch([]Target{target})
		for range 5 {
			r.advance(93 * time.Millisecond)
			r.stall(stall)
		}
		r.advance(200 * time.Millisecond)
		if n := r.counter("missed_total"); n > 0 {
			t.Fatalf("stalls of %v made %v misses", stall, n)
		}
	}
}

// TestGrace: after a stall an answer that the kernel itself was late to take in
// is still waited for, but not for ever.
func TestGrace(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	host, target := r.host("192.0.2.9")
	r.p.Watch([]Target{target})
	r.advance(101 * time.Millisecond) // answered, and asked again
	host.delay = 120 * time.Millisecond
	r.advance(100 * time.Millisecond)
	r.stall(90 * time.Millisecond) // 41 ms after the end of the wait
	r.advance(40 * time.Millisecond)
	if n := r.counter("missed_total"); n > 0 {
		t.Fatalf("%v misses", n)
	}
	host.dead = true
	r.advance(300 * time.Millisecond)
	before := r.counter("missed_total")
	for range 10 { // always late
		r.advance(50 * time.Millisecond)
		r.stall(50 * time.Millisecond)
	}
	if n := r.counter("missed_total") - before; n < 4 {
		t.Errorf("only %v misses of a dead host in a second of stalls", n)
	}
}

func TestOwnFaultsAreNotMisses(t *testing.T) {
	t.Parallel()
	t.Run("carrier", func(t *testing.T) {
		r := newRig(t, Config{})
		_, target := r.host("192.0.2.9")
		r.p.Watch([]Target{target})
		r.advance(time.Second)
		r.wire.Unplug("eth0", true) // no event tells it yet
		r.advance(time.Second)
		if h := r.health(target); h.Missed != 0 || !errors.Is(h.Err, netif.ErrNoCarrier) {
			t.Errorf("health without carrier is %+v", h)
		}
		link := testLink(2, "eth0")
		link.Carrier, link.CarrierChanges = false, 1
		r.links.Set(link)
		r.advance(time.Second)
		if h := r.health(target); h.Missed != 0 || !errors.Is(h.Err, netif.ErrNoCarrier) {
			t.Errorf("health without carrier, after the event, is %+v", h)
		}
		r.wire.Unplug("eth0", false)
		link.Carrier, link.CarrierChanges = true, 2
		r.links.Set(link)
		r.advance(200 * time.Millisecond)
		if h := r.health(target); h.Missed != 0 || h.Err != nil {
			t.Errorf("health with the carrier back is %+v", h)
		}
	})
	t.Run("carrier gone for a moment", func(t *testing.T) {
		r := newRig(t, Config{})
		host, target := r.host("192.0.2.9")
		r.p.Watch([]Target{target})
		r.advance(time.Second + time.Millisecond)
		host.dead = true
		r.advance(100 * time.Millisecond) // a probe is under way
		link := testLink(2, "eth0")
		link.CarrierChanges = 2
		r.links.Set(link)
		r.advance(60 * time.Millisecond)
		if n := r.counter("missed_total"); n != 0 || r.counter("excused_total") == 0 {
			t.Errorf("%v misses", n)
		}
	})
	t.Run("overrun", func(t *testing.T) {
		r := newRig(t, Config{})
		_, target := r.host("192.0.2.9")
		r.p.Watch([]Target{target})
		for range 100 {
			r.advance(34 * time.Millisecond)
			r.stall(33 * time.Millisecond)
			r.wire.Overrun("eth0", 1)
		}
		if n := r.counter("missed_total"); n != 0 || r.counter("lost_frames_total") == 0 {
			t.Errorf("%v misses, %v frames lost", n, r.counter("lost_frames_total"))
		}
	})
	t.Run("socket", func(t *testing.T) {
		r := newRig(t, Config{})
		_, target := r.host("192.0.2.9")
		r.p.Watch([]Target{target})
		r.advance(time.Second)
		r.wire.Break("eth0", unix.ENETDOWN)
		r.advance(30 * time.Second)
		if h := r.health(target); h.Missed != 0 || !errors.Is(h.Err, unix.ENETDOWN) {
			t.Errorf("health with a broken socket is %+v", h)
		}
		if n := r.counter("errors_total"); n < 8 || n > 20 {
			t.Errorf("%v errors: there is no back-off", n)
		}
		r.wire.Break("eth0", nil)
		r.advance(maxBackoff + 200*time.Millisecond)
		if h := r.health(target); h.Missed != 0 || h.Err != nil || r.clock.Now().Sub(h.Answered) > 200*time.Millisecond {
			t.Errorf("health with the socket mended is %+v", h)
		}
	})
}

func TestLinksChange(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	_, target := r.host("192.0.2.9")
	_, missing := r.host("192.0.2.8")
	missing.Interface = "eth1"
	r.links.Set()
	r.p.Watch([]Target{target, missing, {Interface: "eth0", Addr: ip("ff02::1")}})
	r.advance(time.Second)
	if h := r.health(target); !errors.Is(h.Err, errNoInterface) {
		t.Errorf("health on a missing link is %+v", h)
	}
	if h := r.health(Target{Interface: "eth0", Addr: ip("ff02::1")}); !errors.Is(h.Err, errAddress) {
		t.Errorf("health of a group is %+v", h)
	}
	r.links.Set(testLink(2, "eth0"))
	r.advance(200 * time.Millisecond)
	if h := r.health(target); h.Err != nil || h.Answered.IsZero() {
		t.Errorf("health on a link that came is %+v", h)
	}
	again := testLink(7, "eth0")
	again.MAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x77}
	r.wire.Reset()
	r.links.Set(again)
	r.advance(200 * time.Millisecond)
	if text := r.wire.String(); !strings.Contains(text, "02:00:00:00:00:77 > ") || strings.Contains(text, "02:00:00:00:00:01 > ") {
		t.Errorf("after the link changed was sent:\n%s", text)
	}
	r.p.Watch(nil)
	r.advance(time.Millisecond)
	if len(r.p.lanes) != 0 || len(r.p.agenda) != 0 {
		t.Errorf("%d lanes and %d tasks are left", len(r.p.lanes), len(r.p.agenda))
	}
	r.p.serving.Wait()
	if n := len(r.wire.on("eth0")); n != 0 {
		t.Errorf("%d sockets are left", n)
	}
	if r.p.slots.taken != [slotCount]int{} {
		t.Errorf("slots are left: %v", r.p.slots.taken)
	}
}

// TestWatchLearns asks everyone only until someone answers.
func TestWatchLearns(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	host, target := r.host("192.0.2.9")
	target.MAC = ether.MAC{}
	r.p.Watch([]Target{target})
	r.advance(time.Second)
	if n := strings.Count(r.wire.String(), "ff:ff:ff:ff:ff:ff"); n != 1 {
		t.Errorf("everyone was asked %d times", n)
	}
	host.mac = peerMAC // another machine
	r.advance(time.Second)
	if n := strings.Count(r.wire.String(), "ff:ff:ff:ff:ff:ff"); n != 2 || r.health(target).MAC != peerMAC || r.health(target).Missed != 0 {
		t.Errorf("everyone was asked %d times, health %+v", n, r.health(target))
	}
}

// TestProbesAreSpread: targets have phases of their own, and keep them.
func TestProbesAreSpread(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	var targets []Target
	for i := range 2 * slotCount {
		_, target := r.host(fmt.Sprintf("192.0.2.%d", 10+i))
		targets = append(targets, target)
	}
	r.p.Watch(targets)
	r.advance(100*time.Millisecond - time.Nanosecond)
	for range slotCount {
		r.wire.Reset()
		r.advance(5 * time.Millisecond)
		if n := strings.Count(r.wire.String(), "request"); n != 2 {
			t.Fatalf("%d probes in 5 ms", n)
		}
	}
}

// TestWatchModel does anything to one host that lives all the time and another
// that does not, with stalls, overruns and unplugged cables in between.
func TestWatchModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, Config{})
		defer r.p.shut()
		alive, living := r.host("192.0.2.9")
		other, mortal := r.host("2001:db8::9")
		r.p.Watch([]Target{living, mortal})
		r.advance(300 * time.Millisecond)
		for range rapid.IntRange(1, 40).Draw(rt, "actions") {
			d := time.Duration(rapid.IntRange(0, 400).Draw(rt, "ms")) * time.Millisecond
			switch rapid.SampledFrom([]string{"advance", "stall", "overrun", "unplug", "die", "live", "delay"}).Draw(rt, "action") {
			case "advance":
				r.advance(d)
			case "stall":
				r.stall(d)
			case "overrun":
				r.wire.Overrun("eth0", 3)
			case "unplug":
				r.wire.Unplug("eth0", true)
				r.advance(d)
				// The event comes later than the carrier is back.
				r.wire.Unplug("eth0", false)
				link := r.links.Links()[0]
				link.CarrierChanges += 2
				r.links.Set(link)
			case "die":
				other.dead = true
			case "live":
				other.dead = false
			case "delay":
				alive.delay = min(d, 49*time.Millisecond)
			}
			if h := r.health(living); h.Missed > 0 {
				rt.Fatalf("one who lives is said to have missed %d", h.Missed)
			}
		}
		r.advance(300 * time.Millisecond)
		missed, dead := r.health(mortal).Missed, other.dead
		r.advance(time.Second)
		h := r.health(mortal)
		if dead && h.Missed != missed+10 || !dead && h.Missed != 0 {
			rt.Fatalf("dead %t, health %+v after %d misses a second ago", dead, h, missed)
		}
	})
}
