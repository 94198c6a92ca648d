package bfd

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/internal/netnstest"
)

func absent(d time.Duration) Config { return Config{DetectMultiplier: 3, Absence: d} }

// TestLeave: a session tells the peer to wait, and has left once the peer has said
// that it does.
func TestLeave(t *testing.T) {
	t.Parallel()
	b := newBench(t, absent(30*time.Second))
	b.rise()
	if b.left() {
		t.Error("the session has left before it began to")
	}
	b.leave(b.now)
	if p := b.one(); !p.Poll || p.State != Up || p.DesiredMinTx != 10*time.Second {
		t.Errorf("the peer is told %+v", p)
	}
	b.next()
	if p := b.one(); !p.Poll || b.left() {
		t.Errorf("without an answer: %+v, left: %t", p, b.left())
	}
	b.hear(Up, final)
	if !b.left() {
		t.Error("the session has not left with the peer's answer")
	}
	b.hear(Down)
	if b.left() {
		t.Error("a session that is down has left")
	}
}

// TestListen: a session that another process may have left says nothing until it
// has heard the peer, and is up if the peer is.
func TestListen(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		heard State
		want  State
	}{{Up, Up}, {Down, Init}, {Init, Up}, {AdminDown, Down}} {
		b := newBench(t, absent(time.Second))
		b.listen(b.now)
		b.silent()
		b.pass(listenTime / 2)
		b.silent()
		b.hear(tc.heard)
		if b.state != tc.want {
			t.Errorf("hearing %v: %v, want %v", tc.heard, b.state, tc.want)
		}
		if p := b.said(); len(p) == 0 || p[0].State != tc.want {
			t.Errorf("hearing %v, the session says %+v", tc.heard, p)
		}
	}
	b := newBench(t, absent(time.Second))
	b.listen(b.now)
	if after := b.next(); after != listenTime {
		t.Errorf("a session that hears nothing speaks after %v", after)
	}
	if p := b.one(); p.State != Down {
		t.Errorf("it says %+v", p)
	}
	b.hear(Up) // from then on, this is what RFC 5880 section 6.8.6 says it is
	if b.state != Down {
		t.Errorf("a session that has spoken is %v by the peer being up", b.state)
	}
}

// TestKernelSurvives: sessions of every kind outlive the process of one side,
// which the other does not notice.
func TestKernelSurvives(t *testing.T) {
	t.Parallel()
	for name, configs := range kernelConfigs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newKernelPair(t)
			const absence = 20 * time.Second
			configs[0].Absence = absence
			p.monitors[0].Apply(configs[:1])
			p.monitors[1].Apply(configs[1:])
			p.waitFor(0, "s", Up)
			p.waitFor(1, "s", Up)
			before := p.state(1, "s")
			p.stop[0]()
			if s := p.state(1, "s"); s.State != Up || s.DetectionTime < absence-time.Second {
				t.Fatalf("the side that stays is to wait: %+v", s)
			}
			p.start(0)
			p.monitors[0].Apply(configs[:1])
			p.waitFor(0, "s", Up)
			netnstest.Eventually(t, "fast timers to be negotiated", func() bool { return p.state(1, "s").DetectionTime == 150*time.Millisecond })
			if s := p.state(1, "s"); s.State != Up || !s.Since.Equal(before.Since) || s.Failures != 0 {
				t.Errorf("the side that stayed has noticed: %+v, before %+v", s, before)
			}
			// With nobody to come back, the peer is told.
			configs[0].Absence = 0
			p.monitors[0].Apply(configs[:1])
			p.stop[0]()
			p.waitFor(1, "s", Down)
			if s := p.state(1, "s"); s.RemoteState != AdminDown || s.Failures != 0 {
				t.Errorf("after an end for good: %+v", s)
			}
		})
	}
}

// TestInteropSurvives: nor do other routers notice.
func TestInteropSurvives(t *testing.T) {
	t.Parallel()
	for kind, start := range routers() {
		for name, tc := range interop() {
			// One after the other: a starved router's session would end by rights.
			t.Run(kind+"/"+name, func(t *testing.T) {
				l := newLab(t, start)
				ours, theirs := tc.ours, tc.theirs
				ours.Absence = 15 * time.Second
				l.router.configure([]routerSession{theirs})
				l.monitor.Apply([]Config{ours})
				agreed := func() bool {
					s := l.router.state(theirs.peer)
					return l.state().State == Up && s.state == "up" && s.detection == time.Second
				}
				l.await("agreement", agreed)
				l.stop()
				if s := l.router.state(theirs.peer); s.state != "up" || s.detection != ours.Absence {
					t.Fatalf("without us the router is to wait: %+v", s)
				}
				l.monitor = New(Options{Logger: testLogger{t}, Metrics: NewMetrics(prometheus.NewRegistry())})
				l.stop = l.ns[0].Run(l.monitor.Run)
				l.monitor.Apply([]Config{ours})
				l.await("agreement with another process", func() bool {
					if s := l.router.state(theirs.peer); s.state != "up" {
						t.Fatalf("the router has noticed: %+v", s)
					}
					return agreed()
				})
			})
		}
	}
}
