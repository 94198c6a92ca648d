package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// testReservations: what is reserved goes to nobody else, and to whom it is for
// before anything else.
func testReservations(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	held := e.reservation("for-late", func(s *v1beta1.IPReservationSpec) { s.Addresses = e.ranges(0, 1); s.For.Service = "late" })
	e.waitReservation(held, v1beta1.ReasonAccepted)
	conflicting := e.reservation("too-late", func(s *v1beta1.IPReservationSpec) { s.Addresses = e.ranges(0, 2); s.For.Service = "other" })
	e.waitReservation(conflicting, v1beta1.ReasonConflict)
	expired := e.reservation("expired", func(s *v1beta1.IPReservationSpec) {
		s.Addresses = e.ranges(3, 1)
		s.Until = ptr.To(metav1.NewTime(time.Now().Add(-time.Minute)))
	})
	e.waitReservation(expired, v1beta1.ReasonExpired)

	e.createService("early")
	e.expectAddresses("early", 1)
	e.createService("greedy", annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(0))))
	c := e.waitCondition("greedy", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "AddressReserved")
	if !strings.Contains(c.Message, held) {
		e.Errorf("the condition does not name reservation %s: %s", held, c.Message)
	}
	e.createService("late")
	e.expectAddresses("late", 0)
	e.deleteService("late")
	e.waitGone("late")
	e.createService("next")
	e.expectAddresses("next", 2)
	e.createService("late")
	e.expectAddresses("late", 0)
}

// testReservedCount: a reservation takes as many addresses as it asks for and
// keeps them.
func testReservedCount(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	name := e.reservation("two", func(s *v1beta1.IPReservationSpec) {
		s.Count, s.Pool, s.For.Namespace = ptr.To(int32(2)), v1beta1.ObjectName(e.namespace), "somebody-else"
		s.Family = string(e.families()[0])
	})
	e.waitReservation(name, v1beta1.ReasonAccepted)
	e.createService("a")
	e.waitAllocated("a")
	if got, want := e.addressesOf("a")[0], e.address(2)[0]; got != want {
		e.Errorf("beside a reservation of the first two, a Service has %s, want %s", got, want)
	}
}

// testRetain: a re-created Service gets its addresses back.
func testRetain(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	keep := annotated(v1beta1.AnnotationRetain, "1h")
	e.createService("kept", keep)
	e.expectAddresses("kept", 0)
	name := "retained." + e.namespace + ".kept"
	e.created = append(e.created, "ipreservations/"+name)
	e.waitReservation(name, v1beta1.ReasonAccepted)
	e.deleteService("kept")
	e.waitGone("kept")
	e.createService("other")
	e.expectAddresses("other", 1)
	e.waitFor("the reservation to be given its end", 10*time.Second, func(context.Context) (bool, string) {
		r := e.ipReservation(name)
		return r.Spec.Until != nil, fmt.Sprintf("%+v", r.Spec)
	})
	e.createService("kept", keep)
	e.expectAddresses("kept", 0)

	e.createService("brief", annotated(v1beta1.AnnotationRetain, "2s"))
	e.expectAddresses("brief", 2)
	e.deleteService("brief")
	e.waitFor("the reservation of Service brief to be over", 20*time.Second, func(ctx context.Context) (bool, string) {
		err := e.lab.berth.Get().Resource("ipreservations").Name("retained." + e.namespace + ".brief").Do(ctx).Error()
		return err != nil && strings.Contains(err.Error(), "not found"), fmt.Sprint(err)
	})
}

// testPoolRules: excluded addresses, quota, reuseDelay, disabled.
func testPoolRules(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), func(p *v1beta1.IPAddressPool) {
		p.Spec.ExcludeAddresses = e.ranges(0, 1)
		p.Spec.ReuseDelay = "1h"
		p.Spec.Quota = &v1beta1.PoolQuota{ServicesPerNamespace: ptr.To(int32(2))}
	})
	e.createService("a")
	e.expectAddresses("a", 1)
	e.createService("b")
	e.expectAddresses("b", 2)
	e.createService("c")
	c := e.waitCondition("c", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
	if !strings.Contains(c.Message, "quota") {
		e.Errorf("the condition does not speak of the quota: %s", c.Message)
	}
	e.deleteService("a")
	e.expectAddresses("c", 3) // the address of a rests
	e.deleteService("c")
	e.waitGone("c")
	e.createService("a")
	e.expectAddresses("a", 1) // a has its own back at once
	e.waitPoolStatus(func(s v1beta1.IPAddressPoolStatus) bool {
		f := s.IPv4
		if f == nil {
			f = s.IPv6
		}
		return f != nil && *f == v1beta1.PoolFamilyStatus{Total: 3, Assigned: 2, Resting: 1}
	})

	e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"disabled": true, "quota": nil}})
	e.waitAccepted(e.namespace, true)
	e.createService("d")
	c = e.waitCondition("d", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
	if !strings.Contains(c.Message, "disabled") {
		e.Errorf("the condition does not say that the pool is disabled: %s", c.Message)
	}
	e.expectAddresses("a", 1)
}

// testMoves: a Service gets other addresses when it asks for them, or when the
// pool says so.
func testMoves(e *env) {
	e.createPool(e.namespace, e.ranges(0, 2), nil)
	e.createService("a")
	e.expectAddresses("a", 0)
	e.annotate("a", v1beta1.AnnotationRenew, "1")
	e.expectAddresses("a", 1)
	e.annotate("a", "example.com/unrelated", "x")
	e.stays("the renewed address", time.Second, func(context.Context) (bool, string) {
		got := join(e.addressesOf("a"))
		return got == join(e.address(1)), got
	})
	e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"addresses": e.ranges(4, 2)}})
	e.waitCondition("a", v1beta1.ConditionAddressAllocated, metav1.ConditionTrue, "OutOfPool")
	e.waitPoolStatus(func(s v1beta1.IPAddressPoolStatus) bool {
		return len(s.OutOfPool) == len(e.first) && strings.HasSuffix(s.OutOfPool[0].Services[0], "/a")
	})
	e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"onShrink": "Reassign"}})
	e.expectAddresses("a", 4)
}

// testSharingAcrossNamespaces: Services of different namespaces share an address
// if the pool says so, or both namespaces do.
func testSharingAcrossNamespaces(e *env) {
	key := annotated(v1beta1.AnnotationAllowSharedIP, "key")
	other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.namespace + "-other"}}
	if _, err := e.lab.kube.CoreV1().Namespaces().Create(e.ctx, other, metav1.CreateOptions{}); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		_ = e.lab.kube.CoreV1().Namespaces().Delete(context.WithoutCancel(e.ctx), other.Name, metav1.DeleteOptions{})
	})
	e.createPool(e.namespace, e.ranges(0, 4), func(p *v1beta1.IPAddressPool) {
		p.Spec.ServiceAllocation.Namespaces = append(p.Spec.ServiceAllocation.Namespaces, v1beta1.ObjectName(other.Name))
	})
	there := *e
	there.namespace = other.Name
	e.createService("a", key, onPort(81))
	e.expectAddresses("a", 0)
	there.createService("apart", key, onPort(82))
	there.expectAddresses("apart", 1)

	allow := []byte(`{"metadata":{"annotations":{"` + v1beta1.AnnotationShareAcrossNamespaces + `":"true"}}}`)
	for _, namespace := range []string{e.namespace, other.Name} {
		if _, err := e.lab.kube.CoreV1().Namespaces().Patch(e.ctx, namespace, types.MergePatchType, allow, metav1.PatchOptions{}); err != nil {
			e.Fatal(err)
		}
	}
	e.createService("b", annotated(v1beta1.AnnotationAllowSharedIP, "second"), onPort(83))
	e.expectAddresses("b", 2)
	there.createService("allowed", annotated(v1beta1.AnnotationAllowSharedIP, "second"), onPort(84))
	there.expectAddresses("allowed", 2)

	e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"shareAcrossNamespaces": true}})
	e.waitAccepted(e.namespace, true)
	there.createService("by-pool", key, onPort(85))
	there.expectAddresses("by-pool", 0)
}

// testTaken: a pool that covers what the cluster itself uses says so and does
// not hand it out.
func testTaken(e *env) {
	var ranges []v1beta1.AddressRange
	for _, address := range e.lab.Plan().Nodes()[0].Addresses {
		ranges = append(ranges, v1beta1.AddressRange(address.Addr().String()))
	}
	e.createPool(e.namespace, ranges, nil)
	c := e.waitAccepted(e.namespace, true)
	for _, r := range ranges {
		if !strings.Contains(c.Message, string(r)) {
			e.Errorf("the pool's condition does not speak of %s: %s", r, c.Message)
		}
	}
	e.createService("a")
	e.waitCondition("a", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
}

// testContested: another controller that writes the status is answered once,
// reported once, and not fought.
func testContested(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	e.createService("a")
	e.expectAddresses("a", 0)
	r := e.record()
	const fights = 20
	foreign := `{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.99"}]}}}`
	for range fights {
		_, err := e.lab.kube.CoreV1().Services(e.namespace).Patch(e.ctx, "a", types.MergePatchType, []byte(foreign), metav1.PatchOptions{}, "status")
		if err != nil {
			e.Fatal(err)
		}
	}
	e.waitCondition("a", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "Contested")
	e.waitEvent("a", "StatusOverwritten", "203.0.113.99", "loadBalancerClass")
	r.sync()
	answers, before := 0, join(e.address(0))
	for _, c := range r.writes("a") {
		now := ingressText(c.service)
		if now == join(e.address(0)) && before != now {
			answers++
		}
		before = now
	}
	if answers > 1 {
		e.Errorf("wrote its addresses back %d times against %d writes of another controller", answers, fights)
	}
	events, err := e.events(e.ctx, "a")
	if err != nil {
		e.Fatal(err)
	}
	for _, event := range events {
		if event.Reason == "StatusOverwritten" && event.Count > 1 {
			e.Errorf("reported %d times", event.Count)
		}
	}
}

// expectAddresses waits until a Service has the nth addresses of the test's slot.
func (e *env) expectAddresses(service string, nth int) {
	e.Helper()
	want := join(e.address(nth))
	e.waitFor(fmt.Sprintf("Service %s to have %s", service, want), 20*time.Second, func(ctx context.Context) (bool, string) {
		object, err := e.lab.kube.CoreV1().Services(e.namespace).Get(ctx, service, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		var has []netip.Addr
		for _, ingress := range object.Status.LoadBalancer.Ingress {
			if address, err := netip.ParseAddr(ingress.IP); err == nil {
				has = append(has, address)
			}
		}
		return join(has) == want, fmt.Sprintf("%+v", object.Status)
	})
}

// reservation makes a reservation for the test's namespace and returns its name.
func (e *env) reservation(name string, change func(*v1beta1.IPReservationSpec)) string {
	e.Helper()
	object := &v1beta1.IPReservation{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.GroupVersion().String(), Kind: "IPReservation"},
		ObjectMeta: metav1.ObjectMeta{Name: e.namespace + "-" + name},
		Spec:       v1beta1.IPReservationSpec{For: v1beta1.ReservationTarget{Namespace: v1beta1.ObjectName(e.namespace)}},
	}
	change(&object.Spec)
	e.create("ipreservations", object)
	return object.Name
}

func (e *env) ipReservation(name string) *v1beta1.IPReservation {
	e.Helper()
	object := &v1beta1.IPReservation{}
	content, err := e.lab.berth.Get().Resource("ipreservations").Name(name).DoRaw(e.ctx)
	if err == nil {
		err = json.Unmarshal(content, object)
	}
	if err != nil {
		e.Fatal(err)
	}
	return object
}

// waitReservation returns when the condition of a reservation has the reason.
func (e *env) waitReservation(name, reason string) {
	e.Helper()
	e.waitFor(fmt.Sprintf("reservation %s to be %s", name, reason), 20*time.Second, func(ctx context.Context) (bool, string) {
		content, err := e.lab.berth.Get().Resource("ipreservations").Name(name).DoRaw(ctx)
		if err != nil {
			return false, err.Error()
		}
		object := &v1beta1.IPReservation{}
		if err := json.Unmarshal(content, object); err != nil {
			return false, err.Error()
		}
		c := meta.FindStatusCondition(object.Status.Conditions, v1beta1.ConditionAccepted)
		return c != nil && c.Reason == reason, fmt.Sprintf("%+v", object.Status)
	})
}

// waitPoolStatus returns when the status of the test's pool is as wanted.
func (e *env) waitPoolStatus(wanted func(v1beta1.IPAddressPoolStatus) bool) {
	e.Helper()
	e.waitFor("the pool's status", 10*time.Second, func(context.Context) (bool, string) {
		status := e.pool(e.namespace).Status
		content, err := json.Marshal(status)
		if err != nil {
			return false, err.Error()
		}
		return wanted(status), string(content)
	})
}

// addressCases are about allocation only; one family's lab tells as much as
// three.
func addressCases() []testCase {
	return []testCase{
		{name: "Burst", run: testBurst, alone: true},
		{name: "Reservations", run: testReservations},
		{name: "ReservedCount", run: testReservedCount},
		{name: "Retain", run: testRetain},
		{name: "PoolRules", run: testPoolRules},
		{name: "Moves", run: testMoves},
		{name: "SharingAcrossNamespaces", run: testSharingAcrossNamespaces},
		{name: "Taken", run: testTaken},
		{name: "Contested", run: testContested},
	}
}

func TestAddresses(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name = "e2eaddresses"
	options.Nodes = 2
	options.IPFamily = network.Dual
	runIn(t, startLabWith(t, options), addressCases())
}
