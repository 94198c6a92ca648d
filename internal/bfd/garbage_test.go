package bfd

import (
	"testing"
	"time"
)

// TestNoGarbage: a packet that comes and one that is sent allocate nothing, so that
// thousands of them a second give the collector nothing to do.
func TestNoGarbage(t *testing.T) { // alone, as it counts what anybody allocates
	m := New(Options{})
	c := Config{Name: "s", Peer: ip("192.0.2.2")}.normalise()
	now := time.Now()
	m.keep(now, keyOf(c), &want{cfg: c, names: []string{"s"}})
	l := m.links[keyOf(c)]
	l.retry = never // there is no network here
	packet := Packet{State: Down, DetectMultiplier: 3, MyDiscriminator: 9, YourDiscriminator: l.session.local, DesiredMinTx: ms, RequiredMinRx: ms}
	m.receive(l.port, &datagram{payload: packet.AppendTo(nil), ttl: maxTTL})
	packet.State, packet.Poll = Up, true // to be answered at once
	d := datagram{payload: packet.AppendTo(nil), ttl: maxTTL}
	m.receive(l.port, &d)
	if l.session.state != Up {
		t.Fatalf("the session is %v", l.session.state)
	}
	if n := testing.AllocsPerRun(1000, func() {
		m.receive(l.port, &d)
		m.tend(m.clock.Now(), l, nil)
	}); n != 0 {
		t.Errorf("a packet allocates %v times", n)
	}
}
