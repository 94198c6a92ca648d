package main

import (
	"encoding/binary"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/election"
	"github.com/berth-lb/berth/internal/membership"
)

// verdict says whether a node may own an address, or the first reason why not.
type verdict uint8

const (
	eligible verdict = iota
	notSelected
	excluded
	networkUnavailable
	speakerDead
	speakerUnknown
	speakerJoining
	noInterface
	noLocalEndpoint
	numVerdicts
)

// String says in words what is the matter with the node.
func (v verdict) String() string {
	switch v {
	case eligible:
		return "eligible"
	case notSelected:
		return "not selected by an L2Advertisement"
	case excluded:
		return "excluded by the label " + corev1.LabelNodeExcludeBalancers
	case networkUnavailable:
		return "NetworkUnavailable"
	case speakerDead:
		return "without a living speaker"
	case speakerUnknown:
		return "not heard from yet"
	case speakerJoining:
		return "still joining the other speakers"
	case noInterface:
		return "without a usable interface"
	case noLocalEndpoint:
		return "without an endpoint of their own, which externalTrafficPolicy Local needs"
	}
	return "unknown"
}

// A node is eligible for an address if
//   - an L2Advertisement that selects the address selects the node;
//   - it has no label node.kubernetes.io/exclude-from-external-load-balancers
//     (whatever its value, as Kubernetes has it) and is not NetworkUnavailable;
//   - its speaker is alive, has said which links it can announce on, and is not
//     one that has just started or come back and does not take addresses yet;
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

// readyBonus lifts nodes whose endpoints are all ready over those whose last
// endpoints are terminating, above all preferences: new connections should not
// go to a Pod that is on its way out, as kube-proxy tells external load
// balancers through healthCheckNodePort (KEP-1669). Sums of the weights (1–100)
// of preferredNodeSelectors stay below.
const readyBonus = 1 << 24

// judge decides about the addresses of one plan. Most addresses are selected by
// the same advertisements, so what does not depend on more than that is worked
// out once for each combination.
type judge struct {
	config  *config.Snapshot
	view    *membership.View
	nodes   []*node
	keys    []election.Node
	members []*membership.Member // of nodes; nil where none lives
	classes map[string]*class

	// Scratch space.
	selected   []int
	key        []byte
	candidates []election.Candidate
	indexes    []int
}

func newJudge(in planInput) *judge {
	j := &judge{
		config: in.config, view: in.view, nodes: in.nodes, classes: map[string]*class{},
		keys: make([]election.Node, len(in.nodes)), members: make([]*membership.Member, len(in.nodes)),
	}
	for i, n := range in.nodes {
		j.keys[i] = election.NewNode(n.name)
		j.members[i] = in.view.Member(n.name)
	}
	return j
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
	if c.verdict = standing(n, m, selected); c.verdict != eligible {
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
func standing(n *node, m *membership.Member, selected bool) verdict {
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
	case m.Info.Abstains:
		return speakerJoining
	}
	return eligible
}

// judgeEndpoints judges whether the node has the endpoints that Services with
// externalTrafficPolicy Local need.
func judgeEndpoints(local []*backends, name string, preference int) (int, verdict) {
	ready := true
	for _, b := range local {
		if !b.serves(name) {
			return 0, noLocalEndpoint
		}
		ready = ready && b.ready[name]
	}
	if ready {
		preference += readyBonus
	}
	return preference, eligible
}
