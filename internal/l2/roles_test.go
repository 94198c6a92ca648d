package l2

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	clocktesting "k8s.io/utils/clock/testing"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// rolesModel is what an Announcer has to do with addresses whose roles change
// under it, and the Announcer, driven by hand: nothing happens beside a step.
type rolesModel struct {
	*rapid.T
	t     *testing.T
	a     *Announcer
	loop  *loop
	wire  *FakeWire
	clock *clocktesting.FakeClock

	roles   map[netip.Addr]role
	waiting map[query]time.Time
	rivals  map[rivalKey]time.Time // last reported
	asked   map[netip.Addr]MAC
}

var (
	rolesAddrs = []netip.Addr{ip("192.0.2.10"), ip("192.0.2.11"), ip("192.0.2.20"), ip("2001:db8::10"), ip("2001:db8::11"), ip("2001:db8:1::10")}
	ownerMAC   = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x77}
)

// replyTo is the line that FakeWire prints for the answer to q, or for an update
// of its asker.
func replyTo(q query, is net.HardwareAddr, solicited bool) string {
	if q.target.Is4() {
		return fmt.Sprintf("eth0 %s > %s arp operationreply %s is-at %s to %s at %s", ourMAC, q.askerMAC, q.target, is, q.asker, q.askerMAC)
	}
	if q.asker.IsUnspecified() {
		return fmt.Sprintf("eth0 %s > 33:33:00:00:00:01 na %s > ff02::1 target %s is-at %s override", ourMAC, q.target, q.target, is)
	}
	flags := "override"
	if solicited {
		flags = "solicited override"
	}
	return fmt.Sprintf("eth0 %s > %s na %s > %s target %s is-at %s %s", ourMAC, q.askerMAC, q.target, q.asker, q.target, is, flags)
}

// hear has a frame arrive and returns what is sent at once, as text.
func (m *rolesModel) hear(proto Protocol, frame []byte) (reply string, passed bool) {
	p := m.loop.ports[portKey{"eth0", proto}]
	if p == nil {
		return "", false
	}
	socket := p.conn.(*fakeConn).socket
	if !socket.Accept(frame) {
		return "", false
	}
	socket.Drop() // it is answered here
	if out := p.respond(nil, frame); out != nil {
		return "eth0 " + describe(out), true
	}
	return "", true
}

func (m *rolesModel) apply() {
	d := make(Desired)
	for _, addr := range rolesAddrs {
		r := role(rapid.IntRange(int(stranger), int(owner)).Draw(m.T, "role of "+addr.String()))
		m.roles[addr] = r
		ann := Announcement{Interfaces: []string{"eth0"}, Armed: r == armed}
		switch r {
		case stranger:
			continue
		case standIn, armed:
			ann.StandIn = map[string]MAC{"eth0": MAC(ownerMAC)}
		}
		d[addr] = ann
	}
	m.wire.Reset()
	m.a.Apply(d)
	var want []string
	for q, at := range m.waiting {
		r := m.roles[q.target]
		if r == armed {
			continue
		}
		if m.clock.Since(at) < waitingAge && r != stranger {
			is := ourMAC
			if r == standIn {
				is = ownerMAC
			}
			want = append(want, replyTo(q, is, true))
		}
		delete(m.waiting, q)
	}
	var got []string
	if s := m.wire.String(); s != "" {
		got = strings.Split(s, "\n")
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		m.Fatalf("Apply sent\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	m.loop.converge()
}

func (m *rolesModel) query() {
	addr := rapid.SampledFrom(rolesAddrs).Draw(m.T, "target")
	from := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x90 + byte(rapid.IntRange(0, 3).Draw(m.T, "asker"))}
	if rapid.IntRange(0, 5).Draw(m.T, "the owner asks") == 0 {
		from = ownerMAC
	}
	probe := rapid.Bool().Draw(m.T, "probe")
	q := query{target: addr, askerMAC: MAC(from)}
	var frame []byte
	if addr.Is4() {
		q.asker = netip.AddrFrom4([4]byte{192, 0, 2, from[5]})
		if probe {
			q.asker = ip("0.0.0.0")
		}
		frame = arpFrame{src: from, senderMAC: from, sender: q.asker, target: addr}.bytes(m.t)
	} else {
		q.asker = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: from[5]})
		if probe {
			q.asker = ip("::")
		}
		frame = nsFrame{src: from, ipSrc: q.asker, target: addr, noOption: true}.bytes(m.t)
	}
	r := m.roles[addr]
	want := ""
	ignored := r == stranger || from.String() == ownerMAC.String() && r != owner
	switch {
	case ignored:
	case r == armed:
		m.waiting[q] = m.clock.Now()
	case r == standIn:
		want = replyTo(q, ownerMAC, true)
	default:
		want = replyTo(q, ourMAC, true)
	}
	if !ignored && !probe {
		m.asked[q.asker] = q.askerMAC
	}
	got, passed := m.hear(ProtocolOf(addr), frame)
	if passed != (r != stranger) || got != want {
		m.Fatalf("query %+v in role %d: passed %t, sent %q, want %q", q, r, passed, got, want)
	}
	if probe && addr.Is6() && r == owner {
		m.expectRival(addr, MAC(from))
	}
	m.noRival()
}

func (m *rolesModel) claim() {
	addr := rapid.SampledFrom(rolesAddrs).Draw(m.T, "claimed")
	is := rapid.SampledFrom([]net.HardwareAddr{peerMAC, ownerMAC, ourMAC}).Draw(m.T, "by")
	var frame []byte
	if addr.Is4() {
		target := rapid.SampledFrom([]netip.Addr{addr, ip("192.0.2.99"), ip("198.51.100.1")}).Draw(m.T, "to")
		op := rapid.SampledFrom([]arp.Operation{arp.OperationRequest, arp.OperationReply, 8}).Draw(m.T, "operation")
		frame = arpFrame{op: op, senderMAC: is, sender: addr, target: target}.bytes(m.t)
	} else {
		frame = naFrame{is: is, target: addr}.bytes(m.t)
	}
	if got, _ := m.hear(ProtocolOf(addr), frame); got != "" {
		m.Fatalf("a claim of %s is answered: %s", addr, got)
	}
	if m.roles[addr] == owner && MAC(is) != MAC(ourMAC) {
		m.expectRival(addr, MAC(is))
	}
	m.noRival()
}

// expectRival wants a report unless there was one within the second.
func (m *rolesModel) expectRival(addr netip.Addr, is MAC) {
	key := rivalKey{addr, is}
	if last, known := m.rivals[key]; known && m.clock.Since(last) < rivalInterval {
		return
	}
	m.rivals[key] = m.clock.Now()
	select {
	case r := <-m.a.Rivals():
		if want := (Rival{addr, "eth0", is, m.clock.Now()}); r != want {
			m.Fatalf("reported %+v, want %+v", r, want)
		}
	default:
		m.Fatalf("rival %+v is not reported", key)
	}
}

func (m *rolesModel) noRival() {
	select {
	case r := <-m.a.Rivals():
		m.Fatalf("unexpected report %+v", r)
	default:
	}
}

// check compares what is told of the present state.
func (m *rolesModel) check() {
	s := m.a.Applied()
	announced := 0
	for _, q := range m.loop.scheduler.queues {
		announced += len(q.live)
	}
	owned := 0
	for _, addr := range rolesAddrs {
		r := m.roles[addr]
		_, asOwner := s.Addresses[addr]
		_, asStandIn := s.StandIns[addr]
		if asOwner != (r == owner) || asStandIn != (r == standIn) {
			m.Fatalf("%s in role %d is told to be owned %t, stood in for %t", addr, r, asOwner, asStandIn)
		}
		if r == owner {
			owned++
		}
	}
	if announced != owned {
		m.Fatalf("%d addresses are being announced, %d are owned", announced, owned)
	}
	askers := m.a.RecentAskers("eth0")
	if len(askers) != len(m.asked) {
		m.Fatalf("%d askers are remembered, want %v", len(askers), m.asked)
	}
	for _, a := range askers {
		if m.asked[a.Addr] != a.MAC {
			m.Fatalf("asker %+v is remembered, want %v", a, m.asked)
		}
	}
}

// TestRolesModel: whatever comes in whatever order, an address is answered for
// as its role says, late queries are answered when it becomes active, rivals of
// owned addresses alone are reported, and only owned addresses are announced.
func TestRolesModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		m := &rolesModel{
			T: r, t: t, wire: &FakeWire{}, clock: clocktesting.NewFakeClock(time.Unix(1000, 0)),
			roles: make(map[netip.Addr]role), waiting: make(map[query]time.Time),
			rivals: make(map[rivalKey]time.Time), asked: make(map[netip.Addr]MAC),
		}
		var err error
		links := netif.NewFake(testLink(2, "eth0"))
		if m.a, err = New(Config{Links: links, Wire: m.wire, Clock: m.clock}); err != nil {
			t.Fatal(err)
		}
		m.loop = newLoop(m.a)
		defer func() {
			for _, p := range m.loop.ports {
				m.loop.close(p)
			}
			m.loop.serving.Wait()
		}()
		r.Repeat(map[string]func(*rapid.T){
			"apply": func(r *rapid.T) { m.T = r; m.apply() },
			"query": func(r *rapid.T) { m.T = r; m.query() },
			"ask":   func(r *rapid.T) { m.T = r; m.query() },
			"claim": func(r *rapid.T) { m.T = r; m.claim() },
			"time": func(r *rapid.T) {
				m.clock.Step(time.Duration(rapid.IntRange(1, 700).Draw(r, "ms")) * time.Millisecond)
			},
			"": func(r *rapid.T) { m.T = r; m.check() },
		})
	})
}

// TestWaitingIsBounded: the latest queries are kept, each once.
func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	var w waiting
	still := func() (role, MAC) { return armed, MAC{} }
	ask := func(i int) query { return query{target: addr4(uint32(i)), asker: ip("192.0.2.99")} }
	for i := range 3 * maxWaiting {
		w.keep(ask(i), now, still)
		w.keep(ask(3*maxWaiting-1), now, still) // a nervous one
	}
	if len(w.ring) != maxWaiting || len(w.last) > maxWaiting {
		t.Fatalf("%d queries in %d places are kept", len(w.last), len(w.ring))
	}
	due := w.take(now.Add(waitingAge-1), func(query) role { return owner })
	if want := maxWaiting/2 + 1; len(due) < want-1 || len(due) > want || due[len(due)-1] != ask(3*maxWaiting-1) {
		t.Fatalf("%d queries are due, want %d, each once; the last is %v", len(due), want, due[len(due)-1])
	}
	if due := w.take(now, func(query) role { return owner }); len(due) != 0 {
		t.Fatal("queries are answered twice")
	}
	// Those that stay armed stay, until they are too old.
	for i := range maxWaiting + 10 {
		w.keep(ask(i), now, still)
	}
	even := func(q query) role {
		if q.target.As4()[3]%2 == 0 {
			return standIn
		}
		return armed
	}
	if due := w.take(now, even); len(due) != maxWaiting/2 {
		t.Fatalf("%d queries are due, want %d", len(due), maxWaiting/2)
	}
	w.keep(ask(1_000_001), now.Add(waitingAge), still)
	if due := w.take(now.Add(waitingAge), func(query) role { return owner }); len(due) != 1 {
		t.Fatalf("%d queries are due, want the last alone", len(due))
	}
}

// TestQueryDuringActivationIsNotLost: the role is asked again under the lock.
func TestQueryDuringActivationIsNotLost(t *testing.T) {
	t.Parallel()
	var w waiting
	if r, _ := w.keep(query{}, time.Unix(1000, 0), func() (role, MAC) { return standIn, MAC(ownerMAC) }); r != standIn || len(w.last) != 0 {
		t.Fatalf("role %d, %d queries kept", r, len(w.last))
	}
}

func TestAskersAreBoundedAndAge(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	a := newAskers()
	asker := func(i int) netip.Addr { return addr4(0x0a000000 + uint32(i)) }
	target := func(i int) netip.Addr { return addr4(0xc0000200 + uint32(i)) }
	for i := range 100 {
		a.saw(query{target: target(i % 3), asker: asker(i), askerMAC: MAC(peerMAC)}, now.Add(time.Duration(i)*time.Second))
	}
	now = now.Add(100 * time.Second)
	list := a.list(now)
	if len(list) != maxAskers || list[0].Addr != asker(99) || list[maxAskers-1].Addr != asker(100-maxAskers) {
		t.Fatalf("%d askers are remembered, from %v to %v", len(list), list[0], list[len(list)-1])
	}
	if got := a.of(target(1), now); len(got) < 20 || (asker(97) != got[0].Addr) {
		t.Errorf("%d are known to have asked, the first is %v", len(got), got[0])
	}
	if got := a.of(target(7), now); len(got) != maxUpdates || got[0].Addr != asker(99) {
		t.Errorf("for an address that nobody asked for: got %d askers, want the latest %d", len(got), maxUpdates)
	}
	// An asker that comes back is the latest, with its new MAC; it is known for
	// its latest addresses only.
	for i := range askerTargets {
		a.saw(query{target: target(100 + i), asker: asker(50), askerMAC: MAC(ownerMAC)}, now)
	}
	if got := a.list(now)[0]; got.Addr != asker(50) || got.MAC != MAC(ownerMAC) {
		t.Errorf("the latest is %v", got)
	}
	if got := a.of(target(100), now); len(got) != 1 || got[0].Addr != asker(50) {
		t.Errorf("known for %s are %v", target(100), got)
	}
	a.saw(query{target: target(1), asker: ip("0.0.0.0"), askerMAC: MAC(peerMAC)}, now)
	if len(a.byAddr) != maxAskers || a.recent.Len() != maxAskers {
		t.Errorf("%d and %d askers are kept", len(a.byAddr), a.recent.Len())
	}
	if got := a.list(now.Add(askerAge)); len(got) != 0 {
		t.Errorf("%d askers do not age", len(got))
	}
}

func TestRivalReportsAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	v := newRivalry()
	rival := func(i int) Rival { return Rival{Addr: addr4(uint32(i)), MAC: MAC(peerMAC), At: now} }
	for i := range 5000 {
		v.report(rival(i))
		v.report(rival(i))
	}
	if len(v.reports) != rivalQueue || len(v.last) != rivalQueue {
		t.Fatalf("%d reports wait, %d rivals are remembered, want %d", len(v.reports), len(v.last), rivalQueue)
	}
	// With a reader, the memory is the bound, until a second has passed.
	read := func() (n int) {
		for i := range 5000 {
			v.report(rival(i))
			for len(v.reports) > 0 {
				<-v.reports
				n++
			}
		}
		return n
	}
	if n := read(); n != rivalMemory {
		t.Errorf("%d rivals are reported in one second, want %d", n, rivalMemory)
	}
	now = now.Add(rivalInterval)
	if n := read(); n != rivalMemory {
		t.Errorf("%d rivals are reported in the next second, want %d", n, rivalMemory)
	}
}

// TestOwnInterfacesAreNoRivals: two interfaces on one Ethernet hear each other.
func TestOwnInterfacesAreNoRivals(t *testing.T) {
	t.Parallel()
	other := testLink(3, "eth1")
	other.MAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x02}
	a, err := New(Config{Links: netif.NewFake(testLink(2, "eth0"), other), Wire: &FakeWire{}})
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(a)
	a.Apply(on("192.0.2.10"))
	l.converge()
	p := l.ports[portKey{"eth0", ARP}]
	defer l.serving.Wait()
	defer l.close(p)
	p.respond(nil, arpFrame{src: other.MAC, senderMAC: other.MAC, sender: ip("192.0.2.10"), dst: ether.Broadcast[:]}.bytes(t))
	if len(a.Rivals()) != 0 {
		t.Errorf("our own interface is reported: %+v", <-a.Rivals())
	}
	p.respond(nil, arpFrame{sender: ip("192.0.2.10")}.bytes(t))
	if len(a.Rivals()) != 1 {
		t.Error("a rival is not reported")
	}
}

// TestStandInOnlyWhereTheOwnerIs: without the owner's MAC on an interface there
// is nothing to say there.
func TestStandInOnlyWhereTheOwnerIs(t *testing.T) {
	t.Parallel()
	f := start(t, &FakeWire{})
	f.Apply(Desired{ip("192.0.2.10"): {Interfaces: []string{"eth0", "eth1"}, StandIn: map[string]MAC{"eth0": MAC(ownerMAC)}}})
	f.await("the stand-in", func() bool { return slices.Equal(f.Applied().StandIns[ip("192.0.2.10")], []string{"eth0"}) })
	if f.wire.Deliver("eth1", arpFrame{}.bytes(t)) {
		t.Error("eth1 is answered on")
	}
	f.wire.Deliver("eth0", arpFrame{}.bytes(t))
	f.sent(1, "eth0 02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationreply 192.0.2.10 is-at 02:00:00:00:00:77")
	s := f.state("eth0", ARP)
	if s.StandIns != 1 || s.Addresses != 0 || s.Queries != 1 || !s.LastQuery.Equal(f.time.Now()) {
		t.Errorf("unexpected state %+v", s)
	}
	if got := f.wire.String(); strings.Count(got, "\n") != 0 {
		t.Errorf("more is sent than one answer:\n%s", got)
	}
	if v := gather(f.metrics.standIns)["eth0/arp"]; v != 1 {
		t.Errorf("berth_l2_stand_ins is %v, want 1", v)
	}
}
