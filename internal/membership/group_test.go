package membership

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func awaitClaims(t testing.TB, node string, want map[netip.Addr]Claim, speakers ...*speaker) {
	t.Helper()
	for _, s := range speakers {
		await(t, fmt.Sprintf("%s has the claims of %s", s.name, node), func() bool {
			m := s.View().Member(node)
			return m != nil && maps.Equal(asMap(m.Claims), want)
		})
	}
}

func TestClaimsReachEverybody(t *testing.T) {
	for _, count := range []int{2, 10_000} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			n := newNetwork()
			speakers := n.startAll(t, 3)
			claims := manyClaims(count, 1)
			start := time.Now()
			speakers[0].SetClaims(claims)
			awaitClaims(t, "node-1", claims, speakers...)
			t.Logf("%d claims are known after %s", count, time.Since(start))
			late := n.start(t, "node-4", newBind())
			late.SetPeers(peersOf(speakers[1:2]))
			awaitMutual(t, append(speakers, late)...)
			if got := asMap(late.View().Member("node-1").Claims); !maps.Equal(got, claims) {
				t.Errorf("the late speaker has settled and knows %d claims, want %d", len(got), len(claims))
			}
			speakers = append(speakers, late)
			others := late.View().Member("node-2").Claims
			one := netip.MustParseAddr("198.18.0.0")
			claims = maps.Clone(claims)
			claims[one] = Claim{Term: 2, To: "node-2"}
			start = time.Now()
			speakers[0].SetClaims(claims)
			awaitClaims(t, "node-1", claims, speakers...)
			t.Logf("one changed claim is known after %s", time.Since(start))
			if late.View().Member("node-2").Claims != others {
				t.Error("claims of another node were made anew")
			}
			speakers[0].SetClaims(nil)
			awaitClaims(t, "node-1", nil, speakers...)
		})
	}
}

// A process that follows another learns what that claimed, and until it has decided what to make of that, the others go
// by it too.
func TestRestartedSpeakerLearnsItsFormerClaims(t *testing.T) {
	t.Parallel()
	for name, clock := range map[string]time.Duration{"clock is right": 0, "clock has gone back": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork()
			speakers := n.startAll(t, 3)
			former := manyClaims(500, 7)
			for _, s := range speakers {
				s.SetLocal(links("eth0"))
			}
			speakers[0].SetClaims(former)
			awaitClaims(t, "node-1", former, speakers...)
			epoch := speakers[1].View().Member("node-1").Epoch
			speakers[0].stop()
			awaitMutual(t, speakers[1:]...)

			speakers[0] = n.start(t, "node-1", speakers[0].bind, func(c *Config) {
				c.Clock = clocktesting.NewFakePassiveClock(time.Now().Add(clock))
			})
			s := speakers[0]
			s.SetLocal(Info{Abstains: true})
			if v := s.View(); v.Former.Len() != 0 || v.Members[0].Claims.Len() != 0 {
				t.Error("claims known before anybody told")
			}
			s.SetPeers(peersOf(speakers))
			awaitMutual(t, speakers...)
			if got := asMap(s.View().Former); !maps.Equal(got, former) {
				t.Fatalf("settled, and %d former claims are known, want %d", len(got), len(former))
			}
			awaitInfo(t, "node-1", Info{Abstains: true}, speakers...)
			awaitClaims(t, "node-1", former, speakers[1:]...)
			await(t, "the epoch is a later one", func() bool { return speakers[1].View().Member("node-1").Epoch > epoch })

			own := manyClaims(3, 8)
			s.SetClaims(own)
			if s.View().Former.Len() != len(former) {
				t.Error("former claims are void though the speaker abstains")
			}
			s.SetLocal(links("eth0"))
			if s.View().Former.Len() != 0 {
				t.Error("former claims are still known after the speaker has spoken for itself")
			}
			awaitClaims(t, "node-1", own, speakers...)
		})
	}
}

func TestVerdictsReachEverybody(t *testing.T) {
	t.Parallel()
	speakers := newNetwork().startAll(t, 3)
	want := Verdict{Node: "node-3", Epoch: 5, Silent: true, By: "node-1"}
	speakers[0].Broadcast(Verdict{Node: "node-3", Epoch: 5, Silent: true})
	for _, s := range speakers[1:] {
		select {
		case got := <-s.Verdicts():
			if got != want {
				t.Errorf("%s hears %+v, want %+v", s.name, got, want)
			}
		case <-time.After(patience):
			t.Fatalf("%s hears nothing", s.name)
		}
	}
	select {
	case got := <-speakers[0].Verdicts():
		t.Errorf("its own verdict comes back: %+v", got)
	default:
	}
}

func TestVerdictsAreBounded(t *testing.T) {
	t.Parallel()
	m := newNetwork().start(t, "node-1", newBind())
	for i := range uint64(maxVerdicts + 10) {
		m.receive(verdictMessage(Verdict{Node: "n", Epoch: i, By: "m"}))
	}
	if got := <-m.Verdicts(); got.Epoch != 10 || len(m.Verdicts()) != maxVerdicts-1 {
		t.Errorf("the oldest that is kept is %d, and %d more are", got.Epoch, len(m.Verdicts()))
	}
	if got := m.value(t, "berth_membership_verdicts_total", "dropped"); got != 10 {
		t.Errorf("%v are counted as dropped, want 10", got)
	}
	m.receive(verdictMessage(Verdict{Node: "n"}))
	if got := m.value(t, "berth_membership_decode_errors_total", ""); got != 1 {
		t.Errorf("%v decode errors, want 1", got)
	}
}

// Two speakers that have given each other up and look for nobody meet as soon as one is told that the other is there.
func TestMeet(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 2)
	for _, s := range speakers {
		s.SetPeers(nil)
	}
	n.split(1, speakers[0])
	awaitMutual(t, speakers[0])
	awaitMutual(t, speakers[1])
	claims := manyClaims(10, 3)
	speakers[1].SetClaims(claims)
	n.heal()
	start := time.Now()
	speakers[0].Meet("node-2")
	speakers[0].Meet("node-1")  // itself
	speakers[0].Meet("unknown") // of whom nobody has heard
	awaitMutual(t, speakers...)
	awaitClaims(t, "node-2", claims, speakers...)
	t.Logf("met after %s", time.Since(start))
}

// What is too large for packets is tried again if a member cannot be reached for a moment.
func TestLargeNewsAreTriedAgain(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	speakers := n.startAll(t, 3)
	n.split(1, speakers[2])
	claims := manyClaims(10_000, 1)
	speakers[0].SetClaims(claims)
	awaitClaims(t, "node-1", claims, speakers[:2]...)
	await(t, "a stream has failed", func() bool {
		speakers[0].mu.Lock()
		defer speakers[0].mu.Unlock()
		_, failed := speakers[0].unsent["node-3"]
		_, alive := speakers[0].alive["node-3"]
		return failed || !alive
	})
	n.heal()
	awaitMutual(t, speakers...)
	awaitClaims(t, "node-1", claims, speakers...)
}

func TestTooManyClaimsAreReportedOnce(t *testing.T) {
	s := newNetwork().start(t, "node-1", newBind())
	claims := make(map[netip.Addr]Claim)
	for i := range 120_000 {
		claims[netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})] = Claim{Term: 1}
	}
	for i := range uint64(2) {
		claims[netip.MustParseAddr("10.0.0.1")] = Claim{Term: i}
		s.SetClaims(claims)
	}
	if got := s.View().Members[0].Claims.Len(); got == len(claims) || s.logged("claims more addresses") != 1 {
		t.Errorf("%d of %d are claimed, %d lines about the rest, want 1", got, len(claims), s.logged("claims more addresses"))
	}
	s.SetClaims(nil)
	if got := s.View().Members[0].Claims.Len(); got != 0 {
		t.Errorf("%d are still claimed", got)
	}
}
