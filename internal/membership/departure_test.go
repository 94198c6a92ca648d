package membership

import (
	"maps"
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// goneOf returns what v has to say about the departure of node, or nil.
func goneOf(v *View, node string) *Gone {
	i := slices.IndexFunc(v.Gone, func(g Gone) bool { return g.Node == node })
	if i < 0 {
		return nil
	}
	return &v.Gone[i]
}

func awaitGone(t *testing.T, node string, speakers ...*speaker) {
	t.Helper()
	for _, s := range speakers {
		await(t, s.name+" takes "+node+" for gone", func() bool {
			v := s.View()
			return goneOf(v, node) != nil && v.Member(node) == nil
		})
	}
}

func awaitNoneGone(t *testing.T, speakers ...*speaker) {
	t.Helper()
	for _, s := range speakers {
		await(t, s.name+" takes nobody for gone", func() bool { return len(s.View().Gone) == 0 })
	}
}

func TestFailedSpeakersAreRemembered(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 3)
	claims := manyClaims(300, 4)
	speakers[0].SetLocal(links("eth0"))
	speakers[0].SetClaims(claims)
	awaitInfo(t, "node-1", links("eth0"), speakers...)
	awaitClaims(t, "node-1", claims, speakers...)
	awaitNoneGone(t, speakers...)
	before := time.Now()
	epoch := speakers[1].View().Member("node-1").Epoch
	speakers[0].stop()
	awaitGone(t, "node-1", speakers[1:]...)
	// Somebody who has never seen it learns the same.
	late := n.start(t, "node-4", newBind())
	late.SetPeers(peersOf(speakers))
	awaitMutual(t, append(speakers[1:], late)...)
	awaitGone(t, "node-1", late)
	since := goneOf(speakers[1].View(), "node-1").Since
	for _, s := range append(speakers[1:], late) {
		g := goneOf(s.View(), "node-1")
		if !maps.Equal(asMap(g.Claims), claims) || !g.Info.Equal(links("eth0")) || !g.Known || g.Epoch != epoch {
			t.Errorf("%s remembers %d claims, %+v", s.name, g.Claims.Len(), g.Info)
		}
		if g.Left || g.Since.Before(before) || g.Since.Sub(since).Abs() > 5*time.Second {
			t.Errorf("%s: left %v, since %s", s.name, g.Left, g.Since)
		}
		if got := s.View().Known; got != 4 {
			t.Errorf("%s knows %d speakers, want 4", s.name, got)
		}
	}
	// It comes back.
	speakers[0] = n.start(t, "node-1", speakers[0].bind)
	speakers[0].SetPeers(peersOf(speakers))
	awaitMutual(t, append(speakers, late)...)
	awaitNoneGone(t, append(speakers, late)...)
}

func TestLeaveTellsWhatComesNext(t *testing.T) {
	t.Parallel()
	for name, returns := range map[string]bool{"for good": false, "to return": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork()
			speakers := n.startAll(t, 3)
			claims := manyClaims(3, 4)
			speakers[0].SetClaims(claims)
			awaitClaims(t, "node-1", claims, speakers...)
			standIn := ""
			if returns {
				standIn = "node-2"
			}
			said := make(chan struct{})
			go func() { defer close(said); speakers[0].Leave(returns, standIn) }()
			awaitGone(t, "node-1", speakers[1:]...)
			<-said
			speakers[0].stop()
			for _, s := range speakers[1:] {
				await(t, "the departure is counted", func() bool {
					return s.value(t, "berth_membership_transitions_total", "left") == 1
				})
			}
			late := n.start(t, "node-4", newBind())
			late.SetPeers(peersOf(speakers[1:]))
			awaitMutual(t, append(speakers[1:], late)...)
			awaitGone(t, "node-1", late)
			for _, s := range append(speakers[1:], late) {
				g := goneOf(s.View(), "node-1")
				if !g.Left || g.Returns != returns || !maps.Equal(asMap(g.Claims), claims) {
					t.Errorf("%s remembers %+v", s.name, g)
				}
			}
		})
	}
}

// Everybody forgets at about the same time whom the API does not know, and nobody is
// reminded by another.
func TestGoneSpeakersAreForgotten(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	clock := clocktesting.NewFakePassiveClock(time.Now())
	speakers := n.startAll(t, 3, func(c *Config) { c.Clock = clock })
	speakers[0].SetClaims(manyClaims(3, 4))
	awaitClaims(t, "node-1", manyClaims(3, 4), speakers...)
	speakers[0].stop()
	awaitGone(t, "node-1", speakers[1:]...)

	// A speaker that comes in between does not begin to count anew.
	clock.SetTime(clock.Now().Add(RememberGone - time.Second))
	late := n.start(t, "node-4", newBind(), func(c *Config) { c.Clock = clock })
	late.SetPeers(peersOf(speakers[1:]))
	awaitMutual(t, append(speakers[1:], late)...)
	awaitGone(t, "node-1", late)
	clock.SetTime(clock.Now().Add(2 * time.Second))
	rest := append(speakers[1:], late)
	awaitNoneGone(t, late)
	awaitGone(t, "node-1", speakers[1:]...) // who still have it in their lists
	for _, s := range rest {
		s.SetPeers(peersOf(rest))
	}
	awaitNoneGone(t, rest...)
	for _, s := range rest {
		for _, other := range rest {
			s.receive(stateOfAll(other))
		}
		if len(s.View().Gone) > 0 {
			t.Errorf("%s was reminded of who is forgotten", s.name)
		}
	}
	clock.SetTime(clock.Now().Add(RememberGone + keepForgotten))
	for _, s := range rest {
		await(t, s.name+" keeps nothing of it", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			_, table := s.store.tables["node-1"]
			return len(s.gone) == 0 && s.store.epoch("node-1") == 0 && !table
		})
	}
}

func stateOfAll(s *speaker) []byte { return (&delegate{s.Membership}).LocalState(false) }

// One that left for good and that the API does not know any more is soon forgotten; one that only failed, or that means
// to return, is not.
func TestRemovedSpeakersAreForgotten(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	clock := clocktesting.NewFakePassiveClock(time.Now())
	speakers := n.startAll(t, 4, func(c *Config) { c.Clock = clock })
	for _, s := range speakers {
		s.SetLocal(links("eth0"))
		awaitInfo(t, s.name, links("eth0"), speakers...)
	}
	speakers[1].stop()
	speakers[2].Leave(false, "")
	speakers[3].Leave(true, "node-1")
	for _, s := range speakers[1:] {
		s.stop()
		awaitGone(t, s.name, speakers[0])
	}
	if got := speakers[0].View().Known; got != 4 {
		t.Errorf("%d speakers are known, want 4", got)
	}
	speakers[0].SetPeers(peersOf(speakers[:1]))
	if v := speakers[0].View(); v.Known != 1 || len(v.Gone) != 3 {
		t.Errorf("right after the API has dropped them, %d are known, %d gone; want 1, 3", v.Known, len(v.Gone))
	}
	clock.SetTime(clock.Now().Add(departureHold + time.Second))
	await(t, "the one that left for good is forgotten", func() bool { return goneOf(speakers[0].View(), "node-3") == nil })
	if v := speakers[0].View(); goneOf(v, "node-2") == nil || goneOf(v, "node-4") == nil || v.Known != 1 {
		t.Errorf("gone are %+v, %d are known", v.Gone, v.Known)
	}
	// Peers that were never seen exist too.
	speakers[0].SetPeers(peersOf(speakers))
	if got := speakers[0].View().Known; got != 4 {
		t.Errorf("%d speakers are known, want 4", got)
	}
}

// What is heard about the departure of a process must not count against the one after it.
func TestStaleDeparturesAreIgnored(t *testing.T) {
	t.Parallel()
	speakers := newNetwork().startAll(t, 2)
	speakers[0].SetLocal(links("eth0"))
	awaitInfo(t, "node-1", links("eth0"), speakers...)
	s, epoch := speakers[1], speakers[1].View().Member("node-1").Epoch
	for name, n := range map[string]notice{
		"left as a former process":       {node: "node-1", epoch: epoch - 1, left: true},
		"left long ago, as others think": {node: "node-1", epoch: epoch, left: true, age: time.Minute},
		"failed, as others think":        {node: "node-1", epoch: epoch},
		"this speaker itself":            {node: "node-2", epoch: epoch * 2, left: true},
		"nobody":                         {node: "nobody", epoch: 1},
		"too long ago":                   {node: "nobody", epoch: 1, left: true, age: RememberGone + time.Second},
	} {
		s.receive(stateMessage(departureItem(n)))
		if v := s.View(); len(v.Gone) > 0 || len(v.Members) != 2 {
			t.Errorf("%s: %+v", name, v)
		}
	}
	s.receive(stateMessage(departureItem(notice{node: "node-1", epoch: epoch, left: true, returns: true, age: time.Second})))
	if g := goneOf(s.View(), "node-1"); g == nil || !g.Left || !g.Returns {
		t.Error("a departure that others tell of is ignored")
	}
}
