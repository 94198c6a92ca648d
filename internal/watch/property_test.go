package watch

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A history is a cluster to which faults happen, and what must hold of the judgements meanwhile.
type history struct {
	*sim
	t   *rapid.T
	log []string
	// quiet is since when no fault has happened.
	quiet time.Time
}

func newHistory(t *rapid.T) *history {
	h := &history{sim: newSim(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(2, 7).Draw(t, "nodes"), 0), t: t}
	h.gateway = rapid.IntRange(0, 3).Draw(t, "gateway") > 0
	h.wait = time.Duration(rapid.IntRange(20, 100).Draw(t, "wait")) * ms
	h.onMove = h.moved
	h.run(3 * time.Second)
	h.quiet = h.now
	return h
}

func (h *history) note(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf("%v ", h.now.Sub(time.Unix(1_000_000, 0)))+fmt.Sprintf(format, args...))
}

// moved holds what must never happen: that a node is given up that runs and is not cut off, nor its speaker gone for a
// reason that gives it up.
func (h *history) moved(n *simNode, tr transition) {
	h.note("%s: %q %v to %v because %s", n.name, tr.node, tr.was.State, tr.is.State, tr.why)
	if tr.node == "" || tr.is.State != Down || tr.was.State == Down {
		return
	}
	for _, o := range h.nodes {
		if o.name != tr.node || !o.kernel || o.cut || h.now.Sub(o.okSince) < 500*ms {
			continue
		}
		d, gone := n.gone[o.name]
		switch {
		case d.left && !d.returns, gone && (!o.proxy || h.now.Sub(o.proxyAt) < time.Second):
		case n.cut && !h.gateway: // it cannot know
		case n.cut:
			h.fatal("%s, which is cut off, gives up %s", n.name, o.name)
		case h.now.Sub(n.okSince) < 500*ms:
		case gone && tr.was.Since.Before(h.now.Add(-DefaultStandInLimit)):
		default:
			h.fatal("%s gives up %s, which runs", n.name, o.name)
		}
	}
}

func (h *history) fatal(format string, args ...any) {
	h.t.Helper()
	for _, l := range h.log {
		h.t.Log(l)
	}
	h.t.Fatalf(format, args...)
}

// fault lets something happen, or end.
func (h *history) fault() {
	n := h.nodes[rapid.IntRange(0, len(h.nodes)-1).Draw(h.t, "node")]
	kind := rapid.SampledFrom([]string{"cut", "crash", "exit", "leave", "leave for good", "pause", "start", "proxy", "verdict", "failure"}).Draw(h.t, "fault")
	h.note("%s: %s", n.name, kind)
	switch {
	case kind == "cut":
		n.setCut(!n.cut)
	case kind == "proxy":
		n.proxy, n.proxyAt = !n.proxy, n.now
	case kind == "start":
		if !n.works() {
			n.start()
		}
	case !n.works():
	case kind == "crash":
		n.crash()
	case kind == "exit":
		n.exit()
	case kind == "leave":
		n.leave(true)
	case kind == "leave for good":
		n.leave(false)
	case kind == "pause":
		n.pause(time.Duration(rapid.IntRange(20, 5000).Draw(h.t, "pause")) * ms)
	case kind == "verdict": // a speaker that errs
		o := h.nodes[rapid.IntRange(0, len(h.nodes)-1).Draw(h.t, "about")]
		v := Verdict{Node: o.name, Epoch: o.epoch, Silent: rapid.Bool().Draw(h.t, "silent"), By: n.name}
		for _, to := range h.nodes {
			if to != n && n.reaches(to) {
				to.event(func(m *machine) { m.setVerdict(to.now, v) })
			}
		}
	case kind == "failure": // membership errs
		for _, o := range n.others() {
			o.member(n, false)
		}
		n.settleMembership()
	}
}

// settled holds what must be once nothing has happened for a while.
func (h *history) settled() {
	h.t.Helper()
	for _, n := range h.nodes {
		if !n.works() || n.cut {
			continue
		}
		reached := 0
		for _, o := range h.nodes {
			if o == n {
				continue
			}
			if n.reaches(o) {
				reached++
			}
			standing := n.m.nodes[o.name].standing
			_, gone := n.gone[o.name]
			switch {
			case !n.reaches(o) && standing.State != Down:
				h.fatal("%s has %s %v, which does not answer", n.name, o.name, standing.State)
			case n.reaches(o) && o.speaker && (gone || standing.State != Up || standing.SpeakerGone):
				h.fatal("%s has %s %+v, member %t, which is well", n.name, o.name, standing, !gone)
			case !o.speaker && !standing.SpeakerGone:
				h.fatal("%s thinks the speaker of %s lives", n.name, o.name)
			case n.reaches(o) && !o.speaker && standing.State == Up:
				h.fatal("%s thinks %s is up without a speaker", n.name, o.name)
			}
		}
		if n.m.isolated() {
			h.fatal("%s thinks that it is cut off; %d others answer, and the gateway", n.name, reached)
		}
	}
	for _, n := range h.nodes {
		if n.works() && n.cut && h.gateway && h.now.Sub(n.okSince) > time.Second && !n.m.isolated() {
			answers := false
			for _, o := range h.nodes {
				answers = answers || o != n && n.m.nodes[o.name].standing.State != Down
			}
			if answers {
				h.fatal("%s, which is cut off, does not notice", n.name)
			}
		}
	}
}

// TestFaults lets faults happen to a cluster, in any order and at any distance, and then leaves it alone.
func TestFaults(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t)
		for range rapid.IntRange(1, 8).Draw(t, "faults") {
			h.fault()
			h.run(time.Duration(rapid.IntRange(0, 3000).Draw(t, "meanwhile")) * ms)
		}
		h.run(10 * time.Second)
		h.settled()
	})
}

// TestPause holds that a process that was stopped for five seconds gives up nobody, and nobody gives it up.
func TestPause(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3, 30} {
		for seed := range uint64(5) {
			s := newSim(seed, nodes, 0)
			s.run(3 * time.Second)
			s.onMove = func(n *simNode, tr transition) {
				if tr.is.State == Down {
					t.Errorf("%d nodes: %s gives up %q because %s", nodes, n.name, tr.node, tr.why)
				}
			}
			s.nodes[s.IntN(nodes)].pause(5 * time.Second)
			s.run(10 * time.Second)
			for _, n := range s.nodes {
				for name, standing := range n.m.snapshot().Nodes {
					if standing.State != Up || standing.SpeakerGone {
						t.Errorf("%d nodes: %s has %s %+v in the end", nodes, n.name, name, standing)
					}
				}
			}
		}
	}
}
