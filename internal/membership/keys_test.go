package membership

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// Refusals end with those who refuse: their speakers may be gone for good.
func TestSettlesWhenTheRefusingSpeakerIsGone(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	old := n.start(t, "node-1", newBind())
	fresh := n.start(t, "node-2", newBind(), withKey(testKey(8)))
	for _, s := range []*speaker{old, fresh} {
		s.SetPeers(peersOf([]*speaker{old, fresh}))
	}
	await(t, "the one finds that the other refuses it", func() bool { return len(fresh.View().Refused) == 1 })
	old.stop()
	awaitMutual(t, fresh)
	if refused := fresh.View().Refused; len(refused) != 0 {
		t.Errorf("settled, and refused by %q", refused)
	}
}

// A speaker that is settled stays so when another with another key comes: it is the newcomer that has to wait.
func TestStrangerUnsettlesNobody(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 2)
	stranger := n.start(t, "node-3", newBind(), withKey(testKey(8)))
	all := append([]*speaker{stranger}, speakers...)
	for _, s := range all {
		s.SetPeers(peersOf(all))
	}
	await(t, "the stranger is refused by both", func() bool { return len(stranger.View().Refused) == 2 })
	await(t, "both have noticed", func() bool {
		return speakers[0].value(t, "berth_membership_refused_total", "") > 0 && speakers[1].value(t, "berth_membership_refused_total", "") > 0
	})
	awaitMutual(t, speakers...)
	// A doubt of theirs is another matter: the stranger may have taken over meanwhile.
	speakers[0].Rejoin()
	await(t, "the doubt stays", func() bool { return len(speakers[0].View().Refused) == 1 && !speakers[0].View().Settled })
}

// Whoever sends rubbish in the name of a member must not keep a speaker from settling.
func TestRubbishFromAMemberIsNoRefusal(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 2)
	gone := Peer{Node: "gone", Addr: newBind()}
	speakers[0].SetPeers(append(peersOf(speakers), gone))
	for _, addr := range []netip.AddrPort{speakers[1].bind, gone.Addr} {
		speakers[0].keyRefused(addr.String())
	}
	m := speakers[0].Membership
	m.mu.Lock()
	defer m.mu.Unlock()
	if got := m.refusedPeers(); !slices.Equal(got, []string{"gone"}) {
		t.Errorf("refused by %q, want only the peer that is no member", got)
	}
}

// The key changes while the group runs. Nobody is lost; a speaker that only has the new key waits until it is in use.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	slow := func(c *Config) { c.keyDelay = time.Hour }
	speakers := n.startAll(t, 3, slow)
	fresh := n.start(t, "node-4", newBind(), slow, withKey(testKey(8)))
	all := append([]*speaker{fresh}, speakers...)
	for _, s := range all {
		s.SetPeers(peersOf(all))
	}
	await(t, "the fresh speaker is refused", func() bool { return len(fresh.View().Refused) == 3 })
	for _, s := range all {
		if err := s.SetKey(testKey(8)); err != nil {
			t.Fatal(err)
		}
	}
	if primary := speakers[0].ring.GetPrimaryKey(); !bytes.Equal(primary, testKey(7)) {
		t.Fatal("sends with the new key before the others can have it")
	}
	// Those who have switched and those who have not understand each other.
	speakers[0].useNewest()
	speakers[0].SetLocal(links("eth0"))
	speakers[1].SetLocal(links("eth1"))
	awaitInfo(t, "node-1", links("eth0"), speakers...)
	awaitInfo(t, "node-2", links("eth1"), speakers...)
	if fresh.View().Settled {
		t.Error("settled though two speakers still send with the old key")
	}
	speakers[1].useNewest()
	speakers[2].useNewest()
	awaitMutual(t, all...)
	for _, s := range speakers {
		for _, other := range speakers {
			if s.logged("speaker failed\" node="+other.name) > 0 {
				t.Errorf("%s lost %s", s.name, other.name)
			}
		}
	}
}

func TestKeyIsUsedAfterTheDelay(t *testing.T) {
	t.Parallel()
	s := newNetwork().start(t, "node-1", newBind(), func(c *Config) { c.keyDelay = 20 * time.Millisecond })
	for _, fill := range []byte{8, 9, 7, 7} { // the last one is no news
		if err := s.SetKey(testKey(fill)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetKey(testKey(8)); err != nil {
		t.Fatal(err)
	}
	await(t, "the newest key is used", func() bool { return bytes.Equal(s.ring.GetPrimaryKey(), testKey(8)) })
	if err := s.SetKey(testKey(8)[:16]); err == nil || !strings.Contains(err.Error(), "16 bytes") {
		t.Errorf("a short key: %v", err)
	}
	open := newNetwork().start(t, "node-1", newBind(), withKey(nil))
	if open.SetKey(testKey(8)) == nil {
		t.Error("a group without encryption was given a key")
	}
}
