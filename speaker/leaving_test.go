package main

import (
	"testing"
	"time"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
)

// TestLeave: routers that would forget the routes at once are told to find
// others first, those with graceful restart are not.
func TestLeave(t *testing.T) {
	t.Parallel()
	objects := routedObjects(nil)
	for name, address := range map[string]v1beta1.PeerAddress{"able": "192.0.2.253", "away": "192.0.2.252", "unable": "192.0.2.251"} {
		objects.BGPPeers = append(objects.BGPPeers, peerObject(name, func(s *v1beta1.BGPPeerSpec) { s.PeerAddress, s.EnableGracefulRestart = address, true }))
	}
	f := newFabric(t, objects)
	f.sessions.states["able"] = bgp.PeerState{State: bgp.Established, GracefulRestart: true}
	f.sessions.states["unable"] = bgp.PeerState{State: bgp.Established}
	f.serve("web", "198.51.100.1", false, "a")
	f.want("able: 198.51.100.1/32; away: 198.51.100.1/32; tor: 198.51.100.1/32; unable: 198.51.100.1/32")
	f.routers.leave(t.Context())
	if got, want := f.sessions.String(), "able: 198.51.100.1/32; away: 198.51.100.1/32; tor: 198.51.100.1/32_65535:0; unable: 198.51.100.1/32_65535:0"; got != want {
		t.Errorf("routers are told %q, want %q", got, want)
	}
}

// TestBFDOutlivesSpeaker: BFD goes on without the speaker for as long as the
// routes do, and not where nobody is to come back.
func TestBFDOutlivesSpeaker(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(func(s *v1beta1.BGPPeerSpec) {
		s.BFDProfile, s.EnableGracefulRestart, s.GracefulRestartTime = "fast", true, "40s"
	}))
	want := func(why string, absence time.Duration) {
		t.Helper()
		f.want("tor:")
		if c := f.bfd.configs; len(c) != 1 || c[0].Absence != absence {
			t.Errorf("%s: BFD is to keep %+v, want an absence of %s", why, c, absence)
		}
	}
	want("before there is a session", 40*time.Second)
	f.sessions.states["tor"] = bgp.PeerState{State: bgp.Established}
	want("with a router that forgets", 0)
	f.sessions.states["tor"] = bgp.PeerState{State: bgp.Established, GracefulRestart: true}
	want("with one that does not", 40*time.Second)
	f.node(nil, map[string]string{v1beta1.AnnotationDrain: ""})
	f.want("tor:")
	f.routers.leave(t.Context())
	if c := f.bfd.configs; len(c) != 1 || c[0].Absence != 0 {
		t.Errorf("on a drained node BFD is to keep %+v", c)
	}
}

// TestStartsDrained: a speaker that starts on a drained node announces nothing.
func TestStartsDrained(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	f.serve("web", "198.51.100.1", false, "b")
	f.node(nil, map[string]string{v1beta1.AnnotationDrain: ""})
	f.want("tor:")
	f.routers.leave(t.Context())
	if f.sessions.drained == "" {
		t.Error("ends as if it were to be back in a moment")
	}
}
