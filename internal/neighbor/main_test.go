package neighbor

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ourMAC  = ether.MAC{0x02, 0, 0, 0, 0, 0x01}
	peerMAC = ether.MAC{0x02, 0, 0, 0, 0, 0x99}
	ourLL   = ip("fe80::1")
	peerLL  = ip("fe80::99")
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// testLink is an Ethernet interface in good order.
func testLink(index int, name string) netif.Link {
	return netif.Link{
		Index: index, Name: name, MAC: net.HardwareAddr(ourMAC[:]), Up: true, Carrier: true,
		Broadcast: true, Multicast: true, LinkLocal: ourLL,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
	}
}

// arpFrame returns an ARP packet.
func arpFrame(dst ether.MAC, op arp.Operation, sender, target ether.ARPSide) []byte {
	b := ether.AppendHeader(nil, dst, sender.MAC, unix.ETH_P_ARP)
	return ether.AppendARP(b, op, sender, target)
}

// arpReply is how a host answers us.
func arpReply(mac ether.MAC, addr netip.Addr) []byte {
	return arpFrame(ourMAC, arp.OperationReply, ether.ARPSide{MAC: mac, IP: addr}, ether.ARPSide{MAC: ourMAC, IP: ip("192.0.2.1")})
}

// ndpFrame returns a frame with a message of neighbour discovery.
func ndpFrame(t testing.TB, etherDst, etherSrc ether.MAC, src, dst netip.Addr, m ndp.Message) []byte {
	icmp, err := ndp.MarshalMessageChecksum(m, src, dst)
	if err != nil {
		t.Fatal(err)
	}
	b := ether.AppendHeader(nil, etherDst, etherSrc, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	return append(b, icmp...)
}

// ndpReply is how a host answers us: as Linux does to a unicast question,
// without the option, or with it.
func ndpReply(t testing.TB, mac ether.MAC, addr netip.Addr, option bool) []byte {
	na := &ndp.NeighborAdvertisement{Solicited: true, TargetAddress: addr}
	if option {
		na.Override = true
		na.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac[:]}}
	}
	return ndpFrame(t, ourMAC, mac, addr, ourLL, na)
}

// fix makes the checksum of an ICMPv6 frame right.
func fix(frame []byte) []byte {
	icmp := frame[ether.HeaderLen+ether.IPv6Len:]
	icmp[2], icmp[3] = 0, 0
	binary.BigEndian.PutUint16(icmp[2:], ether.Checksum(frame[ether.HeaderLen+8:ether.HeaderLen+ether.IPv6Len], icmp))
	return frame
}

// A rig is a Prober on a network in memory, whose steps the test makes.
type rig struct {
	t     testing.TB
	p     *Prober
	wire  *FakeWire
	links *netif.Fake
	clock *clocktesting.FakeClock
	reg   *prometheus.Registry
	hosts map[netip.Addr]*fakeHost
	mail  []delivery
	onAsk func(addr netip.Addr, probe bool)
}

// A fakeHost answers questions about one address.
type fakeHost struct {
	mac   ether.MAC
	dead  bool
	delay time.Duration
}

type delivery struct {
	at    time.Time
	frame []byte
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{
		t: t, wire: &FakeWire{Deaf: true}, links: netif.NewFake(),
		clock: clocktesting.NewFakeClock(time.Unix(1000, 0)), reg: prometheus.NewRegistry(),
		hosts: make(map[netip.Addr]*fakeHost),
	}
	r.wire.OnSend = r.receive
	r.links.Set(testLink(2, "eth0"))
	cfg.Links, cfg.Wire, cfg.Clock, cfg.Metrics = r.links, r.wire, r.clock, NewMetrics(r.reg)
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.p = p
	t.Cleanup(p.shut)
	return r
}

// host adds a host, whose MAC is made of its address.
func (r *rig) host(addr string) (*fakeHost, Target) {
	a := ip(addr)
	b := a.AsSlice()
	h := &fakeHost{mac: ether.MAC{0x02, 1, 0, 0, b[len(b)-2], b[len(b)-1]}, delay: time.Millisecond}
	r.hosts[a] = h
	return h, Target{Interface: "eth0", Addr: a, MAC: h.mac}
}

// receive is the hosts' ear.
func (r *rig) receive(_ string, frame []byte) {
	var addr netip.Addr
	probe := false
	if frame[12] == 8 {
		var p arp.Packet
		if err := p.UnmarshalBinary(frame[ether.HeaderLen:]); err != nil {
			r.t.Fatal(err)
		}
		addr, probe = p.TargetIP, p.SenderIP.IsUnspecified()
	} else {
		src, _, icmp, err := ether.ParseIPv6(frame[ether.HeaderLen:])
		if err != nil {
			r.t.Fatal(err)
		}
		m, err := ndp.ParseMessage(icmp)
		if err != nil {
			r.t.Fatal(err)
		}
		addr, probe = m.(*ndp.NeighborSolicitation).TargetAddress, src.IsUnspecified()
	}
	if r.onAsk != nil {
		r.onAsk(addr, probe)
	}
	h := r.hosts[addr]
	if to := ether.MAC(frame[:6]); h == nil || h.dead || !to.IsGroup() && to != h.mac {
		return
	}
	r.post(h.delay, r.answer(h, addr, probe, ether.MAC(frame[:6]).IsGroup()))
}

func (r *rig) answer(h *fakeHost, addr netip.Addr, probe, group bool) []byte {
	switch {
	case addr.Is4():
		return arpReply(h.mac, addr)
	case probe:
		return ndpFrame(r.t, ether.AllNodes, h.mac, addr, ip("ff02::1"), &ndp.NeighborAdvertisement{
			Override: true, TargetAddress: addr,
			Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: h.mac[:]}},
		})
	}
	return ndpReply(r.t, h.mac, addr, group)
}

// post has a frame arrive after a while.
func (r *rig) post(after time.Duration, frame []byte) {
	r.mail = append(r.mail, delivery{r.clock.Now().Add(after), frame})
}

// deliver has those frames arrive whose time has come, and returns when the next
// one does.
func (r *rig) deliver() (next time.Time) {
	var later []delivery
	for _, d := range r.mail {
		if d.at.After(r.clock.Now()) {
			later = append(later, d)
			next = earlier(next, d.at)
			continue
		}
		r.wire.Deliver("eth0", d.frame)
	}
	r.mail = later
	return next
}

// advance lets time pass with the Prober at work.
func (r *rig) advance(d time.Duration) {
	end := r.clock.Now().Add(d)
	for {
		again := r.p.converge()
		arrives := r.deliver()
		r.read()
		next := earlier(r.p.step(), again)
		if len(r.mail) > 0 { // something that was just sent may be answered at once
			arrives = r.deliver()
		}
		next = earlier(next, arrives)
		if next.IsZero() || next.After(end) {
			r.clock.SetTime(end)
			r.deliver()
			return
		}
		if next.After(r.clock.Now()) {
			r.clock.SetTime(next)
		}
	}
}

// read is what the goroutine of a socket does.
func (r *rig) read() {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	for _, l := range r.p.lanes {
		l.drain()
	}
}

// stall lets time pass while the Prober gets no CPU.
func (r *rig) stall(d time.Duration) {
	end := r.clock.Now().Add(d)
	for next := r.deliver(); !next.IsZero() && !next.After(end); next = r.deliver() {
		r.clock.SetTime(next)
	}
	r.clock.SetTime(end)
	r.deliver()
}

// health returns what is known of a target.
func (r *rig) health(target Target) Health {
	r.t.Helper()
	h, ok := r.p.Heard()[target]
	if !ok {
		r.t.Fatalf("%s is not watched", target)
	}
	return h
}

// during runs f, which asks something, while time passes.
func (r *rig) during(f func()) (took time.Duration) {
	r.t.Helper()
	start := r.clock.Now()
	before := r.jobs()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	for registered := false; ; {
		select {
		case <-done:
			return r.clock.Now().Sub(start)
		default:
		}
		if registered = registered || r.jobs() > before; registered {
			r.advance(time.Millisecond)
		}
		time.Sleep(10 * time.Microsecond)
		if r.clock.Now().Sub(start) > time.Minute {
			r.t.Fatal("a question has no end")
		}
	}
}

func (r *rig) jobs() (n int) {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	for _, l := range r.p.lanes {
		for _, jobs := range l.jobs {
			n += len(jobs)
		}
	}
	return n
}

// counter returns the sum of a metric's series.
func (r *rig) counter(name string) (sum float64) { return counter(r.t, r.reg, name) }

func counter(t testing.TB, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "berth_neighbor_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// pending reports whether a change was notified, and takes the notification.
func (r *rig) pending() bool {
	select {
	case <-r.p.Changes():
		return true
	default:
		return false
	}
}
