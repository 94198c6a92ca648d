package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/ownership"
)

// drawScene makes a cluster in which every rule of eligibility comes up.
func drawScene(t *rapid.T) *scene {
	s := emptyScene()
	s.config.Pools = []*config.Pool{newPool("p0", "192.0.2.0/28", "2001:db8::/124"), newPool("p1", "192.0.2.16/28")}
	for i := range rapid.IntRange(0, 3).Draw(t, "advertisements") {
		s.config.L2Advertisements = append(s.config.L2Advertisements, drawAdvertisement(t, i))
	}
	for i := range rapid.IntRange(1, 6).Draw(t, "nodes") {
		s.drawNode(t, fmt.Sprintf("node-%d", i))
	}
	for i := range rapid.IntRange(1, 8).Draw(t, "services") {
		s.drawService(t, fmt.Sprintf("service-%d", i))
	}
	return s
}

func drawAdvertisement(t *rapid.T, i int) *config.L2Advertisement {
	a := &config.L2Advertisement{Name: fmt.Sprint(i)}
	if a.AllPools = rapid.Bool().Draw(t, "all"); !a.AllPools {
		a.Pools = []string{rapid.SampledFrom([]string{"p0", "p1"}).Draw(t, "pool")}
	}
	if rapid.Bool().Draw(t, "nodes selected") {
		a.NodeSelectors = sel(rapid.SampledFrom([]string{"zone=x", "zone=y"}).Draw(t, "node selector"))
	}
	if rapid.IntRange(0, 3).Draw(t, "services selected") == 0 {
		a.ServiceSelectors = sel("tier=front")
	}
	if rapid.IntRange(0, 3).Draw(t, "interfaces named") == 0 {
		a.Interfaces = []string{rapid.SampledFrom([]string{"eth0", "eth1"}).Draw(t, "interface")}
	}
	if rapid.Bool().Draw(t, "preferred") {
		weight := rapid.Int32Range(1, 100).Draw(t, "weight")
		a.PreferredNodes = []config.PreferredNodes{{Weight: weight, Selector: sel("zone=x")[0]}}
	}
	return a
}

func (s *scene) drawNode(t *rapid.T, name string) {
	var links []membership.Link
	for _, l := range []membership.Link{ethernet("eth0", "192.0.2.1/24", "2001:db8::1/64"), ethernet("eth1", "192.0.2.1/28")} {
		if rapid.Bool().Draw(t, "has link") {
			l.ARP, l.NDP = rapid.Bool().Draw(t, "arp"), rapid.Bool().Draw(t, "ndp")
			links = append(links, l)
		}
	}
	s.addNode(name, links...)
	n := s.node(name)
	n.labels["zone"] = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "zone")
	n.networkUnavailable = rapid.IntRange(0, 7).Draw(t, "network unavailable") == 0
	if rapid.IntRange(0, 7).Draw(t, "excluded") == 0 {
		n.labels[corev1.LabelNodeExcludeBalancers] = ""
	}
	s.view.Member(name).Info.Abstains = rapid.IntRange(0, 5).Draw(t, "abstains") == 0
	s.view.Member(name).Info.ProxyDown = rapid.IntRange(0, 5).Draw(t, "proxy down") == 0
	n.draining = rapid.IntRange(0, 5).Draw(t, "draining") == 0
	switch rapid.IntRange(0, 9).Draw(t, "fate") {
	case 0:
		s.lose(name)
	case 1:
		s.orphan(name)
	}
}

func (s *scene) drawService(t *rapid.T, name string) {
	addresses := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
		"192.0.2.1", "192.0.2.2", "192.0.2.17", "2001:db8::1", "2001:db8::2", "198.51.100.1",
	}), 0, 3, rapid.ID).Draw(t, "addresses")
	svc := s.service(name, addresses...)
	svc.labels["tier"] = rapid.SampledFrom([]string{"front", "back"}).Draw(t, "tier")
	svc.local = rapid.Bool().Draw(t, "local")
	svc.pools = rapid.SliceOfN(rapid.SampledFrom([]string{"p0", "p1"}), 0, 2).Draw(t, "remembered")
	states := rapid.SampledFrom([]string{"ready", "notready", "draining", "dying", "unset"})
	var endpoints []string
	for _, n := range s.nodes {
		for range rapid.IntRange(0, 2).Draw(t, "endpoints") {
			endpoints = append(endpoints, n.name+":"+states.Draw(t, "state"))
		}
	}
	svc.endpoints(endpoints...)
}

// round has every speaker plan once, knowing what all have claimed before, and
// tell its claims. Those that are away or joining do nothing. It returns who
// answers for what as its owner.
func (s *scene) round() map[netip.Addr][]string {
	owners := map[netip.Addr][]string{}
	next := map[string]map[netip.Addr]membership.Claim{}
	for _, n := range s.nodes {
		if m := s.view.Member(n.name); m == nil || m.Info.Abstains {
			continue
		}
		s.held = s.answers[n.name]
		p := s.planAs(n.name)
		for a := range p.desired {
			owners[a] = append(owners[a], n.name)
		}
		next[n.name], s.answers[n.name] = p.claims, p.desired
	}
	maps.Copy(s.claimed, next)
	return owners
}

// Whatever the cluster looks like: every address has one owner if anybody is
// eligible and none otherwise, all speakers agree on who that is, it stays so, and
// it has a reason to be (checked against the rules stated once more, as plainly as
// possible).
func TestEveryAddressHasOneOwner(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		addresses := makePlan(s.planInput).addresses()
		before := s.round()
		for range 3 {
			owners := s.round()
			s.checkOwners(t, addresses, owners)
			if !maps.EqualFunc(owners, before, slices.Equal) {
				t.Fatalf("owners were %v, now are %v", before, owners)
			}
		}
	})
}

func (s *scene) checkOwners(t *rapid.T, addresses []netip.Addr, owners map[netip.Addr][]string) {
	for _, n := range s.nodes {
		for a, announcement := range s.answers[n.name] {
			if len(announcement.Interfaces) == 0 {
				t.Fatalf("%s owns %s on no interface", n.name, a)
			}
		}
	}
	for _, a := range addresses {
		var may []string
		for _, n := range s.nodes {
			if s.mayOwn(n, a) {
				may = append(may, n.name)
			}
		}
		switch own := owners[a]; {
		case len(own) > 1:
			t.Fatalf("%s is owned by %q", a, own)
		case len(own) == 0 && len(may) > 0 && !s.ownerIsAway(a):
			t.Fatalf("nobody owns %s, though %q may", a, may)
		case len(own) == 1 && !slices.Contains(may, own[0]):
			t.Fatalf("%s owns %s, though only %q may", own[0], a, may)
		}
	}
}

// mayOwn states the rules without any of the plan's shortcuts.
func (s *scene) mayOwn(n *node, a netip.Addr) bool {
	var on []*service
	for _, svc := range s.services {
		if slices.Contains(svc.addresses, a) {
			on = append(on, svc)
		}
	}
	served := false
	for _, svc := range on {
		b := svc.backends[familyOf(a)]
		if !b.anywhere {
			continue
		}
		served = true
		if svc.local && !b.ready[n.name] && !b.draining[n.name] {
			return false
		}
	}
	m := s.view.Member(n.name)
	_, isExcluded := n.labels[corev1.LabelNodeExcludeBalancers]
	if !served || m == nil || m.Info.Abstains || isExcluded || n.networkUnavailable {
		return false
	}
	for _, adv := range s.config.L2Advertisements {
		if s.selects(adv, on, a) && config.MatchesAny(adv.NodeSelectors, n.labels) && hasLinkFor(adv, m, a) {
			return true
		}
	}
	return false
}

func (s *scene) selects(adv *config.L2Advertisement, on []*service, a netip.Addr) bool {
	for _, svc := range on {
		pools := svc.pools
		if p, ok := s.config.PoolOf(a); ok {
			if slices.Contains(pools, p.Name) {
				pools = nil
			}
			pools = append([]string{p.Name}, pools...)
		}
		inPool := adv.AllPools || slices.ContainsFunc(pools, func(p string) bool { return slices.Contains(adv.Pools, p) })
		if inPool && config.MatchesAny(adv.ServiceSelectors, svc.labels) {
			return true
		}
	}
	return false
}

func hasLinkFor(adv *config.L2Advertisement, m *membership.Member, a netip.Addr) bool {
	for _, l := range m.Info.Links {
		fits := l.Contains(a)
		if len(adv.Interfaces) > 0 {
			fits = slices.Contains(adv.Interfaces, l.Name)
		}
		if fits && l.Speaks(a) {
			return true
		}
	}
	return false
}

// ownerIsAway says whether the address belongs to a node whose speaker is away.
func (s *scene) ownerIsAway(a netip.Addr) bool {
	i := slices.IndexFunc(s.view.Members, func(m membership.Member) bool { return !m.Info.Abstains })
	p := s.planAs(s.view.Members[i].Node)
	m := s.view.Member(p.ownerOf(p.placements[a]))
	return m == nil || m.Info.Abstains
}

// The death of a node moves what it owned and nothing else, and its return moves
// nothing.
func TestDeathMovesOnlyWhatWasOwned(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		addresses := makePlan(s.planInput).addresses()
		s.round()
		before := s.round()
		dead := rapid.SampledFrom(s.nodes).Draw(t, "dead").name
		s.lose(dead)
		s.round()
		after := s.round()
		s.checkOwners(t, addresses, after)
		for a, own := range before {
			if heirs := after[a]; own[0] != dead && !slices.Equal(heirs, own) {
				t.Fatalf("%s went from %q to %q when %q died", a, own, heirs, dead)
			}
		}
		if !s.comeBack(dead) {
			return
		}
		s.round()
		back := s.round()
		s.checkOwners(t, addresses, back)
		for a, own := range after {
			if !slices.Equal(back[a], own) && !s.outdone(a, own[0]) {
				t.Fatalf("%s went from %q to %q when %q returned", a, own, back[a], dead)
			}
		}
	})
}

// comeBack has a dead node return, if its speaker was ever known.
func (s *scene) comeBack(name string) bool {
	i := slices.IndexFunc(s.view.Gone, func(g membership.Gone) bool { return g.Node == name })
	if i < 0 {
		return false
	}
	s.view.Members = append(s.view.Members, s.view.Gone[i].Member)
	slices.SortFunc(s.view.Members, func(a, b membership.Member) int { return cmp.Compare(a.Node, b.Node) })
	s.view.Gone = slices.Delete(s.view.Gone, i, i+1)
	delete(s.standing.nodes, name)
	delete(s.answers, name)
	return true
}

// outdone says whether a node of a higher tier may own an address.
func (s *scene) outdone(a netip.Addr, owner string) bool {
	in := s.inputAs(owner)
	p, j := makePlan(in), newJudge(in)
	again := *p.placements[a]
	again.verdicts = make([]verdict, len(s.nodes))
	j.place(&again)
	tier := func(c ownership.Candidate) int { return c.Tier }
	i := slices.IndexFunc(j.candidates, func(c ownership.Candidate) bool { return s.nodes[c.Node].name == owner })
	return i < 0 || tier(slices.MaxFunc(j.candidates, func(a, b ownership.Candidate) int { return cmp.Compare(a.Tier, b.Tier) })) > j.candidates[i].Tier
}

// A speaker whose view is in doubt answers for nothing but what it held, and gives
// nothing of that up which it would keep if it were settled, but for what others
// have a better claim to.
func TestUnsettledNeverTakes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		s.drawClaims(t)
		self := rapid.SampledFrom(s.nodes).Draw(t, "self").name
		s.held = l2.Desired{}
		for a := range s.claimed[self] {
			if rapid.Bool().Draw(t, "held") {
				s.held[a] = l2.Announcement{Interfaces: []string{"eth0"}}
			}
		}
		settled := s.planAs(self)
		s.view.Settled = false
		unsettled := s.planAs(self)
		for a := range s.held {
			_, keeps := settled.desired[a]
			_, owned := unsettled.claims[a]
			if _, kept := unsettled.desired[a]; kept != (keeps && owned) {
				t.Fatalf("keeps %s in doubt: %v, else %v", a, kept, keeps)
			}
		}
		for a := range unsettled.desired {
			if _, held := s.held[a]; !held {
				t.Fatalf("took %s", a)
			}
		}
		for a, c := range unsettled.claims {
			if was, had := s.claimed[self][a]; !had || was.Term > c.Term {
				t.Fatalf("claims %s by %+v, before %+v (%v)", a, c, was, had)
			}
		}
	})
}

// drawClaims has nodes claim addresses, be it many one address.
func (s *scene) drawClaims(t *rapid.T) {
	addresses := makePlan(s.planInput).addresses()
	for _, n := range s.nodes {
		for _, a := range addresses {
			if rapid.Bool().Draw(t, "claimed") {
				s.claim(n.name, membership.Claim{
					Term: rapid.Uint64Range(1, 3).Draw(t, "term"), Provisional: rapid.IntRange(0, 3).Draw(t, "provisional") == 0,
				}, a.String())
			}
		}
	}
}

// Whatever was claimed before, be it by several, once claims have been exchanged
// each address has one owner.
func TestClaimsSettle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		s.drawClaims(t)
		addresses := makePlan(s.planInput).addresses()
		for range 3 {
			s.round()
		}
		owners := s.round()
		s.checkOwners(t, addresses, owners)
		if again := s.round(); !maps.EqualFunc(owners, again, slices.Equal) {
			t.Fatalf("owners were %v, now are %v", owners, again)
		}
	})
}

// BenchmarkPlan is a cluster of 100 nodes with 4,000 Services: half of them
// dual-stack, a quarter with externalTrafficPolicy Local. Their addresses are all
// new, or owned as usual.
func BenchmarkPlan(b *testing.B) {
	for name, owned := range map[string]bool{"new": false, "owned": true} {
		b.Run(name, func(b *testing.B) {
			s := bigScene(100, 4000)
			if owned {
				s.round()
			}
			in := s.inputAs("node-0")
			b.ReportAllocs()
			for b.Loop() {
				makePlan(in)
			}
		})
	}
}

func bigScene(nodes, services int) *scene {
	s := emptyScene()
	s.self = "node-0"
	s.config.Pools = []*config.Pool{newPool("p", "10.0.0.0/16", "2001:db8::/64")}
	s.advertisements(&config.L2Advertisement{Name: "all", AllPools: true})
	for i := range nodes {
		s.nodes = append(s.nodes, &node{name: fmt.Sprintf("node-%d", i), labels: labels.Set{}})
		s.view.Members = append(s.view.Members, membership.Member{
			Node: s.nodes[i].name, Known: true,
			Info: membership.Info{Links: []membership.Link{ethernet("eth0", "10.0.0.1/16", "2001:db8::1/64"), ethernet("eth1", "172.16.0.1/16")}},
		})
	}
	slices.SortFunc(s.view.Members, func(a, b membership.Member) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(s.nodes, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	next4, next6 := addr("10.0.0.1"), addr("2001:db8::1")
	for i := range services {
		svc := &service{key: serviceKey{"default", fmt.Sprintf("service-%05d", i)}, labels: labels.Set{}, addresses: []netip.Addr{next4}}
		if i%2 == 0 {
			svc.addresses = append(svc.addresses, next6)
			next6 = next6.Next()
		}
		next4 = next4.Next()
		svc.local = i%4 == 0
		svc.endpoints(fmt.Sprintf("node-%d:ready", i%nodes), fmt.Sprintf("node-%d:ready", (i+7)%nodes))
		s.services = append(s.services, svc)
	}
	return s
}
