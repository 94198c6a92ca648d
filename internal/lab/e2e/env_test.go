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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
)

var listAll = metav1.ListOptions{}

// slotSize is how many addresses of each family a test has for itself.
const slotSize = 16

// env is what one test has of a lab: a namespace and addresses of its own.
type env struct {
	*testing.T
	lab *testLab
	// ctx ends with the test, or when the run has to end.
	ctx context.Context
	// namespace is also the name of the test's pool and advertisement.
	namespace string
	// first addresses of the test's slot, one per family.
	first []netip.Addr
	// created are the cluster-scoped objects that go with the test, as
	// resource/name.
	created []string
}

func newEnv(t *testing.T, l *testLab) *env {
	t.Helper()
	slot := l.slots.Add(1)
	ctx, cancel := testContext(t)
	e := &env{T: t, lab: l, ctx: ctx}
	name := strings.ToLower(t.Name()[strings.LastIndex(t.Name(), "/")+1:])
	e.namespace = fmt.Sprintf("%s-%d", name, slot)
	for _, free := range l.Plan().FreeRanges {
		e.first = append(e.first, advance(free.Addr(), int(slot)*slotSize))
	}
	_, err := l.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			e.describe()
		}
		e.remove()
		cancel()
	})
	return e
}

// remove deletes what the test has made. The Services and Pods in its namespace
// go in the background.
func (e *env) remove() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 20*time.Second)
	defer cancel()
	if err := e.lab.kube.CoreV1().Namespaces().Delete(ctx, e.namespace, metav1.DeleteOptions{}); err != nil {
		e.Error(err)
	}
	e.removeCreated()
}

// removeCreated deletes the cluster-scoped objects that the test has made.
func (e *env) removeCreated() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 20*time.Second)
	defer cancel()
	for _, object := range e.created {
		plural, name, _ := strings.Cut(object, "/")
		// The test may have deleted it itself.
		if err := e.lab.berth.Delete().Resource(plural).Name(name).Do(ctx).Error(); err != nil && !apierrors.IsNotFound(err) {
			e.Errorf("%s: %v", object, err)
		}
	}
}

// describe logs what the test's namespace looks like.
func (e *env) describe() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 10*time.Second)
	defer cancel()
	for _, args := range [][]string{
		{"get", "services,pods,endpointslices", "-o", "wide", "--show-labels=false"},
		{"get", "services", "-o", `jsonpath={range .items[*]}{.metadata.name}: {.status}{"\n"}{end}`},
		{"get", "events", "--sort-by=.lastTimestamp", "-o", `jsonpath={range .items[*]}{.lastTimestamp} {.involvedObject.name} {.reason}: {.message}{"\n"}{end}`},
		{"get", "ipaddresspools,l2advertisements"},
	} {
		out, err := e.lab.Kubectl(ctx, nil, append(args, "--namespace", e.namespace)...)
		if err != nil {
			e.Log(err)
			continue
		}
		e.Logf("kubectl %s:\n%s", strings.Join(args[:2], " "), out)
	}
}

// advance returns the nth address after a.
func advance(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

// ranges returns count addresses of the test's slot from the nth on, per family.
func (e *env) ranges(nth, count int) []v1beta1.AddressRange {
	e.Helper()
	if nth+count > slotSize {
		e.Fatalf("a slot has only %d addresses", slotSize)
	}
	var ranges []v1beta1.AddressRange
	for _, first := range e.first {
		from, to := advance(first, nth), advance(first, nth+count-1)
		ranges = append(ranges, v1beta1.AddressRange(from.String()+"-"+to.String()))
	}
	return ranges
}

// address returns the nth address of the test's slot in every family.
func (e *env) address(nth int) []netip.Addr {
	addresses := make([]netip.Addr, len(e.first))
	for i, first := range e.first {
		addresses[i] = advance(first, nth)
	}
	return addresses
}

// usePool gives the test a pool of the first count addresses of its slot, for
// its namespace only, and announces them everywhere.
func (e *env) usePool(count int) {
	e.Helper()
	e.createPool(e.namespace, e.ranges(0, count), nil)
	e.createAdvertisement(e.namespace, v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}})
}

// createPool makes a pool for the test's namespace and waits until it is in
// force.
func (e *env) createPool(name string, ranges []v1beta1.AddressRange, change func(*v1beta1.IPAddressPool)) {
	e.Helper()
	pool := e.newPool(name, ranges)
	if change != nil {
		change(pool)
	}
	e.create("ipaddresspools", pool)
	e.waitAccepted(name, true)
}

func (e *env) newPool(name string, ranges []v1beta1.AddressRange) *v1beta1.IPAddressPool {
	return &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1beta1.IPAddressPoolSpec{
			Addresses:         ranges,
			ServiceAllocation: &v1beta1.ServiceAllocation{Namespaces: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}},
		},
	}
}

func (e *env) createAdvertisement(name string, spec v1beta1.L2AdvertisementSpec) {
	e.Helper()
	e.create("l2advertisements", &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
}

// create makes a cluster-scoped object that goes when the test ends.
func (e *env) create(plural string, object any) {
	e.Helper()
	content, err := json.Marshal(withKind(object))
	if err != nil {
		e.Fatal(err)
	}
	if err := e.lab.berth.Post().Resource(plural).SetHeader("Content-Type", "application/json").Body(content).Do(e.ctx).Error(); err != nil {
		e.Fatal(err)
	}
	e.created = append(e.created, plural+"/"+object.(metav1.Object).GetName())
}

// withKind fills in what the API server wants to be told.
func withKind(object any) any {
	version := v1beta1.GroupVersion().String()
	switch o := object.(type) {
	case *v1beta1.IPAddressPool:
		o.APIVersion, o.Kind = version, "IPAddressPool"
	case *v1beta1.L2Advertisement:
		o.APIVersion, o.Kind = version, "L2Advertisement"
	}
	return object
}

// patchPool applies a JSON merge patch to a pool.
func (e *env) patchPool(name string, patch any) {
	e.Helper()
	e.patch("ipaddresspools", name, patch)
}

func (e *env) patch(plural, name string, patch any) {
	e.Helper()
	content, err := json.Marshal(patch)
	if err != nil {
		e.Fatal(err)
	}
	if err := e.lab.berth.Patch(types.MergePatchType).Resource(plural).Name(name).Body(content).Do(e.ctx).Error(); err != nil {
		e.Fatal(err)
	}
}

func (e *env) pool(name string) *v1beta1.IPAddressPool {
	e.Helper()
	pool := &v1beta1.IPAddressPool{}
	if err := e.lab.berth.Get().Resource("ipaddresspools").Name(name).Do(e.ctx).Into(pool); err != nil {
		e.Fatal(err)
	}
	return pool
}

// waitAccepted returns the Accepted condition of a pool once it has the status
// wanted and is about the present generation.
func (e *env) waitAccepted(name string, accepted bool) metav1.Condition {
	e.Helper()
	want := metav1.ConditionFalse
	if accepted {
		want = metav1.ConditionTrue
	}
	var found metav1.Condition
	e.waitFor(fmt.Sprintf("pool %s to have Accepted=%s", name, want), 20*time.Second, func(context.Context) (bool, string) {
		pool := e.pool(name)
		for _, c := range pool.Status.Conditions {
			if c.Type == v1beta1.ConditionAccepted {
				found = c
				return c.Status == want && c.ObservedGeneration == pool.Generation, fmt.Sprintf("%+v", c)
			}
		}
		return false, "no condition"
	})
	return found
}

// families of the lab, the primary one first.
func (e *env) families() []corev1.IPFamily {
	switch e.lab.family {
	case network.IPv4:
		return []corev1.IPFamily{corev1.IPv4Protocol}
	case network.IPv6:
		return []corev1.IPFamily{corev1.IPv6Protocol}
	default:
		return []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
}
