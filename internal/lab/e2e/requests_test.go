package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
)

// testRequests: a Service gets the address or the pool that it asks for, by any
// of the names that this has, and is told when it cannot.
func testRequests(e *env) {
	special := e.namespace + "-special"
	e.createPool(e.namespace, e.ranges(0, 8), nil)
	no := false
	e.createPool(special, e.ranges(8, 8), func(p *v1beta1.IPAddressPool) { p.Spec.AutoAssign = &no })

	granted := []struct {
		name  string
		wish  func(*corev1.Service)
		wants int
	}{
		{"by-annotation", annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(5))), 5},
		{"by-alias", annotated("metallb.io/loadBalancerIPs", join(e.address(6))), 6},
		{"by-old-alias", annotated("metallb.universe.tf/loadBalancerIPs", join(e.address(7))), 7},
		{"of-pool", annotated(v1beta1.AnnotationAddressPool, special), 8},
		{"of-pool-by-alias", annotated("metallb.io/address-pool", special), 9},
		{"of-pool-by-old-alias", annotated("metallb.universe.tf/address-pool", special), 10},
		{"in-pool-that-must-be-asked", annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(14))), 14},
		{"without-wishes", func(*corev1.Service) {}, 0},
	}
	for _, g := range granted {
		e.createService(g.name, g.wish)
		if got, want := join(e.waitAllocated(g.name)), join(e.address(g.wants)); got != want {
			e.Errorf("%s: has %s, not %s", g.name, got, want)
		}
	}

	refused := []struct {
		name   string
		wish   func(*corev1.Service)
		reason string
		says   string
	}{
		{"in-use", annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(5))), "AddressInUse", e.namespace + "/by-annotation"},
		{"in-no-pool", annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.lab.clientIPs(e))), "AddressNotInPool", "not in any pool"},
		{"no-address", annotated(v1beta1.AnnotationLoadBalancerIPs, "web"), "InvalidRequest", v1beta1.AnnotationLoadBalancerIPs},
		{"unknown-pool", annotated(v1beta1.AnnotationAddressPool, "nowhere"), "UnknownPool", "pool nowhere"},
	}
	for _, r := range refused {
		e.createService(r.name, r.wish)
		e.waitCondition(r.name, v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, r.reason, r.says)
		e.waitEvent(r.name, "AllocationFailed", r.says)
	}
	e.changeWishes()
}

// clientIPs are addresses that are in use on the Ethernet but in no pool.
func (l *testLab) clientIPs(e *env) []netip.Addr {
	e.Helper()
	host, err := l.Plan().Host("client")
	if err != nil {
		e.Fatal(err)
	}
	var ips []netip.Addr
	for _, ip := range host.IPs() {
		if l.family.Has(ip) {
			ips = append(ips, ip)
		}
	}
	return ips
}

// changeWishes edits the wishes of Services that have an address.
func (e *env) changeWishes() {
	e.Helper()
	r := e.record()
	// A wish that cannot be met costs nothing.
	before := join(e.addressesOf("without-wishes"))
	e.annotate("without-wishes", v1beta1.AnnotationLoadBalancerIPs, join(e.address(5)))
	e.waitCondition("without-wishes", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "AddressInUse", "keeps "+strings.Split(before, ",")[0])
	r.expectSameAddresses("wish refused", map[string]string{"without-wishes": before})

	// One that can be met is: the old address becomes free.
	e.annotate("without-wishes", v1beta1.AnnotationLoadBalancerIPs, join(e.address(3)))
	e.waitFor("the new wish to be met", 10*time.Second, func(context.Context) (bool, string) {
		got := join(e.addressesOf("without-wishes"))
		return got == join(e.address(3)), got
	})
	e.createService("next")
	if got := join(e.waitAllocated("next")); got != before {
		e.Errorf("the address %s that was given up is not free: the next Service has %s", before, got)
	}
}

func (e *env) annotate(service, key, value string) {
	e.Helper()
	e.editService(service, fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value))
}

// testLoadBalancerIP: the field that Kubernetes once had for a requested address
// holds one address, so it is for Services of one family.
func testLoadBalancerIP(e *env) {
	e.createPool(e.namespace, e.ranges(0, 8), nil)
	for i, family := range e.families() {
		name := "by-" + strings.ToLower(string(family))
		want := e.address(4)[i]
		e.createService(name, withPolicy(corev1.IPFamilyPolicySingleStack, family), func(s *corev1.Service) { s.Spec.LoadBalancerIP = want.String() })
		if got := join(e.waitAllocated(name)); got != want.String() {
			e.Errorf("%s: has %s, not %s", name, got, want)
		}
	}
	name := "contradicts"
	e.createService(name, annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(5))), func(s *corev1.Service) {
		s.Spec.LoadBalancerIP = e.address(6)[0].String()
	})
	e.waitCondition(name, v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "InvalidRequest", "spec.loadBalancerIP", v1beta1.AnnotationLoadBalancerIPs)
}

// testClasses: Services of another class are another load balancer's, and
// nothing is ever written to them.
func testClasses(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	r := e.record()
	e.createService("theirs", ofClass("example.com/other"))
	e.createService("ours", ofClass(v1beta1.LoadBalancerClass))
	e.createService("default")
	e.waitAllocated("ours")
	e.waitAllocated("default")
	// By now the controller has seen the older Service as well.
	if writes := r.writes("theirs"); len(writes) != 1 {
		e.Errorf("a Service of another class was written %d times after its creation: %+v", len(writes)-1, writes[len(writes)-1].service)
	}
	if events, err := e.events(e.ctx, "theirs"); err != nil || len(events) > 0 {
		e.Errorf("a Service of another class has events %v (error %v)", events, err)
	}
	if writes := r.writes("ours"); len(writes) < 2 || ingressText(writes[1].service) == "" ||
		writes[1].service.Annotations[v1beta1.AnnotationIPAllocatedFromPool] != e.namespace {
		e.Error("addresses, condition and annotation do not come in a single write")
	}
}

// testFamilyPolicies: PreferDualStack takes what there is, adds the other family
// later and never moves the first; RequireDualStack waits for both.
func testFamilyPolicies(e *env) {
	v4, v6 := e.ranges(0, 4)[:1], e.ranges(0, 4)[1:]
	e.createPool(e.namespace+"-v4", v4, nil)
	e.createService("prefer", withPolicy(corev1.IPFamilyPolicyPreferDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
	if got, want := join(e.waitAllocated("prefer")), e.address(0)[0].String(); got != want {
		e.Errorf("without an IPv6 pool, PreferDualStack has %s, not %s", got, want)
	}
	if message := e.allocatedMessage("prefer"); !strings.Contains(message, "no IPv6 address") {
		e.Errorf("the condition does not say that the other address is missing: %q", message)
	}
	e.createService("require", withPolicy(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
	e.waitCondition("require", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted", "has no IPv6 addresses")
	if got := e.addressesOf("require"); len(got) > 0 {
		e.Errorf("RequireDualStack has only %v", got)
	}
	e.createService("single", withPolicy(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol))
	e.waitAllocated("single")

	// A pool for the other family may be a pool of its own.
	r := e.record()
	e.createPool(e.namespace+"-v6", v6, nil)
	for name, first := range map[string]int{"prefer": 0, "require": 2} {
		e.waitFor("Service "+name+" to have both families", 10*time.Second, func(context.Context) (bool, string) {
			got := e.addressesOf(name)
			return len(got) == 2 && got[0] == e.address(first)[0] && got[1].Is6(), join(got)
		})
	}
	for _, c := range r.writes("prefer") {
		if !strings.HasPrefix(ingressText(c.service), e.address(0)[0].String()) {
			e.Errorf("the first address of PreferDualStack was touched: %s", ingressText(c.service))
		}
	}
	if got := e.addressesOf("single"); len(got) != 1 {
		e.Errorf("a single-stack Service has %v", got)
	}
}

// testSeveralAddresses: a Service may ask for several addresses of a family. It gets
// all or none, all are served, and it may give one up without the others noticing.
func testSeveralAddresses(e *env) {
	e.usePool(8)
	e.createDeployment(deployment{app: "web", replicas: 1})
	four, six := e.address(4), e.address(6)
	want := []netip.Addr{four[0], six[0], four[1]} // two of IPv4, one of IPv6
	e.createService("several", annotated(v1beta1.AnnotationLoadBalancerIPs, join(want)))
	if got := e.waitServing("several"); join(got) != join(want) {
		e.Errorf("shows %s, not %s", join(got), join(want))
	}
	for _, address := range want {
		e.checkAnnounced("several", address)
	}
	e.createService("half", annotated(v1beta1.AnnotationLoadBalancerIPs, join([]netip.Addr{e.address(5)[0], six[0], six[1]})))
	e.expectRefused("half", "AddressInUse", six[0].String(), e.namespace+"/several")
	if got := e.addressesOf("half"); len(got) > 0 {
		e.Errorf("of three addresses, of which one is in use, it has %v", got)
	}

	r, probes := e.record(), e.startProbes(watchService(), four...)
	e.annotate("several", v1beta1.AnnotationLoadBalancerIPs, join(four))
	if got := e.waitServing("half"); len(got) != 3 {
		e.Errorf("of three addresses that are free it has %v", got)
	}
	e.expectNoFailure("another address of the Service is given up", probes.stop())
	for _, c := range r.writes("several") {
		for _, address := range four {
			if !strings.Contains(ingressText(c.service)+",", address.String()+",") {
				e.Errorf("at %s the Service had %s, without %s", c.at.Format("15:04:05.000"), ingressText(c.service), address)
			}
		}
	}
}

// testSecondFamilyLater: a PreferDualStack Service gains its second address as soon
// as there is a pool with one, whichever of its families that is. The first is
// served throughout.
func testSecondFamilyLater(e *env) {
	e.createDeployment(deployment{app: "web", replicas: 1})
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	for i, test := range []struct {
		name     string
		families []corev1.IPFamily
		first    int // which of the slot's families has a pool at first
	}{
		{"primary-first", []corev1.IPFamily{v4, v6}, 0},
		{"primary-first-six", []corev1.IPFamily{v6, v4}, 1},
		{"primary-later", []corev1.IPFamily{v4, v6}, 1},
	} {
		pools := []string{e.namespace + "-" + test.name + "-first", e.namespace + "-" + test.name + "-later"}
		e.createAdvertisement(pools[0], v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(pools[0]), v1beta1.ObjectName(pools[1])}})
		ranges := e.ranges(i, 1)
		e.createPool(pools[0], ranges[test.first:test.first+1], nil)
		e.createService(test.name, withPolicy(corev1.IPFamilyPolicyPreferDualStack, test.families...))
		first := e.waitServing(test.name)
		if join(first) != e.address(i)[test.first].String() {
			e.Errorf("%s: has %s at first, not %s", test.name, join(first), e.address(i)[test.first])
		}
		r, probes := e.record(), e.startProbes(watchService(), first...)
		e.createPool(pools[1], ranges[1-test.first:2-test.first], nil)
		e.waitFor("Service "+test.name+" to have both families", 10*time.Second, func(context.Context) (bool, string) {
			got := e.addressesOf(test.name)
			return len(got) == 2, join(got)
		})
		for _, address := range e.address(i) {
			e.waitServed(network.Client, address, servicePort, "/hostname")
		}
		e.expectNoFailure(test.name+": the second family comes", probes.stop())
		for _, c := range r.writes(test.name) {
			if !strings.Contains(ingressText(c.service)+",", first[0].String()+",") {
				e.Errorf("%s: the first address %s was touched: %s", test.name, first[0], ingressText(c.service))
			}
		}
		e.deleteService(test.name)
		for _, pool := range pools {
			e.deletePoolNamed(pool)
		}
	}
}

func (e *env) deletePoolNamed(name string) {
	e.Helper()
	if err := e.lab.berth.Delete().Resource("ipaddresspools").Name(name).Do(e.ctx).Error(); err != nil {
		e.Fatal(err)
	}
}
