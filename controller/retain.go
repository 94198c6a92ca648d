package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// A Service with the annotation berth.dev/retain has an IPReservation beside it
// while it lives, made at once and not when it is deleted: a controller that
// was not there at that moment still finds what is to be kept. When the Service
// is gone, the reservation is given its end.

// retainedName is the name of the reservation that keeps a Service's addresses.
// Neither part can contain a dot.
func retainedName(owner ipam.Owner) string {
	return "retained." + owner.Namespace + "." + owner.Name
}

// retainedOwner is the inverse of retainedName for reservations that Berth made.
func retainedOwner(object *v1beta1.IPReservation) (ipam.Owner, bool) {
	owner := ipam.Owner{Namespace: string(object.Spec.For.Namespace), Name: string(object.Spec.For.Service)}
	return owner, object.Labels[v1beta1.LabelRetained] == "true" && object.Name == retainedName(owner)
}

// retain makes the reservation of a Service be what it should: there with the
// Service's addresses, ending some time after it, or not there at all.
func (c *controller) retain(owner ipam.Owner, svc *corev1.Service) error {
	key := k8s.Key{Kind: k8s.KindIPReservation, Name: retainedName(owner)}
	object, exists := c.cache.IPReservations.Get("", key.Name)
	if exists {
		if _, ours := retainedOwner(object); !ours {
			return nil // a user's, by chance of the same name
		}
	}
	want, keep := c.wantedReservation(owner, svc, object)
	switch {
	case !keep && exists:
		c.reservations.Set(key, k8s.DeleteReservation())
		return nil
	case !keep, exists && sameReservation(object, want):
		c.reservations.Set(key, nil)
		return nil
	}
	patch, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("composing %s: %w", key, err)
	}
	c.reservations.Set(key, patch)
	return nil
}

// reservationApply is an IPReservation for server-side apply: what is not set
// is left out.
type reservationApply struct {
	APIVersion string               `json:"apiVersion"`
	Kind       string               `json:"kind"`
	Metadata   reservationApplyMeta `json:"metadata"`
	Spec       reservationApplySpec `json:"spec"`
}

type reservationApplyMeta struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type reservationApplySpec struct {
	Addresses []v1beta1.AddressRange    `json:"addresses"`
	For       v1beta1.ReservationTarget `json:"for"`
	Until     *metav1.Time              `json:"until,omitempty"`
}

// wantedReservation returns the reservation that a Service should have; svc is
// nil when there is none of that name that is ours. object is what there is.
func (c *controller) wantedReservation(owner ipam.Owner, svc *corev1.Service, object *v1beta1.IPReservation) (want reservationApply, keep bool) {
	want = reservationApply{
		APIVersion: v1beta1.GroupVersion().String(), Kind: string(k8s.KindIPReservation),
		Metadata: reservationApplyMeta{Name: retainedName(owner), Labels: map[string]string{v1beta1.LabelRetained: "true"}},
		Spec: reservationApplySpec{For: v1beta1.ReservationTarget{
			Namespace: v1beta1.ObjectName(owner.Namespace), Service: v1beta1.ObjectName(owner.Name),
		}},
	}
	if svc == nil {
		if object == nil {
			return want, false
		}
		value := object.Annotations[v1beta1.AnnotationRetain]
		want.Metadata.Annotations = map[string]string{v1beta1.AnnotationRetain: value}
		want.Spec.Addresses = object.Spec.Addresses
		want.Spec.Until = c.endOf(object, value)
		return want, want.Spec.Until == nil || c.clock.Now().Before(want.Spec.Until.Time)
	}
	value, asked := svc.Annotations[v1beta1.AnnotationRetain]
	if !asked {
		return want, false
	}
	if _, err := config.ParseRetain(value); err != nil && object != nil {
		value = object.Annotations[v1beta1.AnnotationRetain] // the last that made sense
	} else if err != nil {
		return want, false
	}
	want.Metadata.Annotations = map[string]string{v1beta1.AnnotationRetain: value}
	for _, a := range c.allocator.Allocation(owner) {
		want.Spec.Addresses = append(want.Spec.Addresses, v1beta1.AddressRange(a.Address.String()))
	}
	if len(want.Spec.Addresses) == 0 && object != nil {
		want.Spec.Addresses = object.Spec.Addresses // what it is about to get back
	}
	return want, len(want.Spec.Addresses) > 0
}

// endOf returns when the reservation of a Service that is gone ends; nil is
// never. The end is set once, when the Service is first found to be gone.
func (c *controller) endOf(object *v1beta1.IPReservation, value string) *metav1.Time {
	if object.Spec.Until != nil {
		return object.Spec.Until
	}
	retain, err := config.ParseRetain(value)
	if err != nil || retain == config.RetainForever {
		return nil
	}
	until := metav1.NewTime(c.clock.Now().Add(retain).Truncate(time.Second))
	return &until
}

func sameReservation(object *v1beta1.IPReservation, want reservationApply) bool {
	return slices.Equal(object.Spec.Addresses, want.Spec.Addresses) &&
		object.Spec.Until.Equal(want.Spec.Until) &&
		object.Annotations[v1beta1.AnnotationRetain] == want.Metadata.Annotations[v1beta1.AnnotationRetain]
}

// followRetained keeps an eye on a reservation that Berth made: its Service may
// be gone by the time that the reservation shows up.
func (c *controller) followRetained(key k8s.Key) error {
	object, found := c.cache.IPReservations.Get("", key.Name)
	if !found {
		return nil
	}
	owner, ours := retainedOwner(object)
	if !ours {
		return nil
	}
	svc, found := c.cache.Services.Get(owner.Namespace, owner.Name)
	if !found || !c.class.Owns(svc) {
		svc = nil
	}
	return c.retain(owner, svc)
}

// endReservations notices reservations whose time is over. Those that Berth
// made are deleted.
func (c *controller) endReservations(now time.Time) error {
	for _, object := range c.cache.IPReservations.List() {
		until := object.Spec.Until
		if until == nil || now.Before(until.Time) {
			continue
		}
		if c.verdicts.IPReservations[object.Name].Reason != v1beta1.ReasonExpired {
			c.configDirty = true
		}
		if err := c.followRetained(k8s.Key{Kind: k8s.KindIPReservation, Name: object.Name}); err != nil {
			return err
		}
	}
	return nil
}

// reserve tells the allocator of the reservations that are in force.
func (c *controller) reserve() {
	if len(c.snapshot.Reservations)+len(c.reserved) == 0 {
		return
	}
	reservations := make([]ipam.Reservation, 0, len(c.snapshot.Reservations))
	for _, r := range c.snapshot.Reservations {
		reservations = append(reservations, ipam.Reservation{
			Name: r.Name, Namespace: r.Namespace, Service: r.Service,
			Addresses: r.Ranges, Count: r.Count, Pool: r.Pool, Family: r.Family, Held: r.Held,
		})
	}
	held, freed := c.allocator.SetReservations(reservations)
	c.reserved = map[string]ipam.Reserved{}
	for _, r := range held {
		c.reserved[r.Name] = r
	}
	c.waitingDirty = c.waitingDirty || freed
}

// renew says whether a Service is to have other addresses than it has: because
// it asks for them, or because the pool of one of its addresses wants that.
func (c *controller) renew(svc *corev1.Service, req request) bool {
	held := c.allocator.Allocation(req.Owner)
	if len(held) == 0 {
		return false
	}
	if req.renew != "" && req.renew != c.renewed[req.Owner] {
		return true
	}
	return slices.ContainsFunc(held, func(a ipam.Assigned) bool {
		asked := slices.ContainsFunc(req.Addresses, func(addr netip.Addr) bool {
			return ipam.FamilyOf(addr) == ipam.FamilyOf(a.Address)
		})
		if a.Pool != "" || asked {
			return false
		}
		pool, found := c.snapshot.Pool(c.poolBefore(svc, a.Address))
		return found && pool.Reassign
	})
}
