package main

import (
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

// part is what one speaker does about v4: "answers", with "claims 3" and then
// "provisionally" or "for c", or what it does for another.
func (s *scene) part(node string) string {
	p, a := s.planAs(node), addr(v4)
	var does []string
	if _, answers := p.desired[a]; answers {
		does = append(does, "answers")
	}
	if c, claims := p.claims[a]; claims {
		does = append(does, fmt.Sprint("claims ", c.Term))
		if c.Provisional {
			does = append(does, "provisionally")
		}
		if c.To != "" {
			does = append(does, "for "+c.To)
		}
	}
	if p.first[a] {
		does = append(does, "first")
	}
	if standIn, stands := p.standIns[a]; stands && standIn.Armed {
		does = append(does, "is armed")
	} else if stands {
		does = append(does, "stands in")
	}
	return strings.Join(does, " ")
}

// ownedBy has v4 be owned by node b, with term 3; b and not a is where nobody
// would elect it.
func ownedBy(s *scene, node string) {
	s.claim(node, membership.Claim{Term: 3}, v4)
	s.answers[node] = l2.Desired{addr(v4): {Interfaces: []string{"eth0"}}}
}

// TestWhoHasAnAddress is one address of three nodes, which b owns.
func TestWhoHasAnAddress(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change  func(s *scene)
		a, b, c string
	}{
		"the owner stays":                {nil, "is armed", "answers claims 3", "is armed"},
		"another is preferred":           {preferred(100, "name=a"), "is armed", "answers claims 3", "is armed"},
		"another is preferred, on offer": {offeredTo("c"), "is armed", "answers claims 3 for c", "answers claims 4"},
		"offered to one that cannot":     {func(s *scene) { offeredTo("c")(s); s.node("c").networkUnavailable = true }, "is armed", "answers claims 3 for c", "is armed"},
		"offered to one that is drained": {func(s *scene) { offeredTo("c")(s); s.node("c").draining = true }, "is armed", "answers claims 3 for c", "is armed"},

		// The owner fails.
		"down":                     {func(s *scene) { preferred(1, "name=a")(s); s.lose("b") }, "answers claims 4", "", "is armed"},
		"silent, a member":         {func(s *scene) { preferred(1, "name=a")(s); silent("b")(s) }, "answers claims 4", "answers claims 3", "is armed"},
		"orphaned":                 {func(s *scene) { preferred(1, "name=a")(s); s.orphan("b") }, "is armed", "", "stands in"},
		"starting":                 {func(s *scene) { s.view.Member("b").Info.Abstains = true }, "is armed", "answers claims 3", "stands in"},
		"its connection has ended": {func(s *scene) { s.standing.nodes["b"] = nodeStanding{away: true} }, "is armed", "answers claims 3", "stands in"},
		"orphaned, stand-ins off":  {func(s *scene) { s.orphan("b"); s.standIns = false }, "", "", ""},
		"orphaned and excluded": {
			func(s *scene) {
				preferred(1, "name=a")(s)
				s.orphan("b")
				s.node("b").labels[corev1.LabelNodeExcludeBalancers] = ""
			},
			"answers claims 4", "", "is armed",
		},
		"orphaned, and the first stand-in dies": {func(s *scene) { s.orphan("b"); s.lose("c") }, "stands in", "", ""},

		// The owner should not or must not own it any more.
		"drained":                     {func(s *scene) { preferred(1, "name=a")(s); s.node("b").draining = true }, "answers claims 4", "answers claims 3", "is armed"},
		"all drained":                 {drainAll, "is armed", "answers claims 3", "is armed"},
		"drained, no other can":       {func(s *scene) { s.node("b").draining = true; excludeOthers(s) }, "is armed", "answers claims 3", "is armed"},
		"kube-proxy unwell":           {func(s *scene) { preferred(1, "name=a")(s); unwell("b")(s) }, "answers claims 4", "answers claims 3", "is armed"},
		"kube-proxy unwell on all":    {unwell("a", "b", "c"), "is armed", "answers claims 3", "is armed"},
		"kube-proxy unwell on others": {unwell("a", "c"), "is armed", "answers claims 3", "is armed"},
		"excluded":                    {func(s *scene) { preferred(1, "name=a")(s); s.node("b").labels[corev1.LabelNodeExcludeBalancers] = "" }, "answers claims 4", "answers claims 3", "is armed"},
		"no link any more":            {func(s *scene) { preferred(1, "name=a")(s); s.links("b") }, "answers claims 4", "claims 3", "is armed"},
		"excluded, and there is no other": {func(s *scene) {
			s.node("b").labels[corev1.LabelNodeExcludeBalancers] = ""
			excludeOthers(s)
		}, "", "claims 3", ""},
		"endpoint gone":                         {local("a:ready", "c:notready"), "answers claims 4", "answers claims 3", "is armed"},
		"endpoint terminating, ready elsewhere": {local("b:draining", "a:ready"), "answers claims 4", "answers claims 3", "is armed"},
		"endpoint terminating everywhere":       {local("b:draining", "a:draining"), "is armed", "answers claims 3", "is armed"},
		"nothing serves":                        {func(s *scene) { s.get("web").endpoints() }, "", "claims 3", ""},
		"not advertised":                        {func(s *scene) { s.advertisements() }, "", "claims 3", ""},

		// Others claim it too.
		"a later claim":       {claimedToo("c", membership.Claim{Term: 4}), "is armed", "is armed", "answers claims 4"},
		"an older claim":      {claimedToo("c", membership.Claim{Term: 2}), "is armed", "answers claims 3", "is armed"},
		"a minority's claim":  {claimedToo("c", membership.Claim{Term: 9, Provisional: true}), "is armed", "answers claims 10", "is armed"},
		"claimed by the dead": {func(s *scene) { claimedToo("c", membership.Claim{Term: 5})(s); s.lose("c") }, "is armed", "answers claims 6", "answers claims 5"},
		"claimed by an orphan": {
			func(s *scene) { claimedToo("c", membership.Claim{Term: 2})(s); s.orphan("c") }, "is armed", "answers claims 3", "answers claims 2",
		},

		// Nobody knows yet.
		"first, and its condition names one": {
			func(s *scene) {
				preferred(100, "name=a")(s)
				clear(s.claimed)
				s.get("web").announcers = map[netip.Addr]string{addr(v4): "c"}
			}, "is armed", "is armed", "answers claims 1",
		},
		"owned, and its condition names another": {
			func(s *scene) { s.get("web").announcers = map[netip.Addr]string{addr(v4): "c"} }, "is armed", "answers claims 3", "is armed",
		},
		"down, and its condition names another": {
			func(s *scene) {
				preferred(1, "name=a")(s)
				s.lose("b")
				s.get("web").announcers = map[netip.Addr]string{addr(v4): "c"}
			}, "answers claims 4", "", "is armed",
		},
		"silent because of a foreign host": {
			func(s *scene) { offeredTo("b")(s); s.orphan("b") }, "", "", "",
		},
		"first": {func(s *scene) { preferred(1, "name=a")(s); clear(s.claimed) }, "answers claims 1 first", "is armed", "is armed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene()
			ownedBy(s, "b")
			if tt.change != nil {
				tt.change(s)
			}
			for node, want := range map[string]string{"a": tt.a, "b": tt.b, "c": tt.c} {
				s.held = s.answers[node]
				if got := s.part(node); got != want && s.view.Member(node) != nil {
					t.Errorf("%s %q, want %q", node, got, want)
				}
			}
		})
	}
}

func offeredTo(node string) func(*scene) {
	return func(s *scene) { s.claim("b", membership.Claim{Term: 3, To: node}, v4) }
}

func drainAll(s *scene) {
	for _, n := range s.nodes {
		n.draining = true
	}
}

func excludeOthers(s *scene) {
	s.node("a").networkUnavailable, s.node("c").networkUnavailable = true, true
}

func unwell(nodes ...string) func(*scene) {
	return func(s *scene) {
		for _, n := range nodes {
			s.view.Member(n).Info.ProxyDown = true
		}
	}
}

func local(endpoints ...string) func(*scene) {
	return func(s *scene) { s.get("web").endpoints(endpoints...).local = true }
}

func claimedToo(node string, c membership.Claim) func(*scene) {
	return func(s *scene) { s.claim(node, c, v4) }
}

// A stand-in answers with the MAC that the owner has on the same network, and on
// no other.
func TestStandInAnswersWithTheOwnersMAC(t *testing.T) {
	t.Parallel()
	mac := func(s *scene, node string, link int) l2.MAC { return l2.MAC(s.view.Member(node).Info.Links[link].MAC) }
	for name, tt := range map[string]struct {
		change func(s *scene)
		links  []string // of the stand-in
		theirs []int    // the owner's link behind each
	}{
		"same name": {nil, []string{"eth0"}, []int{0}},
		"other name, same subnet": {
			func(s *scene) { s.links("c", ethernet("enp3s0", "192.0.2.3/24")) }, []string{"enp3s0"}, []int{0},
		},
		"same name, other subnet": {func(s *scene) { s.links("c", ethernet("eth0", "198.51.100.3/24")) }, nil, nil},
		"no subnets at all":       {func(s *scene) { named("eth0")(s); s.links("c", ethernet("eth0")) }, []string{"eth0"}, []int{0}},
		"another family only": {
			func(s *scene) { s.view.Member("c").Info.Links[0].ARP = false }, nil, nil,
		},
		"two links": {
			func(s *scene) {
				named("eth0", "eth1")(s)
				second := ethernet("eth1", "198.51.100.2/24")
				second.MAC = membership.MAC{2, 9, 9, 9, 9, 9}
				s.addLink("b", second)
				s.links("c", ethernet("enp8s0", "198.51.100.3/24"), ethernet("enp3s0", "192.0.2.3/24"))
			}, []string{"enp3s0", "enp8s0"}, []int{0, 1},
		},
		"a link that is not for the address": {
			func(s *scene) {
				s.addLink("b", ethernet("eth1", "198.51.100.2/24"))
				s.addLink("c", ethernet("eth1", "198.51.100.3/24"))
			}, []string{"eth0"}, []int{0},
		},
		"MAC not known": {func(s *scene) { s.view.Member("b").Info.Links[0].MAC = membership.MAC{} }, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene()
			ownedBy(s, "b")
			if tt.change != nil {
				tt.change(s)
			}
			want := map[string]l2.MAC{}
			for i, link := range tt.links {
				want[link] = mac(s, "b", tt.theirs[i])
			}
			s.orphan("b")
			p := s.planAs("c") // the first behind b
			got, stands := p.standIns[addr(v4)]
			if stands != (tt.links != nil) || !slices.Equal(got.Interfaces, tt.links) || !maps.Equal(got.StandIn, want) || got.Armed {
				t.Errorf("answers as %+v, want %v by %v", got, tt.links, want)
			}
			if !slices.Equal(p.standingInFor, []string{"b"}) {
				t.Errorf("stands in for %q", p.standingInFor)
			}
		})
	}
}

// Of the nodes with endpoints under Local, one whose endpoints have only just come
// to serve is not chosen, but it is if there is no other.
func TestYoungEndpoints(t *testing.T) {
	t.Parallel()
	s := newScene()
	local("a:ready", "c:ready")(s)
	preferred(100, "name=a")(s)
	ownedBy(s, "b")
	old := s.get("web").backends[ipv4]
	young := backendsFrom("a:ready", "b:ready", "c:ready")
	old.follow(&backends{}, s.now.Add(-youth)) // long ago
	young.follow(old, s.now)
	if young.young("a", s.now) || !young.young("b", s.now) || young.young("b", s.now.Add(youth)) {
		t.Fatalf("young since %v", young.since)
	}
	young = backendsFrom("a:ready", "c:ready")
	young.follow(backendsFrom("c:ready"), s.now)
	s.get("web").backends[ipv4] = young
	if got := s.part("a") + "/" + s.part("c"); got != "is armed/answers claims 4" {
		t.Errorf("a/c %q: the owner should be the one that has served for long", got)
	}
	s.now = s.now.Add(youth)
	if got := s.part("a") + "/" + s.part("c"); got != "answers claims 4/is armed" {
		t.Errorf("a/c %q later: the owner should be the one that is preferred", got)
	}
	s.now = s.now.Add(-youth)
	young = backendsFrom("a:ready")
	young.follow(&backends{}, s.now)
	s.get("web").backends[ipv4] = young
	if got := s.part("a"); got != "answers claims 4" {
		t.Errorf("a %q: there is no other", got)
	}
}

// A minority takes what the others had, and says that this is provisional.
func TestMinority(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		known    int
		lost     []string
		change   func(s *scene)
		minority string // the nodes that are one, of those that live
	}{
		"all there":                                   {known: 3},
		"two of three":                                {known: 3, lost: []string{"c"}},
		"one of three":                                {known: 3, lost: []string{"a", "b"}, minority: "c"},
		"the first of two":                            {known: 2, lost: []string{"b", "c"}},
		"the last of two":                             {known: 2, lost: []string{"a", "b"}, change: forget("a"), minority: "c"},
		"speakers never seen":                         {known: 7, minority: "abc"},
		"half, with the first":                        {known: 4, lost: []string{"b"}},
		"half, without the first":                     {known: 4, lost: []string{"a"}, minority: "bc"},
		"an orphan is seen":                           {known: 3, lost: []string{"a"}, change: func(s *scene) { s.orphan("b") }},
		"half, the first an orphan":                   {known: 4, lost: []string{"c"}, change: func(s *scene) { s.orphan("a") }},
		"hears no speaker though the nodes are there": {known: 3, change: func(s *scene) { s.orphan("b"); s.orphan("c") }, minority: "a"},
		"more than are known of":                      {known: 1},
		"silent members do not count":                 {known: 3, change: func(s *scene) { silent("a")(s); silent("b")(s) }, minority: "c"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene()
			s.view.Known = tt.known
			for _, n := range tt.lost {
				s.lose(n)
			}
			if tt.change != nil {
				tt.change(s)
			}
			for i := range s.view.Members {
				n := s.view.Members[i].Node
				if _, judged := s.standing.nodes[n]; judged {
					continue // thinks otherwise of itself
				}
				p := s.planAs(n)
				if want := strings.Contains(tt.minority, n); p.minority != want {
					t.Errorf("%s is a minority: %v, want %v", n, p.minority, want)
				}
				for a, c := range p.claims {
					if c.Provisional != p.minority {
						t.Errorf("%s claims %s by %+v", n, a, c)
					}
				}
			}
		})
	}
}

// forget has a node not be known to have had a speaker.
func forget(name string) func(*scene) {
	return func(s *scene) {
		s.view.Gone = slices.DeleteFunc(s.view.Gone, func(g membership.Gone) bool { return g.Node == name })
		delete(s.standing.nodes, name)
	}
}

// Who was a minority a moment ago does not know yet what the others have done: what
// it claims stays provisional, and so is what it takes, unless from somebody who is
// there and knows.
func TestAfterAMinority(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(s *scene)
		want   string
	}{
		"provisional":           {func(s *scene) { s.claim("b", membership.Claim{Term: 3, Provisional: true}, v4) }, "answers claims 3 provisionally"},
		"not provisional":       {func(s *scene) { s.claim("b", membership.Claim{Term: 3}, v4) }, "answers claims 3"},
		"taken from the dead":   {func(s *scene) { s.claim("a", membership.Claim{Term: 3}, v4); s.lose("a") }, "answers claims 4 provisionally"},
		"taken from the living": {func(s *scene) { s.claim("a", membership.Claim{Term: 3}, v4); s.node("a").draining = true }, "answers claims 4"},
		"taken from the provisional": {
			func(s *scene) {
				s.claim("a", membership.Claim{Term: 3, Provisional: true}, v4)
				s.node("a").draining = true
			},
			"answers claims 4 provisionally",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene()
			preferred(1, "name=b")(s)
			s.wasMinority = true
			tt.change(s)
			if got := s.part("b"); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// Who hears nobody on its network keeps what it has and takes nothing.
func TestIsolated(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.service("db", "192.0.2.11", "192.0.2.12")
	s.claim("a", membership.Claim{Term: 1}, v4)
	s.claim("b", membership.Claim{Term: 1}, "192.0.2.11")
	s.lose("b")
	s.lose("c")
	s.standing.isolated = true
	p := s.planAs("a")
	if got := slices.Collect(maps.Keys(p.desired)); !slices.Equal(got, []netip.Addr{addr(v4)}) || len(p.claims) != 1 {
		t.Errorf("answers for %v and claims %v", got, p.claims)
	}
}

// A speaker that joins claims what its former process did, unless others have done
// so since, and takes and answers for nothing.
func TestJoining(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.service("db", "192.0.2.11", "192.0.2.12", "192.0.2.13")
	in := s.inputAs("a")
	in.joining = true
	in.view.Former = membership.NewClaims(map[netip.Addr]membership.Claim{
		addr(v4): {Term: 3}, addr("192.0.2.11"): {Term: 3}, addr("192.0.2.12"): {Term: 3}, addr("192.0.2.99"): {Term: 1},
	})
	in.view.Member("b").Claims = membership.NewClaims(map[netip.Addr]membership.Claim{addr("192.0.2.11"): {Term: 4}})
	in.view.Gone = []membership.Gone{{Member: membership.Member{Node: "c", Known: true, Claims: membership.NewClaims(
		map[netip.Addr]membership.Claim{addr("192.0.2.12"): {Term: 4}})}}}
	in.view.Members = in.view.Members[:2]
	in.claims = nil
	p := makePlan(in)
	if want := map[netip.Addr]membership.Claim{addr(v4): {Term: 3}}; !maps.Equal(p.claims, want) {
		t.Errorf("claims %v, want %v", p.claims, want)
	}
	if len(p.desired) != 0 {
		t.Errorf("answers for %v", p.desired)
	}
}

// All offer in a rebalance what others should have, and only in a rebalance.
func TestMovesOfARebalance(t *testing.T) {
	t.Parallel()
	s := newScene()
	var addresses []string
	for i := range 9 {
		addresses = append(addresses, fmt.Sprintf("192.0.2.%d", 100+i))
	}
	s.services = nil
	s.service("web", addresses...)
	s.claim("b", membership.Claim{Term: 1}, addresses...)
	if p := s.planAs("b"); len(p.moves) != 0 {
		t.Errorf("would move %v without a rebalance", p.moves)
	}
	s.rebalance = map[string]bool{"all": true}
	p := s.planAs("b")
	if len(p.moves) == 0 || len(s.planAs("a").moves) != 0 {
		t.Errorf("b would move %v, a %v", p.moves, s.planAs("a").moves)
	}
	for a, to := range p.moves {
		if to != "a" && to != "c" {
			t.Errorf("would move %s to %q", a, to)
		}
	}
	s.advertisements(&config.L2Advertisement{Name: "other", AllPools: true})
	if p := s.planAs("b"); len(p.moves) != 0 {
		t.Errorf("would move %v in a rebalance of something else", p.moves)
	}
}

// A speaker whose Node was deleted owns nothing.
func TestWithoutANode(t *testing.T) {
	t.Parallel()
	s := newScene()
	ownedBy(s, "b")
	s.held = s.answers["b"]
	s.nodes = slices.DeleteFunc(s.nodes, func(n *node) bool { return n.name == "b" })
	if p := s.planAs("b"); len(p.desired) != 0 || len(p.claims) != 0 {
		t.Errorf("answers for %v and claims %v", p.desired, p.claims)
	}
}

// What is thought of a node that the membership does not know counts as little as
// what is thought of one that it does.
func TestStandingOfNodes(t *testing.T) {
	t.Parallel()
	s := standing{nodes: map[string]nodeStanding{"b": {state: ownership.Orphaned, away: true}}}
	for name, tt := range map[string]struct {
		node  string
		lives bool
		want  nodeStanding
	}{
		"judged":               {"b", true, nodeStanding{ownership.Orphaned, true}},
		"not judged, lives":    {"c", true, nodeStanding{state: ownership.Up}},
		"not judged, not here": {"c", false, nodeStanding{state: ownership.Down}},
	} {
		if got := s.of(tt.node, tt.lives); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}
