package gobgp

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/wire"
	"github.com/berth-lb/berth/internal/netnstest"
)

// A router that has agreed on graceful restart keeps the routes while a session
// with it is made again, and not those of a session that will not come back.
func TestResetKeepsRoutes(t *testing.T) {
	t.Parallel()
	without := func(o *wire.Open) { o.Capabilities.GracefulRestart = nil }
	for name, test := range map[string]struct {
		open   func(*wire.Open)
		change func(*bgp.Peer)
		want   string
	}{
		"hold time":              {func(*wire.Open) {}, func(p *bgp.Peer) { p.HoldTime = 30 * time.Second }, ""},
		"graceful restart":       {func(*wire.Open) {}, func(p *bgp.Peer) { p.GracefulRestart = nil }, ""},
		"router cannot":          {without, func(p *bgp.Peer) { p.HoldTime = 30 * time.Second }, "cease: other configuration change"},
		"another address":        {func(*wire.Open) {}, func(p *bgp.Peer) { p.Address = netip.MustParseAddr(router6) }, "cease: other configuration change"},
		"another source address": {func(*wire.Open) {}, func(p *bgp.Peer) { p.SourceAddress = netip.MustParseAddr("192.0.2.2") }, "cease: other configuration change"},
		"another AS":             {func(*wire.Open) {}, func(p *bgp.Peer) { p.LocalASN = 64999 }, "cease: other configuration change"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			n.node.AddAddress("eth0", "192.0.2.2/24")
			r := n.newRouter(t, 64501, ":179", test.open)
			s, _ := n.startSpeaker(t)
			peer := testPeer(64501, restarting)
			apply(s, peer, testRoutes(1)...)
			awaitState(t, s, bgp.Established)
			netnstest.Eventually(t, "the route", func() bool { return r.table() != "" })
			test.change(&peer)
			apply(s, peer, testRoutes(1)...)
			netnstest.Eventually(t, "another session", func() bool {
				return sessionsOf(r) == 2 && state(t, s, "tor").State == bgp.Established
			})
			if got := noticesOf(r); got != test.want {
				t.Errorf("the router was told %q, want %q", got, test.want)
			}
			if st := state(t, s, "tor"); !strings.Contains(st.LastError, "its configuration changed") {
				t.Errorf("last error is %q", st.LastError)
			}
			s.Apply(nil, nil)
			netnstest.Eventually(t, "good-bye", func() bool { return strings.HasSuffix(noticesOf(r), "cease: peer de-configured") })
		})
	}
}

// An attempt for what a peer was before waits for nobody.
func TestAttemptIsOfPresentPeer(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	speaker, _ := n.startSpeaker(t)
	before := testPeer(64501, func(p *bgp.Peer) { p.Passive = true })
	s := newSession(speaker, before, nil, "")
	from := &source{session: s, peer: before}
	defer from.close()
	after := before
	after.LocalPort = 1179
	s.update(after, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s.attempt(ctx, from)
	if ctx.Err() != nil || from.acceptor != nil {
		t.Errorf("it has waited for the peer as it was: %v", ctx.Err())
	}
}
