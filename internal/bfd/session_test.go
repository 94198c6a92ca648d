package bfd

import (
	"testing"
	"time"
)

const ms = time.Millisecond

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// A bench is one session on a test bench: it plays clock and peer.
type bench struct {
	*session
	t   *testing.T
	now time.Time
}

func newBench(t *testing.T, c Config) *bench {
	c.Peer = ip("192.0.2.2")
	return &bench{session: newSession(c.normalise(), 7, func() float64 { return 0 }), t: t, now: epoch}
}

// hear has the session receive a packet with the bench's usual values, changed.
func (b *bench) hear(state State, change ...func(*Packet)) {
	p := Packet{
		State: state, DetectMultiplier: 3, MyDiscriminator: 9, YourDiscriminator: 7,
		DesiredMinTx: time.Second, RequiredMinRx: 300 * ms,
	}
	if state == Up {
		p.DesiredMinTx = 300 * ms
	}
	for _, f := range change {
		f(&p)
	}
	b.receive(b.now, &p)
}

// said returns what the session sends at present.
func (b *bench) said() (out []Packet) {
	var p Packet
	for b.transmit(b.now, &p) {
		out = append(out, p)
		if len(out) > 10 {
			b.t.Fatalf("there is no end of packets like %+v", p)
		}
	}
	return out
}

// one returns the only packet that the session sends at present.
func (b *bench) one() Packet {
	b.t.Helper()
	said := b.said()
	if len(said) != 1 {
		b.t.Fatalf("%d packets instead of one: %+v", len(said), said)
	}
	return said[0]
}

func (b *bench) silent() {
	b.t.Helper()
	if said := b.said(); len(said) > 0 {
		b.t.Fatalf("packets instead of silence: %+v", said)
	}
}

// pass lets time pass and lets the session expire.
func (b *bench) pass(d time.Duration) {
	b.now = b.now.Add(d)
	b.expire(b.now)
}

// next passes the time until the session wants to send, and returns how long
// that was.
func (b *bench) next() time.Duration {
	d := b.sendAt().Sub(b.now)
	b.pass(d)
	return d
}

// rise takes the session up, with its Poll Sequence ended.
func (b *bench) rise() {
	b.t.Helper()
	b.said()
	b.hear(Down)
	b.said()
	b.hear(Up)
	b.said()
	b.hear(Up, final)
	b.said()
	if b.state != Up || b.poll {
		b.t.Fatalf("state %v, polling %v after rise", b.state, b.poll)
	}
}

func poll(p *Packet)   { p.Poll = true }
func final(p *Packet)  { p.Final = true }
func demand(p *Packet) { p.Demand = true }

func wants(tx, rx time.Duration) func(*Packet) {
	return func(p *Packet) { p.DesiredMinTx, p.RequiredMinRx = tx, rx }
}

// TestTransitions: every state and every state of the peer (RFC 5880 sections
// 6.2 and 6.8.6).
func TestTransitions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		from, heard, to State
		diag            Diagnostic
	}{
		{Down, AdminDown, Down, PathDown},
		{Down, Down, Init, PathDown},
		{Down, Init, Up, NoDiagnostic},
		{Down, Up, Down, PathDown},
		{Init, AdminDown, Down, NeighborDown},
		{Init, Down, Init, PathDown},
		{Init, Init, Up, NoDiagnostic},
		{Init, Up, Up, NoDiagnostic},
		{Up, AdminDown, Down, NeighborDown},
		{Up, Down, Down, NeighborDown},
		{Up, Init, Up, PathDown},
		{Up, Up, Up, PathDown},
		{AdminDown, AdminDown, AdminDown, PathDown},
		{AdminDown, Down, AdminDown, PathDown},
		{AdminDown, Init, AdminDown, PathDown},
		{AdminDown, Up, AdminDown, PathDown},
	} {
		b := newBench(t, Config{})
		b.state, b.diag = tc.from, PathDown
		b.hear(tc.heard)
		if b.state != tc.to || b.diag != tc.diag {
			t.Errorf("%v, hearing %v: %v (%v), want %v (%v)", tc.from, tc.heard, b.state, b.diag, tc.to, tc.diag)
		}
	}
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	if p := b.one(); p.State != Down || p.MyDiscriminator != 7 || p.YourDiscriminator != 0 || p.DesiredMinTx != time.Second || p.RequiredMinRx != 300*ms {
		t.Errorf("first packet %+v", p)
	}
	b.hear(Down)
	if p := b.one(); p.State != Init || p.YourDiscriminator != 9 {
		t.Errorf("answer to Down %+v", p)
	}
	b.hear(Up)
	if p := b.one(); p.State != Up || !p.Poll || p.DesiredMinTx != 300*ms {
		t.Errorf("first packet in Up %+v, wanted the fast rate and a poll for it", p)
	}
	if d := b.next(); d != 300*ms {
		t.Errorf("next packet after %v", d)
	}
	if p := b.one(); !p.Poll {
		t.Errorf("the poll ended by itself: %+v", p)
	}
	b.hear(Up, final)
	b.next()
	if p := b.one(); p.Poll {
		t.Errorf("the poll did not end with Final: %+v", p)
	}
}

// TestSlowUnlessUp: section 6.8.3, 1 s at least unless the session is up.
func TestSlowUnlessUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Transmit: 10 * ms})
	b.said()
	for range 5 {
		if d := b.next(); d != time.Second {
			t.Errorf("packets %v apart in Down", d)
		}
		b.one()
	}
	b.hear(Down)
	b.said()
	if d := b.next(); d != time.Second {
		t.Errorf("packets %v apart in Init", d)
	}
	b = newBench(t, Config{Transmit: 10 * ms})
	b.rise()
	b.hear(Down)
	if p := b.one(); p.DesiredMinTx != time.Second || p.State != Down || p.Diagnostic != NeighborDown {
		t.Errorf("on going down %+v", p)
	}
	if d := b.next(); d != time.Second {
		t.Errorf("packets %v apart after having been up", d)
	}
}

// TestRates: section 6.8.7, the slower of what we want and the peer can take.
func TestRates(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Transmit: 100 * ms, Receive: 50 * ms})
	b.rise()
	for _, tc := range []struct{ theirTx, theirRx, interval, detection time.Duration }{
		{10 * ms, 10 * ms, 100 * ms, 150 * ms},
		{10 * ms, 400 * ms, 400 * ms, 150 * ms},
		{200 * ms, 100 * ms, 100 * ms, 600 * ms},
		{2 * time.Second, 5 * time.Second, 5 * time.Second, 6 * time.Second},
	} {
		b.hear(Up, wants(tc.theirTx, tc.theirRx))
		b.now = b.sendAt()
		b.one()
		if d := b.sendAt().Sub(b.now); d != tc.interval || b.detectionTime() != tc.detection {
			t.Errorf("%+v: interval %v, detection %v", tc, d, b.detectionTime())
		}
	}
}

// TestPeerSpeedsUp: a wait that was computed from a slower rate is cut short.
func TestPeerSpeedsUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Transmit: 100 * ms})
	b.rise()
	b.hear(Up, wants(9*time.Second, 5*time.Second))
	b.next()
	b.one()
	b.pass(50 * ms)
	b.hear(Up, wants(9*time.Second, 200*ms))
	if d := b.sendAt().Sub(b.now); d != 150*ms {
		t.Errorf("next packet in %v, want it 200ms after the last one", d)
	}
	b.pass(100 * ms)
	b.hear(Up, wants(9*time.Second, 50*ms)) // the last packet was 150 ms ago
	b.one()
}

// TestNoPackets: section 6.8.7, a peer that can receive none gets none, but is
// told what changes.
func TestNoPackets(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.rise()
	b.hear(Up, wants(300*ms, 0))
	for range 8 {
		b.pass(800 * ms)
		b.hear(Up, wants(300*ms, 0))
		b.silent()
	}
	b.hear(Up, wants(300*ms, 0), poll)
	if p := b.one(); !p.Final {
		t.Errorf("answer to a poll %+v", p)
	}
	b.hear(Down, wants(300*ms, 0))
	if p := b.one(); p.State != Down {
		t.Errorf("on going down %+v", p)
	}
}

// TestDetection: section 6.8.4.
func TestDetection(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{DetectMultiplier: 5}) // the peer's counts, which is 3
	b.rise()
	b.pass(899 * ms)
	if b.state != Up || !b.expireAt().Equal(b.now.Add(ms)) {
		t.Fatalf("state %v, expires in %v", b.state, b.expireAt().Sub(b.now))
	}
	b.hear(Up)
	b.pass(899 * ms)
	if b.state != Up {
		t.Fatal("a packet did not put off the detection time")
	}
	b.said()
	b.pass(ms)
	if b.state != Down || b.diag != DetectionExpired {
		t.Fatalf("state %v, %v", b.state, b.diag)
	}
	if p := b.one(); p.State != Down || p.Diagnostic != DetectionExpired || p.YourDiscriminator != 0 {
		t.Errorf("on expiry %+v", p)
	}
	if !b.expireAt().Equal(never) {
		t.Error("a session without a peer goes on expiring")
	}
}

// TestForgetsWhileDown: bfd.RemoteDiscr is dropped after a detection time of
// silence in any state (section 6.8.1).
func TestForgetsWhileDown(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.said()
	b.hear(AdminDown, wants(time.Second, 0))
	if p := b.one(); p.YourDiscriminator != 9 {
		t.Errorf("%+v", p)
	}
	b.pass(3 * time.Second)
	if p := b.one(); p.YourDiscriminator != 0 || p.Diagnostic != NoDiagnostic {
		t.Errorf("%+v", p)
	}
	if d := b.next(); d != time.Second {
		t.Errorf("next packet in %v: the silenced peer's wish for silence is still heeded", d)
	}
}

func TestPassive(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{Passive: true})
	b.pass(time.Hour)
	b.silent()
	if !b.sendAt().Equal(never) {
		t.Error("a passive session wants to send")
	}
	b.hear(Down)
	if p := b.one(); p.State != Init {
		t.Errorf("answer to Down %+v", p)
	}
	b.hear(Up)
	b.one()
	b.pass(time.Minute)
	if b.state != Down {
		t.Fatalf("state %v", b.state)
	}
	b.silent()
	if !b.sendAt().Equal(never) {
		t.Error("a passive session goes on sending to a peer that is gone")
	}
}

// TestFinal: a poll is answered at once in any state, by a packet that is not
// counted as a periodic one.
func TestFinal(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.rise()
	b.pass(100 * ms)
	b.hear(Up, poll)
	if p := b.one(); !p.Final || p.Poll {
		t.Errorf("answer to a poll %+v", p)
	}
	if d := b.sendAt().Sub(b.now); d != 200*ms {
		t.Errorf("next packet in %v", d)
	}
	b.hear(Down, poll)
	if p := b.one(); !p.Final || p.State != Down {
		t.Errorf("answer to a poll %+v", p)
	}
	b.hear(Down, poll)
	if p := b.one(); !p.Final || p.State != Init {
		t.Errorf("answer to a poll %+v", p)
	}
}

// TestOwnPollAndFinal: the two bits never meet in a packet (section 6.5).
func TestOwnPollAndFinal(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.rise()
	b.configure(b.now, Config{Peer: b.cfg.Peer, Transmit: 400 * ms}.normalise(), false)
	b.hear(Up, poll)
	if p := b.one(); !p.Final || p.Poll || p.DesiredMinTx != 400*ms {
		t.Errorf("answer to a poll %+v", p)
	}
	b.next()
	if p := b.one(); p.Final || !p.Poll {
		t.Errorf("next packet %+v", p)
	}
}

// TestReconfigure: section 6.8.3, when new timers come into force.
func TestReconfigure(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.rise()
	change := func(tx, rx time.Duration) {
		b.configure(b.now, Config{Peer: b.cfg.Peer, Transmit: tx, Receive: rx}.normalise(), false)
	}
	expect := func(what string, interval, detection time.Duration) {
		t.Helper()
		if b.transmitInterval() != interval || b.detectionTime() != detection {
			t.Errorf("%s: interval %v, detection %v", what, b.transmitInterval(), b.detectionTime())
		}
	}
	heard := wants(10*ms, 10*ms)
	b.hear(Up, heard)
	expect("before", 300*ms, 900*ms)
	change(500*ms, 100*ms)
	if p := b.one(); !p.Poll || p.DesiredMinTx != 500*ms || p.RequiredMinRx != 100*ms {
		t.Errorf("after a change %+v", p)
	}
	expect("slower transmission, faster detection, not confirmed", 300*ms, 900*ms)
	b.hear(Up, heard)
	expect("heard, but not confirmed", 300*ms, 900*ms)
	b.hear(Up, heard, final)
	expect("confirmed", 500*ms, 300*ms)
	change(200*ms, 400*ms)
	expect("faster transmission, slower detection, not confirmed", 200*ms, 1200*ms)

	// The second change of a sequence needs a sequence of its own.
	change(600*ms, 400*ms)
	b.said()
	b.hear(Up, heard, final)
	expect("a Final that may be for an earlier change", 200*ms, 1200*ms)
	b.next()
	if p := b.one(); !p.Poll {
		t.Errorf("no second poll: %+v", p)
	}
	b.hear(Up, heard, final)
	expect("confirmed again", 600*ms, 1200*ms)
	b.silent()
}

// TestDemand: section 6.6, a peer in demand mode gets no periodic packets but
// during a Poll Sequence.
func TestDemand(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.rise()
	b.hear(Up, demand)
	if !b.sendAt().Equal(never) {
		t.Errorf("periodic packets to a peer in demand mode")
	}
	b.configure(b.now, Config{Peer: b.cfg.Peer, Transmit: 100 * ms}.normalise(), false)
	if p := b.one(); !p.Poll {
		t.Errorf("on a change %+v", p)
	}
	b.next()
	if p := b.one(); !p.Poll {
		t.Errorf("the poll is not repeated: %+v", p)
	}
	b.hear(Up, demand, final)
	b.silent()
	if !b.sendAt().Equal(never) {
		t.Errorf("periodic packets after the end of the poll")
	}
	b.hear(Init, demand)
	if b.sendAt().Equal(never) {
		t.Errorf("no periodic packets to a peer that is not up")
	}
}

// TestDisable: section 6.8.16.
func TestDisable(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.rise()
	farewell := b.disable(b.now)
	if p := b.one(); p.State != AdminDown || p.Diagnostic != AdministrativelyDown || p.DesiredMinTx < time.Second {
		t.Errorf("farewell %+v", p)
	}
	if farewell != 3*time.Second {
		t.Errorf("it is sent for %v", farewell)
	}
	b.hear(Up, poll)
	b.silent()
	b.next()
	if p := b.one(); p.State != AdminDown {
		t.Errorf("farewell %+v", p)
	}
	b.pass(time.Hour)
	if b.state != AdminDown {
		t.Errorf("state %v", b.state)
	}
	if d := newBench(t, Config{}).disable(epoch); d != 0 {
		t.Errorf("a session whose peer was never heard takes %v to end", d)
	}
}

// TestJitter: section 6.8.7.
func TestJitter(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		mult      uint8
		random    float64
		low, high time.Duration
	}{
		{3, 0, 100 * ms, 100 * ms},
		{3, 0.999999, 75 * ms, 76 * ms},
		{1, 0, 90 * ms, 90 * ms},
		{1, 0.999999, 75 * ms, 76 * ms},
	} {
		b := newBench(t, Config{DetectMultiplier: tc.mult})
		b.random = func() float64 { return tc.random }
		if d := b.jitter(100 * ms); d < tc.low || d > tc.high {
			t.Errorf("%+v: %v", tc, d)
		}
	}
}

// TestNewPeer: a peer that restarts has another discriminator; the session
// follows its states and tells it what it has understood.
func TestNewPeer(t *testing.T) {
	t.Parallel()
	b := newBench(t, Config{})
	b.rise()
	b.hear(Down, func(p *Packet) { p.MyDiscriminator, p.YourDiscriminator = 10, 0 })
	if p := b.one(); p.State != Down || p.YourDiscriminator != 10 {
		t.Errorf("%+v", p)
	}
	b.hear(Down, func(p *Packet) { p.MyDiscriminator = 10 })
	if p := b.one(); p.State != Init || p.YourDiscriminator != 10 {
		t.Errorf("%+v", p)
	}
}
