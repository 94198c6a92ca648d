package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// testPoolEdits: whatever happens to a pool, live Services keep their addresses
// and their traffic, and new Services go by the edit.
func testPoolEdits(e *env) {
	e.createDeployment(deployment{app: "web", replicas: 2})
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	// Addresses that move to another pool go by the advertisements of that pool.
	e.createAdvertisement(e.namespace, v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{
		v1beta1.ObjectName(e.namespace), v1beta1.ObjectName(e.namespace + "-other"),
	}})
	addresses := map[string]string{}
	var probed []netip.Addr
	for _, name := range []string{"a", "b"} {
		e.createService(name)
		got := e.waitAnnounced(name)
		addresses[name] = join(got)
		probed = append(probed, got...)
		for _, address := range got {
			e.waitServed("client", address, servicePort, "/hostname")
		}
	}
	r := e.record()
	probes := e.startProbes(watchService(), probed...)

	e.closePool()
	e.shrinkPool()
	e.overlapPool()
	e.deletePool(addresses)

	e.expectNoFailure("pool edits", probes.stop())
	r.expectSameAddresses("pool edits", addresses)
	for name := range addresses {
		for _, c := range r.writes(name) {
			if !announcedText(c.service.Status.Conditions) {
				e.Errorf("Service %s was not announced at %s: %+v", name, c.at.Format("15:04:05.000"), c.service.Status)
			}
		}
	}
}

// announcedText says whether a Service is announced, according to itself.
func announcedText(conditions []metav1.Condition) bool {
	for _, c := range conditions {
		if c.Type == v1beta1.ConditionAnnounced {
			return c.Status == metav1.ConditionTrue
		}
	}
	return false
}

// closePool disables the pool, excludes what is in use, and makes the pool one for
// others, and undoes all that again.
func (e *env) closePool() {
	e.Helper()
	for i, spec := range []map[string]any{
		{"disabled": true},
		{"excludeAddresses": e.ranges(0, 4)},
		{"serviceAllocation": map[string]any{"namespaces": []string{"somewhere-else"}}},
	} {
		e.patchPool(e.namespace, map[string]any{"spec": spec})
		e.waitAccepted(e.namespace, true)
		name := fmt.Sprintf("closed-%d", i)
		reason := []string{"PoolDisabled", "PoolExhausted", "NoPool"}[i]
		e.createService(name)
		e.waitCondition(name, v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, reason)
		e.deleteService(name)
		e.waitGone(name)
		e.patchPool(e.namespace, map[string]any{"spec": map[string]any{
			"disabled": false, "excludeAddresses": nil, "serviceAllocation": map[string]any{"namespaces": []string{e.namespace}},
		}})
		e.waitAccepted(e.namespace, true)
	}
}

// shrinkPool takes the addresses in use out of the pool: the next Service gets
// one of the others although lower ones would be free elsewhere.
func (e *env) shrinkPool() {
	e.Helper()
	e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"addresses": e.ranges(3, 1)}})
	e.waitAccepted(e.namespace, true)
	e.createService("after-shrink")
	if got, want := join(e.waitAllocated("after-shrink")), join(e.address(3)); got != want {
		e.Errorf("after the pool was shrunk to %s a new Service has %s", want, got)
	}
	for _, name := range []string{"a", "b"} {
		e.waitCondition(name, v1beta1.ConditionAddressAllocated, metav1.ConditionTrue, "OutOfPool")
	}
	e.createService("too-many")
	e.waitCondition("too-many", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
	e.deleteService("too-many")
	e.waitGone("too-many")
}

func (e *env) allocatedMessage(service string) string {
	for _, c := range e.service(service).Status.Conditions {
		if c.Type == v1beta1.ConditionAddressAllocated {
			return c.Message
		}
	}
	return ""
}

// overlapPool adds a pool that has addresses of the other: it is refused alone.
// It is then moved over the addresses of the live Services, which are free to be
// in a pool but not to be given away.
func (e *env) overlapPool() {
	e.Helper()
	other := e.namespace + "-other"
	e.create("ipaddresspools", e.newPool(other, e.ranges(2, 4)))
	if c := e.waitAccepted(other, false); c.Reason != v1beta1.ReasonOverlap || !containsAll(c.Message, []string{"spec.addresses[0]", e.namespace}) {
		e.Errorf("a pool that overlaps is refused with %s: %s", c.Reason, c.Message)
	}
	e.waitAccepted(e.namespace, true)
	for name, accepted := range map[string]float64{other: 0, e.namespace: 1} {
		e.waitMetric(fmt.Sprintf("berth_config_object_accepted{kind=\"IPAddressPool\",name=%q}", name), func(v float64) bool { return v == accepted })
	}

	e.patchPool(other, map[string]any{"spec": map[string]any{"addresses": e.ranges(0, 3)}})
	e.waitAccepted(other, true)
	e.createService("after-move")
	if got, want := join(e.waitAllocated("after-move")), join(e.address(2)); got != want {
		e.Errorf("a pool with two addresses in use gives %s, not the free %s", got, want)
	}
	e.waitFor("the pool to count what is assigned of it", 10*time.Second, func(context.Context) (bool, string) {
		s := e.pool(other).Status
		want := int64(3)
		ok := (s.AssignedIPv4 == want || !e.hasIPv4()) && (s.AssignedIPv6 == want || !e.hasIPv6()) && s.AvailableIPv4+s.AvailableIPv6 == 0
		return ok, fmt.Sprintf("%+v", s)
	})
}

func (e *env) hasIPv4() bool { return e.first[0].Is4() }
func (e *env) hasIPv6() bool { return e.first[len(e.first)-1].Is6() }

// deletePool deletes all pools and makes the first one again.
func (e *env) deletePool(addresses map[string]string) {
	e.Helper()
	for _, name := range []string{e.namespace, e.namespace + "-other"} {
		e.deletePoolNamed(name)
	}
	e.createService("without-pool")
	e.waitCondition("without-pool", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "NoPool")
	e.deleteService("after-move")
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	// The one free address goes to who waits.
	if got, want := join(e.waitAllocated("without-pool")), join(e.address(2)); got != want {
		e.Errorf("a pool of which all but %s is in use gives %s", want, got)
	}
	for name, want := range addresses {
		e.waitFor("Service "+name+" to be in a pool again", 10*time.Second, func(context.Context) (bool, string) {
			message := e.allocatedMessage(name)
			return strings.Contains(message, "from pool "+e.namespace), message
		})
		if got := join(e.addressesOf(name)); got != want {
			e.Errorf("Service %s has %s, not %s", name, got, want)
		}
	}
}

// testPoolFull: a Service for which there is no address says which pools were
// tried and why each failed, and is served as soon as one becomes free.
func testPoolFull(e *env) {
	small, smaller, manual, foreign := e.namespace+"-a", e.namespace+"-b", e.namespace+"-manual", e.namespace+"-foreign"
	e.createPool(small, e.ranges(0, 2), func(p *v1beta1.IPAddressPool) { p.Spec.ServiceAllocation.Priority = 1 })
	e.createPool(smaller, e.ranges(2, 1), func(p *v1beta1.IPAddressPool) { p.Spec.ServiceAllocation.Priority = 2 })
	no := false
	e.createPool(manual, e.ranges(3, 1), func(p *v1beta1.IPAddressPool) { p.Spec.AutoAssign = &no })
	e.createPool(foreign, e.ranges(4, 1), func(p *v1beta1.IPAddressPool) {
		p.Spec.ServiceAllocation.Namespaces = []v1beta1.ObjectName{"somewhere-else"}
	})
	for i, name := range []string{"first", "second", "third"} {
		e.createService(name)
		if got, want := join(e.waitAllocated(name)), join(e.address(i)); got != want {
			e.Errorf("the %s Service has %s, not %s", name, got, want)
		}
	}
	e.createService("fourth")
	c := e.waitCondition("fourth", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
	want := []string{
		"pool " + small + " (all 2 addresses are assigned)", "pool " + smaller + " (its one address is assigned)",
		"not tried: ", "pool " + manual + " (autoAssign is false)", "pool " + foreign + " (",
	}
	if !containsAll(c.Message, want) {
		e.Errorf("the condition says %q, which lacks some of %q", c.Message, want)
	}
	if tried := strings.Index(c.Message, small); tried > strings.Index(c.Message, smaller) {
		e.Errorf("the condition does not name the pools in the order of their priority: %q", c.Message)
	}
	e.waitEvent("fourth", "AllocationFailed", want...)
	out, err := e.lab.Kubectl(e.ctx, nil, "get", "service", "fourth", "--namespace", e.namespace, "--no-headers")
	if err != nil || !strings.Contains(string(out), "<pending>") {
		e.Errorf("kubectl get svc shows %q (error %v), not <pending>", out, err)
	}

	e.deleteService("second")
	if got, want := join(e.waitAllocated("fourth")), join(e.address(1)); got != want {
		e.Errorf("the waiting Service got %s, not the address %s that became free", got, want)
	}
	e.waitEvent("fourth", "AddressAllocated", join(e.address(1)[:1]))
	events, err := e.events(e.ctx, "fourth")
	if err != nil {
		e.Fatal(err)
	}
	for _, event := range events {
		if event.Count > 1 {
			e.Errorf("event %s came %d times: %s", event.Reason, event.Count, event.Message)
		}
	}
}
