package bfd

import (
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// TestJudge: what counts as a failure of the path, and when.
func TestJudge(t *testing.T) {
	t.Parallel()
	packet := func(state State, diag Diagnostic) Packet {
		return Packet{State: state, Diagnostic: diag, DetectMultiplier: 3, MyDiscriminator: 9, DesiredMinTx: time.Second, RequiredMinRx: time.Second}
	}
	for name, tc := range map[string]struct {
		heard    []Packet // once the session is up
		at, late uint64   // failures at once and after four seconds of keeping quiet
	}{
		"silence":               {nil, 0, 1},
		"on purpose":            {[]Packet{packet(AdminDown, AdministrativelyDown)}, 0, 0},
		"the peer lost us":      {[]Packet{packet(Down, DetectionExpired)}, 1, 1},
		"the peer is a new one": {[]Packet{packet(Down, NoDiagnostic)}, 1, 1},
		"no reason, for good":   {[]Packet{packet(Down, NeighborDown)}, 0, 1},
		"no reason, half back":  {[]Packet{packet(Down, NeighborDown), packet(Down, NoDiagnostic)}, 0, 1},
		"no reason, and back":   {[]Packet{packet(Down, NeighborDown), packet(Down, NoDiagnostic), packet(Up, NoDiagnostic)}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := clocktesting.NewFakeClock(epoch)
			m := New(Options{Clock: clock})
			c := Config{Name: "s", Peer: ip("192.0.2.2")}.normalise()
			m.keep(clock.Now(), keyOf(c), &want{cfg: c, names: []string{"s"}})
			l := m.links[keyOf(c)]
			l.retry = never // there is no network here
			hear := func(p Packet) {
				p.YourDiscriminator = l.session.local
				m.receive(l.port, &datagram{payload: p.AppendTo(nil), ttl: maxTTL})
			}
			hear(packet(Down, NoDiagnostic))
			hear(packet(Up, NoDiagnostic))
			if l.session.state != Up || l.failures != 0 {
				t.Fatalf("%v, %d failures", l.session.state, l.failures)
			}
			for _, p := range tc.heard {
				hear(p)
			}
			if l.failures != tc.at {
				t.Errorf("%d failures at once, want %d", l.failures, tc.at)
			}
			up := l.session.state == Up && len(tc.heard) > 0
			for range 40 {
				clock.Step(100 * ms)
				if up {
					hear(packet(Up, NoDiagnostic))
				}
				m.tend(clock.Now(), l, nil)
			}
			if l.failures != tc.late {
				t.Errorf("%d failures after a while, want %d", l.failures, tc.late)
			}
		})
	}
}
