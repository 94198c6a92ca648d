package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

// drawScene makes a cluster in which every rule of eligibility comes up.
func drawScene(t *rapid.T) *scene {
	s := &scene{planInput{config: &config.Snapshot{}, view: &membership.View{Settled: true}}}
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
	if rapid.IntRange(0, 5).Draw(t, "dead") == 0 {
		s.lose(name)
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

// Whatever the cluster looks like: every address has one owner if anybody is
// eligible and none otherwise, all speakers agree on who that is, and it has a
// reason to be (checked against the rules stated once more, as plainly as
// possible).
func TestEveryAddressHasOneOwner(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		owners := map[netip.Addr][]string{}
		for _, n := range s.nodes {
			s.self = n.name
			for a, announcement := range makePlan(s.planInput).desired {
				owners[a] = append(owners[a], n.name)
				if len(announcement.Interfaces) == 0 {
					t.Fatalf("%s owns %s on no interface", n.name, a)
				}
			}
		}
		for _, a := range makePlan(s.planInput).addresses() {
			var may []string
			for _, n := range s.nodes {
				if s.mayOwn(n, a) {
					may = append(may, n.name)
				}
			}
			switch own := owners[a]; {
			case len(own) > 1:
				t.Fatalf("%s is owned by %q", a, own)
			case len(own) == 0 && len(may) > 0:
				t.Fatalf("nobody owns %s, though %q may", a, may)
			case len(own) == 1 && !slices.Contains(may, own[0]):
				t.Fatalf("%s owns %s, though only %q may", own[0], a, may)
			}
		}
	})
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

// The death of a speaker moves what it owned and nothing else.
func TestDeathMovesOnlyWhatWasOwned(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		before := makePlan(s.planInput)
		dead := rapid.SampledFrom(s.nodes).Draw(t, "dead").name
		s.lose(dead)
		after := makePlan(s.planInput)
		for a, place := range before.placements {
			owner, heir := before.ownerOf(place), after.ownerOf(after.placements[a])
			if owner != dead && heir != owner {
				t.Fatalf("%s went from %q to %q when %q died", a, owner, heir, dead)
			}
			if heir == dead {
				t.Fatalf("%s is owned by %q, which is dead", a, dead)
			}
		}
	})
}

// A speaker whose view is in doubt has only what it holds and would also have
// if it were settled.
func TestUnsettledNeverClaims(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		s.self = rapid.SampledFrom(s.nodes).Draw(t, "self").name
		settled := makePlan(s.planInput).desired
		s.held, s.view.Settled = l2.Desired{}, false
		for _, a := range makePlan(s.planInput).addresses() {
			if rapid.Bool().Draw(t, "held") {
				s.held[a] = l2.Announcement{}
			}
		}
		unsettled := makePlan(s.planInput).desired
		for a := range settled {
			if _, held := s.held[a]; held {
				if _, kept := unsettled[a]; !kept {
					t.Fatalf("gave up %s in doubt", a)
				}
			}
		}
		for a := range unsettled {
			_, held := s.held[a]
			if _, own := settled[a]; !held || !own {
				t.Fatalf("has %s, which it held: %v, and which is its own: %v", a, held, own)
			}
		}
	})
}

// BenchmarkPlan is a cluster of 100 nodes with 4,000 Services: half of them
// dual-stack, a quarter with externalTrafficPolicy Local.
func BenchmarkPlan(b *testing.B) {
	s := bigScene(100, 4000)
	b.ReportAllocs()
	for b.Loop() {
		makePlan(s.planInput)
	}
}

func bigScene(nodes, services int) *scene {
	s := &scene{planInput{
		self: "node-0", view: &membership.View{Settled: true},
		config: &config.Snapshot{
			Pools:            []*config.Pool{newPool("p", "10.0.0.0/16", "2001:db8::/64")},
			L2Advertisements: []*config.L2Advertisement{{Name: "all", AllPools: true}},
		},
	}}
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
