package main

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/ownership"
)

const (
	v4 = "192.0.2.10"
	v6 = "2001:db8::10"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func sel(s string) []labels.Selector {
	selector, err := labels.Parse(s)
	if err != nil {
		panic(err)
	}
	return []labels.Selector{selector}
}

// scene is a planInput under construction.
type scene struct {
	planInput
	// claimed is what each node claims, and answers what it answers for.
	claimed map[string]map[netip.Addr]membership.Claim
	answers map[string]l2.Desired
}

// newScene has nodes a, b and c, alike, each with a link eth0 that has the
// subnets of the pool, one pool "pool", an advertisement "all" that selects
// everything, and a Service default/web with an address of each family and
// ready endpoints on every node.
func newScene() *scene {
	s := emptyScene()
	s.self = "a"
	s.config.Pools = []*config.Pool{newPool("pool", "192.0.2.0/24", "2001:db8::/64")}
	s.advertisements(&config.L2Advertisement{Name: "all", AllPools: true})
	for _, name := range []string{"a", "b", "c"} {
		s.addNode(name, ethernet("eth0", "192.0.2.1/24", "2001:db8::1/64"))
	}
	s.service("web", v4, v6)
	return s
}

func emptyScene() *scene {
	return &scene{
		planInput: planInput{
			config: &config.Snapshot{}, view: &membership.View{Settled: true}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
			standing: &standing{nodes: map[string]nodeStanding{}}, standIns: true,
		},
		claimed: map[string]map[netip.Addr]membership.Claim{}, answers: map[string]l2.Desired{},
	}
}

// claim has a node claim addresses.
func (s *scene) claim(node string, c membership.Claim, addresses ...string) {
	if s.claimed[node] == nil {
		s.claimed[node] = map[netip.Addr]membership.Claim{}
	}
	for _, a := range addresses {
		s.claimed[node][addr(a)] = c
	}
}

// inputAs is what a node plans with.
func (s *scene) inputAs(node string) planInput {
	in := s.planInput
	view := *in.view
	view.Members, view.Gone = slices.Clone(view.Members), slices.Clone(view.Gone)
	for i := range view.Members {
		view.Members[i].Claims = membership.NewClaims(s.claimed[view.Members[i].Node])
	}
	for i := range view.Gone {
		view.Gone[i].Claims = membership.NewClaims(s.claimed[view.Gone[i].Node])
	}
	in.self, in.view, in.claims = node, &view, s.claimed[node]
	if in.standing.ring == nil {
		own := *in.standing
		own.ring = func(node string) []string { return ringOf(&view, node) }
		in.standing = &own
	}
	return in
}

func (s *scene) planAs(node string) *plan { return makePlan(s.inputAs(node)) }

// ringOf returns who stands in for a node: the living ones behind it, by name.
func ringOf(view *membership.View, node string) []string {
	var before, behind []string
	for i := range view.Members {
		switch m := &view.Members[i]; {
		case m.Info.Abstains || m.Node == node:
		case m.Node < node:
			before = append(before, m.Node)
		default:
			behind = append(behind, m.Node)
		}
	}
	return append(behind, before...)
}

func newPool(name string, ranges ...string) *config.Pool {
	p := &config.Pool{Name: name, AutoAssign: true}
	for _, text := range ranges {
		r, err := ipam.ParseRange(text)
		if err != nil {
			panic(err)
		}
		p.Ranges = append(p.Ranges, r)
	}
	return p
}

func ethernet(name string, prefixes ...string) membership.Link {
	l := membership.Link{Name: name, ARP: true, NDP: true}
	for _, p := range prefixes {
		l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p).Masked())
	}
	return l
}

// addNode adds a node with its speaker. Its links have MACs of their own.
func (s *scene) addNode(name string, links ...membership.Link) {
	for i := range links {
		links[i].MAC = membership.MAC{2, 0, 0, byte(i), 0, name[len(name)-1]}
	}
	s.nodes = append(s.nodes, &node{name: name, labels: labels.Set{"name": name}})
	s.view.Members = append(s.view.Members, membership.Member{Node: name, Known: true, Info: membership.Info{Links: links}})
}

func (s *scene) node(name string) *node {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *node) bool { return n.name == name })]
}

func (s *scene) links(name string, links ...membership.Link) { s.view.Member(name).Info.Links = links }

// lose makes a node and its speaker dead.
func (s *scene) lose(name string) {
	s.depart(name, ownership.Down)
}

// orphan ends the speaker on a node that goes on without it.
func (s *scene) orphan(name string) { s.depart(name, ownership.Orphaned) }

func (s *scene) depart(name string, state ownership.State) {
	if m := s.view.Member(name); m != nil {
		s.view.Gone = append(s.view.Gone, membership.Gone{Member: *m})
		slices.SortFunc(s.view.Gone, func(a, b membership.Gone) int { return cmp.Compare(a.Node, b.Node) })
	}
	s.view.Members = slices.DeleteFunc(s.view.Members, func(m membership.Member) bool { return m.Node == name })
	s.standing.nodes[name] = nodeStanding{state: state, away: true}
}

// service adds a Service with ready endpoints on every node.
func (s *scene) service(name string, addresses ...string) *service {
	svc := &service{key: serviceKey{"default", name}, labels: labels.Set{"name": name}}
	for _, a := range addresses {
		svc.addresses = append(svc.addresses, addr(a))
	}
	s.services = append(s.services, svc)
	slices.SortFunc(s.services, func(a, b *service) int { return a.key.compare(b.key) })
	return svc.endpoints("a:ready", "b:ready", "c:ready")
}

func (s *scene) get(name string) *service {
	return s.services[slices.IndexFunc(s.services, func(svc *service) bool { return svc.key.name == name })]
}

func (s *scene) advertisements(all ...*config.L2Advertisement) { s.config.L2Advertisements = all }

// endpoints sets the endpoints of both families, each "node:state".
func (s *service) endpoints(all ...string) *service {
	s.backends = [families]*backends{ipv4: backendsFrom(all...), ipv6: backendsFrom(all...)}
	return s
}

func backendsFrom(all ...string) *backends {
	b := &backends{}
	for _, text := range all {
		name, state, _ := strings.Cut(text, ":")
		b.add([]discoveryv1.Endpoint{endpointIn(name, state)})
	}
	return b
}

// endpointIn makes an endpoint of the states that the EndpointSlice controller
// makes, and of the unset conditions that other controllers leave.
func endpointIn(name, state string) discoveryv1.Endpoint {
	yes, no := true, false
	e := discoveryv1.Endpoint{NodeName: &name}
	if name == "" {
		e.NodeName = nil
	}
	switch state {
	case "ready":
		e.Conditions = discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}
	case "notready":
		e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &no}
	case "draining": // terminating, its readiness probe still succeeds
		e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	case "dying":
		e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}
	case "published": // not ready, of a Service with publishNotReadyAddresses
		e.Conditions = discoveryv1.EndpointConditions{Ready: &yes, Serving: &no, Terminating: &no}
	case "unset":
	default:
		panic("unknown state " + state)
	}
	return e
}
