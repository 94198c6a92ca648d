package config

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

func app(operator metav1.LabelSelectorOperator, values ...v1beta1.LabelValue) []v1beta1.LabelSelector {
	return []v1beta1.LabelSelector{{MatchExpressions: []v1beta1.LabelSelectorRequirement{{Key: "app", Operator: operator, Values: values}}}}
}

// TestDisputes: that two advertisements disagree is told on both, where there can
// be a route that they disagree about, and nowhere else.
func TestDisputes(t *testing.T) {
	t.Parallel()
	med := func(s *advSpec, n int64) { s.MED = ptr.To(n) }
	tests := map[string]struct {
		a, b func(*advSpec)
		// fields are those that are told, in order; "" for none.
		fields string
	}{
		"agree":                   {func(s *advSpec) { med(s, 1) }, func(s *advSpec) { med(s, 1) }, ""},
		"one leaves it open":      {func(s *advSpec) { med(s, 1) }, func(*advSpec) {}, ""},
		"everything":              {func(s *advSpec) { med(s, 1); s.LocalPref, s.ASPathPrepend = ptr.To[int64](1), 1 }, func(s *advSpec) { med(s, 2); s.LocalPref, s.ASPathPrepend = ptr.To[int64](2), 2 }, "spec.localPref spec.med spec.asPathPrepend"},
		"external peer":           {func(s *advSpec) { med(s, 1); s.LocalPref, s.Peers = ptr.To[int64](1), []v1beta1.ObjectName{"ebgp"} }, func(s *advSpec) { med(s, 2); s.LocalPref = ptr.To[int64](2) }, "spec.med"},
		"internal peer":           {func(s *advSpec) { s.ASPathPrepend, s.Peers = 1, []v1beta1.ObjectName{"ibgp"} }, func(s *advSpec) { s.ASPathPrepend = 2 }, ""},
		"other peers":             {func(s *advSpec) { med(s, 1); s.Peers = []v1beta1.ObjectName{"ebgp"} }, func(s *advSpec) { med(s, 2); s.Peers = []v1beta1.ObjectName{"ibgp"} }, ""},
		"other nodes":             {func(s *advSpec) { med(s, 1); s.NodeSelectors = rack("a") }, func(s *advSpec) { med(s, 2); s.NodeSelectors = rack("b") }, ""},
		"some nodes":              {func(s *advSpec) { med(s, 1); s.NodeSelectors = rack("a") }, func(s *advSpec) { med(s, 2) }, "spec.med"},
		"other pools":             {func(s *advSpec) { med(s, 1); s.IPAddressPools = []v1beta1.ObjectName{"p"} }, func(s *advSpec) { med(s, 2); s.IPAddressPools = []v1beta1.ObjectName{"q"} }, ""},
		"family that no peer has": {func(s *advSpec) { med(s, 1); s.IPAddressPools = []v1beta1.ObjectName{"six"} }, func(s *advSpec) { med(s, 2) }, ""},
		"other length": {func(s *advSpec) {
			med(s, 1)
			s.AggregationLength = ptr.To[int32](28)
			s.IPAddressPools = []v1beta1.ObjectName{"p"}
		}, func(s *advSpec) { med(s, 2) }, ""},
		"other length, and specifics": {func(s *advSpec) { med(s, 1); s.AggregationLength, s.IncludeSpecificRoutes = ptr.To[int32](28), true }, func(s *advSpec) { med(s, 2) }, "spec.med"},
		"aggregate wider than a pool": {func(s *advSpec) { med(s, 1); s.AggregationLength = ptr.To[int32](24) }, func(s *advSpec) { med(s, 2); s.IPAddressPools = []v1beta1.ObjectName{"q"} }, "spec.med"},
		"other Services":              {func(s *advSpec) { med(s, 1); s.ServiceSelectors = app("In", "web", "api") }, func(s *advSpec) { med(s, 2); s.ServiceSelectors = app("In", "mail") }, ""},
		"all other Services":          {func(s *advSpec) { med(s, 1); s.ServiceSelectors = app("In", "web") }, func(s *advSpec) { med(s, 2); s.ServiceSelectors = app("NotIn", "web") }, ""},
		"Services without the label":  {func(s *advSpec) { med(s, 1); s.ServiceSelectors = app("DoesNotExist") }, func(s *advSpec) { med(s, 2); s.ServiceSelectors = app("Exists") }, ""},
		"some Services":               {func(s *advSpec) { med(s, 1); s.ServiceSelectors = app("In", "web", "api") }, func(s *advSpec) { med(s, 2); s.ServiceSelectors = app("NotIn", "web") }, "spec.med"},
		"label that nobody names":     {func(s *advSpec) { med(s, 1); s.ServiceSelectors = app("NotIn", "web") }, func(s *advSpec) { med(s, 2); s.ServiceSelectors = app("Exists") }, "spec.med"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, verdicts := Build(Objects{
				IPAddressPools: []*v1beta1.IPAddressPool{pool("p", 1, "192.0.2.0/24"), pool("q", 1, "198.51.100.128/25"), pool("six", 1, "2001:db8::/64")},
				BGPPeers: []*v1beta1.BGPPeer{
					peer("ebgp", 1, nil), peer("ibgp", 1, func(s *bgpSpec) { s.PeerAddress, s.PeerASN = "192.0.2.2", s.MyASN }),
				},
				BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", test.a), bgpAdvertisement("b", test.b)},
				Nodes:             []Node{nodeIn("node-1", "a"), nodeIn("node-2", "b")},
			})
			for name, other := range map[string]string{"a": "b", "b": "a"} {
				v := verdicts.BGPAdvertisements[name]
				var told []string
				for _, field := range []string{"spec.localPref", "spec.med", "spec.asPathPrepend"} {
					if strings.Contains(v.Message, field+": BGPAdvertisement "+other+" has another value") {
						told = append(told, field)
					}
				}
				if got := strings.Join(told, " "); !v.Accepted || got != test.fields || (v.Reason == v1beta1.ReasonConflict) != (test.fields != "") {
					t.Errorf("%s: told %q, want %q: accepted=%v %s: %s", name, got, test.fields, v.Accepted, v.Reason, v.Message)
				}
			}
		})
	}
}
