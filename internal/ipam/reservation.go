package ipam

import (
	"fmt"
	"net/netip"
)

// Reservation holds addresses for one Service or for all Services of a namespace, whether or not these exist. It names
// either Addresses or a Count of addresses of a pool.
type Reservation struct {
	Name string
	// Namespace and Service are who may have the addresses; with Service "" every Service of the namespace.
	Namespace, Service string
	// Addresses are held as soon as a pool covers them, and pass from pool to pool with the configuration.
	Addresses []Range
	// Group is not empty if others of the same group may hold the same Addresses: those are for any of their Services.
	Group string
	// Count is how many addresses of Pool and Family to hold: those in Held, then the lowest that are available.
	Count  int
	Pool   string
	Family Family
	// Held are the addresses that a Count held when it was last set. They stay as long as the pool covers them, also if
	// another owner has got one meanwhile. They need only be given after a restart: while an Allocator lives it knows
	// what the reservation of that name, pool and family holds.
	Held []netip.Addr
}

// For returns whom the reservation is for; Name is "" if it is for a whole namespace.
func (r *Reservation) For() Owner { return Owner{r.Namespace, r.Service} }

// Reserved is what came of a Reservation.
type Reserved struct {
	Name string
	// Held are the addresses that nobody else is given from now on: the Addresses, or those that a Count has got.
	Held []Range
	// Err says what is amiss, nil if nothing: *ReservationConflictError (nothing is held), *ReservationShortError,
	// *ReservationPendingError, or another if the reservation is malformed (nothing is held).
	Err error
}

// ReservationConflictError says that a reservation is refused because an earlier one has some of its addresses.
type ReservationConflictError struct {
	Reservation, Other string
	// Range is the first that both name.
	Range Range
}

func (e *ReservationConflictError) Error() string {
	return fmt.Sprintf("reservation %s is refused: %s is held by reservation %s", e.Reservation, e.Range, e.Other)
}

// ReservationShortError says that a pool has too few addresses available for a reservation of a count.
type ReservationShortError struct {
	Reservation, Pool string
	Family            Family
	Want, Got         int
	// Lack says why the pool gave no more.
	Lack Lack
}

func (e *ReservationShortError) Error() string {
	why := "no more are available"
	switch e.Lack {
	case LackPool:
		why = "there is no such pool"
	case LackFamily:
		why = "it has none of that family"
	case LackDisabled:
		why = "it is disabled"
	}
	return fmt.Sprintf("reservation %s holds %d of %d %s addresses of pool %s: %s", e.Reservation, e.Got, e.Want, e.Family, e.Pool, why)
}

// ReservationPendingError says that an address of a reservation is assigned to a Service that it is not for. That Service
// keeps it; once it is gone, nobody but whom the reservation is for is given the address.
type ReservationPendingError struct {
	Reservation string
	// Address is the lowest such address of the first range or pool, and Owner the first of its owners by name that the
	// reservation is not for.
	Address netip.Addr
	Owner   Owner
}

func (e *ReservationPendingError) Error() string {
	return fmt.Sprintf("reservation %s waits for %s: Service %s has it", e.Reservation, e.Address, e.Owner)
}

func (r *Reservation) validate() error {
	counts := r.Count > 0
	switch {
	case r.Namespace == "":
		return fmt.Errorf("reservation %s: it must be for a namespace or a Service of one", r.Name)
	case counts == (len(r.Addresses) > 0):
		return fmt.Errorf("reservation %s: give either addresses or a count above 0", r.Name)
	case counts && r.Family != IPv4 && r.Family != IPv6:
		return fmt.Errorf("reservation %s: a count needs a family, not %v", r.Name, r.Family)
	}
	for _, held := range r.Addresses {
		if err := held.Validate(); err != nil {
			return fmt.Errorf("reservation %s: %w", r.Name, err)
		}
	}
	return nil
}
