package gobgp

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/wire"
	"github.com/berth-lb/berth/internal/netnstest"
)

func restarting(p *bgp.Peer) { p.GracefulRestart = &bgp.GracefulRestart{RestartTime: 2 * time.Minute} }

func noticesOf(r *router) string {
	return count(r, func(r *router) string { return strings.Join(r.notices, "\n") })
}

func sessionsOf(r *router) int { return count(r, func(r *router) int { return r.sessions }) }

// How a session ends tells the router whether to keep the routes.
func TestStop(t *testing.T) {
	t.Parallel()
	able, unable := func(*wire.Open) {}, func(o *wire.Open) { o.Capabilities.GracefulRestart = nil }
	for name, test := range map[string]struct {
		peer   func(*bgp.Peer)
		router func(*wire.Open)
		drain  bool
		want   string
	}{
		"plain":                    {func(*bgp.Peer) {}, able, false, "cease: administrative shutdown: speaker stopped"},
		"graceful restart":         {restarting, able, false, ""},
		"router cannot restart":    {restarting, unable, false, "cease: administrative shutdown: speaker stopped"},
		"drained":                  {func(*bgp.Peer) {}, able, true, "cease: administrative shutdown: node is drained"},
		"drained, would restart":   {restarting, able, true, "cease: administrative shutdown: node is drained"},
		"endless, without restart": {func(p *bgp.Peer) { p.HoldTime = 0 }, able, false, "cease: administrative shutdown: speaker stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			r := n.newRouter(t, 64501, router4+":179", test.router)
			s, stop := n.startSpeaker(t)
			apply(s, testPeer(64501, test.peer), testRoutes(2)...)
			netnstest.Eventually(t, "routes", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == 2 })
			if test.drain {
				s.Drain("node is drained")
				awaitTable(t, r, "198.18.0.0/32 {Origin: i} {AsPath: 64500} {Nexthop: 192.0.2.1} {Communities: planned-shut}\n"+
					"198.18.0.1/32 {Origin: i} {AsPath: 64500} {Nexthop: 192.0.2.1} {Communities: planned-shut}")
			}
			start := time.Now()
			stop()
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("stopping took %v", took)
			}
			r.close()
			if got := noticesOf(r); got != test.want {
				t.Errorf("the router was told %q, want %q", got, test.want)
			}
			if got := sessionsOf(r); got != 1 {
				t.Errorf("there were %d sessions", got)
			}
		})
	}
}

// When Run has returned nothing is connected any more, not even to a router that
// was about to be told something.
func TestRunClosesAll(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	established := func() string {
		var table []byte
		n.node.MustDo(func() (err error) {
			table, err = os.ReadFile("/proc/thread-self/net/tcp")
			return err
		})
		var lines []string
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); fields[3] == "01" { // TCP_ESTABLISHED
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	active, removed, passive := n.newRouter(t, 64501, router4+":179"), n.newRouter(t, 64501, router4+":1179"), n.newRouter(t, 64501, "")
	n.router.AddAddress("eth0", "192.0.2.98/24")
	s, stop := n.startSpeaker(t)
	one := testPeer(64501, restarting)
	two := testPeer(64501, restarting, func(p *bgp.Peer) { p.Name, p.Port = "removed", 1179 })
	three := testPeer(64501, func(p *bgp.Peer) { p.Name, p.Passive, p.Address = "passive", true, netip.MustParseAddr("192.0.2.98") })
	s.Apply([]bgp.Peer{one, two, three}, nil)
	n.call(passive, "192.0.2.98", node4+":179")
	for _, name := range []string{"tor", "removed", "passive"} {
		netnstest.Eventually(t, "session "+name, func() bool { return state(t, s, name).State == bgp.Established })
	}
	if got := strings.Count(established(), "\n"); got != 3 {
		t.Fatalf("%d connections", got)
	}
	s.Apply([]bgp.Peer{one, three}, nil)
	netnstest.Eventually(t, "removal", func() bool { return len(s.States()) == 2 })
	stop()
	if got := established(); got != "" {
		t.Errorf("Run has left\n%s", got)
	}
	for _, r := range []*router{active, removed, passive} {
		r.close()
	}
	if got := noticesOf(active) + "|" + noticesOf(removed) + "|" + noticesOf(passive); got != "|cease: peer de-configured|cease: administrative shutdown: speaker stopped" {
		t.Errorf("the routers were told %s", got)
	}
}

func TestChangesOfPeer(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	other := n.newRouter(t, 64502, router4+":1179")
	s, _ := n.startSpeaker(t)
	bystander := testPeer(64502, func(p *bgp.Peer) { p.Name, p.Port = "other", 1179 })
	peer := testPeer(64501)
	set := func() {
		s.Apply([]bgp.Peer{peer, bystander}, map[string][]bgp.Route{"tor": testRoutes(2), "other": testRoutes(1)})
	}
	up := func(sessions int) {
		t.Helper()
		netnstest.Eventually(t, "session and routes", func() bool {
			return state(t, s, "tor").State == bgp.Established && sessionsOf(r) == sessions && strings.Count(r.table(), "Nexthop: "+peer.NextHops[bgp.IPv4].String()) == 2
		})
	}
	set()
	up(1)
	peer.NextHops = map[bgp.Family]netip.Addr{bgp.IPv4: netip.MustParseAddr("192.0.2.2")}
	set()
	up(1)
	peer.HoldTime = 30 * time.Second
	set()
	up(2)
	if got := noticesOf(r); got != "cease: other configuration change" {
		t.Errorf("the router was told %q", got)
	}
	if st := state(t, s, "tor"); st.HoldTime != 30*time.Second || !strings.Contains(st.LastError, "its configuration changed") {
		t.Errorf("state is %+v", st)
	}
	netnstest.Eventually(t, "the other session", func() bool { return state(t, s, "other").State == bgp.Established })
	if got := sessionsOf(other); got != 1 {
		t.Errorf("a peer that was not changed has had %d sessions", got)
	}
	s.Apply([]bgp.Peer{bystander}, nil)
	netnstest.Eventually(t, "the session's end", func() bool { return strings.Contains(noticesOf(r), "peer de-configured") })
	netnstest.Eventually(t, "withdrawal from the other", func() bool { return other.table() == "" })
	set()
	up(3)
}

func TestPeerDown(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	s, _ := n.startSpeaker(t)
	s.PeerDown("tor", "BFD is not up yet")
	apply(s, testPeer(64501), testRoutes(1)...)
	netnstest.Eventually(t, "the reason", func() bool { return state(t, s, "tor").HeldDown == "BFD is not up yet" })
	s.PeerUp("tor")
	awaitState(t, s, bgp.Established)
	if sessionsOf(r) != 1 {
		t.Errorf("there were %d sessions", sessionsOf(r))
	}
	s.PeerDown("tor", "BFD has lost the peer")
	if st := state(t, s, "tor"); st.State != bgp.Idle || st.HeldDown != "BFD has lost the peer" {
		t.Errorf("at once, the state is %+v", st)
	}
	netnstest.Eventually(t, "the notification", func() bool { return noticesOf(r) == "cease: BFD down" })
	s.PeerUp("tor")
	st := awaitState(t, s, bgp.Established)
	if st.HeldDown != "" || st.Flaps != 1 || !strings.Contains(st.LastError, "BFD has lost the peer") {
		t.Errorf("state is %+v", st)
	}
}

func TestPassive(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		address, to string
		change      func(*bgp.Peer)
	}{
		"IPv4": {router4, node4 + ":179", func(*bgp.Peer) {}},
		"IPv6": {router6, "[" + node6 + "]:1179", func(p *bgp.Peer) { p.Address, p.LocalPort = netip.MustParseAddr(router6), 1179 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			r := n.newRouter(t, 64501, "")
			s, _ := n.startSpeaker(t)
			apply(s, testPeer(64501, test.change, func(p *bgp.Peer) { p.Passive = true }), testRoutes(1)...)
			awaitState(t, s, bgp.Active)
			const table = "198.18.0.0/32 {Origin: i} {AsPath: 64500} {Nexthop: 192.0.2.1}"
			n.call(r, test.address, test.to)
			awaitTable(t, r, table)
			// A second connection does not end a session that is fine.
			second := n.newRouter(t, 64501, "")
			n.call(second, test.address, test.to)
			netnstest.Eventually(t, "refusal", func() bool { return noticesOf(second) == "cease: connection collision resolution" })
			if st := state(t, s, "tor"); st.State != bgp.Established || st.Flaps != 0 {
				t.Errorf("state is %+v", st)
			}
			r.hangUp()
			awaitState(t, s, bgp.Active)
			third := n.newRouter(t, 64501, "")
			n.call(third, test.address, test.to)
			awaitTable(t, third, table)
		})
	}
}

// A peer that restarts gracefully may be back before its end was seen.
func TestPassivePeerRestarts(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, "")
	s, _ := n.startSpeaker(t)
	apply(s, testPeer(64501, restarting, func(p *bgp.Peer) { p.Passive = true }), testRoutes(1)...)
	n.call(r, router4, node4+":179")
	netnstest.Eventually(t, "routes", func() bool { return r.table() != "" })
	second := n.newRouter(t, 64501, "")
	n.call(second, router4, node4+":179")
	netnstest.Eventually(t, "routes again", func() bool { return second.table() != "" })
	if got := noticesOf(r); got != "" {
		t.Errorf("the first connection was told %q", got)
	}
}

func TestHoldTime(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	// The router never sends another KEEPALIVE.
	r := n.newRouter(t, 64501, router4+":179", func(o *wire.Open) { o.HoldTime = 3 })
	s, _ := n.startSpeaker(t)
	apply(s, testPeer(64501), testRoutes(1)...)
	st := awaitState(t, s, bgp.Established)
	if st.HoldTime != 3*time.Second {
		t.Errorf("hold time is %v", st.HoldTime)
	}
	netnstest.Eventually(t, "the hold timer", func() bool { return noticesOf(r) == "hold timer expired" })
	if got := state(t, s, "tor").Sent.Keepalive; got < 2 {
		t.Errorf("%d KEEPALIVEs were sent in three seconds", got)
	}
}

// Without a hold time neither side sends KEEPALIVEs, and UPDATEs flow.
func TestNoHoldTime(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179", func(o *wire.Open) { o.HoldTime = 0 })
	s, _ := n.startSpeaker(t)
	peer := testPeer(64501)
	apply(s, peer, testRoutes(1)...)
	netnstest.Eventually(t, "a route", func() bool { return r.table() != "" })
	apply(s, peer, testRoutes(2)...)
	netnstest.Eventually(t, "two routes", func() bool { return strings.Count(r.table(), "\n") == 1 })
	if st := state(t, s, "tor"); st.Sent.Keepalive != 1 || st.HoldTime != 0 {
		t.Errorf("state is %+v", st)
	}
}

func TestRouteRefresh(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	s, _ := n.startSpeaker(t)
	apply(s, testPeer(64501), testRoutes(3)...)
	netnstest.Eventually(t, "routes", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == 3 })
	count(r, func(r *router) bool { clear(r.routes); return true })
	r.send(wire.RouteRefresh{Family: wire.IPv4Unicast}.Append(nil))
	netnstest.Eventually(t, "routes again", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == 3 })
}

// A wrong password looks like silence; the right one makes the session.
func TestPassword(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, "", func(*wire.Open) {})
	s, _ := n.startSpeaker(t)
	password := bgp.Password("right")
	passive := testPeer(64501, func(p *bgp.Peer) { p.Passive, p.Password = true, password })
	apply(s, passive)
	awaitState(t, s, bgp.Active)
	err := n.callWithPassword(r, "wrong")
	if err == nil {
		t.Error("a connection with a wrong password was accepted")
	}
	if err := n.callWithPassword(r, "right"); err != nil {
		t.Fatal(err)
	}
	awaitState(t, s, bgp.Established)
	passive.Password = "rotated"
	apply(s, passive)
	awaitState(t, s, bgp.Active)
	if err := n.callWithPassword(r, "right"); err == nil {
		t.Error("a connection with the former password was accepted")
	}
	if err := n.callWithPassword(r, "rotated"); err != nil {
		t.Fatal(err)
	}
	awaitState(t, s, bgp.Established)
}
