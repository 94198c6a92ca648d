package watch

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestJudgement goes through what may become of a node.
func TestJudgement(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(r *rig)
	}{
		{"a member is up", func(r *rig) { r.want("x", Up, false) }},
		{"left for good", func(r *rig) {
			r.change("x", func(n *Node) { n.Gone, n.Left = true, true })
			r.want("x", Down, true)
		}},
		{"left to return, and returns", func(r *rig) {
			r.leave("x")
			r.want("x", Orphaned, true)
			r.proxy("x", proxyHealthy)
			r.want("x", Orphaned, true)
			r.rejoin("x")
			r.want("x", Up, false)
		}},
		{"failed, and its kernel is silent", func(r *rig) {
			r.pass(300*ms, "y")
			r.fail("x")
			r.want("x", Orphaned, true)
			r.pass(120*ms, "y")
			r.reply("x", false)
			r.want("x", Down, true)
		}},
		{"failed, and a stopped process misses its answer", func(r *rig) {
			r.pass(300*ms, "y")
			r.fail("x")
			r.pass(5*time.Second, "y")
			r.reply("x", false)
			r.want("x", Orphaned, true)
			r.pass(120*ms, "y")
			r.reply("x", false)
			r.want("x", Down, true)
		}},
		{"failed, and nobody at all answers", func(r *rig) {
			r.pass(300 * ms)
			r.fail("x")
			r.pass(120 * ms)
			r.reply("x", false)
			r.want("x", Orphaned, true)
			r.witness(false, 1)
			r.want("x", Orphaned, true)
			r.wantIsolated(true)
		}},
		{"its kube-proxy does not work", func(r *rig) {
			r.leave("x")
			r.proxy("x", proxyHealthy)
			r.pass(proxyEvery, "x", "y")
			r.proxy("x", proxyUnhealthy)
			r.want("x", Orphaned, true) // it may be being restarted too
			r.pass(proxyPatience, "x", "y")
			r.proxy("x", proxyUnhealthy)
			r.want("x", Down, true)
		}},
		{"its kube-proxy is restarted too", func(r *rig) {
			r.leave("x")
			for _, state := range []proxyState{proxyUnhealthy, proxyUnhealthy, proxyHealthy, proxyUnhealthy} {
				r.proxy("x", state)
				r.pass(proxyEvery, "x", "y")
				r.want("x", Orphaned, true)
			}
		}},
		{"its kube-proxy is silent, but so is everybody", func(r *rig) {
			r.pass(300 * ms)
			r.leave("x")
			r.m.tick(r.now)
			r.pass(time.Second)
			r.proxy("x", proxySilent)
			r.want("x", Orphaned, true)
			r.m.tick(r.now)
			r.pass(time.Second, "y")
			r.proxy("x", proxySilent)
			r.want("x", Orphaned, true)
			r.pass(proxyPatience, "y")
			r.proxy("x", proxySilent)
			r.want("x", Down, true)
		}},
		{"orphaned, silent for a while", func(r *rig) {
			r.pass(300*ms, "x", "y")
			r.fail("x")
			r.proxy("x", proxyHealthy)
			r.silence("x", "y")
			r.want("x", Down, true)
			r.todo = todo{}
			r.pass(returnSlowly, "y")
			r.reply("x", false)
			r.want("x", Down, true)
			r.pass(returnSlowly, "y")
			r.reply("x", true)
			r.want("x", Down, true) // its kube-proxy may not be there yet
			r.proxy("x", proxyUnhealthy)
			r.want("x", Down, true)
			r.pass(proxyEvery, "y")
			r.proxy("x", proxyHealthy)
			r.want("x", Orphaned, true)
			r.pass(DefaultStandInLimit, "x", "y")
			r.want("x", Down, true)
			r.take()
			r.todo = todo{}
			r.pass(10*returnSlowly, "x", "y")
			if r.take(); len(r.todo.asks)+len(r.todo.proxies) > 0 {
				t.Errorf("asks one that is not waited for any more: %+v", r.todo)
			}
			r.want("x", Down, true)
		}},
		{"left for good, and answers", func(r *rig) {
			r.pass(300*ms, "x", "y")
			r.change("x", func(n *Node) { n.Gone, n.Left = true, true })
			r.todo = todo{}
			r.pass(10*returnSlowly, "x", "y")
			if r.take(); len(r.todo.asks) > 0 {
				t.Errorf("asks one that left for good: %+v", r.todo.asks)
			}
			r.want("x", Down, true)
		}},
		{"orphaned for too long", func(r *rig) {
			r.leave("x")
			r.pass(DefaultStandInLimit-time.Second, "x", "y")
			r.want("x", Orphaned, true)
			r.pass(time.Second, "x", "y")
			r.want("x", Down, true)
			r.rejoin("x")
			r.want("x", Down, false)
			r.todo = todo{}
			r.pass(returnSlowly)
			r.reply("x", true)
			r.want("x", Up, false)
		}},
		{"standing in is switched off", func(r *rig) {
			r.m.limit = 0
			r.change("x", func(n *Node) { n.Abstains = true })
			r.want("x", Up, true)
			r.leave("x")
			r.want("x", Down, true)
		}},
		{"starts anew and abstains", func(r *rig) {
			r.change("x", func(n *Node) { n.Abstains, n.Epoch = true, 6 })
			r.want("x", Up, true)
			r.change("x", func(n *Node) { n.Abstains = false })
			r.want("x", Up, false)
		}},
		{"the connection to its speaker ends and comes back", func(r *rig) {
			d := dial{node: "x", addr: netip.MustParseAddrPort("10.0.0.2:7955"), epoch: 5}
			r.m.setConnected(r.now, d, false)
			r.want("x", Up, false) // it never stood
			r.m.setConnected(r.now, d, true)
			r.m.setConnected(r.now, d, false)
			r.want("x", Up, true)
			r.m.setConnected(r.now, d, true)
			r.want("x", Up, false)
			r.m.setConnected(r.now, d, false)
			r.change("x", func(n *Node) { n.Epoch = 6 })
			r.want("x", Up, false)
			r.m.setConnected(r.now, d, false)
			r.want("x", Up, false) // that was the former process
		}},
		{"nowhere to ask", func(r *rig) {
			r.change("x", func(n *Node) { n.Links = nil })
			r.leave("x")
			r.want("x", Orphaned, true)
			r.rejoin("x")
			r.fail("x")
			r.want("x", Down, true)
			r.rejoin("x")
			r.want("x", Up, false)
		}},
		{"asking fails", func(r *rig) {
			r.leave("x")
			r.rejoin("x")
			r.todo = todo{}
			r.pass(time.Second, "y")
			r.fail("x")
			for range unableLimit {
				r.want("x", Orphaned, true)
				r.take()
				o := r.todo.asks[len(r.todo.asks)-1]
				r.m.setReply(r.now, o.id, "x", reply{failed: true})
				r.pass(unableEvery, "y")
			}
			r.want("x", Down, true)
		}},
		{"not a node any more", func(r *rig) {
			r.show(func(v *View) { v.Nodes = v.Nodes[1:] })
			if _, ok := r.m.snapshot().Nodes["x"]; ok {
				r.t.Error("x is still known")
			}
		}},
		{"gone before this node knows its own links", func(r *rig) {
			r.m = newMachine("self", DefaultStandInLimit, true, NewMetrics(nil))
			clear(r.heard)
			links := r.view.Links
			r.show(func(v *View) { v.Links, v.Nodes[0].Gone = nil, true })
			r.want("x", Orphaned, true)
			r.show(func(v *View) { v.Links = links })
			r.want("x", Orphaned, true)
			r.pass(50*ms, "y")
			r.pass(120*ms, "y")
			r.reply("x", false)
			r.want("x", Down, true)
		}},
		{"gone when first seen, long ago", func(r *rig) {
			r.show(func(v *View) {
				v.Nodes = append(v.Nodes, Node{Name: "z", Links: []Link{linkNumber(9)}, Gone: true, Since: r.now.Add(-time.Hour)})
			})
			r.want("z", Down, true)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.do(newRig(t, "x", "y"))
		})
	}
}

// TestSilence goes through how a node is found silent, or is not.
func TestSilence(t *testing.T) {
	t.Parallel()
	silent := func(about, by string, epoch uint64) Verdict {
		return Verdict{Node: about, By: by, Epoch: epoch, Silent: true}
	}
	for _, c := range []struct {
		name   string
		others []string
		do     func(r *rig)
	}{
		{"probed and confirmed", []string{"x", "y"}, func(r *rig) {
			r.silence("x", "y")
			r.want("x", Down, false)
			r.pass(400*ms, "y")
			if got := r.take().verdicts; len(got) != 1+len(repeats) || got[0] != (Verdict{Node: "x", Epoch: 5, Silent: true, By: "self"}) {
				r.t.Errorf("verdicts %+v, want three that x is silent", got)
			}
		}},
		{"answers when asked", []string{"x", "y"}, func(r *rig) {
			r.pass(300*ms, "x", "y")
			r.miss("x", suspectAfter)
			r.reply("x", true)
			r.want("x", Up, false)
			r.miss("x", 1)
			if r.pass(200*ms, "y"); len(r.take().asks) != 0 {
				r.t.Error("x is asked again for what was forgiven")
			}
		}},
		{"answers again", []string{"x", "y"}, func(r *rig) {
			r.silence("x", "y")
			r.todo.verdicts = nil
			r.pass(returnEvery, "y")
			r.reply("x", true)
			r.want("x", Up, false)
			if got := r.take().verdicts; len(got) == 0 || got[len(got)-1].Silent {
				r.t.Errorf("verdicts %+v, want that x answers", got)
			}
		}},
		{"one miss", []string{"x", "y"}, func(r *rig) {
			r.pass(300*ms, "x", "y")
			r.miss("x", 1)
			if len(r.take().asks) != 0 {
				r.t.Error("x is asked")
			}
		}},
		{"cannot be asked by this node's fault", []string{"x", "y"}, func(r *rig) {
			r.pass(300*ms, "x", "y")
			r.heard[r.m.nodes["x"].targets[0]] = Health{Answered: r.now, Missed: 5, Err: errors.New("no carrier")}
			if r.m.setHeard(r.now, r.heard); len(r.take().asks) != 0 {
				r.t.Error("x is asked")
			}
		}},
		{"never answered", []string{"x", "y"}, func(r *rig) {
			r.change("x", func(n *Node) { n.Links = []Link{linkNumber(77)} })
			clear(r.heard)
			r.pass(10*ms, "y")
			r.reply("x", false) // it is asked once, to find out
			r.pass(300*ms, "y")
			r.miss("x", 9)
			r.pass(300*ms, "y")
			if len(r.take().asks) != 0 {
				r.t.Error("x is asked")
			}
		}},
		{"the only other, no witness known", []string{"x"}, func(r *rig) {
			r.silence("x")
			r.want("x", Up, false)
			r.witness(false, 0)
			r.want("x", Down, false)
		}},
		{"the only other, the witness answers", []string{"x"}, func(r *rig) {
			r.pass(300*ms, "x")
			r.miss("x", suspectAfter)
			r.witness(true, 1) // it is asked at once
			r.pass(120 * ms)
			r.reply("x", false)
			r.want("x", Down, false)
		}},
		{"the only other, the witness is silent too", []string{"x"}, func(r *rig) {
			r.silence("x")
			r.witness(false, 1)
			r.want("x", Up, false)
			r.wantIsolated(true)
			r.fail("x")
			r.want("x", Up, false)
			r.pass(cutEvery)
			r.witness(true, 1)
			r.wantIsolated(false)
			r.want("x", Orphaned, true)
			r.witness(true, 1)
			r.pass(120 * ms)
			r.reply("x", false)
			r.want("x", Down, true)
		}},
		{"cut off for a moment", []string{"x", "y"}, func(r *rig) {
			r.silence("x")
			r.witness(false, 2)
			r.wantIsolated(true)
			r.answer("y")
			r.wantIsolated(false)
			r.want("x", Up, false)
		}},
		{"the link is lost", []string{"x", "y"}, func(r *rig) {
			r.show(func(v *View) { v.Links = []Link{{Name: "cni0"}} })
			r.wantIsolated(true)
			r.fail("x")
			r.fail("y")
			r.want("x", Up, false)
			r.show(func(v *View) { v.Links = []Link{linkNumber(1)} })
			r.wantIsolated(false)
			r.want("x", Orphaned, true)
			r.reply("x", true)
		}},
		{"all others are renumbered", []string{"x", "y"}, func(r *rig) {
			r.show(func(v *View) {
				for i := range v.Nodes {
					v.Nodes[i].Links = []Link{{Name: "eth0", Addr4: netip.MustParseAddr("192.0.2.1")}}
				}
			})
			r.wantIsolated(false)
		}},
		{"told, and silent", []string{"x", "y"}, func(r *rig) {
			r.m.setVerdict(r.now, silent("x", "y", 5))
			r.want("x", Up, false)
			r.pass(80 * ms)
			r.reply("x", false)
			r.want("x", Down, false)
			if got := r.take().verdicts; len(got) != 0 {
				r.t.Errorf("what was told is told on: %+v", got)
			}
			r.m.setVerdict(r.now, Verdict{Node: "x", By: "y", Epoch: 5})
			r.reply("x", true)
			r.want("x", Up, false)
		}},
		{"told, but answers", []string{"x", "y"}, func(r *rig) {
			r.m.setVerdict(r.now, silent("x", "y", 5))
			r.reply("x", true)
			r.want("x", Up, false)
		}},
		{"told by nobody, of a former process, by itself, by the dead", []string{"x", "y"}, func(r *rig) {
			r.fail("y")
			r.take()
			r.todo = todo{}
			r.m.setVerdict(r.now, silent("x", "z", 5))
			r.m.setVerdict(r.now, silent("x", "y", 5))
			r.m.setVerdict(r.now, silent("x", "x", 5))
			r.m.setVerdict(r.now, silent("self", "y", 5))
			r.rejoin("y")
			r.m.setVerdict(r.now, silent("x", "y", 4))
			if got := r.take().asks; slices.ContainsFunc(got, func(o askOrder) bool { return o.node == "x" }) {
				r.t.Errorf("x is asked: %+v", got)
			}
		}},
		{"told of a node that cannot be asked", []string{"x", "y", "z"}, func(r *rig) {
			r.change("x", func(n *Node) { n.Links = nil })
			r.m.setVerdict(r.now, silent("x", "y", 5))
			r.m.setVerdict(r.now, silent("x", "y", 5))
			r.want("x", Up, false)
			r.pass(verdictFor, "y", "z")
			r.m.setVerdict(r.now, silent("x", "z", 5))
			r.want("x", Up, false)
			r.m.setVerdict(r.now, silent("x", "y", 5))
			r.want("x", Down, false)
			r.pass(hearsayFor-ms*100, "y", "z")
			r.want("x", Down, false)
			r.pass(200*ms, "y", "z")
			r.want("x", Up, false)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.do(newRig(t, c.others...))
		})
	}
}
