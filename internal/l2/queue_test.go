package l2

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/internal/netif"
)

// askedPort is a port whose askers asked for the given targets each.
func askedPort(t testing.TB, proto Protocol, now time.Time, asked map[netip.Addr][]netip.Addr) *port {
	t.Helper()
	a, err := New(Config{Links: netif.NewFake(), Clock: clocktesting.NewFakeClock(now), Wire: &FakeWire{}})
	if err != nil {
		t.Fatal(err)
	}
	p := a.newPort(portKey{"eth0", proto}, identity{2, ourself()})
	for asker, targets := range asked {
		for _, target := range targets {
			p.askers.saw(query{target, asker, MAC(peerMAC)}, now)
		}
	}
	return p
}

func TestRefreshIsSpreadEvenly(t *testing.T) {
	t.Parallel()
	const n, period, periods = 2000, 2 * time.Minute, 3
	start := time.Unix(1000, 0)
	q := newQueue(start, period)
	keys := make([]announceKey, n)
	for i := range keys {
		keys[i] = announceKey{nil, addr4(0xc0000200 + uint32(i))}
		q.add(keys[i], false)
	}
	play(q, start, 0, 30*time.Second) // the rounds
	perSecond := make(map[int]int)
	sent := make(map[netip.Addr][]time.Duration)
	got := play(q, start, 30*time.Second, 30*time.Second+periods*period)
	for _, s := range got {
		sent[s.addr] = append(sent[s.addr], s.at)
		perSecond[int(s.at/time.Second)]++
	}
	for _, k := range keys {
		at := sent[k.addr]
		if len(at) < periods || len(at) > periods+1 {
			t.Fatalf("%s is announced %d times in %d periods", k.addr, len(at), periods)
		}
		for i := 1; i < len(at); i++ {
			if d := (at[i] - at[i-1] - period).Abs(); d > 100*time.Millisecond {
				t.Fatalf("%s is announced again after %v", k.addr, at[i]-at[i-1])
			}
		}
	}
	// 16.7 a second on average: 60 would be eleven times the deviation.
	for s, count := range perSecond {
		if count > 60 {
			t.Errorf("%d announcements in second %d", count, s)
		}
	}
	// What is withdrawn is refreshed no more, and the rest goes on.
	for _, k := range keys[1:] {
		q.cancel(k)
	}
	got = play(q, start, 30*time.Second+periods*period, 30*time.Second+(2*periods)*period)
	if len(got) < periods || len(got) > periods+1 || len(q.refresh) != 1 {
		t.Errorf("%d announcements of one address, %d in the heap", len(got), len(q.refresh))
	}
}

func TestRefreshYieldsToTakeovers(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	q := newQueue(start, 100*time.Millisecond) // more than the pace allows
	const n = 1000
	for i := range uint32(n) {
		q.add(announceKey{nil, addr4(0xc0000200 + i)}, false)
	}
	play(q, start, 0, 20*time.Second)
	taken := addr4(0x0a000001)
	q.add(announceKey{nil, taken}, false)
	var at []time.Duration
	for _, s := range play(q, start, 20*time.Second, 26*time.Second) {
		if s.addr == taken && len(at) < announceTimes {
			at = append(at, s.at-20*time.Second)
		}
	}
	for i, d := range at {
		if want := time.Duration(i) * announceInterval; d < want || d > want+10*time.Millisecond*time.Duration(i+1) {
			t.Errorf("turn %d at %v, want %v", i, d, want)
		}
	}
	if len(at) != announceTimes {
		t.Errorf("%d turns", len(at))
	}
}

// TestUpdatesFollowFirstAnnouncements: with 2,000 addresses at once and a full
// table of askers, all first announcements are out within two seconds, then each
// asker of an address is told once, the askers of all addresses by turns.
func TestUpdatesFollowFirstAnnouncements(t *testing.T) {
	t.Parallel()
	const n = 2000
	start := time.Unix(1000, 0)
	addr := func(i int) netip.Addr { return addr4(0xc0000200 + uint32(i)) }
	asked := make(map[netip.Addr][]netip.Addr)
	for i := range maxAskers {
		asked[addr4(0x0a000000+uint32(i))] = []netip.Addr{addr(i % 10)} // each of ten has six or seven
	}
	p := askedPort(t, ARP, start, asked)
	q := newQueue(start, 0)
	for i := range n {
		q.add(announceKey{p, addr(i)}, true)
	}
	firsts, updates := make(map[netip.Addr]bool), make(map[netip.Addr][]netip.Addr)
	frames, firstDone := 0, time.Duration(0)
	for _, s := range play(q, start, 0, time.Minute) {
		if s.to == nil {
			if !firsts[s.addr] {
				firsts[s.addr], firstDone = true, s.at
			}
			frames += 2
		} else {
			frames++
			if len(firsts) != n {
				t.Fatalf("%s is told of %s before all have been announced", s.to.Addr, s.addr)
			}
			updates[s.addr] = append(updates[s.addr], s.to.Addr)
			if len(updates[s.addr]) == 2 && len(updates) < n {
				t.Fatalf("a second asker is told of %s before one was of each address", s.addr)
			}
		}
		if most := 2*announceBurst + int(s.at.Seconds()*2*announceRate) + 2; frames > most {
			t.Fatalf("%d frames in %v, want at most %d", frames, s.at, most)
		}
	}
	if firstDone > 2*time.Second {
		t.Errorf("the first announcements take %v", firstDone)
	}
	for i := range n {
		got := slices.Clone(updates[addr(i)])
		slices.SortFunc(got, netip.Addr.Compare)
		want := maxUpdates
		if i < 10 {
			want = 6
			if i < 4 {
				want = 7
			}
			for _, to := range got {
				if !slices.Contains(asked[to], addr(i)) {
					t.Errorf("%s is told of %s, which it did not ask for", to, addr(i))
				}
			}
		}
		// Each is told twice, or once if the second time comes before the first is over.
		if told := len(updates[addr(i)]); len(slices.Compact(got)) != want || told < want || told > 2*want {
			t.Fatalf("%d askers are told of %s, want %d: %v", len(updates[addr(i)]), addr(i), want, got)
		}
	}
	if !q.empty() {
		t.Error("the queue is not empty at the end")
	}
}

func TestUpdatesEndWithTheAddress(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	addr := ip("192.0.2.10")
	p := askedPort(t, ARP, start, map[netip.Addr][]netip.Addr{ip("192.0.2.99"): {addr}, ip("192.0.2.98"): {addr}})
	q := newQueue(start, time.Minute)
	key := announceKey{p, addr}
	q.add(key, true)
	q.add(key, false) // before the first turn it stays a takeover
	for range 2 {
		if s, ok, _ := q.next(start); !ok || s.addr != addr {
			t.Fatal("nothing is sent")
		}
	}
	q.cancel(key)
	if got := play(q, start, 0, 5*time.Minute); len(got) != 0 || !q.empty() {
		t.Errorf("after withdrawal: %v", got)
	}
	q.add(key, false)
	if got := play(q, start, 0, time.Second); len(got) != 1 {
		t.Errorf("an announcement that is no takeover has %d turns at first", len(got))
	}
}

// TestUpdateText: what an asker is told is for it alone, and no answer.
func TestUpdateText(t *testing.T) {
	t.Parallel()
	for proto, want := range map[Protocol]string{
		ARP: "eth0 02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationreply 192.0.2.10 is-at 02:00:00:00:00:01 to 192.0.2.10 at 02:00:00:00:00:01\n" +
			"eth0 02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationreply 192.0.2.10 is-at 02:00:00:00:00:01 to 192.0.2.99 at 02:00:00:00:00:99",
		NDP: "eth0 02:00:00:00:00:01 > 02:00:00:00:00:99 na 2001:db8::10 > fe80::99 target 2001:db8::10 is-at 02:00:00:00:00:01 override",
	} {
		wire := &FakeWire{}
		p := askedPort(t, proto, time.Unix(1000, 0), nil)
		addr, asker := ip("192.0.2.10"), ip("192.0.2.99")
		if proto == NDP {
			addr, asker = ip("2001:db8::10"), peerLL
		}
		d := Desired{addr: {Interfaces: []string{"eth0"}}}
		p.desired.Store(&d)
		p.conn, _ = wire.Open(testLink(2, "eth0"), proto, p.filter())
		p.update(addr, Asker{Addr: asker, MAC: MAC(peerMAC)})
		if got := wire.String(); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		p.desired.Store(&Desired{})
		p.update(addr, Asker{Addr: asker, MAC: MAC(peerMAC)})
		if got := wire.String(); got != want {
			t.Errorf("a withdrawn address is told of: %s", got)
		}
	}
}

// TestTakeoverTellsRecentAskers: armed, taken over, refreshed.
func TestTakeoverTellsRecentAskers(t *testing.T) {
	t.Parallel()
	f := startWith(t, &FakeWire{}, func(c *Config) { c.Refresh = time.Minute })
	f.Apply(Desired{ip("192.0.2.10"): {Interfaces: []string{"eth0"}, Armed: true}})
	f.await("the address to be armed", func() bool { return f.state("eth0", ARP).Armed == 1 })
	if got := f.wire.String(); got != "" {
		t.Fatalf("an armed address is announced: %s", got)
	}
	speaker := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x98} // asks whether the owner answers
	another := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x97}
	f.SetPeers([]MAC{MAC(speaker)})
	f.wire.Deliver("eth0", arpFrame{}.bytes(t))
	f.wire.Deliver("eth0", arpFrame{src: speaker, senderMAC: speaker, sender: ip("192.0.2.98")}.bytes(t))
	f.wire.Deliver("eth0", arpFrame{src: another, senderMAC: another, sender: ip("192.0.2.97")}.bytes(t))
	f.await("the queries", func() bool { return f.state("eth0", ARP).Queries == 3 })
	f.SetPeers([]MAC{MAC(speaker), MAC(another)}) // which turns out to be one
	f.Apply(on("192.0.2.10"))
	const answer = "02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationreply 192.0.2.10 is-at 02:00:00:00:00:01 to 192.0.2.99"
	if got := f.wire.String(); !strings.HasPrefix(got, "eth0 "+answer) {
		t.Fatalf("the query is not answered when Apply returns; sent:\n%s", got)
	}
	f.sent(2, answer) // the update
	f.sent(1, "operationrequest 192.0.2.10")
	if v := gather(f.metrics.updates)["eth0/arp"]; v != 2 {
		t.Errorf("updates_sent_total is %v, want 2", v)
	}
	if got := f.RecentAskers("eth0"); len(got) != 1 || got[0].Addr != ip("192.0.2.99") || got[0].MAC != MAC(peerMAC) {
		t.Errorf("recent askers: %v", got)
	}
	if got := f.RecentAskers("eth1"); len(got) != 0 {
		t.Errorf("recent askers on another interface: %v", got)
	}
	eventually(t, "refreshments", func() bool {
		f.time.Step(time.Second)
		return strings.Count(f.wire.String(), "operationrequest 192.0.2.10") > announceTimes+1
	})
	if n := strings.Count(f.wire.String(), answer); n != 3 {
		t.Errorf("the asker was answered and told %d times, want once and twice", n)
	}
	f.links.Set(testLink(3, "eth1"))
	f.await("the askers of a lost interface to be forgotten", func() bool { return len(f.RecentAskers("eth0")) == 0 })
}

// TestChangesAfterARestAreNotPutOff: the clock stands still.
func TestChangesAfterARestAreNotPutOff(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	for i := range 3 {
		d := on(fmt.Sprintf("192.0.2.1%d", i))
		f.Apply(d)
		eventually(t, "addresses to be applied without a pause", func() bool {
			return len(f.Applied().Addresses[ip(fmt.Sprintf("192.0.2.1%d", i))]) == 1
		})
	}
}
