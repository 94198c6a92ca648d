package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/ownership"
)

// render shows where an address belongs that has no owner yet: "a[eth0] b[eth0] |
// c: excluded", the eligible nodes of the highest tier and preference first, then
// the others that are eligible in parentheses, then those that are not; or the
// outcome if it is another.
func (s *scene) render(t *testing.T, a netip.Addr) string {
	t.Helper()
	p, j := makePlan(s.planInput), newJudge(s.planInput)
	place := p.placements[a]
	if place == nil {
		return "unknown"
	}
	if place.outcome == notAdvertised || place.outcome == noEndpoints {
		if place.owner != -1 || place.verdicts != nil {
			t.Errorf("%s: outcome %d with owner %d, verdicts %v", a, place.outcome, place.owner, place.verdicts)
		}
		return map[outcome]string{notAdvertised: "not advertised", noEndpoints: "no endpoints"}[place.outcome]
	}
	again := *place
	again.verdicts = make([]verdict, len(s.nodes))
	j.place(&again) // for the candidates
	candidates := slices.DeleteFunc(slices.Clone(j.candidates), func(c ownership.Candidate) bool { return place.verdicts[c.Node] != eligible })
	slices.SortFunc(candidates, func(a, b ownership.Candidate) int {
		return cmp.Or(cmp.Compare(b.Tier, a.Tier), cmp.Compare(b.Preference, a.Preference), cmp.Compare(a.Node, b.Node))
	})
	var yes, not, best []string
	for _, c := range candidates {
		text := p.nodes[c.Node].name + fmt.Sprint(j.class.nodes[c.Node].interfaces(a))
		if first := candidates[0]; c.Tier == first.Tier && c.Preference == first.Preference {
			best = append(best, p.nodes[c.Node].name)
		} else {
			text = "(" + text + ")"
		}
		yes = append(yes, text)
	}
	for i, n := range p.nodes {
		if place.verdicts[i] != eligible {
			not = append(not, n.name+": "+verdictNames[place.verdicts[i]])
		}
	}
	checkOwner(t, p, place, best)
	return strings.TrimPrefix(strings.TrimSuffix(strings.Join(yes, " ")+" | "+strings.Join(not, ", "), " | "), " | ")
}

func checkOwner(t *testing.T, p *plan, place *placement, best []string) {
	t.Helper()
	if len(best) == 0 {
		if place.outcome != noNode || place.owner != -1 {
			t.Errorf("%s: nobody is eligible, but the owner is %q", place.addr, p.ownerOf(place))
		}
		return
	}
	if place.outcome != announced || !slices.Contains(best, p.ownerOf(place)) {
		t.Errorf("%s: owner is %q, not of %q", place.addr, p.ownerOf(place), best)
	}
	if len(place.interfaces) == 0 {
		t.Errorf("%s: owner %s has no interfaces", place.addr, p.ownerOf(place))
	}
}

var verdictNames = map[verdict]string{
	notSelected: "not selected", excluded: "excluded", networkUnavailable: "network", speakerDead: "dead",
	speakerUnknown: "unknown", speakerJoining: "joining", speakerAway: "away", noInterface: "interface", noLocalEndpoint: "endpoint",
}

const everybody = "a[eth0] b[eth0] c[eth0]"

func TestEligible(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(s *scene)
		want   string // of both families
		v4, v6 string // where they differ
	}{
		"everybody": {want: everybody},

		// What an advertisement selects.
		"no advertisement":     {change: func(s *scene) { s.advertisements() }, want: "not advertised"},
		"pool by name":         {change: func(s *scene) { s.advertisements(&config.L2Advertisement{Pools: []string{"pool"}}) }, want: everybody},
		"another pool":         {change: func(s *scene) { s.advertisements(&config.L2Advertisement{Pools: []string{"other"}}) }, want: "not advertised"},
		"service selected":     {change: func(s *scene) { s.config.L2Advertisements[0].ServiceSelectors = sel("name=web") }, want: everybody},
		"service not selected": {change: func(s *scene) { s.config.L2Advertisements[0].ServiceSelectors = sel("name=db") }, want: "not advertised"},
		"pool of one family":   {change: onePoolPerFamily, v4: everybody, v6: "not advertised"},
		"second of two selects": {change: func(s *scene) {
			s.advertisements(&config.L2Advertisement{Pools: []string{"other"}}, &config.L2Advertisement{AllPools: true})
		}, want: everybody},

		// An address that no pool contains any more.
		"out of pool, all pools":           {change: func(s *scene) { s.config.Pools = nil }, want: everybody},
		"out of pool, pool named":          {change: outOfPool("pool", "pool"), want: everybody},
		"out of pool, one of two named":    {change: outOfPool("second", "first", "second"), want: everybody},
		"out of pool, another named":       {change: outOfPool("other", "pool"), want: "not advertised"},
		"out of pool, none remembered":     {change: outOfPool("pool"), want: "not advertised"},
		"moved to a pool not advertised":   {change: movedPool("old"), want: everybody},
		"moved to a pool advertised":       {change: movedPool("new"), want: everybody},
		"moved, neither pool advertised":   {change: movedPool("other"), want: "not advertised"},
		"its pool counts, not its other's": {change: onePoolPerFamilyRemembered, v4: everybody, v6: "not advertised"},

		// Nodes.
		"node selector":         {change: func(s *scene) { s.config.L2Advertisements[0].NodeSelectors = sel("name in (a,b)") }, want: "a[eth0] b[eth0] | c: not selected"},
		"no node selected":      {change: func(s *scene) { s.config.L2Advertisements[0].NodeSelectors = sel("name=x") }, want: "a: not selected, b: not selected, c: not selected"},
		"selectors of two":      {change: twoNodeSelectors, want: "a[eth0] b[eth0] | c: not selected"},
		"excluded":              {change: func(s *scene) { s.node("b").labels[corev1.LabelNodeExcludeBalancers] = "" }, want: "a[eth0] c[eth0] | b: excluded"},
		"excluded, even false":  {change: func(s *scene) { s.node("b").labels[corev1.LabelNodeExcludeBalancers] = "false" }, want: "a[eth0] c[eth0] | b: excluded"},
		"network unavailable":   {change: func(s *scene) { s.node("c").networkUnavailable = true }, want: "a[eth0] b[eth0] | c: network"},
		"speaker dead":          {change: func(s *scene) { s.lose("a") }, want: "b[eth0] c[eth0] | a: dead"},
		"speaker not heard yet": {change: func(s *scene) { s.view.Member("a").Known = false }, want: "b[eth0] c[eth0] | a: unknown"},
		"speaker joining":       {change: func(s *scene) { s.view.Member("b").Info.Abstains = true }, want: "a[eth0] c[eth0] | b: joining"},
		"speaker away":          {change: func(s *scene) { s.orphan("b") }, want: "a[eth0] c[eth0] | b: away"},
		"node silent":           {change: silent("b"), want: "a[eth0] c[eth0] | b: dead"},
		"member without a Node": {change: func(s *scene) { s.nodes = s.nodes[1:] }, want: "b[eth0] c[eth0]"},
		"no nodes":              {change: func(s *scene) { s.nodes = nil }, want: ""},

		// Interfaces.
		"no links":              {change: func(s *scene) { s.links("b") }, want: "a[eth0] c[eth0] | b: interface"},
		"other subnet":          {change: func(s *scene) { s.links("b", ethernet("eth0", "198.51.100.1/24", "2001:db8:1::1/64")) }, want: "a[eth0] c[eth0] | b: interface"},
		"subnet of one family":  {change: func(s *scene) { s.links("b", ethernet("eth0", "192.0.2.1/24")) }, v4: everybody, v6: "a[eth0] c[eth0] | b: interface"},
		"no ARP":                {change: func(s *scene) { s.view.Member("b").Info.Links[0].ARP = false }, v4: "a[eth0] c[eth0] | b: interface", v6: everybody},
		"no NDP":                {change: func(s *scene) { s.view.Member("b").Info.Links[0].NDP = false }, v4: everybody, v6: "a[eth0] c[eth0] | b: interface"},
		"two links, one subnet": {change: func(s *scene) { s.addLink("b", ethernet("eth1", "198.51.100.1/24")) }, want: everybody},
		"two links, same subnet": {
			change: func(s *scene) { s.addLink("b", ethernet("eth1", "192.0.2.2/24", "2001:db8::2/64")) },
			want:   "a[eth0] b[eth0 eth1] c[eth0]",
		},
		"interface named":              {change: named("eth0"), want: everybody},
		"named, no subnet needed":      {change: func(s *scene) { named("eth0")(s); s.links("b", ethernet("eth0", "198.51.100.1/24")) }, want: everybody},
		"named, no address at all":     {change: func(s *scene) { named("eth0")(s); s.links("b", ethernet("eth0")) }, want: everybody},
		"named, missing":               {change: func(s *scene) { named("eth0")(s); s.links("b", ethernet("eth1", "192.0.2.1/24", "2001:db8::1/64")) }, want: "a[eth0] c[eth0] | b: interface"},
		"named, family not spoken":     {change: func(s *scene) { named("eth0")(s); s.view.Member("b").Info.Links[0].NDP = false }, v4: everybody, v6: "a[eth0] c[eth0] | b: interface"},
		"named by one, subnet another": {change: namedAndSubnet, want: "a[eth0] b[eth0 eth9] c[eth0]"},
		"named for some nodes only":    {change: namedForB, want: "a[eth0] b[eth0] | c: interface"},

		// Preference.
		"preferred":         {change: preferred(10, "name=b"), want: "b[eth0] (a[eth0]) (c[eth0])"},
		"weights add up":    {change: preferred(10, "name in (a,b)", "name in (b,c)"), want: "b[eth0] (a[eth0]) (c[eth0])"},
		"drained":           {change: func(s *scene) { preferred(10, "name=b")(s); s.node("b").draining = true }, want: "a[eth0] c[eth0] (b[eth0])"},
		"kube-proxy unwell": {change: func(s *scene) { s.view.Member("b").Info.ProxyDown = true }, want: "a[eth0] c[eth0] (b[eth0])"},
		"better unwell than drained": {change: func(s *scene) {
			s.node("a").draining, s.node("b").networkUnavailable = true, true
			s.view.Member("c").Info.ProxyDown = true
		}, want: "c[eth0] (a[eth0]) | b: network"},
		"preferred but dead":      {change: func(s *scene) { preferred(10, "name=b")(s); s.lose("b") }, want: "a[eth0] c[eth0] | b: dead"},
		"preferred by unselected": {change: preferredElsewhere, want: everybody},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene()
			if tt.change != nil {
				tt.change(s)
			}
			if got, want := s.render(t, addr(v4)), cmp.Or(tt.v4, tt.want); got != want {
				t.Errorf("IPv4: %s\nwant: %s", got, want)
			}
			if got, want := s.render(t, addr(v6)), cmp.Or(tt.v6, tt.want); got != want {
				t.Errorf("IPv6: %s\nwant: %s", got, want)
			}
		})
	}
}

// silent has a speaker that is a member be taken for dead.
func silent(name string) func(*scene) {
	return func(s *scene) { s.standing.nodes[name] = nodeStanding{state: ownership.Down} }
}

func (s *scene) addLink(name string, l membership.Link) {
	m := s.view.Member(name)
	m.Info.Links = append(m.Info.Links, l)
}

func onePoolPerFamily(s *scene) {
	s.config.Pools = []*config.Pool{newPool("pool4", "192.0.2.0/24"), newPool("pool6", "2001:db8::/64")}
	s.advertisements(&config.L2Advertisement{Pools: []string{"pool4"}})
}

// outOfPool takes the pools away; the Service remembers some, and there is an
// advertisement for one.
func outOfPool(advertised string, remembered ...string) func(*scene) {
	return func(s *scene) {
		s.config.Pools = nil
		s.get("web").pools = remembered
		s.advertisements(&config.L2Advertisement{Pools: []string{advertised}})
	}
}

// movedPool has another pool contain the address now than the one it came from.
func movedPool(advertised string) func(*scene) {
	return func(s *scene) {
		s.config.Pools[0].Name = "new"
		s.get("web").pools = []string{"old"}
		s.advertisements(&config.L2Advertisement{Pools: []string{advertised}})
	}
}

func onePoolPerFamilyRemembered(s *scene) {
	onePoolPerFamily(s)
	s.get("web").pools = []string{"pool4", "pool6"}
}

func twoNodeSelectors(s *scene) {
	s.advertisements(
		&config.L2Advertisement{AllPools: true, NodeSelectors: sel("name=a")},
		&config.L2Advertisement{AllPools: true, NodeSelectors: sel("name=b")})
}

func named(interfaces ...string) func(*scene) {
	return func(s *scene) { s.config.L2Advertisements[0].Interfaces = interfaces }
}

func namedAndSubnet(s *scene) {
	s.advertisements(&config.L2Advertisement{AllPools: true}, &config.L2Advertisement{AllPools: true, Interfaces: []string{"eth9"}})
	s.addLink("b", ethernet("eth9"))
}

func namedForB(s *scene) {
	s.advertisements(
		&config.L2Advertisement{AllPools: true, NodeSelectors: sel("name in (a,b)")},
		&config.L2Advertisement{AllPools: true, NodeSelectors: sel("name=c"), Interfaces: []string{"eth9"}})
}

func preferred(weight int32, selectors ...string) func(*scene) {
	return func(s *scene) {
		for _, text := range selectors {
			a := s.config.L2Advertisements[0]
			a.PreferredNodes = append(a.PreferredNodes, config.PreferredNodes{Weight: weight, Selector: sel(text)[0]})
		}
	}
}

// preferredElsewhere has a preference on an advertisement for another pool.
func preferredElsewhere(s *scene) {
	s.advertisements(
		&config.L2Advertisement{AllPools: true},
		&config.L2Advertisement{Pools: []string{"other"}, PreferredNodes: []config.PreferredNodes{{Weight: 50, Selector: sel("name=b")[0]}}})
}

// Only the owner has an address in its desired state, on the owner's links.
func TestDesired(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.links("b", ethernet("enp3s0", "192.0.2.1/24", "2001:db8::1/64"))
	s.service("db", "192.0.2.11")
	got := map[string]string{}
	for _, self := range []string{"a", "b", "c", "x"} {
		p := s.planAs(self)
		for a, announcement := range p.desired {
			if other, taken := got[a.String()]; taken {
				t.Errorf("%s on %s and on %s", a, other, self)
			}
			got[a.String()] = self
			want := []string{"eth0"}
			if self == "b" {
				want = []string{"enp3s0"}
			}
			if !slices.Equal(announcement.Interfaces, want) {
				t.Errorf("%s on %s: interfaces %q, want %q", a, self, announcement.Interfaces, want)
			}
			if c, want := p.claims[a], (membership.Claim{Term: 1}); c != want || !p.first[a] {
				t.Errorf("%s on %s: claims %+v, for the first time %v", a, self, c, p.first[a])
			}
		}
		if len(p.claims) != len(p.desired) {
			t.Errorf("%s claims %v and answers for %v", self, p.claims, p.desired)
		}
	}
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, []string{"192.0.2.10", "192.0.2.11", "2001:db8::10"}) {
		t.Errorf("announced addresses are %q", keys)
	}
}

func TestUnsettledKeepsAndTakesNothing(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.service("db", "192.0.2.11")
	s.lose("b")
	s.lose("c")
	s.view.Settled = false
	if p := s.planAs("a"); len(p.desired) != 0 || len(p.claims) != 0 {
		t.Errorf("took %v and claims %v while the view is not settled", p.desired, p.claims)
	}
	s.held = l2.Desired{addr(v4): {}, addr("192.0.2.99"): {}}
	s.claim("a", membership.Claim{Term: 4}, v4, "192.0.2.99")
	p := s.planAs("a")
	if _, kept := p.desired[addr(v4)]; !kept || len(p.desired) != 1 {
		t.Errorf("held its own and a strange address, wants %v", p.desired)
	}
	s.node("a").networkUnavailable = true
	if p := s.planAs("a"); len(p.desired) != 0 || len(p.claims) != 1 {
		t.Errorf("answers for %v though not eligible any more, and claims %v", p.desired, p.claims)
	}
	s.node("a").networkUnavailable = false
	s.view.Settled = true
	if p := s.planAs("a"); len(p.desired) != 3 {
		t.Errorf("alone and settled it takes %v, want all three", p.desired)
	}
}

// Who has lost its link meanwhile does not answer with it back before it knows
// what the others did.
func TestUnsettledDoesNotAnswerAgain(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.claim("a", membership.Claim{Term: 1}, v4, v6)
	s.held = l2.Desired{addr(v6): {}}
	s.view.Settled = false
	p := s.planAs("a")
	if _, kept := p.desired[addr(v6)]; !kept || len(p.desired) != 1 {
		t.Errorf("answers for %v, want %s alone", p.desired, v6)
	}
	if len(p.claims) != 2 {
		t.Errorf("claims %v, want both addresses", p.claims)
	}
}

// What is held gives way at once to an owner that can be seen, settled or not.
func TestUnsettledGivesWay(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.view.Settled = false
	s.held = l2.Desired{addr(v4): {}}
	s.claim("a", membership.Claim{Term: 1}, v4)
	s.claim("b", membership.Claim{Term: 2}, v4)
	s.claim("c", membership.Claim{Term: 3, Provisional: true}, v4)
	for _, self := range []string{"a", "b", "c"} {
		p := s.planAs(self)
		_, keeps := p.desired[addr(v4)]
		_, claims := p.claims[addr(v4)]
		if keeps != (self == "b") || claims != keeps || p.contested[addr(v4)] != keeps {
			t.Errorf("%s keeps the address: %v, claims it: %v, contested: %v; its owner is b", self, keeps, claims, p.contested)
		}
	}
}
