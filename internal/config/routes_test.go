package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
)

type advSpec = v1beta1.BGPAdvertisementSpec

func serviceAt(name string, set labels.Set, addresses ...string) Announced {
	a := Announced{Name: "default/" + name, Labels: set}
	for _, addr := range addresses {
		a.Addresses = append(a.Addresses, netip.MustParseAddr(addr))
	}
	return a
}

// told renders routes as "session: route" in order.
func told(routes map[string][]bgp.Route) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(routes)) {
		for _, r := range routes[name] {
			out = append(out, name+": "+r.String())
		}
	}
	return out
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	web := labels.Set{"app": "web"}
	webOnly := []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"app": "web"}}}
	tests := map[string]struct {
		advertisements []*v1beta1.BGPAdvertisement
		services       []Announced
		want           []string
		conflicts      []string
	}{
		"no advertisement": {nil, []Announced{serviceAt("a", web, "192.0.2.1")}, nil, nil},
		"everything to everyone of the family": {
			[]*v1beta1.BGPAdvertisement{bgpAdvertisement("a", nil)},
			[]Announced{serviceAt("a", web, "192.0.2.1", "2001:db8::1")},
			[]string{"ebgp: 192.0.2.1/32", "ibgp: 192.0.2.1/32", "ibgp: 2001:db8::1/128"}, nil,
		},
		"attributes": {
			[]*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *advSpec) {
				s.LocalPref, s.MED, s.ASPathPrepend = ptr.To[int64](200), ptr.To[int64](0), 3
				s.Communities = []v1beta1.CommunityRef{"no-export", "large:1:2:3", "65000:7", "mine"}
			})},
			[]Announced{serviceAt("a", web, "192.0.2.1")},
			[]string{"ebgp: 192.0.2.1/32 med 0 prepend 3 65000:1 65000:7 65535:65281 large:1:2:3", "ibgp: 192.0.2.1/32 local-pref 200 med 0 65000:1 65000:7 65535:65281 large:1:2:3"}, nil,
		},
		"by peer name and label": {
			[]*v1beta1.BGPAdvertisement{
				bgpAdvertisement("name", func(s *advSpec) { s.Peers, s.MED = []v1beta1.ObjectName{"ebgp"}, ptr.To[int64](1) }),
				bgpAdvertisement("label", func(s *advSpec) {
					s.MED, s.PeerSelectors = ptr.To[int64](2), []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"kind": "internal"}}}
				}),
			},
			[]Announced{serviceAt("a", web, "192.0.2.1")},
			[]string{"ebgp: 192.0.2.1/32 med 1", "ibgp: 192.0.2.1/32 med 2"}, nil,
		},
		"by Service, pool and node": {
			[]*v1beta1.BGPAdvertisement{
				bgpAdvertisement("service", func(s *advSpec) { s.ServiceSelectors, s.MED = webOnly, ptr.To[int64](1) }),
				bgpAdvertisement("pool", func(s *advSpec) {
					s.IPAddressPools, s.ASPathPrepend = []v1beta1.ObjectName{"other"}, 1
				}),
				bgpAdvertisement("node", func(s *advSpec) { s.NodeSelectors, s.ASPathPrepend = rack("elsewhere"), 2 }),
				bgpAdvertisement("here", func(s *advSpec) {
					s.NodeSelectors, s.ServiceSelectors, s.Communities = rack("here"), webOnly, []v1beta1.CommunityRef{"blackhole"}
				}),
			},
			[]Announced{serviceAt("a", web, "192.0.2.1"), serviceAt("b", nil, "192.0.2.2", "198.51.100.1")},
			[]string{
				"ebgp: 192.0.2.1/32 med 1 65535:666", "ebgp: 198.51.100.1/32 prepend 1",
				"ibgp: 192.0.2.1/32 med 1 65535:666", "ibgp: 198.51.100.1/32",
			}, nil,
		},
		"aggregate": {
			[]*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *advSpec) {
				s.AggregationLength, s.AggregationLengthV6, s.Peers = ptr.To[int32](24), ptr.To[int32](64), []v1beta1.ObjectName{"ibgp"}
			})},
			[]Announced{serviceAt("a", web, "192.0.2.1", "2001:db8::1"), serviceAt("b", web, "192.0.2.77"), serviceAt("c", web, "198.51.100.1")},
			[]string{"ibgp: 192.0.2.0/24", "ibgp: 198.51.100.1/32", "ibgp: 2001:db8::/64"}, nil,
		},
		"aggregate with the specific routes": {
			[]*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *advSpec) {
				s.AggregationLength, s.IncludeSpecificRoutes, s.MED = ptr.To[int32](26), true, ptr.To[int64](5)
			})},
			[]Announced{serviceAt("a", web, "192.0.2.1"), serviceAt("b", web, "192.0.2.77")},
			[]string{
				"ebgp: 192.0.2.0/26 med 5", "ebgp: 192.0.2.1/32 med 5", "ebgp: 192.0.2.64/26 med 5", "ebgp: 192.0.2.77/32 med 5",
				"ibgp: 192.0.2.0/26 med 5", "ibgp: 192.0.2.1/32 med 5", "ibgp: 192.0.2.64/26 med 5", "ibgp: 192.0.2.77/32 med 5",
			}, nil,
		},
		"the aggregate from one, the specific routes from another": {
			[]*v1beta1.BGPAdvertisement{
				bgpAdvertisement("wide", func(s *advSpec) { s.AggregationLength, s.Peers = ptr.To[int32](24), []v1beta1.ObjectName{"ebgp"} }),
				bgpAdvertisement("narrow", func(s *advSpec) {
					s.Communities, s.Peers = []v1beta1.CommunityRef{"no-export"}, []v1beta1.ObjectName{"ebgp"}
				}),
			},
			[]Announced{serviceAt("a", web, "192.0.2.1")},
			[]string{"ebgp: 192.0.2.0/24", "ebgp: 192.0.2.1/32 65535:65281"}, nil,
		},
		"disagreement": {
			[]*v1beta1.BGPAdvertisement{
				bgpAdvertisement("a", func(s *advSpec) { s.LocalPref, s.MED, s.ASPathPrepend = ptr.To[int64](100), ptr.To[int64](7), 4 }),
				bgpAdvertisement("b", func(s *advSpec) {
					s.LocalPref, s.MED, s.ASPathPrepend, s.Communities = ptr.To[int64](300), ptr.To[int64](9), 2, []v1beta1.CommunityRef{"65000:1"}
				}),
				bgpAdvertisement("open", func(s *advSpec) { s.Communities = []v1beta1.CommunityRef{"65000:2"} }),
			},
			[]Announced{serviceAt("a", web, "192.0.2.1")},
			[]string{"ebgp: 192.0.2.1/32 med 7 prepend 2 65000:1 65000:2", "ibgp: 192.0.2.1/32 local-pref 300 med 7 65000:1 65000:2"},
			[]string{
				"ebgp: 192.0.2.1/32: BGPAdvertisements disagree about spec.med (7 in a, 9 in b); 7 counts",
				"ebgp: 192.0.2.1/32: BGPAdvertisements disagree about spec.asPathPrepend (2 in b, 4 in a); 2 counts",
				"ibgp: 192.0.2.1/32: BGPAdvertisements disagree about spec.localPref (100 in a, 300 in b); 300 counts",
				"ibgp: 192.0.2.1/32: BGPAdvertisements disagree about spec.med",
			},
		},
		"a shared address is announced when one of its Services matches": {
			[]*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *advSpec) { s.ServiceSelectors, s.Peers = webOnly, []v1beta1.ObjectName{"ebgp"} })},
			[]Announced{serviceAt("a", nil, "192.0.2.1"), serviceAt("b", web, "192.0.2.1")},
			[]string{"ebgp: 192.0.2.1/32"}, nil,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			routes, conflicts := routerFor(t, test.advertisements).Routes(test.services)
			if diff := cmp.Diff(test.want, told(routes)); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if len(conflicts) != len(test.conflicts) {
				t.Fatalf("conflicts %v, want %d", conflicts, len(test.conflicts))
			}
			for i, c := range conflicts {
				if text := c.Session + ": " + c.Message; !strings.HasPrefix(text, test.conflicts[i]) {
					t.Errorf("conflict %q, want %q", text, test.conflicts[i])
				}
			}
		})
	}
}

type fataler interface {
	Fatal(...any)
}

// routerFor returns a router with an external IPv4 peer and an internal peer of
// both families.
func routerFor(t fataler, advertisements []*v1beta1.BGPAdvertisement) *Router {
	yes := true
	internal := peer("ibgp", 1, func(s *bgpSpec) { s.PeerASN, s.PeerAddress, s.DualStackAddressFamily = 64500, "192.0.2.250", &yes })
	internal.Labels = map[string]string{"kind": "internal"}
	snapshot, verdicts := Build(Objects{
		IPAddressPools:    []*v1beta1.IPAddressPool{pool("p", 1, "192.0.2.0/25", "192.0.2.128/25", "2001:db8::/48"), pool("other", 1, "198.51.100.0/25")},
		BGPAdvertisements: advertisements,
		BGPPeers:          []*v1beta1.BGPPeer{peer("ebgp", 2, nil), internal},
		Communities:       []*v1beta1.Community{community("c", 1, v1beta1.CommunityAlias{Name: "mine", Value: "65000:1"})},
	})
	for name, v := range verdicts.BGPAdvertisements {
		if !v.Accepted {
			t.Fatal(name, v.Message)
		}
	}
	sessions, problems := SessionsOf(snapshot, Node{Name: "n", Local: true})
	if len(sessions) != 2 || len(problems) != 0 {
		t.Fatal(sessions, problems)
	}
	return NewRouter(snapshot, labels.Set{"rack": "here"}, sessions)
}

func TestCommunitiesFitAnUpdate(t *testing.T) {
	t.Parallel()
	var advertisements []*v1beta1.BGPAdvertisement
	for i := range 5 {
		advertisements = append(advertisements, bgpAdvertisement(fmt.Sprintf("adv-%d", i), func(s *advSpec) {
			for j := range 62 {
				s.Communities = append(s.Communities, v1beta1.CommunityRef(fmt.Sprintf("%d:%d", 1000+i, j)))
			}
			s.Communities = append(s.Communities, "no-export")
		}))
	}
	routes, conflicts := routerFor(t, advertisements).Routes([]Announced{serviceAt("a", nil, "192.0.2.1")})
	r := routes["ebgp"][0]
	if len(r.Communities) != maxRouteCommunities || !slices.Contains(r.Communities, bgp.Community(0xffffff01)) {
		t.Errorf("%d communities: %s", len(r.Communities), r)
	}
	if len(conflicts) != 2 || conflicts[0].Field != "spec.communities" {
		t.Errorf("conflicts %v", conflicts)
	}
}

func drawAdvertisements(t *rapid.T) []*v1beta1.BGPAdvertisement {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *v1beta1.BGPAdvertisement {
		return bgpAdvertisement("", func(s *advSpec) {
			maybe := func(name string) *int64 {
				return rapid.SampledFrom([]*int64{nil, ptr.To[int64](1), ptr.To[int64](2)}).Draw(t, name)
			}
			s.LocalPref, s.MED, s.ASPathPrepend = maybe("localPref"), maybe("med"), rapid.Int32Range(0, 2).Draw(t, "prepend")
			s.AggregationLength = ptr.To(rapid.SampledFrom([]int32{24, 25, 30, 32}).Draw(t, "length"))
			s.IncludeSpecificRoutes = rapid.Bool().Draw(t, "specific")
			s.Communities = rapid.SampledFrom([][]v1beta1.CommunityRef{nil, {"mine"}, {"no-export", "large:1:2:3"}}).Draw(t, "communities")
			if rapid.Bool().Draw(t, "web") {
				s.ServiceSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"app": "web"}}}
			}
			s.Peers = rapid.SampledFrom([][]v1beta1.ObjectName{nil, {"ebgp"}, {"ibgp"}}).Draw(t, "peers")
		})
	}), 0, 4).Draw(t, "advertisements")
}

func drawServices(t *rapid.T) []Announced {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Announced {
		a := Announced{Labels: labels.Set{"app": rapid.SampledFrom([]string{"web", "db"}).Draw(t, "app")}}
		for _, n := range rapid.SliceOfN(rapid.Byte(), 1, 2).Draw(t, "addresses") {
			a.Addresses = append(a.Addresses, netip.AddrFrom4([4]byte{192, 0, 2, n}))
		}
		return a
	}), 0, 6).Draw(t, "services")
}

// TestRoutesDoNotDependOnOrder, nor does a Service touch prefixes that its
// addresses are not in.
func TestRoutesDoNotDependOnOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		advertisements, services := drawAdvertisements(t), drawServices(t)
		for i, a := range advertisements {
			a.Name = fmt.Sprintf("adv-%d", i)
		}
		before, conflicts := routerFor(t, advertisements).Routes(services)
		shuffled, again := routerFor(t, rapid.Permutation(advertisements).Draw(t, "order")).Routes(rapid.Permutation(services).Draw(t, "services' order"))
		if diff := cmp.Diff(told(before), told(shuffled)); diff != "" {
			t.Fatalf("another order gives other routes:\n%s", diff)
		}
		if diff := cmp.Diff(fmt.Sprint(conflicts), fmt.Sprint(again)); diff != "" {
			t.Fatalf("another order gives other conflicts:\n%s", diff)
		}
		if len(services) == 0 {
			return
		}
		last := services[len(services)-1]
		after, _ := routerFor(t, advertisements).Routes(services[:len(services)-1])
		for _, session := range []string{"ebgp", "ibgp"} {
			announce, withdraw := bgp.NewRoutes(after[session]).Diff(bgp.NewRoutes(before[session]))
			for _, r := range announce {
				withdraw = append(withdraw, r.Prefix)
			}
			for _, prefix := range withdraw {
				if !slices.ContainsFunc(last.Addresses, prefix.Contains) {
					t.Fatalf("%s: a Service at %v changed %s", session, last.Addresses, prefix)
				}
			}
			for _, r := range before[session] {
				if !strings.HasPrefix(r.Prefix.String(), "192.0.2.") {
					t.Fatalf("%s is beyond the pool", r.Prefix)
				}
			}
		}
	})
}

func BenchmarkRoutes(b *testing.B) {
	var services []Announced
	for i := range 2000 {
		services = append(services, Announced{Name: fmt.Sprint(i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})}})
	}
	router := routerFor(b, []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", nil), bgpAdvertisement("b", func(s *advSpec) { s.MED = ptr.To[int64](1) })})
	for b.Loop() {
		if routes, _ := router.Routes(services); len(routes["ebgp"]) != 2000 {
			b.Fatal(len(routes["ebgp"]))
		}
	}
}
