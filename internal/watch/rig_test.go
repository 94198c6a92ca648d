package watch

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// rig is a machine "self" that judges "x" and others, and is told everything by hand.
type rig struct {
	t     *testing.T
	m     *machine
	now   time.Time
	view  View
	heard map[Target]Health
	todo  todo
}

func newRig(t *testing.T, others ...string) *rig {
	r := &rig{t: t, m: newMachine("self", DefaultStandInLimit, true, NewMetrics(nil)), now: time.Unix(1000, 0), heard: map[Target]Health{}}
	r.view.Links = []Link{linkNumber(1)}
	for i, name := range others {
		r.view.Nodes = append(r.view.Nodes, Node{
			Name: name, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 2)}), WatchPort: 7955, Epoch: 5, Links: []Link{linkNumber(byte(i + 2))},
		})
	}
	r.show()
	for _, name := range others {
		r.answer(name)
	}
	return r
}

func linkNumber(i byte) Link {
	return Link{Name: "eth0", MAC: [6]byte{2, 5: i}, Addr4: netip.AddrFrom4([4]byte{10, 0, 0, i}), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
}

// show has the machine take in the view after changes to it.
func (r *rig) show(changes ...func(v *View)) {
	v := View{Nodes: slices.Clone(r.view.Nodes), Links: r.view.Links}
	for _, change := range changes {
		change(&v)
	}
	r.view = v
	r.m.setView(r.now, v)
}

func (r *rig) change(name string, change func(n *Node)) {
	r.show(func(v *View) {
		change(&v.Nodes[slices.IndexFunc(v.Nodes, func(n Node) bool { return n.Name == name })])
	})
}

func (r *rig) fail(name string) { r.change(name, func(n *Node) { n.Gone = true }) }
func (r *rig) leave(name string) {
	r.change(name, func(n *Node) { n.Gone, n.Left, n.Returns = true, true, true })
}
func (r *rig) rejoin(name string) {
	r.change(name, func(n *Node) { n.Gone, n.Left, n.Returns, n.Epoch = false, false, false, n.Epoch+1 })
}

// answer has the prober hear the node.
func (r *rig) answer(name string) {
	for _, t := range r.m.nodes[name].targets {
		r.heard[t] = Health{Answered: r.now}
	}
	r.m.setHeard(r.now, r.heard)
}

// miss has the prober miss answers of the node.
func (r *rig) miss(name string, count int) {
	for _, t := range r.m.nodes[name].targets {
		h := r.heard[t]
		h.Missed += count
		r.heard[t] = h
	}
	r.m.setHeard(r.now, r.heard)
}

// pass passes time, in which the given nodes answer.
func (r *rig) pass(d time.Duration, answering ...string) {
	for end := r.now.Add(d); r.now.Before(end); {
		r.now = r.now.Add(10 * ms)
		for _, name := range answering {
			r.answer(name)
		}
		r.m.tick(r.now)
	}
}

// take collects what the machine wants.
func (r *rig) take() todo {
	t := r.m.take()
	r.todo.asks = append(r.todo.asks, t.asks...)
	r.todo.proxies = append(r.todo.proxies, t.proxies...)
	r.todo.verdicts = append(r.todo.verdicts, t.verdicts...)
	if t.witness != nil {
		r.todo.witness = t.witness
	}
	return r.todo
}

// reply answers the question that is put to the node.
func (r *rig) reply(name string, answered bool) {
	r.t.Helper()
	r.take()
	i := slices.IndexFunc(r.todo.asks, func(o askOrder) bool { return o.node == name })
	if i < 0 {
		r.t.Fatalf("%s is not asked", name)
	}
	o := r.todo.asks[i]
	r.todo.asks = slices.Delete(r.todo.asks, i, i+1)
	r.m.setReply(r.now, o.id, name, reply{answered: answered, from: o.targets[0]})
}

func (r *rig) witness(answered bool, known int) {
	r.t.Helper()
	if r.take(); r.todo.witness == nil {
		r.t.Fatal("no witness is asked")
	}
	r.m.setWitness(r.now, r.todo.witness.id, answered, known)
	r.todo.witness = nil
}

func (r *rig) proxy(name string, state proxyState) {
	r.t.Helper()
	r.m.tick(r.now)
	r.take()
	i := slices.IndexFunc(r.todo.proxies, func(o proxyOrder) bool { return o.node == name })
	if i < 0 {
		r.t.Fatalf("the kube-proxy of %s is not asked", name)
	}
	o := r.todo.proxies[i]
	r.todo.proxies = slices.Delete(r.todo.proxies, i, i+1)
	r.m.setProxy(r.now, o.id, name, state)
}

func (r *rig) want(name string, state State, gone bool) {
	r.t.Helper()
	if s := r.m.snapshot().Nodes[name]; s.State != state || s.SpeakerGone != gone {
		r.t.Fatalf("%s is %v, speaker gone %t (because %s); want %v, %t", name, s.State, s.SpeakerGone, r.m.nodes[name].why, state, gone)
	}
}

func (r *rig) wantIsolated(want bool) {
	r.t.Helper()
	if got := r.m.snapshot().Isolated; got != want {
		r.t.Fatalf("isolated is %t, want %t", got, want)
	}
}

// silence has self find x silent by probing.
func (r *rig) silence(name string, answering ...string) {
	r.t.Helper()
	r.pass(300*ms, append(answering, name)...)
	r.take()
	r.miss(name, suspectAfter)
	r.pass(confirmTries*confirmEvery, answering...)
	r.reply(name, false)
}
