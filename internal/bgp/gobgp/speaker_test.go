package gobgp

import (
	"context"

	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/wire"
	"github.com/berth-lb/berth/internal/netnstest"
)

// testLogger logs to a test.
type testLogger struct{ t testing.TB }

func (l testLogger) Log(keyvals ...any) error {
	l.t.Log(keyvals...)
	return nil
}

// startSpeaker runs a Speaker in the node until the end of the test or stop.
func (n *network) startSpeaker(t testing.TB, change ...func(*Config)) (s *Speaker, stop func()) {
	cfg := Config{Inside: n.node.Do, Registerer: prometheus.NewRegistry()}
	if testing.Verbose() {
		cfg.Logger = testLogger{t}
	}
	for _, f := range change {
		f(&cfg)
	}
	s = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func testPeer(asn uint32, change ...func(*bgp.Peer)) bgp.Peer {
	p := bgp.Peer{
		Name: "tor", LocalASN: 64500, PeerASN: asn, RouterID: netip.MustParseAddr(node4),
		Address: netip.MustParseAddr(router4), HoldTime: 90 * time.Second, ConnectTime: 2 * time.Second,
		Families: []bgp.Family{bgp.IPv4, bgp.IPv6}, NextHops: map[bgp.Family]netip.Addr{
			bgp.IPv4: netip.MustParseAddr(node4), bgp.IPv6: netip.MustParseAddr(node6)},
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

func testRoutes(n int) []bgp.Route {
	var routes []bgp.Route
	for i := range n {
		routes = append(routes, bgp.Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)})
	}
	return routes
}

func apply(s *Speaker, peer bgp.Peer, routes ...bgp.Route) {
	s.Apply([]bgp.Peer{peer}, map[string][]bgp.Route{peer.Name: routes})
}

func state(t testing.TB, s *Speaker, name string) bgp.PeerState {
	t.Helper()
	for _, st := range s.States() {
		if st.Name == name {
			return st
		}
	}
	return bgp.PeerState{}
}

func awaitState(t testing.TB, s *Speaker, want bgp.State) bgp.PeerState {
	t.Helper()
	var got bgp.PeerState
	netnstest.Eventually(t, want.String(), func() bool {
		got = state(t, s, "tor")
		return got.State == want
	})
	return got
}

func awaitTable(t testing.TB, r *router, want string) {
	t.Helper()
	netnstest.Eventually(t, "table\n"+want, func() bool { return r.table() == want })
}

func TestSessionIsEstablishedFast(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	s, _ := n.startSpeaker(t)
	start := time.Now()
	apply(s, testPeer(64501), testRoutes(1)...)
	st := awaitState(t, s, bgp.Established)
	awaitTable(t, r, "198.18.0.0/32 {Origin: i} {AsPath: 64500} {Nexthop: 192.0.2.1}")
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	if st.RemoteASN != 64501 || st.RemoteRouterID.String() != "203.0.113.1" || st.RemoteAddress.String() != "192.0.2.99:179" ||
		st.HoldTime != 90*time.Second || !slices.Equal(st.Families, []bgp.Family{bgp.IPv4, bgp.IPv6}) || st.Announced != 1 || st.LastError != "" || st.Problem != "" {
		t.Errorf("state is %+v", st)
	}
	if got := strings.Join(st.Capabilities, " "); got != "multiprotocol route-refresh graceful-restart four-octet-asn" {
		t.Errorf("capabilities are %s", got)
	}
}

func TestOneChangeIsOneUpdate(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	s, _ := n.startSpeaker(t)
	peer, routes := testPeer(64501), testRoutes(100)
	apply(s, peer, routes...)
	netnstest.Eventually(t, "all routes", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == 100 })
	before := count(r, func(r *router) int { return r.updates })
	sent := state(t, s, "tor").Sent.Update

	routes[7].MED = pointer[uint32](3)
	apply(s, peer, routes...)
	netnstest.Eventually(t, "the change", func() bool {
		return count(r, func(r *router) string { return r.routes["198.18.0.7/32"] }) == "{Origin: i} {AsPath: 64500} {Nexthop: 192.0.2.1} {Med: 3}"
	})
	apply(s, peer, routes...) // is none
	apply(s, peer, routes[1:]...)
	netnstest.Eventually(t, "the withdrawal", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == 99 })
	if got := count(r, func(r *router) int { return r.updates }) - before; got != 2 {
		t.Errorf("two changes were %d UPDATEs", got)
	}
	st := state(t, s, "tor")
	if st.Sent.Update-sent != 2 || st.Sent.Open != 1 || st.Announced != 99 {
		t.Errorf("state is %+v", st)
	}
	if sessions := count(r, func(r *router) int { return r.sessions }); sessions != 1 {
		t.Errorf("there were %d sessions", sessions)
	}
}

func TestRoutesArriveBeforeEndOfRIB(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	s, _ := n.startSpeaker(t)
	peer := testPeer(64501, func(p *bgp.Peer) { p.GracefulRestart = &bgp.GracefulRestart{RestartTime: 2 * time.Minute} })
	routes := append(testRoutes(2000), bgp.Route{Prefix: netip.MustParsePrefix("2001:db8:1::1/128")})
	apply(s, peer, routes...)
	both := func() bool { return count(r, func(r *router) int { return len(r.ended) }) == 2 }
	netnstest.Eventually(t, "both markers", both)
	if got := count(r, func(r *router) int { return r.atEnd }); got != len(routes) {
		t.Errorf("%d routes were known at the end", got)
	}
	gr := count(r, func(r *router) *wire.GracefulRestart { return r.opens[0].Capabilities.GracefulRestart })
	if !gr.Restarting || gr.Time != 120 || len(gr.Families) != 2 || !gr.Families[0].Forwarding || !gr.Families[1].Forwarding {
		t.Errorf("graceful restart in the first OPEN is %+v", gr)
	}
	// While the session is down a route goes and one comes.
	r.hangUp()
	apply(s, peer, append(routes[1:], bgp.Route{Prefix: netip.MustParsePrefix("198.51.100.1/32")})...)
	netnstest.Eventually(t, "another session", func() bool { return count(r, func(r *router) int { return len(r.opens) }) == 2 && both() })
	if got := count(r, func(r *router) int { return len(r.routes) }); got != len(routes) {
		t.Errorf("%d routes are known after the second session began", got)
	}
	if table := r.table(); strings.Contains(table, "198.18.0.0/32") || !strings.Contains(table, "198.51.100.1/32") {
		t.Error("the routes are not those that were applied last")
	}
	if gr := count(r, func(r *router) *wire.GracefulRestart { return r.opens[1].Capabilities.GracefulRestart }); gr.Restarting {
		t.Error("the second session says that the speaker has restarted")
	}
	if st := state(t, s, "tor"); st.Flaps != 1 || !st.GracefulRestart || !strings.Contains(st.LastError, "closed the connection") {
		t.Errorf("state is %+v", st)
	}
}

func TestAttributesOverEitherTransport(t *testing.T) {
	t.Parallel()
	full := bgp.Route{
		Prefix: netip.MustParsePrefix("198.51.100.1/32"), LocalPref: pointer[uint32](150), MED: pointer[uint32](20), Prepend: 1,
		Communities: []bgp.Community{64500<<16 | 7}, LargeCommunities: []bgp.LargeCommunity{{64500, 1, 2}},
	}
	six := bgp.Route{Prefix: netip.MustParsePrefix("2001:db8:1::1/128")}
	const rest = " {Communities: 64500:7} {LargeCommunity: [ 64500:1:2]}"
	over6 := func(p *bgp.Peer) { p.Address = netip.MustParseAddr(router6) }
	noHops := func(p *bgp.Peer) { p.NextHops = nil }
	for name, test := range map[string]struct {
		asn     uint32
		change  []func(*bgp.Peer)
		extends bool
		want    string
		problem string
	}{
		"external over IPv4": {64501, nil, false, "198.51.100.1/32 {Origin: i} {AsPath: 64500 64500} {Nexthop: 192.0.2.1} {Med: 20}" + rest +
			"\n2001:db8:1::1/128 {Origin: i} {AsPath: 64500} {Nexthop: 2001:db8::1}", ""},
		"external over IPv6": {64501, []func(*bgp.Peer){over6}, false, "198.51.100.1/32 {Origin: i} {AsPath: 64500 64500} {Nexthop: 192.0.2.1} {Med: 20}" + rest +
			"\n2001:db8:1::1/128 {Origin: i} {AsPath: 64500} {Nexthop: 2001:db8::1}", ""},
		"internal over IPv4": {64500, nil, false, "198.51.100.1/32 {Origin: i} {AsPath: } {Nexthop: 192.0.2.1} {Med: 20} {LocalPref: 150}" + rest +
			"\n2001:db8:1::1/128 {Origin: i} {AsPath: } {LocalPref: 100} {Nexthop: 2001:db8::1}", ""},
		"extended next hop": {64501, []func(*bgp.Peer){over6, noHops}, true, "198.51.100.1/32 {Origin: i} {AsPath: 64500 64500} {Med: 20} {Communities: 64500:7} {Nexthop: 2001:db8::1} {LargeCommunity: [ 64500:1:2]}" +
			"\n2001:db8:1::1/128 {Origin: i} {AsPath: 64500} {Nexthop: 2001:db8::1}", ""},
		"no IPv4 next hop": {64501, []func(*bgp.Peer){over6, noHops}, false, "2001:db8:1::1/128 {Origin: i} {AsPath: 64500} {Nexthop: 2001:db8::1}", "no ipv4 route"},
		"large ASN, dynamic": {4200000001, []func(*bgp.Peer){func(p *bgp.Peer) { p.PeerASN, p.Dynamic, p.LocalASN = 0, bgp.External, 4200000000 }}, false,
			"198.51.100.1/32 {Origin: i} {AsPath: 4200000000 4200000000} {Nexthop: 192.0.2.1} {Med: 20}" + rest +
				"\n2001:db8:1::1/128 {Origin: i} {AsPath: 4200000000} {Nexthop: 2001:db8::1}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			peer := testPeer(test.asn, test.change...)
			r := n.newRouter(t, test.asn, netip.AddrPortFrom(peer.Address, 179).String(), func(o *wire.Open) {
				if test.extends {
					o.Capabilities.ExtendedNextHop = []wire.ExtendedNextHop{{Family: wire.IPv4Unicast, NextHopAFI: wire.AFIIPv6}}
				}
			})
			s, _ := n.startSpeaker(t)
			apply(s, peer, full, six)
			awaitTable(t, r, test.want)
			if st := state(t, s, "tor"); (test.problem == "") != (st.Problem == "") || !strings.Contains(st.Problem, test.problem) {
				t.Errorf("problem is %q", st.Problem)
			}
		})
	}
}

func TestOpenIsRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		peer func(*bgp.Peer)
		open func(*wire.Open)
		want string
		told string
	}{
		"wrong ASN":     {func(*bgp.Peer) {}, func(o *wire.Open) { o.ASN = 64999 }, "its AS number is 64999, want 64501", "bad peer AS"},
		"not internal":  {func(p *bgp.Peer) { p.PeerASN, p.Dynamic = 0, bgp.Internal }, func(*wire.Open) {}, "want an internal one", "bad peer AS"},
		"our router ID": {func(p *bgp.Peer) { p.PeerASN = 64500 }, func(o *wire.Open) { o.ASN, o.RouterID = 64500, netip.MustParseAddr(node4) }, "router ID 192.0.2.1 is ours", "bad BGP identifier"},
		"no family":     {func(p *bgp.Peer) { p.Families = []bgp.Family{bgp.IPv6} }, func(o *wire.Open) { o.Capabilities.Families = []wire.Family{wire.IPv4Unicast} }, "none of the address families", "unsupported capability"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			r := n.newRouter(t, 64501, router4+":179", test.open)
			s, _ := n.startSpeaker(t)
			apply(s, testPeer(64501, test.peer))
			netnstest.Eventually(t, "an error", func() bool { return strings.Contains(state(t, s, "tor").LastError, test.want) })
			netnstest.Eventually(t, "a notification", func() bool {
				return count(r, func(r *router) bool { return len(r.notices) > 0 && strings.Contains(r.notices[0], test.told) })
			})
			if st := state(t, s, "tor"); st.State == bgp.Established || st.Flaps != 0 {
				t.Errorf("state is %+v", st)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	registry := prometheus.NewRegistry()
	s, _ := n.startSpeaker(t, func(c *Config) { c.Registerer = registry })
	apply(s, testPeer(64501), testRoutes(3)...)
	netnstest.Eventually(t, "all routes", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == 3 })
	r.send(wire.Shutdown(wire.SubcodeAdminReset, "maintenance").Append(nil))
	netnstest.Eventually(t, "the flap", func() bool { return state(t, s, "tor").Flaps == 1 })
	if st := state(t, s, "tor"); !strings.Contains(st.LastError, "administrative reset: maintenance") {
		t.Errorf("last error is %q", st.LastError)
	}
	awaitState(t, s, bgp.Established)
	netnstest.Eventually(t, "all routes again", func() bool { return state(t, s, "tor").Announced == 3 })
	want := `
# HELP berth_bgp_prefixes_announced Prefixes that the peer knows from this node.
# TYPE berth_bgp_prefixes_announced gauge
berth_bgp_prefixes_announced{peer="tor"} 3
# HELP berth_bgp_session_flaps_total How often an established session was lost.
# TYPE berth_bgp_session_flaps_total counter
berth_bgp_session_flaps_total{peer="tor"} 1
# HELP berth_bgp_session_up Whether the BGP session is established (1) or not (0).
# TYPE berth_bgp_session_up gauge
berth_bgp_session_up{peer="tor"} 1
# HELP berth_bgp_notifications_received_total NOTIFICATION messages received.
# TYPE berth_bgp_notifications_received_total counter
berth_bgp_notifications_received_total{peer="tor"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "berth_bgp_prefixes_announced",
		"berth_bgp_session_flaps_total", "berth_bgp_session_up", "berth_bgp_notifications_received_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("against Prometheus' conventions: %v (error %v)", problems, err)
	}
	s.Apply(nil, nil)
	netnstest.Eventually(t, "no metrics", func() bool {
		n, err := testutil.GatherAndCount(registry)
		return n == 0 && err == nil
	})
	netnstest.Eventually(t, "good-bye", func() bool {
		return count(r, func(r *router) bool { return len(r.notices) == 1 && r.notices[0] == "cease: peer de-configured" })
	})
}
