package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
)

// testSelection: of many pools with one address each, a Service gets that of the
// first that is for it. The names are in another order than the pools are tried in,
// except among equals.
func testSelection(e *env) {
	labels := []byte(`{"metadata":{"labels":{"tier":"gold"}}}`)
	if _, err := e.lab.kube.CoreV1().Namespaces().Patch(e.ctx, e.namespace, types.MergePatchType, labels, metav1.PatchOptions{}); err != nil {
		e.Fatal(err)
	}
	gold, web := selector("tier", "gold"), selector("app", "web")
	lead, mail := selector("tier", "lead"), selector("app", "mail")
	here, there := []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}, []v1beta1.ObjectName{"somewhere-else"}
	no := false
	// In the order in which they are tried; those from never on never are.
	pools := []struct {
		name       string
		allocation *v1beta1.ServiceAllocation
	}{
		{"z-five", &v1beta1.ServiceAllocation{Priority: 5, ServiceSelectors: mail, Namespaces: here}},
		{"m-ten", &v1beta1.ServiceAllocation{Priority: 10, NamespaceSelectors: gold}},
		{"n-ten", &v1beta1.ServiceAllocation{Priority: 10, Namespaces: here, NamespaceSelectors: lead}},
		{"o-ten", &v1beta1.ServiceAllocation{Priority: 10, ServiceSelectors: web}},
		{"b-twenty", &v1beta1.ServiceAllocation{Priority: 20, Namespaces: append(there, here...), ServiceSelectors: append(mail, web...)}},
		{"a-unset", &v1beta1.ServiceAllocation{Namespaces: here}},
		{"x-all", nil},
		{"y-all", nil},
		{"never-other-namespace", &v1beta1.ServiceAllocation{Priority: 1, Namespaces: there, NamespaceSelectors: lead}},
		{"never-asked-for", &v1beta1.ServiceAllocation{Priority: 1, Namespaces: here}},
	}
	const never = 8
	for i := len(pools) - 1; i >= 0; i-- { // the age does not count either
		pool := pools[i]
		e.createPool(e.namespace+"-"+pool.name, e.ranges(i, 1), func(p *v1beta1.IPAddressPool) {
			p.Spec.ServiceAllocation = pool.allocation
			if pool.name == "never-asked-for" {
				p.Spec.AutoAssign = &no
			}
		})
	}
	// The first pool is only for Services with a label that these do not have.
	for i := 1; i < never; i++ {
		name := fmt.Sprintf("s-%d", i)
		e.createService(name, labelled("app", "web"))
		e.expectAddresses(name, i)
		if got, want := e.service(name).Annotations[v1beta1.AnnotationIPAllocatedFromPool], e.namespace+"-"+pools[i].name; got != want {
			e.Errorf("Service %s says that its pool is %s, not %s", name, got, want)
		}
	}
	e.createService("one-too-many", labelled("app", "web"))
	e.expectRefused("one-too-many", "PoolExhausted", "no IPv4 address left: pool "+e.namespace+"-m-ten", "not tried: ", pools[9].name+" (autoAssign is false)")
	e.createService("mail", labelled("app", "mail"))
	e.expectAddresses("mail", 0)
	// Who names a pool, or an address, need not wait for its turn.
	e.deleteService("s-7")
	e.expectAddresses("one-too-many", 7)
	e.createService("names-pool", annotated(v1beta1.AnnotationAddressPool, e.namespace+"-never-asked-for"))
	e.expectAddresses("names-pool", 9)
	e.deleteService("s-1")
	e.waitGone("s-1")
	e.deleteService("s-4")
	e.waitGone("s-4")
	e.createService("names-address", labelled("app", "web"), annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(4))))
	e.expectAddresses("names-address", 4)
}

func selector(key, value string) []v1beta1.LabelSelector {
	return []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{key: v1beta1.LabelValue(value)}}}
}

// testPoolForms: a pool may be written as CIDRs, ranges and single addresses, which
// are handed out in the order in which they are there.
func testPoolForms(e *env) {
	var ranges, without []v1beta1.AddressRange
	for _, first := range e.first {
		bits := first.BitLen() - 2
		ranges = append(ranges,
			v1beta1.AddressRange(advance(first, 12).String()),
			v1beta1.AddressRange(advance(first, 8).String()+"-"+advance(first, 9).String()),
			v1beta1.AddressRange(netip.PrefixFrom(first, bits).String()))
		without = append(without, v1beta1.AddressRange(advance(first, 1).String()))
	}
	e.createPool(e.namespace, ranges, func(p *v1beta1.IPAddressPool) { p.Spec.ExcludeAddresses = without })
	for i, nth := range []int{12, 8, 9, 0, 2, 3} {
		name := fmt.Sprintf("s-%d", i)
		e.createService(name)
		e.expectAddresses(name, nth)
	}
	e.createService("one-too-many")
	e.expectRefused("one-too-many", "PoolExhausted", "pool "+e.namespace+" (all 6 addresses are assigned)")
}

// testLargePools: pools of any size are counted and handed out, and addresses from
// their far ends too. Nothing announces these.
func testLargePools(e *env) {
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	for _, test := range []struct {
		name, pool  string
		family      corev1.IPFamily
		first, last string
		available   string // after two were taken; what is huge is rounded
	}{
		{"v6-64", "fd77:64::/64", v6, "fd77:64::", "fd77:64::ffff:ffff:ffff:ffff", "~2^64"},
		{"v6-32", "fd77:32::/32", v6, "fd77:32::", "fd77:32:ffff:ffff:ffff:ffff:ffff:ffff", "~2^96"},
		{"v4-8", "11.0.0.0/8", v4, "11.0.0.0", "11.255.255.255", "~2^24"},
	} {
		pool := e.namespace + "-" + test.name
		e.createPool(pool, []v1beta1.AddressRange{v1beta1.AddressRange(test.pool)}, nil)
		single := withPolicy(corev1.IPFamilyPolicySingleStack, test.family)
		e.createService(test.name+"-first", single, annotated(v1beta1.AnnotationAddressPool, pool))
		e.createService(test.name+"-last", single, annotated(v1beta1.AnnotationLoadBalancerIPs, test.last))
		for name, want := range map[string]string{test.name + "-first": test.first, test.name + "-last": test.last} {
			if got := join(e.waitAllocated(name)); got != want {
				e.Errorf("of pool %s Service %s has %s, not %s", test.pool, name, got, want)
			}
		}
		e.waitFor("pool "+pool+" to count what is left", 10*time.Second, func(context.Context) (bool, string) {
			status := e.pool(pool).Status
			return status.Available == test.available && status.Assigned == "2", fmt.Sprintf("%+v", status)
		})
	}

	buggy := e.namespace + "-buggy"
	e.createPool(buggy, []v1beta1.AddressRange{"12.0.0.254-12.0.2.1"}, func(p *v1beta1.IPAddressPool) { p.Spec.AvoidBuggyIPs = true })
	single, ofPool := withPolicy(corev1.IPFamilyPolicySingleStack, v4), annotated(v1beta1.AnnotationAddressPool, buggy)
	for i, want := range []string{"12.0.0.254", "12.0.1.1"} { // not .255 and .0
		name := fmt.Sprintf("buggy-%d", i)
		e.createService(name, single, ofPool)
		if got := join(e.waitAllocated(name)); got != want {
			e.Errorf("of a pool that avoids them Service %s has %s, not %s", name, got, want)
		}
	}
	e.createService("asks-for-buggy", single, annotated(v1beta1.AnnotationLoadBalancerIPs, "12.0.1.255"))
	e.expectRefused("asks-for-buggy", "AddressNotInPool", "12.0.1.255")
}
