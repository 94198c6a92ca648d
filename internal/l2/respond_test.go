package l2

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"

	"github.com/berth-lb/berth/internal/ether"
)

// answer is what a responder that owns everything does with a frame, as text.
func answer(frame []byte, proto Protocol) string {
	s := ourself()
	parse, reply := s.parseARP, s.appendARPReply
	if proto == NDP {
		parse, reply = s.parseNDP, s.appendNDPReply
	}
	m, err := parse(frame)
	switch {
	case errors.Is(err, errMalformed):
		return "malformed"
	case errors.Is(err, errIgnored):
		return "ignored"
	case err != nil:
		return err.Error()
	}
	if !m.asks {
		return fmt.Sprintf("%s is said to be at %s", m.claimed, m.claimant)
	}
	return describe(reply(nil, m.query, s.mac))
}

func TestAnswerARP(t *testing.T) {
	t.Parallel()
	const reply = "02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationreply 192.0.2.10 is-at 02:00:00:00:00:01 to 192.0.2.99 at 02:00:00:00:00:99"
	other := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x55}
	for _, tc := range []struct {
		name  string
		frame arpFrame
		want  string
	}{
		{"broadcast request", arpFrame{}, reply},
		{"unicast request", arpFrame{dst: ourMAC}, reply},
		{"probe (RFC 5227)", arpFrame{sender: ip("0.0.0.0")},
			"02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationreply 192.0.2.10 is-at 02:00:00:00:00:01 to 0.0.0.0 at 02:00:00:00:00:99"},
		{"relayed by a proxy", arpFrame{src: other}, reply},
		{"for another station", arpFrame{dst: other}, "ignored"},
		{"to a multicast group", arpFrame{dst: net.HardwareAddr{0x01, 0, 0x5e, 0, 0, 1}}, "ignored"},
		{"sent by ourselves", arpFrame{src: ourMAC, senderMAC: ourMAC}, "ignored"},
		{"sent by ourselves, relayed", arpFrame{senderMAC: ourMAC}, "ignored"},
		{"announcement by another node", arpFrame{sender: ip("192.0.2.10")}, "192.0.2.10 is said to be at 02:00:00:00:00:99"},
		{"reply", arpFrame{op: arp.OperationReply}, "192.0.2.99 is said to be at 02:00:00:00:00:99"},
		{"reply by ourselves, relayed", arpFrame{op: arp.OperationReply, senderMAC: ourMAC}, "ignored"},
		{"reply without an address", arpFrame{op: arp.OperationReply, sender: ip("0.0.0.0")}, "ignored"},
		{"inverse ARP", arpFrame{op: 8}, "192.0.2.99 is said to be at 02:00:00:00:00:99"},
		{"from a group", arpFrame{src: ethernet.Broadcast}, "malformed"},
		{"broadcast as sender", arpFrame{senderMAC: ethernet.Broadcast}, "malformed"},
		{"other hardware", arpFrame{change: func(p *arp.Packet) { p.HardwareType = 2 }}, "malformed"},
		{"other protocol", arpFrame{change: func(p *arp.Packet) { p.ProtocolType = 0x86dd }}, "malformed"},
		{"hardware address too short", arpFrame{change: func(p *arp.Packet) { p.HardwareAddrLength = 5 }}, "malformed"},
		{"IPv6 lengths", arpFrame{change: func(p *arp.Packet) { p.IPLength = 16 }}, "malformed"},
	} {
		if got := answer(tc.frame.bytes(t), ARP); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
	whole := arpFrame{}.bytes(t)[:etherLen+ether.ARPLen]
	for n := range whole {
		if got := answer(whole[:n], ARP); got != "malformed" {
			t.Errorf("cut to %d bytes: got %s, want malformed", n, got)
		}
	}
}

func TestAnswerNDP(t *testing.T) {
	t.Parallel()
	const (
		reply = "02:00:00:00:00:01 > 02:00:00:00:00:99 na 2001:db8::10 > fe80::99 target 2001:db8::10 is-at 02:00:00:00:00:01 solicited override"
		probe = "02:00:00:00:00:01 > 33:33:00:00:00:01 na 2001:db8::10 > ff02::1 target 2001:db8::10 is-at 02:00:00:00:00:01 override"
	)
	other := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x55}
	at := func(off int, value byte) func([]byte) []byte {
		return func(b []byte) []byte { b[off] = value; return b }
	}
	option := etherLen + ether.IPv6Len + 24
	for _, tc := range []struct {
		name  string
		frame nsFrame
		want  string
	}{
		{"multicast", nsFrame{}, reply},
		{"unicast", nsFrame{dst: ourMAC, ipDst: ip("2001:db8::10")}, reply},
		{"unicast without option", nsFrame{dst: ourMAC, ipDst: ip("2001:db8::10"), noOption: true}, reply},
		{"from a global address", nsFrame{ipSrc: ip("2001:db8::99")},
			"02:00:00:00:00:01 > 02:00:00:00:00:99 na 2001:db8::10 > 2001:db8::99 target 2001:db8::10 is-at 02:00:00:00:00:01 solicited override"},
		{"probe for duplicates", nsFrame{ipSrc: ip("::"), noOption: true}, probe},
		{"padded", nsFrame{changeAfterwards: func(b []byte) []byte { return append(b, 0, 0, 0) }}, reply},
		{"for another station", nsFrame{dst: other}, "ignored"},
		{"sent by ourselves", nsFrame{src: ourMAC}, "ignored"},
		{"sent by ourselves, relayed", nsFrame{change: at(option+7, 1)}, "ignored"},
		{"redirect", nsFrame{change: at(etherLen+ether.IPv6Len, 137)}, "malformed"},
		// RFC 4861 section 7.1.1.
		{"from a group", nsFrame{src: ethernet.Broadcast}, "malformed"},
		{"hop limit 254", nsFrame{hopLimit: 254}, "malformed"},
		{"checksum wrong", nsFrame{changeAfterwards: at(etherLen+ether.IPv6Len+2, 0x77)}, "malformed"},
		{"code not zero", nsFrame{change: at(etherLen+ether.IPv6Len+1, 1)}, "malformed"},
		{"multicast target", nsFrame{target: ip("ff02::10"), ipDst: ip("ff02::1")}, "malformed"},
		{"option of length zero", nsFrame{change: at(option+1, 0)}, "malformed"},
		{"probe to unicast", nsFrame{ipSrc: ip("::"), ipDst: ip("2001:db8::10"), dst: ourMAC, noOption: true}, "malformed"},
		{"probe to all nodes", nsFrame{ipSrc: ip("::"), ipDst: ip("ff02::1"), noOption: true}, "malformed"},
		{"probe with option", nsFrame{ipSrc: ip("::")}, "malformed"},
		{"multicast source", nsFrame{ipSrc: ip("ff02::1")}, "malformed"},
		{"group as link-layer source", nsFrame{change: at(option+2, 0x33)}, "malformed"},
		{"not IPv6", nsFrame{changeAfterwards: at(etherLen, 0x40)}, "malformed"},
		{"longer than the frame", nsFrame{changeAfterwards: at(etherLen+5, 200)}, "malformed"},
		{"length below a solicitation's", nsFrame{changeAfterwards: at(etherLen+5, 23)}, "malformed"},
	} {
		if got := answer(tc.frame.bytes(t), NDP); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
	whole := nsFrame{}.bytes(t)
	for n := range whole {
		if got := answer(whole[:n], NDP); got != "malformed" {
			t.Errorf("cut to %d bytes: got %s, want malformed", n, got)
		}
	}
}

// TestAdvertisementBytes compares with the messages that package ndp makes.
func TestAdvertisementBytes(t *testing.T) {
	t.Parallel()
	s := ourself()
	for _, tc := range []struct {
		got       []byte
		dst       netip.Addr
		solicited bool
		target    netip.Addr
		etherDst  net.HardwareAddr
	}{
		{s.appendNDPReply(nil, query{ip("2001:db8::10"), peerLL, MAC(peerMAC)}, s.mac), peerLL, true, ip("2001:db8::10"), peerMAC},
		{s.appendUnsolicitedNA(nil, ip("2001:db8:ffff::1"), s.mac), ip("ff02::1"), false, ip("2001:db8:ffff::1"), net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}},
	} {
		icmp, err := ndp.MarshalMessageChecksum(&ndp.NeighborAdvertisement{
			Solicited: tc.solicited, Override: true, TargetAddress: tc.target,
			Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: ourMAC}},
		}, tc.target, tc.dst)
		if err != nil {
			t.Fatal(err)
		}
		packet := append([]byte{0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255}, tc.target.AsSlice()...)
		packet = append(append(packet, tc.dst.AsSlice()...), icmp...)
		if want := etherFrame(t, tc.etherDst, ourMAC, ethernet.EtherTypeIPv6, packet); !bytes.Equal(tc.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", tc.target, tc.got, want)
		}
	}
}

func TestGratuitousARPText(t *testing.T) {
	t.Parallel()
	s := ourself()
	for op, want := range map[arp.Operation]string{
		arp.OperationRequest: "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff arp operationrequest 192.0.2.10 is-at 02:00:00:00:00:01 to 192.0.2.10 at 00:00:00:00:00:00",
		arp.OperationReply:   "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff arp operationreply 192.0.2.10 is-at 02:00:00:00:00:01 to 192.0.2.10 at 02:00:00:00:00:01",
	} {
		if got := describe(s.appendGratuitousARP(nil, ether.Broadcast, op, ip("192.0.2.10"))); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}

// TestAdvertisementsTellWhoHasAnAddress reads what RFC 4861 section 7.1.2 lets
// pass.
func TestAdvertisementsTellWhoHasAnAddress(t *testing.T) {
	t.Parallel()
	const at99 = "2001:db8::10 is said to be at 02:00:00:00:00:99"
	at := func(off int, value byte) func([]byte) []byte {
		return func(b []byte) []byte { b[off] = value; return b }
	}
	const icmp = etherLen + ether.IPv6Len
	for _, tc := range []struct {
		name  string
		frame naFrame
		want  string
	}{
		{"to all nodes", naFrame{}, at99},
		{"to us", naFrame{dst: ourMAC, ipDst: ourLL, solicited: true}, at99},
		{"without option", naFrame{noOption: true}, at99},
		{"for another's MAC", naFrame{is: net.HardwareAddr{0x02, 0, 0, 0, 0, 0x55}}, "2001:db8::10 is said to be at 02:00:00:00:00:55"},
		{"for our MAC, by a stand-in", naFrame{is: ourMAC}, "ignored"},
		{"for another station", naFrame{dst: net.HardwareAddr{0x02, 0, 0, 0, 0, 0x55}, ipDst: ourLL}, "ignored"},
		{"sent by ourselves", naFrame{src: ourMAC}, "ignored"},
		{"solicited, to all nodes", naFrame{solicited: true}, "malformed"},
		{"from nobody", naFrame{ipSrc: ip("::")}, "malformed"},
		{"multicast target", naFrame{target: ip("ff02::10")}, "malformed"},
		{"group as link-layer target", naFrame{is: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}}, "malformed"},
		{"code not zero", naFrame{change: at(icmp+1, 1)}, "malformed"},
		{"option of length zero", naFrame{change: at(icmp+25, 0)}, "malformed"},
		{"cut to nothing", naFrame{change: func(b []byte) []byte { return b[:icmp+10] }}, "malformed"},
	} {
		if got := answer(tc.frame.bytes(t), NDP); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// TestStandInSpeaksWithTheOwnersAddress: only what resolves the address says the
// owner's MAC, never what moves a switch's table.
func TestStandInSpeaksWithTheOwnersAddress(t *testing.T) {
	t.Parallel()
	s, is := ourself(), MAC{0x02, 0, 0, 0, 0, 0x77}
	v4, v6 := ip("192.0.2.10"), ip("2001:db8::10")
	for _, tc := range []struct {
		frame []byte
		want  string
	}{
		{s.appendARPReply(nil, query{v4, ip("192.0.2.99"), MAC(peerMAC)}, is),
			"02:00:00:00:00:01 > 02:00:00:00:00:99 arp operationreply 192.0.2.10 is-at 02:00:00:00:00:77 to 192.0.2.99 at 02:00:00:00:00:99"},
		{s.appendNDPReply(nil, query{v6, peerLL, MAC(peerMAC)}, is),
			"02:00:00:00:00:01 > 02:00:00:00:00:99 na 2001:db8::10 > fe80::99 target 2001:db8::10 is-at 02:00:00:00:00:77 solicited override"},
		{s.appendNDPReply(nil, query{v6, ip("::"), MAC(peerMAC)}, is),
			"02:00:00:00:00:01 > 33:33:00:00:00:01 na 2001:db8::10 > ff02::1 target 2001:db8::10 is-at 02:00:00:00:00:77 override"},
	} {
		if got := describe(tc.frame); got != tc.want {
			t.Errorf("got %s\nwant %s", got, tc.want)
		}
	}
}

func FuzzARP(f *testing.F) {
	f.Add(arpFrame{}.bytes(f))
	f.Add(arpFrame{sender: ip("0.0.0.0")}.bytes(f))
	f.Add(arpFrame{op: arp.OperationReply, sender: ip("192.0.2.10")}.bytes(f))
	f.Add(arpFrame{sender: ip("192.0.2.10")}.bytes(f))
	f.Add(arpFrame{change: func(p *arp.Packet) { p.IPLength = 16 }}.bytes(f))
	f.Fuzz(func(t *testing.T, frame []byte) {
		s := ourself()
		m, err := s.parseARP(frame)
		if err != nil {
			return
		}
		checkMessage(t, s, m, netip.Addr.Is4)
		if !m.asks {
			return
		}
		// What is answered must be well-formed, and never itself a question.
		reply, err := (self{mac: m.askerMAC}).parseARP(s.appendARPReply(nil, m.query, s.mac))
		if errors.Is(err, errMalformed) || reply.asks || err == nil && (reply.claimed != m.target || reply.claimant != s.mac) {
			t.Fatalf("the answer to %+v is %+v, %v", m, reply, err)
		}
	})
}

// checkMessage checks what no frame may make us believe.
func checkMessage(t *testing.T, s self, m message, family func(netip.Addr) bool) {
	t.Helper()
	switch {
	case !m.asks && !m.claimed.IsValid():
		t.Fatalf("message %+v says nothing", m)
	case m.asks && (!family(m.target) || !family(m.asker) || m.askerMAC.IsGroup() || m.askerMAC == s.mac):
		t.Fatalf("impossible query %+v", m)
	case m.claimed.IsValid() && (!family(m.claimed) || m.claimed.IsUnspecified() || m.claimant.IsGroup() || m.claimant == s.mac):
		t.Fatalf("impossible claim %+v", m)
	}
}

func FuzzNDP(f *testing.F) {
	f.Add(nsFrame{}.bytes(f))
	f.Add(nsFrame{ipSrc: ip("::"), noOption: true}.bytes(f))
	f.Add(nsFrame{dst: ourMAC, ipDst: ip("2001:db8::10"), noOption: true}.bytes(f))
	f.Add(naFrame{}.bytes(f))
	f.Add(naFrame{dst: ourMAC, ipDst: ourLL, solicited: true, noOption: true}.bytes(f))
	f.Fuzz(func(t *testing.T, frame []byte) {
		s := ourself()
		if len(frame) >= etherLen+ether.IPv6Len+24 {
			// The checksum is no wall for an attacker, so it is none for the fuzzer.
			frame[etherLen+4], frame[etherLen+5] = 0, byte(min(len(frame)-etherLen-ether.IPv6Len, 255))
			frame = fixChecksum(frame)
		}
		m, err := s.parseNDP(frame)
		if err != nil {
			return
		}
		checkMessage(t, s, m, netip.Addr.Is6)
		if !m.asks {
			return
		}
		if m.target.IsMulticast() {
			t.Fatalf("impossible query %+v", m)
		}
		src, _, icmp, err := ether.ParseIPv6(s.appendNDPReply(nil, m.query, s.mac)[etherLen:])
		if err != nil || src != m.target || icmp[0] != 136 {
			t.Fatalf("the answer to %+v is malformed: %v", m, err)
		}
	})
}
