package gobgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/wire"
	"github.com/berth-lb/berth/internal/netnstest"
)

// When an aggregate takes the place of its addresses, or the other way round,
// the router has a route to them all the while.
func TestAggregateLeavesNoGap(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	s, _ := n.startSpeaker(t)
	peer, single := testPeer(64501), testRoutes(4)
	aggregate := bgp.Route{Prefix: netip.MustParsePrefix("198.18.0.0/30")}
	for _, step := range []struct {
		routes  []bgp.Route
		changes int
	}{{single, 4}, {[]bgp.Route{aggregate}, 5}, {single, 5}} {
		count(r, func(r *router) bool { r.order = nil; return true })
		apply(s, peer, step.routes...)
		order := func(r *router) []string { return slices.Clone(r.order) }
		netnstest.Eventually(t, "all changes", func() bool { return len(count(r, order)) == step.changes })
		got := count(r, order)
		gone := slices.IndexFunc(got, func(p string) bool { return p[0] == '-' })
		if gone >= 0 && slices.ContainsFunc(got[gone:], func(p string) bool { return p[0] != '-' }) {
			t.Errorf("the order was %v", got)
		}
	}
}

// Whatever an engine is busy with, the states can be had.
func TestStatesDoNotWait(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	s, _ := n.startSpeaker(t)
	apply(s, testPeer(64501), testRoutes(3)...)
	netnstest.Eventually(t, "routes", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == 3 })
	awaitState(t, s, bgp.Established)
	s.mu.Lock()
	session := s.sessions["tor"]
	s.mu.Unlock()
	session.mu.Lock()
	busy := session.current.announcer
	session.mu.Unlock()
	busy.mu.Lock()
	defer busy.mu.Unlock()
	states := make(chan []bgp.PeerState, 1)
	go func() { states <- s.States() }()
	select {
	case got := <-states:
		if len(got) != 1 || got[0].Announced != 3 {
			t.Errorf("states are %+v", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("States waits for the engine")
	}
}

func TestChooseNextHops(t *testing.T) {
	t.Parallel()
	linkLocal, own, other := netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr(node4), netip.MustParseAddr("203.0.113.7")
	for name, test := range map[string]struct {
		local, asked netip.Addr
		extended     bool
		want         netip.Addr
		problem      string
	}{
		"address of the link":             {linkLocal, own, true, own, ""},
		"address elsewhere":               {linkLocal, other, true, linkLocal, ""},
		"elsewhere, router takes no IPv6": {linkLocal, other, false, other, ""},
		"none":                            {linkLocal, netip.Addr{}, true, linkLocal, ""},
		"none, router takes no IPv6":      {linkLocal, netip.Addr{}, false, netip.Addr{}, "no ipv4 route is announced"},
		"elsewhere, session is routed":    {netip.MustParseAddr(node6), other, true, other, ""},
		"elsewhere, over IPv4":            {own, other, true, other, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var router wire.Capabilities
			if test.extended {
				router.ExtendedNextHop = []wire.ExtendedNextHop{{Family: wire.IPv4Unicast, NextHopAFI: wire.AFIIPv6}}
			}
			peer := bgp.Peer{NextHops: map[bgp.Family]netip.Addr{bgp.IPv4: test.asked}}
			hops, problem := chooseNextHops(peer, []bgp.Family{bgp.IPv4}, test.local, []netip.Addr{own}, router)
			if hops[bgp.IPv4] != test.want || !strings.Contains(problem, test.problem) || (problem == "") != (test.problem == "") {
				t.Errorf("got %v, %q", hops, problem)
			}
		})
	}
}

func TestLinkAddresses(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	s, _ := n.startSpeaker(t)
	from := &source{session: newSession(s, testPeer(64501), nil, ""), peer: bgp.Peer{Interface: "eth0"}}
	got := from.link(netip.MustParseAddr("fe80::1%eth0"))
	if !slices.Contains(got, netip.MustParseAddr(node4)) || !slices.Contains(got, netip.MustParseAddr(node6)) {
		t.Errorf("addresses of the link are %v", got)
	}
	if got := from.link(netip.MustParseAddr(node6)); got != nil {
		t.Errorf("a routed session is on a link with %v", got)
	}
}

// A router may offer what it likes; the API takes 64 names.
func TestCapabilitiesAreCut(t *testing.T) {
	t.Parallel()
	c := wire.Capabilities{RouteRefresh: true}
	for code := range 100 {
		c.Other = append(c.Other, wire.Capability{Code: uint8(100 + code)})
	}
	if got := capabilityNames(c); len(got) != 64 || got[0] != "route-refresh" {
		t.Errorf("%d names: %v", len(got), got)
	}
}

// Errors that take turns are logged once each, and as many as there may be cost
// no more than a few lines.
func TestErrorsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	l, now := make(loggedErrors), time.Unix(1000, 0)
	lines := 0
	add := func(text string) {
		now = now.Add(15 * time.Second)
		if l.add(text, now) {
			lines++
		}
	}
	for range 100 {
		add("refused")
		add("closed")
	}
	if lines != 2 {
		t.Errorf("two errors in turns were logged %d times", lines)
	}
	for i := range 30 {
		add(fmt.Sprint("error ", i))
	}
	if lines != maxLogged || len(l) != maxLogged {
		t.Errorf("%d lines, %d errors are remembered", lines, len(l))
	}
	now = now.Add(forgetAfter)
	if add("refused"); lines != maxLogged+1 {
		t.Error("an error that was away is not logged again")
	}
}
