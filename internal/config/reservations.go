package config

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// reservations accepts what can be judged without the allocator, from the
// oldest to the youngest. Whether the addresses can be held is the allocator's
// to say.
func (b *builder) reservations(objects []*v1beta1.IPReservation, now time.Time) {
	for _, object := range byAge(objects) {
		if until := object.Spec.Until; until != nil && !now.Before(until.Time) {
			b.verdicts.IPReservations[object.Name] = Verdict{
				Reason: v1beta1.ReasonExpired, Message: fmt.Sprintf("spec.until: the reservation ended at %s", until.UTC().Format(time.RFC3339)),
			}
			continue
		}
		reservation, errs := newReservation(object, b.snapshot)
		if len(errs) > 0 {
			b.verdicts.IPReservations[object.Name] = invalid(errs)
			continue
		}
		if _, found := b.snapshot.Pool(reservation.Pool); reservation.Count > 0 && !found {
			b.verdicts.IPReservations[object.Name] = Verdict{
				Reason: v1beta1.ReasonUnknownPool, Message: fmt.Sprintf("spec.pool: no pool %s is in force; create it or correct the name", reservation.Pool),
			}
			// What it holds comes back with the pool.
			b.snapshot.Reservations = append(b.snapshot.Reservations, reservation)
			continue
		}
		b.snapshot.Reservations = append(b.snapshot.Reservations, reservation)
		b.verdicts.IPReservations[object.Name] = accepted("the reservation is in force")
	}
}

func newReservation(object *v1beta1.IPReservation, snapshot *Snapshot) (*Reservation, field.ErrorList) {
	spec, path := &object.Spec, field.NewPath("spec")
	ranges, errs := newRanges(spec.Addresses, path.Child("addresses"))
	r := &Reservation{
		Name:      object.Name,
		Ranges:    ranges,
		Count:     int(ptr.Deref(spec.Count, 0)),
		Pool:      string(spec.Pool),
		Namespace: string(spec.For.Namespace),
		Service:   string(spec.For.Service),
	}
	if object.Labels[v1beta1.LabelRetained] == "true" {
		r.Group = object.Annotations[v1beta1.AnnotationSharedIPKey]
	}
	if len(spec.Addresses) == 0 && r.Count == 0 {
		errs = append(errs, field.Required(path, "give addresses or count"))
	}
	if r.Count == 0 {
		return r, errs
	}
	r.Family = familyOfCount(spec.Family, r.Pool, snapshot)
	for _, text := range object.Status.Addresses {
		if held, err := ipam.ParseRange(text); err == nil {
			for addr := held.From; held.Contains(addr) && len(r.Held) < r.Count; addr = addr.Next() {
				r.Held = append(r.Held, addr)
			}
		}
	}
	return r, errs
}

// familyOfCount returns the family that a count takes addresses of.
func familyOfCount(asked, pool string, snapshot *Snapshot) ipam.Family {
	switch asked {
	case "IPv4":
		return ipam.IPv4
	case "IPv6":
		return ipam.IPv6
	}
	if p, found := snapshot.Pool(pool); found {
		for _, r := range p.Ranges {
			if r.Family() == ipam.IPv4 {
				return ipam.IPv4
			}
		}
		return ipam.IPv6
	}
	return ipam.IPv4
}
