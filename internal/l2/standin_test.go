package l2

import (
	"slices"
	"testing"
	"time"
)

// asStandIn is Desired for the owned address, whose owner is away.
func (b *bench) asStandIn(armed bool) Desired {
	return Desired{b.owned: {Interfaces: []string{"eth0"}, StandIn: map[string]MAC{"eth0": MAC(ownerMAC)}, Armed: armed}}
}

// arm has the node remember what is asked for the owned address.
func (b *bench) arm() {
	b.t.Helper()
	b.Apply(b.asStandIn(true))
	eventually(b.t, "the address to be armed", func() bool {
		s := b.Applied()
		return len(s.Interfaces) == 1 && s.Interfaces[0].Armed == 1 && s.Interfaces[0].Err == nil &&
			(b.owned.Is4() || len(b.groups()) == 1)
	})
}

func TestPeerResolvesToTheOwner(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.arm()
		b.wantMAC("armed", b.resolve("eth0", b.owned), nil)
		b.Apply(b.asStandIn(false))
		b.wantMAC("stood in for", b.resolve("eth0", b.owned), ownerMAC)
		eventually(t, "the stand-in to be reported", func() bool {
			s := b.Applied()
			return len(s.Addresses) == 0 && slices.Equal(s.StandIns[b.owned], []string{"eth0"})
		})
		b.own(b.owned)
		b.wantMAC("owned", b.resolve("eth0", b.owned), b.mac("eth0"))
		b.arm()
		b.wantMAC("armed again", b.resolve("eth0", b.owned), nil)
		b.Apply(b.asStandIn(false))
		if !b.claim(b.owned) {
			t.Error("the peer was not told that the address is taken")
		}
	})
}

// TestPendingQueryIsAnswered: the peer asks once, while nobody answers, and
// learns the address when the node becomes active.
func TestPendingQueryIsAnswered(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.arm()
		b.ask(b.owned)
		eventually(t, "the query", func() bool { return b.Applied().Interfaces[0].Queries >= 1 })
		start := time.Now()
		b.Apply(b.asStandIn(false))
		eventually(t, "the answer", func() bool { return b.cached(b.owned).String() == ownerMAC.String() })
		t.Logf("answered within %v", time.Since(start))
		if last := b.Applied().Interfaces[0].LastQuery; last.IsZero() || last.After(start) {
			t.Errorf("the last query was at %v, active since %v", last, start)
		}
		// It asks no more, so only an announcement can tell it of a takeover.
		b.own(b.owned)
		eventually(t, "the takeover", func() bool { return b.cached(b.owned).String() == b.mac("eth0").String() })
	})
}

// TestPendingQueryIsAnsweredByTheNewOwner is the same for a takeover.
func TestPendingQueryIsAnsweredByTheNewOwner(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.arm()
		b.ask(b.owned)
		eventually(t, "the query", func() bool { return b.Applied().Interfaces[0].Queries >= 1 })
		b.own(b.owned)
		eventually(t, "the answer", func() bool { return b.cached(b.owned).String() == b.mac("eth0").String() })
		askers := b.RecentAskers("eth0")
		if len(askers) == 0 || askers[0].MAC != MAC(b.peerMAC()) {
			t.Errorf("recent askers are %v, want the peer", askers)
		}
	})
}

func TestRivalIsReported(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.own(b.owned)
		if b.owned.Is6() {
			eventually(t, "the group", func() bool { return len(b.groups()) == 1 })
		}
		b.usurp(b.owned)
		select {
		case r := <-b.Rivals():
			if r.Addr != b.owned || r.Interface != "eth0" || r.MAC != MAC(b.peerMAC()) {
				t.Errorf("reported %+v", r)
			}
		case <-time.After(10 * time.Second):
			t.Error("the rival is not reported")
		}
	})
}
