package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// badInput is what a Service may ask for in vain.
type badInput struct {
	name string
	// annotations, and spec.loadBalancerIP unless it is empty.
	annotations    map[string]string
	loadBalancerIP string
	reason         string
	says           []string
}

// testBadInput: whatever a Service asks for in vain, it is told why by a condition
// and an event. One that is new has nothing; one that had an address keeps it, and
// once it asks for nothing all is well again.
func testBadInput(e *env) {
	inputs := append(malformed(e), e.unavailable()...)
	e.createService("good")
	e.waitAllocated("good")
	before := join(e.addressesOf("good"))
	for _, input := range inputs {
		e.createService(input.name, func(s *corev1.Service) {
			s.Annotations, s.Spec.LoadBalancerIP = input.annotations, input.loadBalancerIP
		})
	}
	r := e.record()
	for _, input := range inputs {
		e.expectRefused(input.name, input.reason, input.says...)
		e.editService("good", input.patch(true))
		e.waitRefused("good", input.reason, append(input.says, "keeps "+strings.Split(before, ",")[0])...)
		e.editService("good", input.patch(false))
		e.waitCondition("good", v1beta1.ConditionAddressAllocated, metav1.ConditionTrue, "Allocated")
	}
	r.expectSameAddresses("asking in vain", map[string]string{"good": before})
	for _, input := range inputs {
		if got := e.addressesOf(input.name); len(got) > 0 {
			e.Errorf("Service %s, which asks in vain, has %v", input.name, got)
		}
	}
}

// patch is a merge patch that asks, or takes back what was asked.
func (b badInput) patch(ask bool) string {
	var annotations []string
	for key, value := range b.annotations {
		text := "null"
		if ask {
			text = fmt.Sprintf("%q", value)
		}
		annotations = append(annotations, fmt.Sprintf("%q:%s", key, text))
	}
	field := "null"
	if ask && b.loadBalancerIP != "" {
		field = fmt.Sprintf("%q", b.loadBalancerIP)
	}
	return fmt.Sprintf(`{"metadata":{"annotations":{%s}},"spec":{"loadBalancerIP":%s}}`, strings.Join(annotations, ","), field)
}

// asks is a wish by annotation.
func asks(name, key, value, reason string, says ...string) badInput {
	return badInput{name: name, annotations: map[string]string{key: value}, reason: reason, says: says}
}

// malformed are wishes that make no sense in themselves; each names the annotation
// and quotes what is wrong.
func malformed(e *env) []badInput {
	const ips, invalid, mismatch = v1beta1.AnnotationLoadBalancerIPs, "InvalidRequest", "FamilyMismatch"
	four, six := e.address(0)[0].String(), e.address(0)[1].String()
	return []badInput{
		asks("no-address", ips, "web", invalid, ips, `"web"`),
		asks("prefix", ips, four+"/32", invalid, ips, four+"/32"),
		asks("octet", ips, "192.0.2.256", invalid, ips, "192.0.2.256"),
		asks("leading-zero", ips, "192.0.2.01", invalid, ips, "192.0.2.01"),
		asks("zone", ips, "fe80::1%eth0", invalid, ips, "fe80::1%eth0"),
		asks("mapped", ips, "::ffff:192.0.2.1", invalid, ips, "::ffff:192.0.2.1"),
		asks("no-ips", ips, "", invalid, ips, "empty"),
		asks("two-commas", ips, four+",,"+six, invalid, ips, "empty address"),
		asks("spaces", ips, four+" "+six, invalid, ips),
		asks("twice", ips, four+","+four, invalid, ips, "twice"),
		asks("alias", "metallb.io/loadBalancerIPs", "web", invalid, "metallb.io/loadBalancerIPs", `"web"`),
		asks("no-pool-name", v1beta1.AnnotationAddressPool, "", invalid, v1beta1.AnnotationAddressPool, "empty"),
		asks("some-day", v1beta1.AnnotationRetain, "some day", invalid, v1beta1.AnnotationRetain, `"some day"`),
		asks("negative", v1beta1.AnnotationRetain, "-1h", invalid, v1beta1.AnnotationRetain, `"-1h"`),
		{name: "contradiction", annotations: map[string]string{ips: four}, loadBalancerIP: e.address(1)[0].String(), reason: invalid, says: []string{ips, "spec.loadBalancerIP"}},
		asks("one-family", ips, four, mismatch, "no IPv6 address among those requested"),
		{name: "field-one-family", loadBalancerIP: six, reason: mismatch, says: []string{"no IPv4 address among those requested"}},
	}
}

// unavailable makes pools and Services in the way of wishes that would make sense
// otherwise, and returns these.
func (e *env) unavailable() []badInput {
	e.Helper()
	byRequest := func(p *v1beta1.IPAddressPool) { p.Spec.AutoAssign = ptr.To(false) }
	pool := func(name string) string { return e.namespace + "-" + name }
	e.createPool(e.namespace, e.ranges(0, 1), nil)
	e.createPool(pool("busy"), e.ranges(1, 1), byRequest)
	e.createPool(pool("resting"), e.ranges(2, 2), func(p *v1beta1.IPAddressPool) { byRequest(p); p.Spec.ReuseDelay = "1h" })
	e.createPool(pool("reserved"), e.ranges(4, 1), byRequest)
	e.createPool(pool("disabled"), e.ranges(5, 1), func(p *v1beta1.IPAddressPool) { byRequest(p); p.Spec.Disabled = true })
	e.createPool(pool("services"), e.ranges(6, 2), func(p *v1beta1.IPAddressPool) {
		byRequest(p)
		p.Spec.Quota = &v1beta1.PoolQuota{ServicesPerNamespace: ptr.To(int32(1))}
	})
	e.createPool(pool("addresses"), e.ranges(8, 3), func(p *v1beta1.IPAddressPool) {
		byRequest(p)
		p.Spec.Quota = &v1beta1.PoolQuota{AddressesPerNamespace: ptr.To(int32(3))}
	})
	e.createPool(pool("foreign"), e.ranges(11, 1), func(p *v1beta1.IPAddressPool) {
		p.Spec.ServiceAllocation.Namespaces = []v1beta1.ObjectName{"somewhere-else"}
	})
	e.createPool(pool("labelled"), e.ranges(12, 1), func(p *v1beta1.IPAddressPool) {
		p.Spec.ServiceAllocation.ServiceSelectors = selector("app", "mail")
	})
	e.waitReservation(e.reservation("held", func(s *v1beta1.IPReservationSpec) { s.Addresses, s.For.Service = e.ranges(4, 1), "somebody" }), v1beta1.ReasonAccepted)
	for _, name := range []string{"busy", "resting", "services", "addresses"} {
		e.createService("has-"+name, annotated(v1beta1.AnnotationAddressPool, pool(name)))
		e.waitAllocated("has-" + name)
	}
	e.deleteService("has-resting")
	e.waitFor("the address to rest", 10*time.Second, func(context.Context) (bool, string) {
		status := e.pool(pool("resting")).Status
		return len(status.Resting) > 0, fmt.Sprintf("%+v", status)
	})

	const ips, of, exhausted, notIn = v1beta1.AnnotationLoadBalancerIPs, v1beta1.AnnotationAddressPool, "PoolExhausted", "AddressNotInPool"
	nth := func(n int) string { return join(e.address(n)) }
	first := func(n int) string { return e.address(n)[0].String() }
	return []badInput{
		asks("in-use", ips, nth(1), "AddressInUse", first(1), e.namespace+"/has-busy"),
		asks("at-rest", ips, nth(2), "AddressResting", first(2), e.namespace+"/has-resting", " until "),
		asks("reserved", ips, nth(4), "AddressReserved", first(4), e.namespace+"/somebody", pool("held")),
		asks("in-disabled", ips, nth(5), "PoolDisabled", first(5), pool("disabled")),
		asks("of-services", ips, nth(7), "QuotaExceeded", pool("services"), "may have 1 Service"),
		asks("of-addresses", ips, nth(9), "QuotaExceeded", pool("addresses"), "may have 3 addresses"),
		asks("in-no-pool", ips, nth(15), notIn, first(15), "not in any pool"),
		asks("in-foreign", ips, nth(11), notIn, first(11), pool("foreign"), "other namespaces"),
		asks("in-labelled", ips, nth(12), notIn, first(12), pool("labelled"), "serviceSelectors"),
		asks("unknown", of, "nowhere", "UnknownPool", "nowhere"),
		asks("foreign", of, pool("foreign"), "PoolNotAllowed", pool("foreign"), "other namespaces"),
		asks("labelled", of, pool("labelled"), "PoolNotAllowed", pool("labelled"), "serviceSelectors"),
		asks("busy", of, pool("busy"), exhausted, pool("busy"), "its one address is assigned"),
		asks("disabled", of, pool("disabled"), "PoolDisabled", pool("disabled"), "is disabled"),
		asks("services", of, pool("services"), "QuotaExceeded", pool("services"), "quota", "may have 1 Service"),
		asks("addresses", of, pool("addresses"), "QuotaExceeded", pool("addresses"), "quota", "may have 3 addresses"),
	}
}
