package allocation

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

func annotate(key, value string) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		if svc.Annotations == nil {
			svc.Annotations = map[string]string{}
		}
		svc.Annotations[key] = value
	}
}

func families(policy corev1.IPFamilyPolicy, families ...corev1.IPFamily) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, families
	}
}

func port(n int32) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.Ports[0].Port = n }
}

var dualStack = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

func TestOneWritePerService(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a")
	c.want("a", "192.0.2.1", reasonAllocated, "192.0.2.1 from pool default")
	if got := c.get("a").Annotations[v1beta1.AnnotationIPAllocatedFromPool]; got != "default" {
		t.Errorf("the annotation names pool %q", got)
	}
	if n := c.writes[keyOf(ownerOf(c.get("a")))]; n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	if len(c.events) != 1 || !strings.HasPrefix(c.events[0], "Normal AddressAllocated default/a") {
		t.Errorf("events: %q", c.events)
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change                     func(*corev1.Service)
		addresses, reason, message string
	}{
		"nothing special":             {func(*corev1.Service) {}, "192.0.2.1", reasonAllocated, "from pool default"},
		"an address":                  {annotate("berth.dev/load-balancer-ips", "192.0.2.5"), "192.0.2.5", reasonAllocated, "from pool default"},
		"an address by MetalLB's key": {annotate("metallb.universe.tf/loadBalancerIPs", "192.0.2.5"), "192.0.2.5", reasonAllocated, ""},
		"an address by the spec":      {func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.5" }, "192.0.2.5", reasonAllocated, ""},
		"several addresses":           {annotate("berth.dev/load-balancer-ips", "192.0.2.5,192.0.2.3"), "192.0.2.5 192.0.2.3", reasonAllocated, ""},
		"a pool":                      {annotate("berth.dev/address-pool", "manual"), "198.51.100.1", reasonAllocated, "from pool manual"},
		"an address of a manual pool": {annotate("berth.dev/load-balancer-ips", "198.51.100.2"), "198.51.100.2", reasonAllocated, ""},
		"IPv6":                        {families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol), "2001:db8::", reasonAllocated, ""},
		"both families required":      {families(corev1.IPFamilyPolicyRequireDualStack, dualStack...), "192.0.2.1 2001:db8::", reasonAllocated, "2001:db8:: from pool six"},
		"both preferred":              {families(corev1.IPFamilyPolicyPreferDualStack, dualStack...), "192.0.2.1 2001:db8::", reasonAllocated, ""},
		"a pool that is not there":    {annotate("berth.dev/address-pool", "nope"), "", reasonUnknownPool, "no IPAddressPool of that name"},
		"a pool for others":           {annotate("berth.dev/address-pool", "team"), "", reasonPoolNotAllowed, "other namespaces than default"},
		"an address for others":       {annotate("berth.dev/load-balancer-ips", "203.0.113.1"), "", reasonAddressNotInPool, "other namespaces than default"},
		"an address of no pool":       {annotate("berth.dev/load-balancer-ips", "10.0.0.1"), "", reasonAddressNotInPool, "10.0.0.1"},
		"an address of no family":     {annotate("berth.dev/load-balancer-ips", "2001:db8::1"), "", reasonFamilyMismatch, "2001:db8::1"},
		"nonsense":                    {annotate("metallb.io/loadBalancerIPs", "yes please"), "", reasonInvalidRequest, "metallb.io/loadBalancerIPs"},
		"our class":                   {func(s *corev1.Service) { class := v1beta1.LoadBalancerClass; s.Spec.LoadBalancerClass = &class }, "192.0.2.1", reasonAllocated, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.pool("default", "192.0.2.1-192.0.2.9")
			c.pool("six", "2001:db8::/64")
			manual := c.pool("manual", "198.51.100.1-198.51.100.9").DeepCopy()
			off := false
			manual.Spec.AutoAssign = &off
			c.putPool(manual)
			team := c.pool("team", "203.0.113.0/24").DeepCopy()
			team.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{Namespaces: []v1beta1.ObjectName{"team"}}
			c.putPool(team)
			c.service("a", test.change)
			c.want("a", test.addresses, test.reason, test.message)
		})
	}
}

// TestNotOurs: Services of others are never written.
func TestNotOurs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	other := "example.com/other"
	c.service("other", func(s *corev1.Service) {
		s.Spec.LoadBalancerClass = &other
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	})
	c.service("cluster-ip", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	c.wantQuiet()
	c.service("ours")
	c.want("ours", "192.0.2.1", reasonAllocated, "")
}

func TestFullPoolSaysWhatWasTried(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.service("early")
	c.want("early", "", reasonNoPool, "there is no IPAddressPool; create one")
	c.pool("small", "192.0.2.1")
	c.want("early", "192.0.2.1", reasonAllocated, "")
	manual := c.pool("manual", "198.51.100.1").DeepCopy()
	off := false
	manual.Spec.AutoAssign = &off
	c.putPool(manual)
	c.service("late")
	c.want("late", "", reasonPoolExhausted, "pool small (its one address is assigned); not tried: pool manual (autoAssign is false)")
	if got := c.events[len(c.events)-1]; !strings.HasPrefix(got, "Warning AllocationFailed default/late: no IPv4 address left") {
		t.Errorf("last event: %s", got)
	}
	c.service("later")
	c.delete("early")
	c.want("late", "192.0.2.1", reasonAllocated, "")
	c.want("later", "", reasonPoolExhausted, "")
}

func TestAddressIsFreed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*corev1.Service){
		"type": func(s *corev1.Service) {
			s.Spec.Type, s.Status.LoadBalancer.Ingress = corev1.ServiceTypeClusterIP, nil // as the API server does
		},
		"class": func(s *corev1.Service) { other := "example.com/other"; s.Spec.LoadBalancerClass = &other },
		"asks for another": func(s *corev1.Service) {
			annotate("berth.dev/load-balancer-ips", "192.0.2.2")(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.pool("default", "192.0.2.1-192.0.2.2")
			c.service("a")
			c.edit("a", change)
			c.service("b")
			c.want("b", "192.0.2.1", reasonAllocated, "")
			a := c.get("a")
			if name == "asks for another" {
				c.want("a", "192.0.2.2", reasonAllocated, "")
			} else if len(a.Annotations) > 0 || len(a.Status.Conditions) > 0 {
				t.Errorf("traces stay on a Service that is not ours any more: %v %v", a.Annotations, a.Status.Conditions)
			}
		})
	}
}

// TestPoolEditsMoveNothing is invariant 1 of the design.
func TestPoolEditsMoveNothing(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*cluster, *v1beta1.IPAddressPool){
		"shrunk": func(c *cluster, p *v1beta1.IPAddressPool) {
			p.Spec.Addresses = []v1beta1.AddressRange{"192.0.2.8/29"}
			c.putPool(p)
		},
		"re-selected": func(c *cluster, p *v1beta1.IPAddressPool) {
			p.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{Namespaces: []v1beta1.ObjectName{"elsewhere"}}
			c.putPool(p)
		},
		"made invalid": func(c *cluster, p *v1beta1.IPAddressPool) {
			p.Spec.Addresses = []v1beta1.AddressRange{"what"}
			c.putPool(p)
		},
		"deleted":                func(c *cluster, p *v1beta1.IPAddressPool) { c.deletePool(p.Name) },
		"avoids buggy addresses": func(c *cluster, p *v1beta1.IPAddressPool) { p.Spec.AvoidBuggyIPs = true; c.putPool(p) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			p := c.pool("default", "192.0.2.0/28")
			c.service("a")
			c.want("a", "192.0.2.0", reasonAllocated, "")
			edit(c, p.DeepCopy())
			reason := reasonOutOfPool
			if name == "re-selected" {
				reason = reasonAllocated
			}
			c.want("a", "192.0.2.0", reason, "")
			if got := c.get("a").Annotations[v1beta1.AnnotationIPAllocatedFromPool]; got != "default" {
				t.Errorf("annotation names pool %q, want default: advertisements go by it", got)
			}
			c.restart()
			c.want("a", "192.0.2.0", reason, "")
			c.wantQuiet()
			c.edit("a", annotate("example.com/unrelated", "x"))
			c.want("a", "192.0.2.0", reason, "")
		})
	}
}

func TestRestartWritesNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9", "2001:db8::/64")
	c.service("plain")
	c.service("dual", families(corev1.IPFamilyPolicyPreferDualStack, dualStack...))
	c.service("shared-1", annotate("berth.dev/allow-shared-ip", "k"))
	c.service("shared-2", annotate("berth.dev/allow-shared-ip", "k"), port(443))
	c.service("refused", annotate("berth.dev/address-pool", "nope"))
	c.delete("plain") // leaves a hole below the others
	c.tick()
	c.restart()
	c.tick()
	c.wantQuiet()
	if len(c.writes) > 0 {
		t.Errorf("writes after a restart: %v", c.writes)
	}
	c.want("dual", "192.0.2.2 2001:db8::", reasonAllocated, "")
	c.want("shared-1", "192.0.2.3", reasonAllocated, "")
	c.want("shared-2", "192.0.2.3", reasonAllocated, "")
}

// TestRestoreByAge: two Services claim an address that they may not share.
func TestRestoreByAge(t *testing.T) {
	t.Parallel()
	claim := func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.5", IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}}
		meta.FindStatusCondition(s.Status.Conditions, v1beta1.ConditionAddressAllocated).Message = "192.0.2.5 from pool default"
	}
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("z-older")
	c.service("a-younger")
	for _, name := range []string{"z-older", "a-younger"} {
		claim(c.get(name))
	}
	c.restart()
	c.want("z-older", "192.0.2.5", reasonAllocated, "")
	c.want("a-younger", "192.0.2.1", reasonAllocated, "")
	if all := strings.Join(c.events, "\n"); !strings.Contains(all, "Warning AddressLost default/a-younger: address 192.0.2.5 is in use by Service default/z-older") {
		t.Errorf("the loser is not told: %s", all)
	}
}

// TestHandover: an address that one Service gives up and another gets at once is
// never shown by both, in whatever order the writes arrive.
func TestHandover(t *testing.T) {
	t.Parallel()
	for range 20 {
		c := newCluster(t)
		c.noDoubles = true
		c.pool("default", "192.0.2.1-192.0.2.3")
		c.service("a")
		c.service("b")
		c.service("c", annotate("berth.dev/load-balancer-ips", "192.0.2.1"))
		c.want("c", "", reasonAddressInUse, "")
		c.edit("a", annotate("berth.dev/load-balancer-ips", "192.0.2.3"))
		c.want("a", "192.0.2.3", reasonAllocated, "")
		c.want("c", "192.0.2.1", reasonAllocated, "")
		c.edit("a", annotate("berth.dev/load-balancer-ips", "192.0.2.2"))
		c.want("a", "192.0.2.3", reasonAddressInUse, "")
		c.delete("b")
		c.want("a", "192.0.2.2", reasonAllocated, "")
	}
}

// TestForeignAddress: what another load balancer wrote is kept only if a pool
// has it.
func TestForeignAddress(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	foreign := func(ip string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}} }
	}
	c.pools["default"] = &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"192.0.2.1-192.0.2.9"}},
	}
	for name, change := range map[string]func(*corev1.Service){
		"in-pool": foreign("192.0.2.7"), "node-address": foreign("10.0.0.1"),
		"from-metallb": func(s *corev1.Service) {
			foreign("10.0.0.2")(s)
			annotate("metallb.universe.tf/ip-allocated-from-pool", "old")(s)
		},
	} {
		c.services[ownerOf(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})] = func() *corev1.Service {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80}}}}
			change(svc)
			return svc
		}()
	}
	c.restart()
	c.want("in-pool", "192.0.2.7", reasonAllocated, "")
	c.want("node-address", "192.0.2.1", reasonAllocated, "")
	c.want("from-metallb", "10.0.0.2", reasonOutOfPool, "in no pool")
}

func TestSharing(t *testing.T) {
	t.Parallel()
	key := annotate("berth.dev/allow-shared-ip", "k")
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a", key)
	c.service("b", key, port(443))
	c.want("b", "192.0.2.1", reasonAllocated, "")
	c.service("same-port", key)
	c.want("same-port", "192.0.2.2", reasonAllocated, "")
	c.service("asks", key, annotate("berth.dev/load-balancer-ips", "192.0.2.1"))
	c.want("asks", "", reasonAddressInUse, "Service default/a")
	local := func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy, s.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": "x"}
	}
	c.service("local", key, port(81), local)
	c.want("local", "192.0.2.3", reasonAllocated, "")
	c.edit("b", port(80))
	c.want("b", "192.0.2.1", reasonAddressInUse, "keeps 192.0.2.1")
	c.edit("b", port(444))
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

// TestRestartKeepsRefusedSharers: an edit of a sharer that is refused must not
// cost anybody the address when the controller restarts.
func TestRestartKeepsRefusedSharers(t *testing.T) {
	t.Parallel()
	key := annotate("berth.dev/allow-shared-ip", "k")
	for name, edit := range map[string]func(*corev1.Service){
		"key":  annotate("berth.dev/allow-shared-ip", "k2"),
		"port": port(443),
		"policy": func(s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy, s.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": "x"}
		},
		"nonsense": annotate("berth.dev/load-balancer-ips", "what"),
	} {
		for _, edited := range []string{"older", "younger"} {
			t.Run(name+" of the "+edited, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t)
				c.pool("default", "192.0.2.1-192.0.2.9")
				c.service("older", key)
				c.service("younger", key, port(443))
				change := edit
				if edited == "younger" && name == "port" {
					change = port(80)
				}
				c.edit(edited, change)
				c.restart()
				for _, service := range []string{"older", "younger"} {
					if got := c.get(service).Status.LoadBalancer.Ingress; len(got) != 1 || got[0].IP != "192.0.2.1" {
						t.Errorf("%s has %v", service, got)
					}
				}
				c.wantQuiet()
			})
		}
	}
}

// TestSecondFamilyLater: PreferDualStack takes what there is, and the rest when
// there is more, without moving what it has.
func TestSecondFamilyLater(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("four", "192.0.2.1")
	c.service("a", families(corev1.IPFamilyPolicyPreferDualStack, dualStack...))
	c.want("a", "192.0.2.1", reasonAllocated, "IPv6")
	c.service("strict", families(corev1.IPFamilyPolicyRequireDualStack, dualStack...))
	c.want("strict", "", reasonPoolExhausted, "")
	c.pool("six", "2001:db8::/64")
	c.want("a", "192.0.2.1 2001:db8::", reasonAllocated, "2001:db8:: from pool six")
	c.want("strict", "", reasonPoolExhausted, "no IPv4 address left")
}

func TestFailedWishKeepsAddress(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a")
	c.service("b")
	c.edit("b", annotate("berth.dev/load-balancer-ips", "192.0.2.1"))
	c.want("b", "192.0.2.2", reasonAddressInUse, "keeps 192.0.2.2 from pool default")
	before := len(c.events)
	c.edit("b", annotate("example.com/unrelated", "x"))
	if len(c.events) != before {
		t.Errorf("an event without a transition: %s", c.events[before:])
	}
	c.delete("a")
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

func TestPoolStatus(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.0/30", "2001:db8::/64")
	c.pool("overlapping", "192.0.2.1")
	c.adverts["adv"] = &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "adv"}}
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindL2Advertisement, Name: "adv"})
	c.service("a")
	c.service("b")
	c.tick()
	status := c.pools["default"].Status
	if status.Assigned != "2 IPv4, 0 IPv6" || status.Available != "2 IPv4, ~2^64 IPv6" || status.AssignedIPv4 != 2 || status.AvailableIPv4 != 2 {
		t.Errorf("status is %+v", status)
	}
	if !meta.IsStatusConditionTrue(status.Conditions, v1beta1.ConditionAccepted) {
		t.Errorf("default is not accepted: %v", status.Conditions)
	}
	refused := meta.FindStatusCondition(c.pools["overlapping"].Status.Conditions, v1beta1.ConditionAccepted)
	if refused == nil || refused.Status != metav1.ConditionFalse || refused.Reason != v1beta1.ReasonOverlap {
		t.Errorf("overlapping: %v", refused)
	}
	if !meta.IsStatusConditionTrue(c.adverts["adv"].Status.Conditions, v1beta1.ConditionAccepted) {
		t.Errorf("adv is not accepted")
	}
	for key := range c.writes {
		c.writes[key] = 0
	}
	for range 3 {
		c.tick()
	}
	for key, n := range c.writes {
		if n > 0 {
			t.Errorf("%s written %d times without a change", key, n)
		}
	}
}

// TestNamespaceOpensPool: a pool for labelled namespaces serves those that are
// labelled later.
func TestNamespaceOpensPool(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("gold", "192.0.2.1").DeepCopy()
	p.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{
		NamespaceSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"tier": "gold"}}},
	}
	c.putPool(p)
	c.service("a")
	c.want("a", "", reasonNoPool, "not tried: pool gold (it is for other namespaces than default)")
	c.namespaces["default"] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"tier": "gold"}}}
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindNamespace, Name: "default"})
	c.settle()
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

// TestStatusPatchSaysWhatGoes: a field that a status has no more is null in the
// patch, and no number loses digits.
func TestStatusPatchSaysWhatGoes(t *testing.T) {
	t.Parallel()
	has := v1beta1.IPAddressPoolStatus{
		AssignedIPv4: 1, IPv4: &v1beta1.PoolFamilyStatus{Total: 1}, OutOfPool: []v1beta1.OutOfPoolAddress{{Address: "192.0.2.1"}},
	}
	patch, err := statusPatch(has, v1beta1.IPAddressPoolStatus{AvailableIPv6: math.MaxInt64})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"status":{"assignedIPv4":0,"assignedIPv6":0,"availableIPv4":0,"availableIPv6":9223372036854775807,"ipv4":null,"outOfPool":null}}`
	if string(patch) != want {
		t.Errorf("patch\n%s, want\n%s", patch, want)
	}
}

// TestMisspeltAnnotation: what Berth ignores though it seems to be meant for it.
func TestMisspeltAnnotation(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1")
	c.service("a", annotate("berth.dev/pool-of-addresses", "default"))
	c.want("a", "192.0.2.1", reasonAllocated, "192.0.2.1 from pool default; ignored, because Berth has no such annotation: berth.dev/pool-of-addresses")
	c.edit("a", func(s *corev1.Service) { delete(s.Annotations, "berth.dev/pool-of-addresses") })
	c.want("a", "192.0.2.1", reasonAllocated, "192.0.2.1 from pool default")
}

// TestGrantedIn: a message tells what a Service has, in its first words only.
func TestGrantedIn(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	granted := []ipam.Assigned{
		{Address: addr("192.0.2.1"), Pool: "a", From: "a"}, {Address: addr("2001:db8::1"), From: "b"}, {Address: addr("192.0.2.2")},
	}
	for message, want := range map[string]int{
		describe(granted): 3,
		describe(granted) + "; something is missing":       3,
		keeping(granted) + "it asks for nonsense":          3,
		keeping(granted[:1]) + "another has written":       1,
		describe(granted[1:2]):                             1,
		"":                                                 0,
		"gets 192.0.2.1 from pool a as soon as it is free": 0,
		`berth.dev/x: "keeps 192.0.2.1 from pool a; "`:     0,
		"192.0.2.1":                                        0,
		"192.0.2.1 of yore":                                0,
	} {
		got := grantedIn(message)
		if len(got) != want {
			t.Errorf("in %q are %v, want %d", message, got, want)
			continue
		}
		for _, a := range got {
			if !slices.ContainsFunc(granted, func(g ipam.Assigned) bool { return g.Address == a.Address && g.From == a.From }) {
				t.Errorf("in %q is %v", message, a)
			}
		}
	}
}
