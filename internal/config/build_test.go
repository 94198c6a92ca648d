package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// pool makes a pool that is age days old.
func pool(name string, age int, addresses ...v1beta1.AddressRange) *v1beta1.IPAddressPool {
	created := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC).AddDate(0, 0, -age)
	return &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(created)},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: addresses},
	}
}

func advertisement(name string, pools ...v1beta1.ObjectName) *v1beta1.L2Advertisement {
	return &v1beta1.L2Advertisement{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1beta1.L2AdvertisementSpec{IPAddressPools: pools},
	}
}

func TestVerdicts(t *testing.T) {
	badSelector := pool("selector", 1, "198.51.100.0/24")
	badSelector.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{ServiceSelectors: []v1beta1.LabelSelector{
		{MatchExpressions: []v1beta1.LabelSelectorRequirement{{Key: "a b", Operator: metav1.LabelSelectorOpExists}}},
	}}
	tests := map[string]struct {
		objects Objects
		// want maps kind/name to "" for accepted, or to "Reason: part of the message".
		want map[string]string
	}{
		"a good pool": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{pool("a", 1, "192.0.2.0/24", "2001:db8::/64")}},
			want:    map[string]string{"pool/a": ""},
		},
		"a bad range costs only its own pool": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{
				pool("bad", 2, "192.0.2.0/24", "192.0.2.9-192.0.2.1"), pool("good", 1, "192.0.2.0/24"),
			}},
			want: map[string]string{"pool/bad": "Invalid: spec.addresses[1]", "pool/good": ""},
		},
		"addresses that no host can have": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{
				pool("a", 1, "0.0.0.0/0"), pool("b", 1, "224.0.0.1"), pool("c", 1, "127.0.0.1"), pool("d", 1, "255.255.255.255"),
				pool("e", 1, "fe80::1"), pool("f", 1, "ff02::1"), pool("g", 1, "::1"), pool("h", 1, "240.0.0.0/8"), pool("i", 1, "fd00::/8"),
			}},
			want: map[string]string{
				"pool/a": "Invalid: spec.addresses[0]", "pool/b": "multicast", "pool/c": "loopback", "pool/d": "broadcast",
				"pool/e": "link-local", "pool/f": "multicast", "pool/g": "loopback", "pool/h": "", "pool/i": "",
			},
		},
		"no address at all": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{pool("a", 1)}},
			want:    map[string]string{"pool/a": "Invalid: spec.addresses: Required"},
		},
		"every wrong field is named": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{pool("a", 1, "x", "192.0.2.0/24", "y")}},
			want:    map[string]string{"pool/a": `Invalid: spec.addresses[0]: Invalid value: "x": "x" is not a CIDR, a range FROM-TO or an IP address; spec.addresses[2]: `},
		},
		"of two that overlap the younger is refused": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{
				pool("a-younger", 1, "203.0.113.0/24", "192.0.2.128/25"), pool("b-older", 2, "192.0.2.0/24"),
			}},
			want: map[string]string{"pool/a-younger": "Overlap: spec.addresses[1]: 192.0.2.128-192.0.2.255 overlaps 192.0.2.0-192.0.2.255 of the older pool b-older", "pool/b-older": ""},
		},
		"of the same age the first by name stays": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{pool("b", 1, "192.0.2.0/24"), pool("a", 1, "192.0.2.0/24")}},
			want:    map[string]string{"pool/a": "", "pool/b": "Overlap: "},
		},
		"a refused pool blocks nobody": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{
				pool("oldest", 3, "192.0.2.0/28"), pool("middle", 2, "192.0.2.0/24"), pool("youngest", 1, "192.0.2.64/28"),
			}},
			want: map[string]string{"pool/oldest": "", "pool/middle": "Overlap: ", "pool/youngest": ""},
		},
		"a selector that is none": {
			objects: Objects{IPAddressPools: []*v1beta1.IPAddressPool{badSelector}},
			want:    map[string]string{"pool/selector": "Invalid: spec.serviceAllocation.serviceSelectors[0]"},
		},
		"an advertisement of a pool that is missing": {
			objects: Objects{L2Advertisements: []*v1beta1.L2Advertisement{advertisement("adv", "gone")}},
			want:    map[string]string{"l2/adv": "UnknownPool: spec.ipAddressPools[0]: no pool gone is in force"},
		},
		"an advertisement of a pool that is missing and one that is not": {
			objects: Objects{
				IPAddressPools:   []*v1beta1.IPAddressPool{pool("there", 1, "192.0.2.0/24")},
				L2Advertisements: []*v1beta1.L2Advertisement{advertisement("adv", "gone", "there")},
			},
			want: map[string]string{"pool/there": "", "l2/adv": ""},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			snapshot, verdicts := Build(test.objects)
			got := map[string]Verdict{}
			for name, v := range verdicts.IPAddressPools {
				got["pool/"+name] = v
				if _, inForce := snapshot.Pool(name); inForce != v.Accepted {
					t.Errorf("pool %s: accepted is %v, in the snapshot is %v", name, v.Accepted, inForce)
				}
			}
			for name, v := range verdicts.L2Advertisements {
				got["l2/"+name] = v
			}
			if len(got) != len(test.want) {
				t.Errorf("got %d verdicts, want %d", len(got), len(test.want))
			}
			for key, want := range test.want {
				v := got[key]
				if text := v.Reason + ": " + v.Message; v.Accepted != (want == "") || !v.Accepted && !strings.Contains(text, want) {
					t.Errorf("%s: got accepted=%v %s, want %q", key, v.Accepted, text, want)
				}
			}
		})
	}
}

// TestAdvertisementOutlivesPool: an address keeps being announced when the pool
// it came from is deleted, so the name must stay in the snapshot.
func TestAdvertisementOutlivesPool(t *testing.T) {
	t.Parallel()
	snapshot, _ := Build(Objects{L2Advertisements: []*v1beta1.L2Advertisement{advertisement("adv", "gone")}})
	if len(snapshot.L2Advertisements) != 1 || !snapshot.L2Advertisements[0].SelectsPool("gone") {
		t.Errorf("the advertisement of pool gone is not in force: %+v", snapshot.L2Advertisements)
	}
}

// TestOnConflict: what an advertisement says about conflicts is in the snapshot, and
// of two that disagree the one that yields counts.
func TestOnConflict(t *testing.T) {
	t.Parallel()
	old, yields, wrong := advertisement("old"), advertisement("yields"), advertisement("wrong")
	yields.Spec.OnConflict, wrong.Spec.OnConflict = v1beta1.ConflictYield, "Fight"
	yields.Annotations = map[string]string{v1beta1.AnnotationRebalance: "2"}
	snapshot, verdicts := Build(Objects{L2Advertisements: []*v1beta1.L2Advertisement{old, yields, wrong}})
	if len(snapshot.L2Advertisements) != 2 {
		t.Fatalf("%d advertisements are in force, want 2", len(snapshot.L2Advertisements))
	}
	if v := verdicts.L2Advertisements["wrong"]; v.Accepted || !strings.Contains(v.Message, "spec.onConflict") {
		t.Errorf("verdict on a policy that does not exist: %+v", v)
	}
	defend, yield := snapshot.L2Advertisements[0], snapshot.L2Advertisements[1]
	if defend.OnConflict != v1beta1.ConflictDefend || yield.OnConflict != v1beta1.ConflictYield {
		t.Errorf("policies are %s and %s", defend.OnConflict, yield.OnConflict)
	}
	if defend.Rebalance != "" || yield.Rebalance != "2" {
		t.Errorf("rebalance is %q and %q", defend.Rebalance, yield.Rebalance)
	}
	for _, test := range []struct {
		want v1beta1.ConflictPolicy
		of   []*L2Advertisement
	}{
		{v1beta1.ConflictDefend, nil},
		{v1beta1.ConflictDefend, []*L2Advertisement{defend}},
		{v1beta1.ConflictYield, []*L2Advertisement{defend, yield}},
		{v1beta1.ConflictYield, []*L2Advertisement{yield, defend}},
	} {
		if got := OnConflict(test.of...); got != test.want {
			t.Errorf("OnConflict of %d advertisements is %s, want %s", len(test.of), got, test.want)
		}
	}
}

func TestAdvertisementSelectsPools(t *testing.T) {
	t.Parallel()
	labelled := pool("labelled", 1, "192.0.2.0/24")
	labelled.Labels = map[string]string{"zone": "a"}
	plain := pool("plain", 1, "198.51.100.0/24")
	refused := pool("refused", 0, "198.51.100.0/24")
	refused.Labels = labelled.Labels
	bySelector := advertisement("selector")
	bySelector.Spec.IPAddressPoolSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"zone": "a"}}}
	both := bySelector.DeepCopy()
	both.Name, both.Spec.IPAddressPools = "both", []v1beta1.ObjectName{"plain"}

	snapshot, _ := Build(Objects{
		IPAddressPools:   []*v1beta1.IPAddressPool{labelled, plain, refused},
		L2Advertisements: []*v1beta1.L2Advertisement{advertisement("all"), advertisement("name", "plain"), bySelector, both},
	})
	want := map[string][]string{
		"all": {"labelled", "plain", "refused", "deleted"}, "both": {"labelled", "plain", "refused", "deleted"},
		"name": {"plain"}, "selector": {"labelled", "refused", "deleted"},
	}
	for _, adv := range snapshot.L2Advertisements {
		var got []string
		for _, name := range []string{"labelled", "plain", "refused", "deleted"} {
			if adv.SelectsPool(name) {
				got = append(got, name)
			}
		}
		if diff := cmp.Diff(want[adv.Name], got); diff != "" {
			t.Errorf("advertisement %s selects (-want +got):\n%s", adv.Name, diff)
		}
	}
}

func TestAutoAssignPools(t *testing.T) {
	t.Parallel()
	off := false
	with := func(p *v1beta1.IPAddressPool, change func(*v1beta1.ServiceAllocation)) *v1beta1.IPAddressPool {
		p.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{}
		change(p.Spec.ServiceAllocation)
		return p
	}
	manual := pool("manual", 1, "192.0.2.7")
	manual.Spec.AutoAssign = &off
	app := []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"app": "web"}}}
	snapshot, verdicts := Build(Objects{IPAddressPools: []*v1beta1.IPAddressPool{
		manual,
		pool("z-everyone", 1, "192.0.2.0"), pool("a-everyone", 1, "192.0.2.1"),
		with(pool("any-last", 1, "192.0.2.2"), func(*v1beta1.ServiceAllocation) {}),
		with(pool("team-5", 1, "192.0.2.3"), func(a *v1beta1.ServiceAllocation) {
			a.Priority, a.Namespaces = 5, []v1beta1.ObjectName{"team"}
		}),
		with(pool("web-1", 1, "192.0.2.4"), func(a *v1beta1.ServiceAllocation) { a.Priority, a.ServiceSelectors = 1, app }),
		with(pool("gold-5", 1, "192.0.2.5"), func(a *v1beta1.ServiceAllocation) {
			a.Priority, a.Namespaces = 5, []v1beta1.ObjectName{"elsewhere"}
			a.NamespaceSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"tier": "gold"}}}
		}),
	}})
	for name, v := range verdicts.IPAddressPools {
		if !v.Accepted {
			t.Fatalf("pool %s: %s", name, v.Message)
		}
	}
	tests := map[string]struct {
		service Service
		want    []string
	}{
		"nobody in particular": {Service{Namespace: "x"}, []string{"any-last", "a-everyone", "z-everyone"}},
		"by namespace":         {Service{Namespace: "team"}, []string{"team-5", "any-last", "a-everyone", "z-everyone"}},
		"by namespace labels; ties by name": {
			Service{Namespace: "team", NamespaceLabels: map[string]string{"tier": "gold"}},
			[]string{"gold-5", "team-5", "any-last", "a-everyone", "z-everyone"},
		},
		"by labels, first priority first": {
			Service{Namespace: "team", Labels: map[string]string{"app": "web"}},
			[]string{"web-1", "team-5", "any-last", "a-everyone", "z-everyone"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range snapshot.AutoAssignPools(test.service) {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("pools (-want +got):\n%s", diff)
			}
		})
	}
}
