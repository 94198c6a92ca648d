package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// testAccount: the pool's status and the metrics count every address, by family and
// by what has become of it, and what was refused and written.
func testAccount(e *env) {
	before := e.metrics(e.leader(), 7958)
	e.createPool(e.namespace, e.ranges(0, 8), func(p *v1beta1.IPAddressPool) {
		p.Spec.ReuseDelay = "1h"
		p.Spec.Quota = &v1beta1.PoolQuota{ServicesPerNamespace: ptr.To(int32(3))}
	})
	for i, name := range []string{"in", "brief", "out"} {
		e.createService(name, annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(i))))
		e.expectAddresses(name, i)
	}
	e.createService("refused", annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(7))))
	e.expectRefused("refused", "QuotaExceeded")
	e.deleteService("refused") // else it is served as soon as the quota allows
	e.waitGone("refused")
	e.reservation("held", func(s *v1beta1.IPReservationSpec) { s.Addresses, s.For.Service = e.ranges(5, 2), "somebody" })
	e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"excludeAddresses": e.ranges(2, 1)}})
	e.waitCondition("out", v1beta1.ConditionAddressAllocated, metav1.ConditionTrue, "OutOfPool")
	e.deleteService("brief")

	want := v1beta1.PoolFamilyStatus{Total: 7, Assigned: 1, Reserved: 2, Resting: 1, Available: 3, OutOfPool: 1}
	e.waitPoolStatus(func(s v1beta1.IPAddressPoolStatus) bool {
		return s.IPv4 != nil && *s.IPv4 == want && s.IPv6 != nil && *s.IPv6 == want
	})
	for _, family := range e.families() {
		for state, n := range map[string]int64{
			"assigned": want.Assigned, "reserved": want.Reserved, "resting": want.Resting,
			"available": want.Available, "out_of_pool": want.OutOfPool,
		} {
			series := fmt.Sprintf("berth_pool_addresses{family=%q,pool=%q,state=%q}", family, e.namespace, state)
			e.waitMetric(series, func(value float64) bool { return value == float64(n) })
		}
	}
	// Other tests have the same controller count at the same time.
	for series, least := range map[string]float64{
		`berth_allocation_failures_total{reason="QuotaExceeded"}`:  1,
		`berth_allocation_duration_seconds_count`:                  3,
		`berth_api_writes_total{kind="Service",result="ok"}`:       4,
		`berth_api_writes_total{kind="IPAddressPool",result="ok"}`: 1,
		`berth_api_writes_total{kind="IPReservation",result="ok"}`: 1,
	} {
		e.waitMetric(series, func(value float64) bool { return value >= before[series]+least })
	}
	if _, found := e.metrics(e.leader(), 7958)["berth_queue_depth"]; !found {
		e.Error("there is no metric berth_queue_depth")
	}
	e.deletePoolNamed(e.namespace)
	e.waitFor("the metrics of a pool that is gone to count nothing but what is kept", 10*time.Second, func(context.Context) (bool, string) {
		var left []string
		for series, value := range e.metrics(e.leader(), 7958) {
			if strings.Contains(series, fmt.Sprintf("pool=%q", e.namespace)) && value != 0 && !strings.Contains(series, "out_of_pool") {
				left = append(left, series)
			}
		}
		return len(left) == 0, fmt.Sprint(left)
	})
}

// waitMetric returns when a metric of the leader has a value as wanted.
func (e *env) waitMetric(series string, wanted func(float64) bool) {
	e.Helper()
	e.waitFor("the metric "+series, 10*time.Second, func(context.Context) (bool, string) {
		value, found := e.metrics(e.leader(), 7958)[series]
		return found && wanted(value), fmt.Sprintf("%v (there: %v)", value, found)
	})
}

// testEvents: there is an event for each transition, and none for anything else:
// edits that change nothing, pools of others that come and go.
func testEvents(e *env) {
	e.createPool(e.namespace, e.ranges(0, 1), nil)
	e.createService("a")
	e.expectAddresses("a", 0)
	e.createService("b")
	e.expectRefused("b", "PoolExhausted")
	for i := range 5 {
		for _, name := range []string{"a", "b"} {
			e.annotate(name, "example.com/unrelated", fmt.Sprint(i))
			e.editService(name, fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, i))
		}
		e.patchPool(e.namespace, map[string]any{"metadata": map[string]any{"labels": map[string]any{"n": fmt.Sprint(i)}}})
		e.createPool(fmt.Sprintf("%s-%d", e.namespace, i), e.ranges(8+i, 1), func(p *v1beta1.IPAddressPool) {
			p.Spec.ServiceAllocation.Namespaces = []v1beta1.ObjectName{"somewhere-else"}
		})
	}
	e.patchPool(e.namespace, map[string]any{"spec": map[string]any{"addresses": e.ranges(0, 2)}})
	e.expectAddresses("b", 1)
	e.waitEvent("b", "AddressAllocated", e.address(1)[0].String())
	// Events are sent in their order: with that one, all have been.
	for name, want := range map[string]string{"a": "AddressAllocated", "b": "AddressAllocated AllocationFailed"} {
		events, err := e.events(e.ctx, name)
		if err != nil {
			e.Fatal(err)
		}
		var reasons []string
		for _, event := range events {
			if event.Source.Component != "berth-controller" {
				continue
			}
			reasons = append(reasons, event.Reason)
			if event.Count > 1 {
				e.Errorf("event %s on %s came %d times: %s", event.Reason, name, event.Count, event.Message)
			}
		}
		slices.Sort(reasons)
		if got := strings.Join(reasons, " "); got != want {
			e.Errorf("Service %s has events %s, want %s", name, got, want)
		}
	}
}

// testReuseDelay: an address rests before another Service gets it, who need not do
// anything for it.
func testReuseDelay(e *env) {
	const delay = 10 * time.Second // long beside what else happens, also where much does
	e.createPool(e.namespace, e.ranges(0, 1), func(p *v1beta1.IPAddressPool) { p.Spec.ReuseDelay = v1beta1.Duration(delay.String()) })
	e.createService("a")
	e.expectAddresses("a", 0)
	released := time.Now()
	e.deleteService("a")
	e.createService("b")
	e.waitPoolStatus(func(s v1beta1.IPAddressPoolStatus) bool { return len(s.Resting) == len(e.first) })
	e.expectRefused("b", "PoolExhausted", "resting")
	e.expectAddresses("b", 0)
	if rested := time.Since(released); rested < delay-time.Second { // times in statuses are whole seconds
		e.Errorf("the address went to another Service after %s, not %s", rested, delay)
	}
}
