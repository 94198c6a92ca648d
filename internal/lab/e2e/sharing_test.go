package e2e

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
)

// otherNamespace makes a second namespace for the test, which goes with it. What is
// returned is for what is in it.
func (e *env) otherNamespace() *env {
	e.Helper()
	other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.namespace + "-other"}}
	if _, err := e.lab.kube.CoreV1().Namespaces().Create(e.ctx, other, metav1.CreateOptions{}); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		_ = e.lab.kube.CoreV1().Namespaces().Delete(context.WithoutCancel(e.ctx), other.Name, metav1.DeleteOptions{})
	})
	there := *e
	there.namespace = other.Name
	return &there
}

// allowSharing sets or, with "null", removes the annotation of the namespace that
// lets its Services share with those of others.
func (e *env) allowSharing(value string) {
	e.Helper()
	patch := []byte(`{"metadata":{"annotations":{"` + v1beta1.AnnotationShareAcrossNamespaces + `":` + value + `}}}`)
	if _, err := e.lab.kube.CoreV1().Namespaces().Patch(e.ctx, e.namespace, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		e.Fatal(err)
	}
}

// forNamespaces makes a pool one for namespaces besides the test's own.
func forNamespaces(names ...string) func(*v1beta1.IPAddressPool) {
	return func(p *v1beta1.IPAddressPool) {
		for _, name := range names {
			p.Spec.ServiceAllocation.Namespaces = append(p.Spec.ServiceAllocation.Namespaces, v1beta1.ObjectName(name))
		}
	}
}

// testSharingAcrossNamespaces: Services of different namespaces share an address
// if the pool says so, or both namespaces do.
func testSharingAcrossNamespaces(e *env) {
	key := annotated(v1beta1.AnnotationAllowSharedIP, "key")
	there := e.otherNamespace()
	e.createPool(e.namespace, e.ranges(0, 3), forNamespaces(there.namespace)) // who may not share has to wait
	e.createService("a", key, onPort(81))
	e.expectAddresses("a", 0)
	there.createService("apart", key, onPort(82))
	there.expectAddresses("apart", 1)

	e.allowSharing(`"true"`)
	there.allowSharing(`"true"`)
	e.createService("b", annotated(v1beta1.AnnotationAllowSharedIP, "second"), onPort(83))
	e.expectAddresses("b", 2)
	there.createService("allowed", annotated(v1beta1.AnnotationAllowSharedIP, "second"), onPort(84))
	there.expectAddresses("allowed", 2)

	e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"shareAcrossNamespaces": true}})
	e.waitAccepted(e.namespace, true)
	there.createService("by-pool", key, onPort(85))
	there.expectAddresses("by-pool", 0)
}

// testSharingAllowedLater: a Service that waits for an address which only one of
// another namespace has gets it as soon as both namespaces allow that, and keeps it
// when one of them does not any more. Both are served throughout.
func testSharingAllowedLater(e *env) {
	key := annotated(v1beta1.AnnotationAllowSharedIP, "key")
	there := e.otherNamespace()
	e.createPool(e.namespace, e.ranges(0, 1), forNamespaces(there.namespace))
	e.createAdvertisement(e.namespace, v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}})
	e.createDeployment(deployment{app: "web", replicas: 1})
	there.createDeployment(deployment{app: "web", replicas: 1})
	e.createService("here", key)
	addresses := e.waitServing("here")
	there.createService("there", key, onPort(81))
	there.waitCondition("there", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
	e.allowSharing(`"true"`)
	there.stays("one namespace alone allows nothing", time.Second, func(context.Context) (bool, string) {
		got := join(there.addressesOf("there"))
		return got == "", got
	})
	r, probes := e.record(), e.startProbes(watchService(), addresses...)
	there.allowSharing(`"true"`)
	if got := join(there.waitAnnounced("there")); got != join(addresses) {
		e.Errorf("the Service of the other namespace has %s, not %s", got, join(addresses))
	}
	for _, address := range addresses {
		e.waitServed(network.Client, address, 81, "/hostname")
	}
	elsewhere := there.record()
	e.allowSharing("null")
	e.waitRefusedToShare(key)
	e.expectNoFailure("another Service shares the address", probes.stop())
	r.expectSameAddresses("another Service shares the address", map[string]string{"here": join(addresses)})
	elsewhere.expectSameAddresses("sharing is not allowed any more", map[string]string{"there": join(addresses)})
	for _, address := range addresses {
		e.waitServed(network.Client, address, 81, "/hostname")
	}
}

// waitRefusedToShare returns when a new Service is refused the only address: it may
// still get it as long as the controller has not heard of what its namespace says.
func (e *env) waitRefusedToShare(key func(*corev1.Service)) {
	e.Helper()
	const name = "too-late"
	e.waitFor("a new Service to be refused the address", time.Minute, func(context.Context) (bool, string) {
		e.createService(name, key, onPort(82))
		reason := ""
		e.waitFor("the Service to be dealt with", 20*time.Second, func(context.Context) (bool, string) {
			c := meta.FindStatusCondition(e.service(name).Status.Conditions, v1beta1.ConditionAddressAllocated)
			if c == nil {
				return false, "it has no condition"
			}
			reason = c.Reason
			return true, ""
		})
		if reason != "PoolExhausted" {
			e.deleteService(name)
			e.waitGone(name)
		}
		return reason == "PoolExhausted", reason
	})
}

// testSharingRefused: a Service that asks for an address which it may not share is
// told with whom it collides, and why; so is one that has it and asks for what its
// neighbours do not allow.
func testSharingRefused(e *env) {
	there := e.otherNamespace()
	e.createPool(e.namespace, e.ranges(0, 4), forNamespaces(there.namespace))
	key := annotated(v1beta1.AnnotationAllowSharedIP, "key")
	this := annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(0)))
	e.createService("first", annotated(v1beta1.AnnotationAllowSharedIP, "lock"))
	e.expectAddresses("first", 0)
	e.annotate("first", v1beta1.AnnotationAllowSharedIP, "key") // alone, so it may
	e.createService("second", key, onPort(81))
	e.expectAddresses("second", 0)
	for name, r := range map[string]struct {
		in      *env
		changes []func(*corev1.Service)
		says    string
	}{
		"no-key":    {e, nil, "first: this Service has no sharing key"},
		"other-key": {e, []func(*corev1.Service){annotated(v1beta1.AnnotationAllowSharedIP, "lock")}, `first: the sharing keys "lock" here and "key" there differ`},
		"same-port": {e, []func(*corev1.Service){key, onPort(81)}, "second: both use TCP port 81"},
		"local":     {e, []func(*corev1.Service){key, onPort(83), local}, "first: to share under externalTrafficPolicy Local"},
		"elsewhere": {there, []func(*corev1.Service){key, onPort(84)}, "first: it is in another namespace"},
	} {
		r.in.createService(name, append(r.changes, this)...)
		r.in.expectRefused(name, "AddressInUse", e.address(0)[0].String()+" is in use by Service "+e.namespace+"/"+r.says)
	}
	r := e.record()
	for value, says := range map[string]string{`"lock"`: "second: the sharing keys", "null": "second: this Service has no sharing key"} {
		e.editService("first", fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, v1beta1.AnnotationAllowSharedIP, value))
		e.expectRefused("first", "AddressInUse", "is in use by Service "+e.namespace+"/"+says, "keeps "+join(e.address(0)[:1]))
	}
	e.deleteService("second")
	e.waitCondition("first", v1beta1.ConditionAddressAllocated, metav1.ConditionTrue, "Allocated")
	r.expectSameAddresses("the key was changed", map[string]string{"first": join(e.address(0))})
}

// expectRefused waits until a Service is told why it does not have what it asks for,
// by its condition and by an event.
func (e *env) expectRefused(service, reason string, says ...string) {
	e.Helper()
	e.waitRefused(service, reason, says...)
	e.waitEvent(service, "AllocationFailed", says...)
}

// waitRefused is expectRefused without the event: the API machinery drops those of
// an object that has had many.
func (e *env) waitRefused(service, reason string, says ...string) {
	e.Helper()
	what := fmt.Sprintf("Service %s to be refused (%s) with %q", service, reason, says)
	e.waitFor(what, 20*time.Second, func(ctx context.Context) (bool, string) {
		object, err := e.lab.kube.CoreV1().Services(e.namespace).Get(ctx, service, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		for _, c := range object.Status.Conditions {
			if c.Type == v1beta1.ConditionAddressAllocated {
				refused := c.Status == metav1.ConditionFalse && c.Reason == reason && containsAll(c.Message, says)
				return refused, fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
			}
		}
		return false, "no condition"
	})
}
