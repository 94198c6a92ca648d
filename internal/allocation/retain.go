package allocation

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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

// ownerOfRetained is the inverse of retainedName.
func ownerOfRetained(name string) (ipam.Owner, bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 3 || parts[0] != "retained" {
		return ipam.Owner{}, false
	}
	return ipam.Owner{Namespace: parts[1], Name: parts[2]}, true
}

// retainedOwner returns whose addresses a reservation keeps, if Berth made it.
func retainedOwner(object *v1beta1.IPReservation) (ipam.Owner, bool) {
	owner := ipam.Owner{Namespace: string(object.Spec.For.Namespace), Name: string(object.Spec.For.Service)}
	return owner, object.Labels[v1beta1.LabelRetained] == "true" && object.Name == retainedName(owner)
}

// retain makes the reservation of a Service be what it should: there with the
// Service's addresses, ending some time after it, or not there at all. svc is nil
// if there is no Service of that name that is ours.
func (c *Controller) retain(owner ipam.Owner, svc *corev1.Service) error {
	key := k8s.Key{Kind: k8s.KindIPReservation, Name: retainedName(owner)}
	object, exists := c.cache.IPReservations.Get("", key.Name)
	if exists {
		if _, ours := retainedOwner(object); !ours {
			return nil // a user's, by chance of the same name
		}
	}
	if pending, sent := c.retaining[owner]; sent && exists && equality.Semantic.DeepEqual(*reservationOf(owner, object), pending) {
		delete(c.retaining, owner) // it has landed
	}
	last := c.lastRetained(owner, object)
	if last != nil && svc != nil && !asksToRetain(svc) && c.wantsBack(owner, last) {
		return nil
	}
	want := c.wantedReservation(owner, svc, last)
	switch {
	case want == nil && exists:
		delete(c.retaining, owner)
		c.reservations.Set(key, k8s.DeleteReservation())
		return nil
	case want == nil:
		delete(c.retaining, owner)
		c.reservations.Set(key, nil)
		return nil
	case exists && equality.Semantic.DeepEqual(*reservationOf(owner, object), *want):
		delete(c.retaining, owner)
		c.reservations.Set(key, nil)
		return nil
	}
	patch, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("composing %s: %w", key, err)
	}
	c.retaining[owner] = *want
	c.reservations.Set(key, patch)
	return nil
}

// wantsBack says that a Service may yet get what is kept for it: it lacks some of
// that, and waits.
func (c *Controller) wantsBack(owner ipam.Owner, kept *reservationApply) bool {
	held := c.allocator.Allocation(owner)
	lacks := slices.ContainsFunc(kept.Spec.Addresses, func(r v1beta1.AddressRange) bool {
		return !slices.ContainsFunc(held, func(a ipam.Assigned) bool { return a.Address.String() == string(r) })
	})
	return lacks && (c.waiting[owner] || len(held) == 0)
}

func asksToRetain(svc *corev1.Service) bool {
	_, asks := svc.Annotations[v1beta1.AnnotationRetain]
	return asks
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

// newReservationApply returns the reservation of a Service without addresses.
// Services that share an address each have a reservation of it, in which the
// sharing key tells that these belong together.
func newReservationApply(owner ipam.Owner, retain, sharedKey string) *reservationApply {
	annotations := map[string]string{v1beta1.AnnotationRetain: retain}
	if sharedKey != "" {
		annotations[v1beta1.AnnotationSharedIPKey] = sharedKey
	}
	return &reservationApply{
		APIVersion: v1beta1.GroupVersion().String(), Kind: string(k8s.KindIPReservation),
		Metadata: reservationApplyMeta{
			Name: retainedName(owner), Labels: map[string]string{v1beta1.LabelRetained: "true"}, Annotations: annotations,
		},
		Spec: reservationApplySpec{For: v1beta1.ReservationTarget{
			Namespace: v1beta1.ObjectName(owner.Namespace), Service: v1beta1.ObjectName(owner.Name),
		}},
	}
}

// reservationOf returns what there is as what could be applied.
func reservationOf(owner ipam.Owner, object *v1beta1.IPReservation) *reservationApply {
	r := newReservationApply(owner, object.Annotations[v1beta1.AnnotationRetain], object.Annotations[v1beta1.AnnotationSharedIPKey])
	r.Spec.Addresses, r.Spec.Until = object.Spec.Addresses, object.Spec.Until
	return r
}

// over returns object as it will be once r was applied to it.
func (r reservationApply) over(object *v1beta1.IPReservation) *v1beta1.IPReservation {
	object = object.DeepCopy()
	object.Name, object.Labels, object.Annotations = r.Metadata.Name, r.Metadata.Labels, r.Metadata.Annotations
	object.Spec = v1beta1.IPReservationSpec{Addresses: r.Spec.Addresses, For: r.Spec.For, Until: r.Spec.Until}
	return object
}

// lastRetained returns the latest that was made of the reservation of a Service,
// which the cache need not show yet; nil if there is none.
func (c *Controller) lastRetained(owner ipam.Owner, object *v1beta1.IPReservation) *reservationApply {
	if last, found := c.retaining[owner]; found {
		return &last
	}
	if object == nil {
		return nil
	}
	return reservationOf(owner, object)
}

// reservationObjects returns all IPReservations as they are or soon will be:
// what a Service had must be kept for it also before the API server has been told.
func (c *Controller) reservationObjects() []*v1beta1.IPReservation {
	objects := c.cache.IPReservations.List()
	shown := map[string]bool{}
	for i, object := range objects {
		shown[object.Name] = true
		if owner, ours := retainedOwner(object); ours {
			if want, found := c.retaining[owner]; found {
				objects[i] = want.over(object)
			}
		}
	}
	for _, want := range c.retaining {
		if !shown[want.Metadata.Name] {
			created := metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(c.clock.Now())}
			objects = append(objects, want.over(&v1beta1.IPReservation{ObjectMeta: created}))
		}
	}
	return objects
}

// wantedReservation returns the reservation that a Service should have, nil if
// none; last is what was made of it last.
func (c *Controller) wantedReservation(owner ipam.Owner, svc *corev1.Service, last *reservationApply) *reservationApply {
	if svc == nil {
		if last != nil && !c.mayRetain(owner, last) {
			return nil
		}
		if last != nil {
			last.Spec.Until = c.endOf(last)
		}
		if last != nil && last.Spec.Until != nil && !c.clock.Now().Before(last.Spec.Until.Time) {
			return nil
		}
		return last
	}
	value, asked := svc.Annotations[v1beta1.AnnotationRetain]
	if !asked {
		return nil
	}
	if _, err := config.ParseRetain(value); err != nil && last != nil {
		value = last.Metadata.Annotations[v1beta1.AnnotationRetain] // the last that made sense
	} else if err != nil {
		return nil
	}
	held := c.allocator.Allocation(owner)
	if len(held) == 0 && last == nil {
		return nil
	}
	if len(held) == 0 {
		want := newReservationApply(owner, value, last.Metadata.Annotations[v1beta1.AnnotationSharedIPKey])
		want.Spec.Addresses = last.Spec.Addresses // what it is about to get back
		return want
	}
	key := ""
	if sharing := c.allocator.SharingOf(owner); sharing != nil {
		key = sharing.Key
	}
	want := newReservationApply(owner, value, key)
	for _, a := range held {
		want.Spec.Addresses = append(want.Spec.Addresses, v1beta1.AddressRange(a.Address.String()))
	}
	return want
}

// mayRetain says whether what a namespace keeps for Services that are gone is
// within the quota of the pools. It has a quota of these and another of what lives,
// so that nobody can have all of a pool by creating and deleting.
func (c *Controller) mayRetain(owner ipam.Owner, last *reservationApply) bool {
	for _, kept := range last.Spec.Addresses {
		addr, err := ipam.ParseAddr(string(kept))
		pool, found := c.snapshot.PoolOf(addr)
		if err != nil || !found || pool.AddressQuota+pool.ServiceQuota == 0 {
			continue
		}
		services, addresses := 1, len(last.Spec.Addresses)
		for _, object := range c.reservationObjects() {
			other, ours := retainedOwner(object)
			if !ours || other == owner || other.Namespace != owner.Namespace || len(c.allocator.Allocation(other)) > 0 || !keepsOf(object, pool) {
				continue
			}
			services, addresses = services+1, addresses+len(object.Spec.Addresses)
		}
		if pool.ServiceQuota > 0 && services > pool.ServiceQuota || pool.AddressQuota > 0 && addresses > pool.AddressQuota {
			return false
		}
	}
	return true
}

func keepsOf(object *v1beta1.IPReservation, pool *config.Pool) bool {
	return slices.ContainsFunc(object.Spec.Addresses, func(r v1beta1.AddressRange) bool {
		addr, err := ipam.ParseAddr(string(r))
		return err == nil && pool.Contains(addr)
	})
}

// endOf returns when the reservation of a Service that is gone ends; nil is
// never. The end is set once, when the Service is first found to be gone.
func (c *Controller) endOf(last *reservationApply) *metav1.Time {
	if last.Spec.Until != nil {
		return last.Spec.Until
	}
	retain, err := config.ParseRetain(last.Metadata.Annotations[v1beta1.AnnotationRetain])
	if err != nil || retain == config.RetainForever {
		return nil
	}
	until := metav1.NewTime(c.clock.Now().Add(retain).Truncate(time.Second))
	return &until
}

// ownReservation says that a reservation is one that Berth made, of what its
// Service has. Then nothing depends on it before the Service gives that up.
func (c *Controller) ownReservation(name string) bool {
	object, found := c.cache.IPReservations.Get("", name)
	if !found {
		return false
	}
	owner, ours := retainedOwner(object)
	return ours && slices.EqualFunc(object.Spec.Addresses, c.allocator.Allocation(owner), func(r v1beta1.AddressRange, a ipam.Assigned) bool {
		return string(r) == a.Address.String()
	})
}

// followRetained keeps an eye on a reservation that Berth made: its Service may
// be gone by the time that the reservation shows up.
func (c *Controller) followRetained(key k8s.Key) error {
	owner, named := ownerOfRetained(key.Name)
	object, found := c.cache.IPReservations.Get("", key.Name)
	if found {
		owner, named = retainedOwner(object)
	}
	if !named {
		return nil
	}
	if !found {
		delete(c.retaining, owner) // deleted when its time was over, or by a user who wants the address back
	}
	svc, lives := c.cache.Services.Get(owner.Namespace, owner.Name)
	switch {
	case lives && c.class.Owns(svc):
		c.cache.Add(keyOf(owner)) // to see first what it has
		return nil
	case !found:
		return nil
	}
	return c.retain(owner, nil)
}

// endReservations notices reservations whose time is over. Those that Berth
// made are deleted.
func (c *Controller) endReservations(now time.Time) error {
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
func (c *Controller) reserve() {
	if len(c.snapshot.Reservations)+len(c.reserved) == 0 {
		return
	}
	reservations := make([]ipam.Reservation, 0, len(c.snapshot.Reservations))
	for _, r := range c.snapshot.Reservations {
		reservations = append(reservations, ipam.Reservation{
			Name: r.Name, Namespace: r.Namespace, Service: r.Service, Group: r.Group,
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
func (c *Controller) renew(req request) bool {
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
		pool, found := c.snapshot.Pool(a.From)
		return found && pool.Reassign
	})
}
