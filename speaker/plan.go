package main

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/election"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/ownership"
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
	uid    types.UID
	labels labels.Set
	// addresses are those in its status, plain (not IPv4-mapped, no zone).
	addresses []netip.Addr
	// local says that its externalTrafficPolicy is Local.
	local bool
	// pools are those that its addresses came from. They matter once a pool no
	// longer contains an address that it gave, even if another pool now does.
	pools []string
	// announcers are the nodes that its condition says announce its addresses. They
	// matter where no speaker knows any more who does.
	announcers map[netip.Addr]string
	backends   [families]*backends
}

// node is what matters of a Node.
type node struct {
	name   string
	labels labels.Set
	// networkUnavailable is its condition of that name.
	networkUnavailable bool
	// draining is whether it is to own no address that another can own, and its
	// routes are taken back from routers.
	draining bool
	// former says that the Node does not exist any more, though there is a speaker.
	former bool
}

func (n *node) key() election.Node { return election.NewNode(n.name) }

// planInput is all that a plan depends on. Everything in it is shared and not
// changed.
type planInput struct {
	self     string
	config   *config.Snapshot
	services []*service // in the order of their keys
	nodes    []*node    // in the order of their names
	now      time.Time
	view     *membership.View
	standing *standing
	// joining says that this node has yet to take up what it claimed before it was
	// restarted.
	joining bool
	// formingUntil is how long this node, which has just started, waits for the other
	// speakers where nobody claims anything.
	formingUntil time.Time
	// wasMinority says that this node saw a minority of the speakers a moment ago:
	// it may not have heard yet what the others have done meanwhile.
	wasMinority bool
	// claims are what this node claims.
	claims map[netip.Addr]membership.Claim
	// rebalance are the L2Advertisements whose addresses are being spread anew.
	rebalance map[string]bool
	// held are the addresses that this node answers for as their owner.
	held l2.Desired
	// standIns says whether speakers stand in for each other.
	standIns bool
	// passed are the nodes that did not take what they should.
	passed map[succession]bool
	// fresh are the addresses that kube-proxy may not serve yet, with until when.
	fresh map[netip.Addr]time.Time
	// overheard is what nodes were heard to announce that cannot tell.
	overheard map[string]map[netip.Addr]ownership.Claim
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
	// conflicting: another host has it. No plan says so; see describe.
	conflicting
	// preparing: its owner is about to announce it for the first time. No plan says
	// so; see describe.
	preparing
)

// withheld says why a node does not answer for an address that it owns.
type withheld struct {
	outcome outcome
	why     string
}

// placement is where an address belongs.
type placement struct {
	addr     netip.Addr
	services []*service
	outcome  outcome
	// verdicts say for each of the plan's nodes why it is not eligible; there
	// are none where the outcome does not depend on nodes.
	verdicts []verdict
	// owner is the index of the node that owns the address or is to take it over,
	// or -1.
	owner int
	// interfaces are those of the owner to announce on, sorted.
	interfaces []string
}

// announcedBy says whether the condition of one of its Services says that the node
// announces the address.
func (p *placement) announcedBy(node string) bool {
	return slices.ContainsFunc(p.services, func(s *service) bool { return s.announcers[p.addr] == node })
}

// plan is who answers for which address. All speakers that know the same make
// the same plan, but for what says otherwise.
type plan struct {
	config     *config.Snapshot
	nodes      []*node
	members    []*membership.Member // of nodes; nil where none lives
	placements map[netip.Addr]*placement

	// What follows is this node's own part. desired is what it is to answer for as
	// the owner, standIns for whom else and how.
	desired  l2.Desired
	standIns l2.Desired
	// standingInFor are the nodes for which it answers.
	standingInFor []string
	// claims are what it is to claim.
	claims map[netip.Addr]membership.Claim
	// first are the addresses that it takes and nobody is known to have had.
	first map[netip.Addr]bool
	// fresh are those that kube-proxy may not serve yet, whoever owns them, with until
	// when.
	fresh map[netip.Addr]time.Time
	// withheld are the addresses that it owns and does not answer for all the same,
	// with the reason.
	withheld map[netip.Addr]withheld
	// due is when there is to be another plan, if nothing else happens; zero for
	// never.
	due time.Time
	// minority says that it sees a minority of the speakers.
	minority bool
	// pending are the addresses that other nodes own but have not claimed yet; late
	// those of them that should have been long since.
	pending, late map[netip.Addr]bool
	// awaited are those of pending that had another owner before, with the node that
	// is to take them over.
	awaited map[netip.Addr]string
	// contested are those that it owns and others claim too.
	contested map[netip.Addr]bool
	// rivals says of those that it owns and a foreign host has too who that is.
	rivals map[netip.Addr]string
	// yields are those to give up to a foreign host that has them.
	yields map[netip.Addr]bool
	// moves are where it should offer addresses that it owns, in a rebalance.
	moves map[netip.Addr]string
}

// ownerOf returns the name of the node that owns the address of p, or "".
func (p *plan) ownerOf(place *placement) string {
	if place.owner < 0 {
		return ""
	}
	return p.nodes[place.owner].name
}

// makePlan decides for every address which node owns it. There is one owner for
// all Services that share an address. Who owns it already stays its owner as long
// as it may; see eligible.go for who may, and package ownership for the choice.
func makePlan(in planInput) *plan {
	j := newJudge(in)
	p := &plan{
		config: in.config, nodes: in.nodes, members: j.members, minority: j.minority, placements: map[netip.Addr]*placement{},
		desired: l2.Desired{}, standIns: l2.Desired{}, claims: map[netip.Addr]membership.Claim{},
		fresh: maps.Clone(in.fresh),
		first: map[netip.Addr]bool{}, withheld: map[netip.Addr]withheld{}, pending: map[netip.Addr]bool{}, awaited: map[netip.Addr]string{}, contested: map[netip.Addr]bool{},
		rivals: map[netip.Addr]string{}, yields: map[netip.Addr]bool{}, moves: map[netip.Addr]string{},
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
	for _, addr := range p.addresses() { // in this order on all nodes: see Book.Decide
		place := p.placements[addr]
		place.verdicts, verdicts = verdicts[:len(in.nodes):len(in.nodes)], verdicts[len(in.nodes):]
		p.take(in, j, place, j.place(place))
		j.due = earlier(j.due, p.fresh[addr])
	}
	p.due = j.due
	for i, role := range j.roles {
		if role == activeStandIn {
			p.standingInFor = append(p.standingInFor, in.nodes[i].name)
		}
	}
	return p
}

// take takes over what the decision about an address asks of this node.
func (p *plan) take(in planInput, j *judge, place *placement, d ownership.Decision) {
	if d.Claims {
		p.claims[place.addr] = membership.Claim(d.Claim)
	}
	holder, contested := j.book.Holder(place.addr)
	if contested && holder == j.self.Node {
		p.contested[place.addr] = true
	}
	if place.owner >= 0 && place.owner != j.self.Node && holder != place.owner {
		p.pending[place.addr] = true
		if j.book.Known(place.addr) {
			p.awaited[place.addr] = p.ownerOf(place)
		}
	}
	switch {
	case !d.Answer:
		if place.owner >= 0 && place.owner != j.self.Node && !j.book.Silent(place.addr) {
			j.standIn(place, in, p.standIns)
		}
	case in.joining: // until then others stand in
	case !in.view.Settled && !isIn(in.held, place.addr): // others may have taken it meanwhile
	default:
		interfaces := j.interfaces(place.addr)
		if len(interfaces) == 0 {
			// It is about to give the address up. On a link that is gone it answers to
			// nobody, and must not begin again with it should it come back.
			interfaces = j.linked(place.addr, in.held[place.addr].Interfaces)
		}
		if len(interfaces) == 0 {
			break
		}
		p.desired[place.addr] = l2.Announcement{Interfaces: interfaces}
		if j.policy == v1beta1.ConflictYield {
			p.yields[place.addr] = true
		}
	}
	if d.First && !place.announcedBy(in.self) {
		p.first[place.addr] = true
	}
	if j.better >= 0 {
		p.moves[place.addr] = p.nodes[j.better].name
	}
}

func isIn[V any](m map[netip.Addr]V, addr netip.Addr) bool {
	_, is := m[addr]
	return is
}

// place decides about one address.
func (j *judge) place(p *placement) ownership.Decision {
	j.candidates, j.class, j.better = j.candidates[:0], nil, -1
	advertisements := j.advertisementsFor(p)
	j.policy = j.onConflict(advertisements)
	local, serving := needs(p)
	switch {
	case len(advertisements) == 0:
		p.outcome, p.verdicts = notAdvertised, nil
	case !serving:
		p.outcome, p.verdicts = noEndpoints, nil
	default:
		j.class = j.classFor(advertisements, familyOf(p.addr))
		for i := range j.nodes {
			p.verdicts[i] = j.consider(p, local, i)
		}
	}
	if j.rebalances(advertisements) {
		j.better = j.book.Better(p.addr, j.candidates, j.self)
	}
	d := j.book.Decide(p.addr, j.candidates, j.self)
	if j.forming && d.First && !p.announcedBy(j.nodes[j.self.Node].name) {
		d.Answer, d.Claims, d.First = false, false, false
	}
	if j.class == nil {
		return d
	}
	for i := range p.verdicts {
		if p.verdicts[i] == eligible && i != d.Owner {
			p.verdicts[i] = j.absence(i)
		}
	}
	if d.Owner < 0 {
		p.outcome = noNode
		return d
	}
	p.owner = d.Owner
	p.interfaces = j.class.nodes[p.owner].interfaces(p.addr)
	return d
}

// consider judges a node for an address and makes it a candidate if it is
// eligible.
func (j *judge) consider(place *placement, local []*backends, i int) verdict {
	preference, v := j.class.nodes[i].judge(place.addr)
	if v != eligible {
		return v
	}
	n := j.nodes[i]
	tier := 0
	if n.draining {
		tier -= tierDraining
	}
	if j.failsFor(place.addr, i) || j.passes(place.addr, i) {
		tier -= tierMute
	}
	if j.members[i].Info.ProxyDown {
		tier -= tierProxyDown
	}
	ready, young, v := judgeEndpoints(local, n.name, j.now)
	if v != eligible {
		return v
	}
	if !ready || young {
		tier -= tierTerminating
	}
	if young {
		preference -= youngPenalty
		for _, b := range local {
			j.due = earlier(j.due, b.grownUp(n.name, j.now))
		}
	}
	if place.announcedBy(n.name) && !j.book.Known(place.addr) {
		preference += formerBonus
	}
	j.candidates = append(j.candidates, ownership.Candidate{Node: i, Tier: tier, Preference: preference})
	return eligible
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
