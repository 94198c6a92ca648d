package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// testRetain: a re-created Service gets its addresses back.
func testRetain(e *env) {
	e.createPool(e.namespace, e.ranges(0, 4), nil)
	keep := annotated(v1beta1.AnnotationRetain, "1h")
	e.createService("kept", keep)
	e.expectAddresses("kept", 0)
	name := e.retained("kept")
	e.waitReservation(name, v1beta1.ReasonAccepted)
	e.deleteService("kept")
	e.waitGone("kept")
	e.createService("other")
	e.expectAddresses("other", 1)
	e.waitEnding(name)
	e.createService("kept", keep)
	e.expectAddresses("kept", 0)

	e.createService("brief", annotated(v1beta1.AnnotationRetain, "2s"))
	e.expectAddresses("brief", 2)
	e.deleteService("brief")
	e.waitNotReserved(e.retained("brief"))
}

// retained is the name of the reservation that keeps a Service's addresses; it
// goes when the test ends.
func (e *env) retained(service string) string {
	name := "retained." + e.namespace + "." + service
	e.created = append(e.created, "ipreservations/"+name)
	return name
}

// waitEnding returns when a reservation has been given its end, as its Service is
// gone.
func (e *env) waitEnding(reservation string) {
	e.Helper()
	e.waitFor(reservation+" to be given its end", 10*time.Second, func(context.Context) (bool, string) {
		r := e.ipReservation(reservation)
		return r.Spec.Until != nil, fmt.Sprintf("%+v", r.Spec)
	})
}

// waitNotReserved returns when a reservation does not exist any more.
func (e *env) waitNotReserved(reservation string) {
	e.Helper()
	e.waitFor(reservation+" to be over", 20*time.Second, func(ctx context.Context) (bool, string) {
		err := e.lab.berth.Get().Resource("ipreservations").Name(reservation).Do(ctx).Error()
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
}

// testRetainShared: Services that share an address, both retained and both
// deleted, have it together again, in whichever order they come back.
func testRetainShared(e *env) {
	e.createPool(e.namespace, e.ranges(0, 6), nil)
	keep, key := annotated(v1beta1.AnnotationRetain, "1h"), annotated(v1beta1.AnnotationAllowSharedIP, "key")
	ports := map[string]int32{"a": 81, "b": 82}
	create := func(name string) { e.createService(name, keep, key, onPort(ports[name])) }
	for _, name := range []string{"a", "b"} {
		create(name)
		e.expectAddresses(name, 0)
		e.waitFor("the reservation of Service "+name+" to be in force", 20*time.Second, func(ctx context.Context) (bool, string) {
			return e.reservationAccepted(ctx, e.retained(name))
		})
	}
	// One goes while the other lives: it still has its address with it.
	e.deleteService("a")
	e.waitEnding(e.retained("a"))
	create("a")
	e.expectAddresses("a", 0)

	for i, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		for _, name := range order {
			e.deleteService(name)
			e.waitGone(name)
			e.waitEnding(e.retained(name))
		}
		stranger, sharer := fmt.Sprintf("stranger-%d", i), fmt.Sprintf("sharer-%d", i)
		e.createService(stranger)
		e.expectAddresses(stranger, i+1)
		e.createService(sharer, key, onPort(83)) // it could share, but the address is not its
		e.waitAllocated(sharer)
		if got := join(e.addressesOf(sharer)); got == join(e.address(0)) {
			e.Errorf("a Service with the key has the address %s that is kept for others", got)
		}
		for _, name := range order {
			create(name)
			e.expectAddresses(name, 0)
		}
		e.deleteService(sharer)
		e.waitGone(sharer)
	}
}

// reservationAccepted says whether a reservation is in force.
func (e *env) reservationAccepted(ctx context.Context, name string) (bool, string) {
	object := &v1beta1.IPReservation{}
	content, err := e.lab.berth.Get().Resource("ipreservations").Name(name).DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(content, object)
	}
	if err != nil {
		return false, err.Error()
	}
	return meta.IsStatusConditionTrue(object.Status.Conditions, v1beta1.ConditionAccepted), fmt.Sprintf("%+v", object.Status)
}

// testRetainRefused: a retained Service that comes back without the annotation, and
// asks for something that it cannot have, finds its address there once it asks for
// nothing.
func testRetainRefused(e *env) {
	e.createPool(e.namespace, e.ranges(0, 6), nil)
	keep := annotated(v1beta1.AnnotationRetain, "1h")
	for i, wrong := range []struct{ name, key, value, reason string }{
		{"malformed", v1beta1.AnnotationLoadBalancerIPs, "web", "InvalidRequest"},
		{"unknown", v1beta1.AnnotationAddressPool, "nowhere", "UnknownPool"},
	} {
		e.createService(wrong.name, keep)
		e.expectAddresses(wrong.name, 2*i)
		reservation := e.retained(wrong.name)
		e.waitReservation(reservation, v1beta1.ReasonAccepted)
		e.deleteService(wrong.name)
		e.waitGone(wrong.name)
		e.createService(wrong.name, annotated(wrong.key, wrong.value))
		e.waitCondition(wrong.name, v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, wrong.reason)
		e.createService("next-to-" + wrong.name)
		e.expectAddresses("next-to-"+wrong.name, 2*i+1)
		e.ipReservation(reservation) // is there
		if got := e.addressesOf(wrong.name); len(got) > 0 {
			e.Errorf("Service %s asks for %s and has %v", wrong.name, wrong.value, got)
		}
		e.editService(wrong.name, fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, wrong.key))
		e.expectAddresses(wrong.name, 2*i)
		e.waitNotReserved(reservation) // it does not ask to be retained
		e.expectAddresses(wrong.name, 2*i)
	}
}

// testRetainBrief: Services that are deleted as soon as they are created leave
// nothing behind for longer than they ask.
func testRetainBrief(e *env) {
	const services = 8
	e.createPool(e.namespace, e.ranges(0, services), nil)
	for round, retain := range []string{"1h", "2s"} {
		g, ctx := errgroup.WithContext(e.ctx)
		for i := range services {
			name := fmt.Sprintf("brief-%d-%d", round, i)
			e.retained(name)
			g.Go(func() error {
				if err := e.tryService(name, annotated(v1beta1.AnnotationRetain, retain)); err != nil {
					return err
				}
				return e.lab.kube.CoreV1().Services(e.namespace).Delete(ctx, name, metav1.DeleteOptions{})
			})
		}
		if err := g.Wait(); err != nil {
			e.Fatal(err)
		}
		// What is kept is kept for a while, and all else is free.
		e.waitHeld("every reservation of Services that are gone to have an end", 2*time.Second, func(ctx context.Context) (bool, string) {
			list, err := e.tryReservations(ctx)
			endless := slices.IndexFunc(list, func(r v1beta1.IPReservation) bool { return r.Spec.Until == nil })
			if err != nil || endless < 0 {
				return err == nil, fmt.Sprint(err)
			}
			return false, list[endless].Name
		})
		e.waitFree()
		for _, reservation := range e.retainedHere() {
			if retain == "1h" {
				e.deleteReservation(reservation)
			}
			e.waitNotReserved(reservation)
		}
	}
	e.createService("next")
	e.expectAddresses("next", 0)
	if left := e.retainedHere(); len(left) > 0 {
		e.Errorf("reservations are left: %v", left)
	}
}

// retainedHere returns the reservations of retained Services of the test's
// namespace.
func (e *env) retainedHere() []string {
	e.Helper()
	list, err := e.tryReservations(e.ctx)
	if err != nil {
		e.Fatal(err)
	}
	var names []string
	for _, r := range list {
		names = append(names, r.Name)
	}
	return names
}

func (e *env) tryReservations(ctx context.Context) ([]v1beta1.IPReservation, error) {
	list := &v1beta1.IPReservationList{}
	content, err := e.lab.berth.Get().Resource("ipreservations").DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(content, list)
	}
	return slices.DeleteFunc(list.Items, func(r v1beta1.IPReservation) bool {
		return !strings.HasPrefix(r.Name, "retained."+e.namespace+".")
	}), err
}

func (e *env) deleteReservation(name string) {
	e.Helper()
	if err := e.lab.berth.Delete().Resource("ipreservations").Name(name).Do(e.ctx).Error(); err != nil {
		e.Fatal(err)
	}
}
