package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
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
	e.waitCondition("greedy", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "AddressReserved", held)
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

// testReservedNamespace: what is reserved for a namespace goes to any of its
// Services, before what is free for all, and to none of another namespace.
func testReservedNamespace(e *env) {
	there := e.otherNamespace()
	e.createPool(e.namespace, e.ranges(0, 3), forNamespaces(there.namespace))
	name := e.reservation("whole", func(s *v1beta1.IPReservationSpec) { s.Addresses = e.ranges(0, 2) })
	e.waitReservation(name, v1beta1.ReasonAccepted)
	there.createService("theirs")
	there.expectAddresses("theirs", 2)
	there.createService("waits")
	there.expectRefused("waits", "PoolExhausted", "reserved")
	for i, name := range []string{"a", "b"} {
		e.createService(name)
		e.expectAddresses(name, i)
	}
	e.deleteService("a")
	e.waitGone("a")
	e.createService("c")
	e.expectAddresses("c", 0)
	e.deleteReservation(name)
	e.deleteService("c")
	there.expectAddresses("waits", 0)
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
	e.waitCondition("c", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "QuotaExceeded", "quota")
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
	e.waitCondition("d", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolDisabled", "disabled")
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

// testTaken: a pool that covers what the cluster itself uses, of nodes, Pods and
// Services, says so and does not hand it out, not even on request.
func testTaken(e *env) {
	plan := e.lab.Plan()
	node := plan.Nodes()[0]
	var taken []netip.Addr
	for _, prefix := range slices.Concat(node.Addresses, node.PodCIDRs, plan.ServiceCIDRs) {
		taken = append(taken, prefix.Addr())
	}
	for _, prefix := range slices.Concat(node.PodCIDRs, plan.ServiceCIDRs) {
		taken = append(taken, advance(prefix.Masked().Addr(), 200))
	}
	ranges := e.ranges(0, 1)
	for _, address := range taken {
		ranges = append(ranges, v1beta1.AddressRange(address.String()))
	}
	e.createPool(e.namespace, ranges, nil)
	e.waitFor("the pool's condition to speak of all that is taken", 10*time.Second, func(context.Context) (bool, string) {
		c := e.waitAccepted(e.namespace, true)
		return containsAll(c.Message, []string{"of node " + node.Name, "of the Pods of node " + node.Name, "of ServiceCIDR "}), c.Message
	})
	e.createService("a")
	e.expectAddresses("a", 0)
	e.createService("b")
	e.waitCondition("b", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
	for i, address := range taken {
		family := corev1.IPv4Protocol
		if address.Is6() {
			family = corev1.IPv6Protocol
		}
		name := fmt.Sprintf("asks-%d", i)
		e.createService(name, withPolicy(corev1.IPFamilyPolicySingleStack, family), annotated(v1beta1.AnnotationLoadBalancerIPs, address.String()))
		e.expectRefused(name, "AddressNotInPool", address.String())
	}
}

// testContested: another controller that writes the status is answered once,
// reported once, and not fought.
func testContested(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	e.createService("a")
	e.expectAddresses("a", 0)
	e.createService("b")
	e.expectAddresses("b", 1) // so the controller has seen its own write to the first
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
		{name: "Selection", run: testSelection, alone: true}, // has pools for everybody
		{name: "Burst", run: testBurst, alone: true},
		{name: "BadInput", run: testBadInput},
		{name: "SeveralAddresses", run: testSeveralAddresses},
		{name: "SecondFamilyLater", run: testSecondFamilyLater},
		{name: "PoolForms", run: testPoolForms},
		{name: "LargePools", run: testLargePools},
		{name: "PoolRules", run: testPoolRules},
		{name: "ReuseDelay", run: testReuseDelay},
		{name: "Taken", run: testTaken},
		{name: "Moves", run: testMoves},
		{name: "Reservations", run: testReservations},
		{name: "ReservedCount", run: testReservedCount},
		{name: "ReservedNamespace", run: testReservedNamespace},
		{name: "Retain", run: testRetain},
		{name: "RetainShared", run: testRetainShared},
		{name: "RetainRefused", run: testRetainRefused},
		{name: "RetainBrief", run: testRetainBrief},
		{name: "SharingAcrossNamespaces", run: testSharingAcrossNamespaces},
		{name: "SharingAllowedLater", run: testSharingAllowedLater},
		{name: "SharingRefused", run: testSharingRefused},
		{name: "Account", run: testAccount},
		{name: "Events", run: testEvents},
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
