package main

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/ownership"
)

// A node is eligible for an address if
//   - an L2Advertisement that selects the address selects the node;
//   - it has no label node.kubernetes.io/exclude-from-external-load-balancers
//     (whatever its value, as Kubernetes has it) and is not NetworkUnavailable;
//   - its speaker has said which links it can announce on, and is alive, or is
//     away and the node is thought to go on without it;
//   - one of those links is named by such an advertisement, or has a subnet that
//     contains the address where an advertisement names no interfaces, and
//     speaks the protocol of the address's family;
//   - for each Service on the address with externalTrafficPolicy Local that any
//     node can serve, it has an endpoint itself.
//
// An L2Advertisement selects an address if it selects the address's pool and,
// by its serviceSelectors, any of the Services on the address. So Services that
// share an address are announced together or not at all.
//
// Whether a Node is Ready or cordoned does not matter: its network may be fine
// when its kubelet is not, and a cordon is about new Pods.

// An owner stays only while there is no candidate of a higher tier. What takes a
// node down by a tier, the worst first:
const (
	// tierMute: it cannot answer on its links, or did not when it should have.
	tierMute = 8
	// tierDraining: a user wants it to own nothing.
	tierDraining = 4
	// tierProxyDown: its kube-proxy is not well, so that its rules may be out of
	// date. If that is so everywhere, nothing moves.
	tierProxyDown = 2
	// tierTerminating: its last endpoints are terminating. New connections should
	// not go to a Pod that is on its way out, as kube-proxy tells external load
	// balancers through healthCheckNodePort (KEP-1669).
	tierTerminating = 1
)

// A node whose endpoints have only just come to serve counts as one whose are
// terminating, for kube-proxy may not have written its rules yet.

// youngPenalty puts nodes whose endpoints have only just come to serve behind all
// others that a choice is made among, so that a flapping one attracts nothing. It
// is more than any sum of weights (1–100) of preferredNodeSelectors.
const youngPenalty = 1 << 24

// formerBonus puts the node that a Service's condition names as the one that
// announces its address before all others, where no speaker knows of an owner: all
// of them have been restarted at once.
const formerBonus = 1 << 26

// judge decides about the addresses of one plan. Most addresses are selected by
// the same advertisements, so what does not depend on more than that is worked
// out once for each combination.
type judge struct {
	config  *config.Snapshot
	now     time.Time
	passed  map[succession]bool
	nodes   []*node
	members []*membership.Member // of nodes; nil where none counts
	judged  []ownership.Node     // nodes
	roles   []standInRole        // that this node has for them
	book    *ownership.Book
	self    ownership.Self
	// minority says that this node sees less than half of the speakers, or hears
	// nobody at all.
	minority bool
	// forming says that the speakers have all just started, and that some are still
	// missing; see forming.
	forming bool
	classes map[string]*class
	// rebalance are the names of the advertisements to rebalance.
	rebalance map[string]bool

	// due is when the first of the endpoints that are young will be no more.
	due time.Time

	// Scratch space. class is that of the address that was placed last, nil if
	// nodes made no difference, candidates are the nodes that may own it, better the
	// node where a rebalance would move it, or -1, and policy what to do about a
	// foreign host that has it.
	selected   []int
	key        []byte
	candidates []ownership.Candidate
	class      *class
	better     int
	policy     v1beta1.ConflictPolicy
}

func newJudge(in planInput) *judge {
	j := &judge{
		config: in.config, now: in.now, passed: in.passed, nodes: in.nodes, classes: map[string]*class{}, rebalance: in.rebalance,
		members: make([]*membership.Member, len(in.nodes)), judged: make([]ownership.Node, len(in.nodes)),
		self: ownership.Self{Node: -1, Settled: in.view.Settled && !in.joining, Isolated: in.standing.isolated},
	}
	seen := 0
	for i, n := range in.nodes {
		j.judged[i] = j.judgeSpeaker(in, i, n)
		if j.judged[i].State != ownership.Down {
			seen++
		}
		if n.name == in.self {
			j.self.Node = i
		}
	}
	j.minority = in.standing.isolated || deaf(in, j.judged) || minority(in, j.judged, seen)
	j.self.Minority, j.self.Unsure = j.minority, in.wasMinority
	j.revive(in)
	j.roles = standInRoles(in, j.judged)
	j.book = ownership.NewBook(j.judged)
	for i, n := range in.nodes {
		j.enter(in, i, n.name)
	}
	for addr, c := range in.overheard[""] {
		j.book.Recall(addr, c.Term)
	}
	if j.forming = j.missesSpeakers(in); j.forming {
		j.due = in.formingUntil
	}
	return j
}

// missesSpeakers says whether nobody has claimed anything yet and speakers that the
// API knows of are still to come: of those that start together the first would
// otherwise take everything. What this node announced before all were restarted, it
// takes at once.
func (j *judge) missesSpeakers(in planInput) bool {
	if !in.now.Before(in.formingUntil) || !j.book.Empty() {
		return false
	}
	ready := 0
	for i := range j.judged {
		if j.members[i] != nil && j.judged[i].State == ownership.Up && !j.judged[i].Joining {
			ready++
		}
	}
	return ready < in.view.Known
}

// judgeSpeaker says what becomes of the addresses of a node as far as its speaker
// is concerned, and finds out what that has said.
func (j *judge) judgeSpeaker(in planInput, i int, n *node) ownership.Node {
	judged := ownership.Node{Key: n.key(), Zone: n.labels[corev1.LabelTopologyZone]}
	m := in.view.Member(n.name)
	if n.name == in.self {
		judged.Joining = in.joining
		j.members[i] = m
		return judged
	}
	s := in.standing.of(n.name, m != nil)
	judged.State = s.state
	if m == nil && n.former {
		return ownership.Node{Key: judged.Key, State: ownership.Down} // there is nobody to stand in for
	}
	if m == nil {
		m = goneMember(in.view, n.name)
		if judged.State == ownership.Up {
			judged.State = ownership.Orphaned // whatever else is thought of it, it is not a member
		}
	}
	if m == nil {
		judged.State = ownership.Down
	}
	if judged.State == ownership.Down {
		return judged
	}
	judged.Joining = m.Info.Abstains || !m.Known
	j.members[i] = m
	return judged
}

// goneMember returns what a speaker that has failed or left said last, or nil.
func goneMember(view *membership.View, name string) *membership.Member {
	i, found := slices.BinarySearchFunc(view.Gone, name, func(g membership.Gone, n string) int { return cmp.Compare(g.Node, n) })
	if !found {
		return nil
	}
	return &view.Gone[i].Member
}

// deaf says whether the speakers of all other nodes, several, are gone though the
// nodes are there. Then it is rather this node that does not hear them.
func deaf(in planInput, judged []ownership.Node) bool {
	orphans := 0
	for i, n := range in.nodes {
		switch {
		case n.name == in.self || judged[i].State == ownership.Down && (n.former || goneMember(in.view, n.name) == nil):
		case judged[i].State == ownership.Orphaned:
			orphans++
		default:
			return false
		}
	}
	return orphans > 1
}

// minority says whether this node sees less than half of the speakers; exactly
// half is one if the other half has the first of them.
func minority(in planInput, judged []ownership.Node, seen int) bool {
	known := max(in.view.Known, seen)
	if 2*seen != known {
		return 2*seen < known
	}
	for i, n := range in.nodes { // in the order of their names
		if judged[i].State != ownership.Down {
			return false
		}
		if n.former {
			continue
		}
		if in.view.Member(n.name) != nil || goneMember(in.view, n.name) != nil {
			return true
		}
	}
	return false
}

// enter puts what a node claims into the book. While it joins, this node claims
// what its former process did.
func (j *judge) enter(in planInput, i int, name string) {
	if name == in.self {
		if in.joining {
			for addr, c := range in.view.Former.All() {
				j.book.Add(i, addr, ownership.Claim(c))
			}
			return
		}
		for addr, c := range in.claims {
			j.book.Add(i, addr, ownership.Claim(c))
		}
		return
	}
	m := in.view.Member(name)
	if m == nil {
		m = goneMember(in.view, name)
	}
	if m == nil {
		return
	}
	heard := in.overheard[name]
	for addr, c := range m.Claims.All() {
		if c.Term >= heard[addr].Term {
			j.book.Add(i, addr, ownership.Claim(c))
		}
	}
	for addr, c := range heard {
		if told, _ := m.Claims.Get(addr); told.Term < c.Term {
			j.book.Add(i, addr, c)
		}
	}
}

// interfaces returns the names of this node's links for the address that was
// placed last.
func (j *judge) interfaces(addr netip.Addr) []string {
	if j.class == nil || j.self.Node < 0 {
		return nil
	}
	return j.class.nodes[j.self.Node].interfaces(addr)
}

// linked returns those of this node's interfaces that are usable for the address.
func (j *judge) linked(addr netip.Addr, names []string) []string {
	if j.self.Node < 0 || j.members[j.self.Node] == nil {
		return nil
	}
	links := j.members[j.self.Node].Info.Links
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return !slices.ContainsFunc(links, func(l membership.Link) bool { return l.Name == name && l.Speaks(addr) })
	})
}

// absence says why an eligible node cannot take an address over at present.
func (j *judge) absence(i int) verdict {
	switch {
	case j.judged[i].State == ownership.Orphaned:
		return speakerAway
	case j.judged[i].Joining:
		return speakerJoining
	}
	return eligible
}

// onConflict says what to do about a foreign host that has an address which the
// advertisements select.
func (j *judge) onConflict(advertisements []int) v1beta1.ConflictPolicy {
	for _, i := range advertisements {
		if policy := config.OnConflict(j.config.L2Advertisements[i]); policy == v1beta1.ConflictYield {
			return policy
		}
	}
	return v1beta1.ConflictDefend
}

// rebalances says whether any of the advertisements is being rebalanced.
func (j *judge) rebalances(advertisements []int) bool {
	return slices.ContainsFunc(advertisements, func(i int) bool { return j.rebalance[j.config.L2Advertisements[i].Name] })
}

// advertisementsFor returns the indexes of the L2Advertisements that select the
// address. They are valid until the next call.
func (j *judge) advertisementsFor(p *placement) []int {
	j.selected = j.selected[:0]
	pool, inPool := j.config.PoolOf(p.addr)
	for i, a := range j.config.L2Advertisements {
		if slices.ContainsFunc(p.services, func(s *service) bool {
			if !config.MatchesAny(a.ServiceSelectors, s.labels) {
				return false
			}
			if inPool && (a.SelectsPool(pool.Name) || slices.Contains(s.pools, pool.Name)) {
				return a.SelectsPool(pool.Name)
			}
			// An edit of pools silences nobody: an address that its pool has lost, be it
			// to another pool, is announced as those of that pool are.
			return a.AllPools || slices.ContainsFunc(s.pools, a.SelectsPool)
		}) {
			j.selected = append(j.selected, i)
		}
	}
	return j.selected
}

// class is what all addresses of one family have in common that are selected by
// the same advertisements.
type class struct{ nodes []classNode }

// classNode is what can be said about a node for all addresses of a class.
type classNode struct {
	verdict    verdict
	preference int
	// named are the usable links that an advertisement names, and subnets those
	// that serve the addresses in their subnets.
	named   []string
	subnets []*membership.Link
}

// judge decides about the node for one address of the class, as far as that
// does not depend on endpoints.
func (n *classNode) judge(addr netip.Addr) (preference int, v verdict) {
	if n.verdict != eligible {
		return 0, n.verdict
	}
	if len(n.named) == 0 && !slices.ContainsFunc(n.subnets, func(l *membership.Link) bool { return l.Contains(addr) }) {
		return 0, noInterface
	}
	return n.preference, eligible
}

// interfaces returns the names of the node's links for addr, sorted.
func (n *classNode) interfaces(addr netip.Addr) []string {
	names := slices.Clone(n.named)
	for _, l := range n.subnets {
		if l.Contains(addr) {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (j *judge) classFor(advertisements []int, f family) *class {
	j.key = append(j.key[:0], byte(f))
	for _, i := range advertisements {
		j.key = binary.AppendUvarint(j.key, uint64(i))
	}
	if c, ok := j.classes[string(j.key)]; ok {
		return c
	}
	c := &class{nodes: make([]classNode, len(j.nodes))}
	for i, n := range j.nodes {
		c.nodes[i] = j.judgeNode(n, j.members[i], advertisements, f)
	}
	j.classes[string(j.key)] = c
	return c
}

func (j *judge) judgeNode(n *node, m *membership.Member, advertisements []int, f family) classNode {
	var c classNode
	selected, everywhere := false, false
	var named []string
	for _, i := range advertisements {
		a := j.config.L2Advertisements[i]
		if !config.MatchesAny(a.NodeSelectors, n.labels) {
			continue
		}
		selected = true
		named = append(named, a.Interfaces...)
		everywhere = everywhere || len(a.Interfaces) == 0
		for _, p := range a.PreferredNodes {
			if p.Selector.Matches(n.labels) {
				c.preference += int(p.Weight)
			}
		}
	}
	if c.verdict = n.standing(m, selected); c.verdict != eligible {
		return c
	}
	for i := range m.Info.Links {
		l := &m.Info.Links[i]
		if f == ipv4 && !l.ARP || f == ipv6 && !l.NDP {
			continue
		}
		if slices.Contains(named, l.Name) {
			c.named = append(c.named, l.Name)
		}
		if everywhere {
			c.subnets = append(c.subnets, l)
		}
	}
	if len(c.named)+len(c.subnets) == 0 {
		c.verdict = noInterface
	}
	return c
}

// standing judges the node apart from its links.
func (n *node) standing(m *membership.Member, selected bool) verdict {
	_, isExcluded := n.labels[corev1.LabelNodeExcludeBalancers]
	switch {
	case !selected:
		return notSelected
	case isExcluded:
		return excluded
	case n.networkUnavailable:
		return networkUnavailable
	case m == nil:
		return speakerDead
	case !m.Known:
		return speakerUnknown
	}
	return eligible
}

// judgeEndpoints judges whether the node has the endpoints that Services with
// externalTrafficPolicy Local need, whether all of them have ready ones, and
// whether any has only just come to serve.
func judgeEndpoints(local []*backends, name string, now time.Time) (ready, young bool, v verdict) {
	ready = true
	for _, b := range local {
		if !b.serves(name) {
			return false, false, noLocalEndpoint
		}
		ready = ready && b.ready[name]
		young = young || b.young(name, now)
	}
	return ready, young, eligible
}
