package bfd

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A wire is a path of virtual time between two sessions: it loses packets with a
// given probability and delays the others, in order.
type wire struct {
	*rand.Rand
	now      time.Time
	loss     float64
	cut      bool
	delay    time.Duration
	ends     [2]*session
	flying   [2][]flight
	sent     [2][]time.Time // of packets that are neither Final nor news
	previous [2]Packet
	failures [2]int
}

type flight struct {
	packet Packet
	due    time.Time
}

// drawWire draws two configurations and a path that is slower than no detection
// time.
func drawWire(t *rapid.T) *wire {
	w := &wire{now: epoch, Rand: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))}
	w.delay = time.Duration(rapid.IntRange(0, 15).Draw(t, "delay")) * ms
	for i := range w.ends {
		w.ends[i] = newSession(drawConfig(t, i), uint32(i+1), w.Float64)
	}
	if w.ends[0].cfg.Passive { // two that wait for each other wait forever
		w.ends[1].cfg.Passive = false
	}
	return w
}

func drawConfig(t *rapid.T, i int) Config {
	interval := func(name string) time.Duration {
		return time.Duration(rapid.IntRange(50, 3000).Draw(t, fmt.Sprint(name, i))) * ms
	}
	return Config{
		Peer: ip("192.0.2.2"), Receive: interval("receive"), Transmit: interval("transmit"),
		DetectMultiplier: rapid.Uint8Range(2, 5).Draw(t, fmt.Sprint("multiplier", i)),
		Passive:          rapid.Bool().Draw(t, fmt.Sprint("passive", i)),
	}.normalise()
}

// step passes the time until the next event and handles it.
func (w *wire) step(t *rapid.T) {
	next := w.now.Add(time.Second)
	for i, s := range w.ends {
		next = earliest(next, s.sendAt(), s.expireAt())
		if len(w.flying[i]) > 0 {
			next = earliest(next, w.flying[i][0].due)
		}
	}
	if next.After(w.now) {
		w.now = next
	}
	for i, s := range w.ends {
		was := s.state
		for len(w.flying[i]) > 0 && !w.flying[i][0].due.After(w.now) {
			p := w.flying[i][0].packet
			w.flying[i] = w.flying[i][1:]
			s.receive(w.now, &p)
		}
		if s.expired(w.now) {
			s.expire(w.now)
		}
		if was == Up && s.state == Down {
			w.failures[i]++
		}
		w.collect(t, i)
	}
}

// collect takes what a session sends, checks it and sends it on its way.
func (w *wire) collect(t *rapid.T, i int) {
	s := w.ends[i]
	var p Packet
	for n := 0; s.transmit(w.now, &p); n++ {
		if n > 3 {
			t.Fatalf("session %d sends without end: %+v", i, p)
		}
		w.check(t, i, p)
		w.previous[i] = p
		if w.cut || w.Float64() < w.loss {
			continue
		}
		w.flying[1-i] = append(w.flying[1-i], flight{p, w.now.Add(w.delay)})
	}
}

// check holds what RFC 5880 says of every single packet.
func (w *wire) check(t *rapid.T, i int, p Packet) {
	s := w.ends[i]
	switch {
	case p.Poll && p.Final:
		t.Fatalf("poll and final: %+v", p)
	case p.State != Up && p.DesiredMinTx < time.Second:
		t.Fatalf("fast without being up: %+v", p)
	case p.DetectMultiplier == 0 || p.MyDiscriminator == 0:
		t.Fatalf("zero: %+v", p)
	case p.YourDiscriminator == 0 && p.State != Down && p.State != AdminDown:
		t.Fatalf("%v without knowing the peer: %+v", p.State, p)
	case s.cfg.Passive && s.remote == 0:
		t.Fatalf("a passive session speaks first: %+v", p)
	}
	// Periodic packets keep the negotiated distance less a quarter; only a
	// Final and news may come between them (section 6.8.7).
	was, is := w.previous[i], p
	was.Poll, was.Final, is.Poll = false, false, false
	if p.Final {
		return
	}
	if n := len(w.sent[i]); n > 0 && was == is {
		if d, least := w.now.Sub(w.sent[i][n-1]), max(s.usedTx, s.remoteRx)*3/4; d < least {
			t.Fatalf("session %d: %v between packets, at least %v are agreed: %+v", i, d, least, p)
		}
	}
	w.sent[i] = append(w.sent[i], w.now)
}

// until steps until cond holds; that must take no longer than limit.
func (w *wire) until(t *rapid.T, what string, limit time.Duration, cond func() bool) time.Duration {
	start := w.now
	for !cond() {
		if w.now.Sub(start) > limit {
			t.Fatalf("no %s within %v: %v and %v", what, limit, describe(w.ends[0]), describe(w.ends[1]))
		}
		w.step(t)
	}
	return w.now.Sub(start)
}

func describe(s *session) string {
	return fmt.Sprintf("{%v %v poll=%v interval=%v detection=%v %+v}", s.state, s.diag, s.poll, s.transmitInterval(), s.detectionTime(), s.cfg)
}

func (w *wire) bothUp() bool { return w.ends[0].state == Up && w.ends[1].state == Up }

// settled: both are up, at the rates that both have agreed to.
func (w *wire) settled() bool {
	if !w.bothUp() || w.ends[0].poll || w.ends[1].poll {
		return false
	}
	for i, s := range w.ends {
		o := w.ends[1-i].cfg
		if s.transmitInterval() != max(s.cfg.Transmit, o.Receive) ||
			s.detectionTime() != time.Duration(o.DetectMultiplier)*max(s.cfg.Receive, o.Transmit) {
			return false
		}
	}
	return true
}

func (w *wire) pass(t *rapid.T, d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.step(t)
	}
}

// steady passes some time, over which nothing must fail.
func (w *wire) steady(t *rapid.T, d time.Duration) {
	before := w.failures
	w.pass(t, d)
	if w.failures != before || !w.bothUp() {
		t.Fatalf("sessions failed on a good path: %v, %v", describe(w.ends[0]), describe(w.ends[1]))
	}
}

const aWhile = time.Minute

// TestLife takes two sessions with any parameters through their life: they come
// up whatever is lost at first, agree on rates, keep them without a failure
// through changes of parameters, notice a cut in time and recover.
func TestLife(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWire(t)
		w.loss = rapid.Float64Range(0, 0.7).Draw(t, "loss")
		w.pass(t, 20*time.Second)
		w.loss = 0
		w.pass(t, 20*time.Second) // what was lost may bring a session down once more
		w.until(t, "agreement", aWhile, w.settled)
		w.steady(t, 20*time.Second)

		for i := range rapid.IntRange(1, 4).Draw(t, "changes") {
			s := w.ends[rapid.IntRange(0, 1).Draw(t, "side")]
			s.configure(w.now, drawConfig(t, 10+i), false)
			w.steady(t, time.Duration(rapid.IntRange(0, 5000).Draw(t, "pause"))*ms)
		}
		w.until(t, "agreement after changes", aWhile, w.settled)
		w.steady(t, 20*time.Second)

		w.cut = true
		detection := max(w.ends[0].detectionTime(), w.ends[1].detectionTime())
		w.until(t, "detection of the cut", detection+w.delay+ms, func() bool { return w.ends[0].state == Down && w.ends[1].state == Down })
		for range 100 {
			w.step(t)
		}
		w.cut = false
		w.ends[rapid.IntRange(0, 1).Draw(t, "active side")].cfg.Passive = false
		w.until(t, "recovery", aWhile, w.settled)

		w.ends[0].disable(w.now)
		w.until(t, "the peer's knowledge of an orderly end", w.delay+ms, func() bool { return w.ends[1].state == Down })
		if s := w.ends[1]; s.diag != NeighborDown || s.remoteState != AdminDown {
			t.Fatalf("after an orderly end: %v", describe(s))
		}
	})
}

// TestAnything feeds a session any packets at any times, and changes of
// parameters; it must keep the rules that bind every packet and never get stuck.
func TestAnything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWire(t)
		s := w.ends[0]
		w.cut = true
		w.collect(t, 0)
		t.Repeat(map[string]func(*rapid.T){
			"packet": func(t *rapid.T) {
				p := drawPacket(t)
				s.receive(w.now, &p)
				w.collect(t, 0)
			},
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "pause")) * ms)
				s.expire(w.now)
				w.collect(t, 0)
			},
			"configure": func(t *rapid.T) {
				s.configure(w.now, drawConfig(t, 0), rapid.Bool().Draw(t, "reflects"))
				s.expire(w.now)
				w.collect(t, 0)
			},
			"": func(t *rapid.T) {
				switch {
				case s.expireAt().Before(w.now), s.sendAt().Before(w.now) && s.echo.next.After(w.now):
					t.Fatalf("due in the past: %+v", s)
				case s.remote == 0 && s.state > Down:
					t.Fatalf("up without a peer: %+v", s)
				case s.sendAt().Equal(never) && s.remote == 0 && !s.cfg.Passive:
					t.Fatalf("an active session is silent: %+v", s)
				}
			},
		})
	})
}
