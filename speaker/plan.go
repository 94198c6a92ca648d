package main

import (
	"cmp"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/election"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

// serviceKey names a Service.
type serviceKey struct{ namespace, name string }

func (k serviceKey) String() string { return k.namespace + "/" + k.name }

func (k serviceKey) compare(o serviceKey) int {
	return cmp.Or(cmp.Compare(k.namespace, o.namespace), cmp.Compare(k.name, o.name))
}

// service is what matters of a Service that is Berth's.
type service struct {
	key    serviceKey
	labels labels.Set
	// addresses are those in its status, plain (not IPv4-mapped, no zone).
	addresses []netip.Addr
	// local says that its externalTrafficPolicy is Local.
	local bool
	// pools are those that its addresses came from. They matter once a pool no
	// longer contains an address that it gave, even if another pool now does.
	pools    []string
	backends [families]*backends
}

// node is what matters of a Node.
type node struct {
	name   string
	labels labels.Set
	// networkUnavailable is its condition of that name.
	networkUnavailable bool
	// draining is whether its routes are taken back from routers.
	draining bool
}

// planInput is all that a plan depends on. Everything in it is shared and not
// changed.
type planInput struct {
	self     string
	config   *config.Snapshot
	services []*service // in the order of their keys
	nodes    []*node    // in the order of their names
	view     *membership.View
	// held are the addresses that this node answers for.
	held l2.Desired
}

// outcome says what becomes of an address.
type outcome uint8

const (
	announced outcome = iota
	// notAdvertised: no L2Advertisement selects it.
	notAdvertised
	// noEndpoints: no endpoint of any of its Services serves.
	noEndpoints
	// noNode: every node is ineligible.
	noNode
	// noRouter: no router is told, and layer 2 is not asked for. No plan says so;
	// see describe.
	noRouter
	// cannotAnswer: the owner fails to answer. No plan says so; see describe.
	cannotAnswer
)

// placement is where an address belongs.
type placement struct {
	addr     netip.Addr
	services []*service
	outcome  outcome
	// verdicts say for each of the plan's nodes why it is not eligible; there
	// are none where the outcome does not depend on nodes.
	verdicts []verdict
	// owner is the index of the elected node, or -1.
	owner int
	// interfaces are those of the owner to announce on, sorted.
	interfaces []string
}

// plan is who answers for which address. All speakers that know the same make
// the same plan, but for desired, which is their own part.
type plan struct {
	config     *config.Snapshot
	nodes      []*node
	members    []*membership.Member // of nodes; nil where none lives
	placements map[netip.Addr]*placement
	// desired is what this node is to answer for.
	desired l2.Desired
}

// ownerOf returns the name of the node that owns the address of p, or "".
func (p *plan) ownerOf(place *placement) string {
	if place.owner < 0 {
		return ""
	}
	return p.nodes[place.owner].name
}

// makePlan decides for every address which node owns it. There is one owner for
// all Services that share an address, elected by rendezvous hash among the
// nodes that are eligible (see eligible.go) and most preferred.
//
// While the view is not settled there may be living speakers that this one
// cannot see, so it keeps those of its addresses that would still be its own
// and takes no others.
func makePlan(in planInput) *plan {
	j := newJudge(in)
	p := &plan{
		config: in.config, nodes: in.nodes, members: j.members, placements: map[netip.Addr]*placement{}, desired: l2.Desired{},
	}
	for _, s := range in.services {
		for _, addr := range s.addresses {
			place := p.placements[addr]
			if place == nil {
				place = &placement{addr: addr, owner: -1}
				p.placements[addr] = place
			}
			place.services = append(place.services, s)
		}
	}
	verdicts := make([]verdict, len(p.placements)*len(in.nodes))
	for _, place := range p.placements {
		place.verdicts, verdicts = verdicts[:len(in.nodes):len(in.nodes)], verdicts[len(in.nodes):]
		j.place(place)
		if p.ownerOf(place) != in.self {
			continue
		}
		if _, holding := in.held[place.addr]; holding || in.view.Settled {
			p.desired[place.addr] = l2.Announcement{Interfaces: place.interfaces}
		}
	}
	return p
}

// place decides about one address.
func (j *judge) place(p *placement) {
	advertisements := j.advertisementsFor(p)
	if len(advertisements) == 0 {
		p.outcome, p.verdicts = notAdvertised, nil
		return
	}
	local, serving := needs(p)
	if !serving {
		p.outcome, p.verdicts = noEndpoints, nil
		return
	}
	class := j.classFor(advertisements, familyOf(p.addr))
	j.candidates, j.indexes = j.candidates[:0], j.indexes[:0]
	for i, n := range j.nodes {
		preference, v := class.nodes[i].judge(p.addr)
		if v == eligible {
			preference, v = judgeEndpoints(local, n.name, preference)
		}
		p.verdicts[i] = v
		if v == eligible {
			j.candidates = append(j.candidates, election.Candidate{Node: j.keys[i], Preference: preference})
			j.indexes = append(j.indexes, i)
		}
	}
	winner := election.Owner(p.addr, j.candidates)
	if winner < 0 {
		p.outcome = noNode
		return
	}
	p.owner = j.indexes[winner]
	p.interfaces = class.nodes[p.owner].interfaces(p.addr)
}

// needs returns the backends that a node must have endpoints of to own the
// address, and whether anything can be served there at all. Services without
// any usable endpoint do not count: what is lost on them cannot be helped by
// choosing another node.
func needs(p *placement) (local []*backends, serving bool) {
	for _, s := range p.services {
		b := s.backends[familyOf(p.addr)]
		if b == nil || !b.anywhere {
			continue
		}
		serving = true
		if s.local {
			local = append(local, b)
		}
	}
	return local, serving
}

// liveNodes returns candidates for what only has to be done by somebody: all
// living speakers.
func liveNodes(view *membership.View) []election.Candidate {
	live := make([]election.Candidate, len(view.Members))
	for i := range view.Members {
		live[i].Node = election.NewNode(view.Members[i].Node)
	}
	return live
}

// addresses returns the plan's addresses in order.
func (p *plan) addresses() []netip.Addr {
	all := make([]netip.Addr, 0, len(p.placements))
	for addr := range p.placements {
		all = append(all, addr)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}
