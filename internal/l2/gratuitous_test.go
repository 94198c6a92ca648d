package l2

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/internal/netif"
)

// A sent announcement, and when.
type sending struct {
	addr netip.Addr
	at   time.Duration
	to   *Asker // nil: everybody
}

// play takes from q what it gives, advancing time as it asks, until end.
func play(q *queue, start time.Time, from, end time.Duration) (turns []sending) {
	for now := from; now <= end; {
		t, ok, wait := q.next(start.Add(now))
		if ok {
			turns = append(turns, sending{t.addr, now, t.to})
			continue
		}
		if q.empty() {
			return turns
		}
		now += wait
	}
	return turns
}

func TestQueueRepeatsOneAddress(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	q := newQueue(start, 0)
	q.add(announceKey{nil, ip("192.0.2.10")}, false)
	got := play(q, start, 0, time.Minute)
	want := []time.Duration{0, 1100 * time.Millisecond, 2200 * time.Millisecond, 3300 * time.Millisecond, 4400 * time.Millisecond}
	if len(got) != len(want) {
		t.Fatalf("got %d turns %v, want at %v", len(got), got, want)
	}
	for i := range want {
		if got[i].at != want[i] {
			t.Errorf("turn %d at %v, want %v", i, got[i].at, want[i])
		}
	}
	if !q.empty() {
		t.Error("the queue is not empty at the end")
	}
}

func TestQueueStartsAgain(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	q := newQueue(start, 0)
	q.add(announceKey{nil, ip("192.0.2.10")}, false)
	play(q, start, 0, 1500*time.Millisecond)
	q.add(announceKey{nil, ip("192.0.2.10")}, false)
	q.add(announceKey{nil, ip("192.0.2.10")}, false) // twice is once
	got := play(q, start, 1500*time.Millisecond, time.Minute)
	if len(got) != announceTimes || got[0].at != 1500*time.Millisecond {
		t.Fatalf("got %v, want a whole round from 1.5s on", got)
	}
}

func TestQueueCancel(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	q := newQueue(start, 0)
	q.add(announceKey{nil, ip("192.0.2.10")}, false)
	q.add(announceKey{nil, ip("192.0.2.11")}, false)
	q.cancel(announceKey{nil, ip("192.0.2.11")})
	play(q, start, 0, 0)
	q.cancel(announceKey{nil, ip("192.0.2.10")})
	if got := play(q, start, time.Second, time.Minute); len(got) != 0 {
		t.Fatalf("cancelled addresses are announced: %v", got)
	}
}

// TestQueuePacesManyAddresses: 2,000 addresses are announced within two seconds,
// never faster than the rate, none a second time before each had its first.
func TestQueuePacesManyAddresses(t *testing.T) {
	t.Parallel()
	const n = 2000
	start := time.Unix(1000, 0)
	q := newQueue(start, 0)
	for i := range uint32(n) {
		q.add(announceKey{nil, addr4(0xc0000200 + i)}, false)
	}
	got := play(q, start, 0, time.Minute)
	if len(got) != n*announceTimes {
		t.Fatalf("got %d announcements, want %d", len(got), n*announceTimes)
	}
	first := make(map[netip.Addr]bool)
	last := make(map[netip.Addr]time.Duration)
	for i, tn := range got {
		if i < n && first[tn.addr] {
			t.Fatalf("%s is repeated at %v before all have been announced", tn.addr, tn.at)
		}
		if prev, ok := last[tn.addr]; ok && tn.at-prev < announceInterval {
			t.Fatalf("%s is repeated after %v", tn.addr, tn.at-prev)
		}
		first[tn.addr], last[tn.addr] = true, tn.at
		if most := announceBurst + int(tn.at.Seconds()*announceRate) + 1; i+1 > most {
			t.Fatalf("%d announcements in %v, want at most %d", i+1, tn.at, most)
		}
	}
	if at := got[n-1].at; at > 2*time.Second {
		t.Errorf("the first announcements take %v", at)
	}
	t.Logf("%d addresses: first announced in %v, last repetition at %v", n, got[n-1].at, got[len(got)-1].at)
}

// TestSchedulerSendsThroughPorts runs the goroutine with a clock that stands
// still unless it is moved.
func TestSchedulerSendsThroughPorts(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakeClock(time.Unix(1000, 0))
	wire := &FakeWire{}
	a, err := New(Config{Links: netif.NewFake(), Clock: clock, Wire: wire})
	if err != nil {
		t.Fatal(err)
	}
	metrics, desired := a.metrics, &a.desired
	ports := make(map[Protocol]*port)
	for _, proto := range []Protocol{ARP, NDP} {
		p := a.newPort(portKey{"eth0", proto}, identity{2, ourself()})
		if p.conn, err = wire.Open(testLink(2, "eth0"), proto, p.filter()); err != nil {
			t.Fatal(err)
		}
		ports[proto] = p
	}
	on := Announcement{Interfaces: []string{"eth0"}}
	desired.Store(&Desired{ip("192.0.2.10"): on, ip("2001:db8::10"): on})
	s := newScheduler(clock, 0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.run(ctx) }()
	defer func() { cancel(); <-done }()

	lines := func() int { return len(strings.Split(wire.String(), "\n")) }
	s.add(ports[ARP], ip("192.0.2.10"), false)
	eventually(t, "the first ARP announcement", func() bool { return lines() == 2 })
	s.add(ports[NDP], ip("2001:db8::10"), false)
	eventually(t, "the first NDP announcement", func() bool { return lines() == 3 })
	want := strings.Join([]string{
		"eth0 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff arp operationrequest 192.0.2.10 is-at 02:00:00:00:00:01 to 192.0.2.10 at 00:00:00:00:00:00",
		"eth0 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff arp operationreply 192.0.2.10 is-at 02:00:00:00:00:01 to 192.0.2.10 at 02:00:00:00:00:01",
		"eth0 02:00:00:00:00:01 > 33:33:00:00:00:01 na 2001:db8::10 > ff02::1 target 2001:db8::10 is-at 02:00:00:00:00:01 override",
	}, "\n")
	if got := wire.String(); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	for i := 2; i <= announceTimes; i++ {
		eventually(t, "the scheduler to wait", clock.HasWaiters)
		step := func() bool { clock.Step(10 * time.Millisecond); return lines() >= 3*i }
		eventually(t, "repetition", step)
	}
	if lines() != 3*announceTimes {
		t.Fatalf("got %d packets, want %d", lines(), 3*announceTimes)
	}
	if got := gather(metrics.gratuitous)["eth0/arp"]; got != 2*announceTimes {
		t.Errorf("gratuitous_sent_total is %v, want %d", got, 2*announceTimes)
	}

	// A withdrawn address is not announced, even if nobody cancels it.
	desired.Store(&Desired{})
	s.add(ports[ARP], ip("192.0.2.10"), false)
	eventually(t, "the round to end", func() bool {
		clock.Step(time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.queues) == 0
	})
	if lines() != 3*announceTimes {
		t.Error("a withdrawn address is announced")
	}
}

// TestOwnKernelIsCorrected at once and with each announcement of an IPv6 address,
// before anybody else is told.
func TestOwnKernelIsCorrected(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var order []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, what)
	}
	wire := &FakeWire{
		OnSend: func(string, []byte) { note("announced") },
		OnCorrect: func(ifname string, target netip.Addr, is MAC) {
			note(fmt.Sprintf("%s: %s is at %s", ifname, target, is))
		},
	}
	f := startWith(t, wire, func(*Config) {})
	f.Apply(on("2001:db8::10"))
	eventually(t, "all announcements", func() bool {
		f.time.Step(announceInterval)
		mu.Lock()
		defer mu.Unlock()
		return len(order) == 1+2*announceTimes
	})
	for i, what := range order {
		want := "eth0: 2001:db8::10 is at 02:00:00:00:00:01"
		if i > 0 && i%2 == 0 {
			want = "announced"
		}
		if what != want {
			t.Errorf("%d: %q, want %q", i, what, want)
		}
	}
}
