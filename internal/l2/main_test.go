package l2

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

func TestMain(m *testing.M) {
	generateIfAsked()
	goleak.VerifyTestMain(m)
}

var (
	ourMAC  = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x01}
	peerMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x99}
	ourLL   = ip("fe80::1")
	peerLL  = ip("fe80::99")
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func ourself() self { return self{mac: MAC(ourMAC)} }

// testLink is an Ethernet interface in good order.
func testLink(index int, name string) netif.Link {
	return netif.Link{
		Index: index, Name: name, MAC: ourMAC, Up: true, Carrier: true,
		Broadcast: true, Multicast: true, LinkLocal: ourLL,
	}
}

// An arpFrame is an ARP packet to build; zero fields get what a peer that asks
// for 192.0.2.10 would send.
type arpFrame struct {
	dst, src, senderMAC net.HardwareAddr
	sender, target      netip.Addr
	op                  arp.Operation
	change              func(*arp.Packet)
}

func (f arpFrame) bytes(t testing.TB) []byte {
	t.Helper()
	f.dst, f.src, f.senderMAC = either(f.dst, ethernet.Broadcast), either(f.src, peerMAC), either(f.senderMAC, peerMAC)
	if !f.sender.IsValid() {
		f.sender = ip("192.0.2.99")
	}
	if !f.target.IsValid() {
		f.target = ip("192.0.2.10")
	}
	if f.op == 0 {
		f.op = arp.OperationRequest
	}
	p, err := arp.NewPacket(f.op, f.senderMAC, f.sender, make(net.HardwareAddr, 6), f.target)
	if err != nil {
		t.Fatal(err)
	}
	if f.change != nil {
		f.change(p)
	}
	payload, _ := p.MarshalBinary()
	return etherFrame(t, f.dst, f.src, ethernet.EtherTypeARP, payload)
}

// An nsFrame is a neighbour solicitation to build; zero fields get what a peer
// that asks for 2001:db8::10 for the first time would send.
type nsFrame struct {
	dst, src         net.HardwareAddr
	ipDst, ipSrc     netip.Addr
	target           netip.Addr
	noOption         bool
	hopLimit         byte
	change           func(frame []byte) []byte // before the checksum is made
	changeAfterwards func(frame []byte) []byte
}

func (f nsFrame) bytes(t testing.TB) []byte {
	t.Helper()
	if !f.target.IsValid() {
		f.target = ip("2001:db8::10")
	}
	if !f.ipSrc.IsValid() {
		f.ipSrc = peerLL
	}
	if !f.ipDst.IsValid() {
		f.ipDst = ether.SolicitedNode(f.target)
	}
	group := f.ipDst.As16()
	f.dst, f.src = either(f.dst, net.HardwareAddr{0x33, 0x33, group[12], group[13], group[14], group[15]}), either(f.src, peerMAC)
	ns := &ndp.NeighborSolicitation{TargetAddress: f.target}
	if !f.noOption {
		ns.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: peerMAC}}
	}
	icmp, err := ndp.MarshalMessageChecksum(ns, f.ipSrc, f.ipDst)
	if err != nil {
		t.Fatal(err)
	}
	if f.hopLimit == 0 {
		f.hopLimit = 255
	}
	packet := append([]byte{0x60, 0, 0, 0, 0, byte(len(icmp)), 58, f.hopLimit}, f.ipSrc.AsSlice()...)
	packet = append(append(packet, f.ipDst.AsSlice()...), icmp...)
	frame := etherFrame(t, f.dst, f.src, ethernet.EtherTypeIPv6, packet)[:etherLen+len(packet)]
	if f.change != nil {
		frame = fixChecksum(f.change(frame))
	}
	if f.changeAfterwards != nil {
		frame = f.changeAfterwards(frame)
	}
	return frame
}

// A naFrame is a neighbour advertisement to build; zero fields get what a peer
// that takes 2001:db8::10 over would send.
type naFrame struct {
	dst, src            net.HardwareAddr
	ipDst, ipSrc        netip.Addr
	target              netip.Addr
	is                  net.HardwareAddr // said to have it
	noOption, solicited bool
	change              func(frame []byte) []byte // before the checksum is made
}

func (f naFrame) bytes(t testing.TB) []byte {
	t.Helper()
	or := func(a, b netip.Addr) netip.Addr {
		if a.IsValid() {
			return a
		}
		return b
	}
	f.target, f.ipSrc, f.ipDst = or(f.target, ip("2001:db8::10")), or(f.ipSrc, peerLL), or(f.ipDst, ip("ff02::1"))
	f.dst, f.src, f.is = either(f.dst, ether.AllNodes[:]), either(f.src, peerMAC), either(f.is, peerMAC)
	icmp := append([]byte{136, 0, 0, 0, naOverride, 0, 0, 0}, f.target.AsSlice()...)
	if f.solicited {
		icmp[4] |= naSolicited
	}
	if !f.noOption {
		icmp = append(append(icmp, 2, 1), f.is...)
	}
	packet := append([]byte{0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255}, f.ipSrc.AsSlice()...)
	packet = append(append(packet, f.ipDst.AsSlice()...), icmp...)
	frame := etherFrame(t, f.dst, f.src, ethernet.EtherTypeIPv6, packet)[:etherLen+len(packet)]
	if f.change != nil {
		frame = f.change(frame)
	}
	return fixChecksum(frame)
}

// fixChecksum makes the checksum of the ICMPv6 message in frame right.
func fixChecksum(frame []byte) []byte {
	icmp := frame[etherLen+ether.IPv6Len:]
	icmp = icmp[:min(len(icmp), int(frame[etherLen+4])<<8|int(frame[etherLen+5]))]
	icmp[2], icmp[3] = 0, 0
	sum := ether.Checksum(frame[etherLen+8:etherLen+ether.IPv6Len], icmp)
	icmp[2], icmp[3] = byte(sum>>8), byte(sum)
	return frame
}

func either(a, b net.HardwareAddr) net.HardwareAddr {
	if a == nil {
		return b
	}
	return a
}

func etherFrame(t testing.TB, dst, src net.HardwareAddr, etherType ethernet.EtherType, payload []byte) []byte {
	t.Helper()
	b, err := (&ethernet.Frame{Destination: dst, Source: src, EtherType: etherType, Payload: payload}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// gather returns the values of a collector's series by label values, joined by
// slashes in the order of the label names: interface, kind, protocol.
func gather(c prometheus.Collector) map[string]float64 {
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		panic(err)
	}
	out := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			out[strings.Join(labels, "/")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
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
