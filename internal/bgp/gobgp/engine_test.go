package gobgp

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	bgppacket "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/berth-lb/berth/internal/bgp"
)

// tcpPair returns two ends of a loopback connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	a, err = net.DialTCP("tcp4", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	b, err = listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// A scripted is the far end of an engine's connection.
type scripted struct {
	t    testing.TB
	conn net.Conn
}

func (s scripted) send(m *bgppacket.BGPMessage) {
	s.t.Helper()
	b, err := m.Serialize()
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.conn.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

func (s scripted) receive() (*bgppacket.BGPMessage, error) {
	_ = s.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	header := make([]byte, bgppacket.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(s.conn, header); err != nil {
		return nil, err
	}
	message := make([]byte, int(header[16])<<8|int(header[17]))
	copy(message, header)
	if _, err := io.ReadFull(s.conn, message[len(header):]); err != nil {
		return nil, err
	}
	return bgppacket.ParseBGPMessage(message)
}

func (s scripted) mustReceive(kind uint8) *bgppacket.BGPMessage {
	s.t.Helper()
	for {
		m, err := s.receive()
		if err != nil {
			s.t.Fatalf("waiting for a message of type %d: %v", kind, err)
		}
		if m.Header.Type == kind {
			return m
		}
		if m.Header.Type != bgppacket.BGP_MSG_KEEPALIVE {
			s.t.Fatalf("got a message of type %d, want %d", m.Header.Type, kind)
		}
	}
}

// establish brings a session up as AS asn.
func (s scripted) establish(asn uint32) {
	s.t.Helper()
	s.mustReceive(bgppacket.BGP_MSG_OPEN)
	s.send(bgppacket.NewBGPOpenMessage(23456, 9, "203.0.113.1", []bgppacket.OptionParameterInterface{
		bgppacket.NewOptionParameterCapability([]bgppacket.ParameterCapabilityInterface{
			bgppacket.NewCapMultiProtocol(bgppacket.RF_IPv4_UC), bgppacket.NewCapMultiProtocol(bgppacket.RF_IPv6_UC),
			bgppacket.NewCapFourOctetASNumber(asn), bgppacket.NewCapRouteRefresh(),
			bgppacket.NewCapGracefulRestart(false, false, 120, nil),
		}),
	}))
	s.mustReceive(bgppacket.BGP_MSG_KEEPALIVE)
	s.send(bgppacket.NewBGPKeepAliveMessage())
}

// describe prints an UPDATE in one line, with its attributes in order.
func describe(m *bgppacket.BGPMessage) string {
	u := m.Body.(*bgppacket.BGPUpdate)
	if end, family := u.IsEndOfRib(); end {
		return "end of " + family.String()
	}
	var b strings.Builder
	for _, w := range u.WithdrawnRoutes {
		fmt.Fprintf(&b, "-%s ", w)
	}
	for _, n := range u.NLRI {
		fmt.Fprintf(&b, "+%s ", n)
	}
	slices.SortFunc(u.PathAttributes, func(a, b bgppacket.PathAttributeInterface) int { return int(a.GetType()) - int(b.GetType()) })
	for _, a := range u.PathAttributes {
		fmt.Fprintf(&b, "%s ", a)
	}
	return strings.TrimSpace(b.String())
}

func pointer[T any](v T) *T { return &v }

func testConfig(remoteASN uint32) engineConfig {
	return engineConfig{
		localASN: 64500, remoteASN: remoteASN, routerID: netip.MustParseAddr("192.0.2.1"),
		families: []bgp.Family{bgp.IPv4, bgp.IPv6}, holdTime: 9 * time.Second, keepaliveTime: 3 * time.Second,
		endOfRIB: true, logger: log.NewNopLogger(),
		nextHops: nextHops{bgp.IPv4: netip.MustParseAddr("192.0.2.1"), bgp.IPv6: netip.MustParseAddr("2001:db8::1")},
	}
}

func TestEngineSendsExactAttributes(t *testing.T) {
	t.Parallel()
	full := bgp.Route{
		Prefix: netip.MustParsePrefix("198.51.100.1/32"), LocalPref: pointer[uint32](150), MED: pointer[uint32](20), Prepend: 2,
		Communities: []bgp.Community{bgp.GracefulShutdown, 64500<<16 | 7}, LargeCommunities: []bgp.LargeCommunity{{64500, 1, 2}},
	}
	bare := bgp.Route{Prefix: netip.MustParsePrefix("2001:db8:1::/64")}
	for name, test := range map[string]struct {
		remote   uint32
		hops     nextHops
		route    bgp.Route
		want     string
		withdraw string
	}{
		"external": {64501, nil, full,
			"+198.51.100.1/32 {Origin: i} {AsPath: 64500 64500 64500} {Nexthop: 192.0.2.1} {Med: 20} {Communities: 64500:7, planned-shut} {LargeCommunity: [ 64500:1:2]}",
			"-198.51.100.1/32"},
		"internal": {64500, nil, full,
			"+198.51.100.1/32 {Origin: i} {AsPath: } {Nexthop: 192.0.2.1} {Med: 20} {LocalPref: 150} {Communities: 64500:7, planned-shut} {LargeCommunity: [ 64500:1:2]}",
			"-198.51.100.1/32"},
		"four-octet": {4200000000, nil, bare,
			"{Origin: i} {AsPath: 64500} {MpReach(ipv6-unicast): {Nexthop: 2001:db8::1, NLRIs: [2001:db8:1::/64]}}",
			"{MpUnreach(ipv6-unicast): {NLRIs: [2001:db8:1::/64]}}"},
		"extended next hop": {64501, nextHops{bgp.IPv4: netip.MustParseAddr("fe80::1%eth0")}, bgp.Route{Prefix: netip.MustParsePrefix("198.51.100.0/24")},
			"{Origin: i} {AsPath: 64500} {MpReach(ipv4-unicast): {Nexthop: fe80::1, NLRIs: [198.51.100.0/24]}}",
			"-198.51.100.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(test.remote)
			if test.hops != nil {
				cfg.nextHops = test.hops
			}
			ours, theirs := tcpPair(t)
			e, err := startEngine(cfg, bgp.NewRoutes([]bgp.Route{test.route}), ours)
			if err != nil {
				t.Fatal(err)
			}
			defer e.stop()
			router := scripted{t, theirs}
			router.establish(test.remote)
			var got []string
			for range 3 {
				got = append(got, describe(router.mustReceive(bgppacket.BGP_MSG_UPDATE)))
			}
			ends := strings.Join(got, "\n")
			if !strings.Contains(ends, "end of ipv4") || !strings.Contains(ends, "end of ipv6") || !strings.Contains(ends, test.want+"\nend") {
				t.Errorf("got\n%s\nwant, before the End-of-RIB of its family,\n%s", ends, test.want)
			}
			if err := e.withdraw(test.route.Prefix); err != nil {
				t.Fatal(err)
			}
			if got := describe(router.mustReceive(bgppacket.BGP_MSG_UPDATE)); got != test.withdraw {
				t.Errorf("got %s, want %s", got, test.withdraw)
			}
			if err := e.announce(test.route.Normalise()); err != nil {
				t.Fatal(err)
			}
			if got := describe(router.mustReceive(bgppacket.BGP_MSG_UPDATE)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if err := e.refresh(); err != nil {
				t.Fatal(err)
			}
			got = nil
			for range 3 {
				got = append(got, describe(router.mustReceive(bgppacket.BGP_MSG_UPDATE)))
			}
			if !slices.Contains(got, test.want) {
				t.Errorf("after a refresh got %s, want %s", got, test.want)
			}
		})
	}
}

// Many engines start, run and stop at once; the race detector watches.
func TestEnginesShareNothing(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	for i := range 8 {
		ours, theirs := tcpPair(t)
		all.Go(func() {
			for j := range 3 {
				if j > 0 {
					ours, theirs = tcpPair(t)
				}
				e, err := startEngine(testConfig(64501), nil, ours)
				if err != nil {
					t.Error(err)
					return
				}
				router := scripted{t, theirs}
				router.establish(64501)
				prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 32)
				if err := e.announce(bgp.Route{Prefix: prefix}); err != nil {
					t.Error(err)
				}
				e.stop()
			}
		})
	}
	all.Wait()
}

// An engine that was never connected to, or whose session is gone, ends too.
func TestEngineStops(t *testing.T) {
	t.Parallel()
	for name, upset := range map[string]func(router scripted){
		"at once":    func(scripted) {},
		"after OPEN": func(r scripted) { r.mustReceive(bgppacket.BGP_MSG_OPEN) },
		"when up":    func(r scripted) { r.establish(64501) },
		"when gone":  func(r scripted) { r.establish(64501); _ = r.conn.Close() },
		"after NOTIFICATION": func(r scripted) {
			r.establish(64501)
			r.send(bgppacket.NewBGPNotificationMessage(6, 2, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := tcpPair(t)
			e, err := startEngine(testConfig(64501), nil, ours)
			if err != nil {
				t.Fatal(err)
			}
			upset(scripted{t, theirs})
			e.stop()
		})
	}
}
