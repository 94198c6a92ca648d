package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Conflict says why two Services may not share an address.
type Conflict uint8

// The conflicts, in the order in which they are looked for.
const (
	// ConflictUnshared: this Service has no sharing key.
	ConflictUnshared Conflict = iota + 1
	// ConflictOtherUnshared: the other Service has no sharing key.
	ConflictOtherUnshared
	// ConflictKey: the keys differ.
	ConflictKey
	// ConflictNamespace: the namespaces differ, and neither the pool nor all of them allow that.
	ConflictNamespace
	// ConflictBackend: under externalTrafficPolicy Local the Pods differ, or only one of the two has that policy.
	ConflictBackend
	// ConflictPort: both use the same port.
	ConflictPort
)

// InUseError says that an address is held by another Service with which it may not be shared.
type InUseError struct {
	Address netip.Addr
	// Owner is the other Service: the one that uses the port, otherwise the first by name.
	Owner    Owner
	Conflict Conflict
	// Port is the port that both use, under ConflictPort.
	Port Port
	// Key and OtherKey are the sharing keys of this Service and of the other, under ConflictKey.
	Key, OtherKey string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("address %s is in use by Service %s: %s", e.Address, e.Owner, e.why())
}

func (e *InUseError) why() string {
	switch e.Conflict {
	case ConflictUnshared:
		return "this Service has no sharing key"
	case ConflictOtherUnshared:
		return "that Service has no sharing key"
	case ConflictKey:
		return fmt.Sprintf("the sharing keys %q here and %q there differ", e.Key, e.OtherKey)
	case ConflictNamespace:
		return "it is in another namespace, and neither the pool nor all namespaces concerned allow sharing across namespaces"
	case ConflictBackend:
		return "to share under externalTrafficPolicy Local both must have that policy and the same Pod selector"
	case ConflictPort:
		return fmt.Sprintf("both use %s", e.Port)
	}
	return fmt.Sprintf("conflict %d", e.Conflict)
}

// ReservedError says that a Service asks for an address that is reserved for others.
type ReservedError struct {
	Address netip.Addr
	// Reservation is the name of the reservation, and For whom it is for; For.Name is "" if for a whole namespace.
	Reservation string
	For         Owner
}

func (e *ReservedError) Error() string {
	who := "Service " + e.For.String()
	if e.For.Name == "" {
		who = "namespace " + e.For.Namespace
	}
	return fmt.Sprintf("requested address %s is reserved for %s by reservation %s", e.Address, who, e.Reservation)
}

// RestingError says that a Service asks for an address that another gave up a short while ago.
type RestingError struct {
	Address netip.Addr
	// Owner is the Service that had the address and may have it back.
	Owner Owner
	// Until is when everyone may have it.
	Until time.Time
}

func (e *RestingError) Error() string {
	return fmt.Sprintf("requested address %s rests until %s: until then only Service %s, which had it last, may have it",
		e.Address, e.Until.UTC().Format(time.RFC3339), e.Owner)
}

// QuarantinedError says that a Service asks for an address that somebody outside has, see SetQuarantine.
type QuarantinedError struct{ Address netip.Addr }

func (e *QuarantinedError) Error() string {
	return fmt.Sprintf("requested address %s is in use by another host on the network", e.Address)
}

// DisabledError says that a Service asks for an address of a disabled pool.
type DisabledError struct {
	Address netip.Addr
	Pool    string
}

func (e *DisabledError) Error() string {
	return fmt.Sprintf("requested address %s is in pool %s, which is disabled and gives no new addresses", e.Address, e.Pool)
}

// QuotaError says that a namespace may not have more of a pool.
type QuotaError struct {
	Pool, Namespace string
	// Services tells that Limit is Quota.Services and all are numbers of Services; otherwise of addresses.
	Services bool
	// Limit is the quota, Used what the namespace has of the pool, and Wanted what it would have.
	Limit, Used, Wanted int
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the quota of pool %s is used up: %s", e.Pool, e.numbers())
}

func (e *QuotaError) numbers() string {
	what := "addresses"
	switch {
	case e.Services && e.Limit == 1:
		what = "Service"
	case e.Services:
		what = "Services"
	case e.Limit == 1:
		what = "address"
	}
	return fmt.Sprintf("namespace %s may have %d %s, has %d and would have %d", e.Namespace, e.Limit, what, e.Used, e.Wanted)
}

// NotInPoolError says that a Service asks for an address which none of the pools open to it contains.
type NotInPoolError struct {
	Address netip.Addr
	// Pool is the pool that contains the address but is not open to the Service; "" if no pool contains it.
	Pool string
	// Pools are those open to the Service, in order.
	Pools []string
}

func (e *NotInPoolError) Error() string {
	open := "no pool is open to this Service"
	if len(e.Pools) > 0 {
		open = "this Service may use " + poolList(e.Pools)
	}
	if e.Pool == "" {
		return fmt.Sprintf("requested address %s is not in any pool: %s", e.Address, open)
	}
	return fmt.Sprintf("requested address %s is in pool %s: %s", e.Address, e.Pool, open)
}

// FamilyError says that the addresses a Service asks for do not fit its families.
type FamilyError struct {
	// Families are those of the Service.
	Families []Family
	// Address is one whose family the Service does not have; invalid if instead Missing is set.
	Address netip.Addr
	// Missing is a family of the Service of which it asks for no address.
	Missing Family
}

func (e *FamilyError) Error() string {
	names := make([]string, len(e.Families))
	for i, f := range e.Families {
		names[i] = f.String()
	}
	has := "this Service has " + strings.Join(names, " and ")
	if e.Address.IsValid() {
		return fmt.Sprintf("requested address %s is %s: %s", e.Address, FamilyOf(e.Address), has)
	}
	return fmt.Sprintf("no %s address among those requested: %s and needs one of each", e.Missing, has)
}

// Lack says why a pool could not give an address.
type Lack uint8

// What a pool may lack.
const (
	// LackFree: all addresses are assigned.
	LackFree Lack = iota + 1
	// LackFamily: the pool has no addresses of the family.
	LackFamily
	// LackPool: there is no pool of that name.
	LackPool
	// LackDisabled: the pool is disabled.
	LackDisabled
	// LackQuota: the namespace may not have more of the pool.
	LackQuota
	// LackHeld: all addresses that are not assigned are reserved for others, rest or are in quarantine.
	LackHeld
)

// PoolTried is a pool that could not give an address of a family.
type PoolTried struct {
	Pool   string
	Family Family
	Lack   Lack
	// Total is the number of addresses of the family in the pool; Reserved, Resting and Quarantined are how many of them
	// are not assigned, but reserved, resting or in quarantine.
	Total, Reserved      Count
	Resting, Quarantined int
	// Quota has the numbers under LackQuota; otherwise it is nil.
	Quota *QuotaError
	// Key is the sharing key under which an address was sought; "" if it was to be unshared.
	Key string
}

// String returns for example `pool small (4 of 4 assigned)`.
func (t PoolTried) String() string {
	return "pool " + t.Pool + " (" + t.why() + ")"
}

func (t PoolTried) why() string {
	switch t.Lack {
	case LackFamily:
		return "has no " + t.Family.String() + " addresses"
	case LackDisabled:
		return "is disabled"
	case LackQuota:
		return "quota: " + t.Quota.numbers()
	case LackPool:
		return "does not exist"
	}
	// Not how many of each: the message would change, and be sent again, whenever another Service comes or goes.
	found := []string{"assigned"}
	if !t.Reserved.IsZero() {
		found = append(found, "reserved")
	}
	if t.Resting > 0 {
		found = append(found, "resting")
	}
	if t.Quarantined > 0 {
		found = append(found, "another host's")
	}
	states := found[0]
	if last := len(found) - 1; last > 0 {
		states = strings.Join(found[:last], ", ") + " or " + found[last]
	}
	why := fmt.Sprintf("all %s addresses are %s", t.Total, states)
	if t.Total == CountOf(1) {
		why = "its one address is " + states
	}
	if t.Key != "" {
		why += fmt.Sprintf(", none can be shared under key %q", t.Key)
	}
	return why
}

// ExhaustedError says that no pool open to a Service has an address left.
type ExhaustedError struct {
	// Families are those for which there is no address, in the order of the request.
	Families []Family
	// Tried are the pools in order, first for the first of Families. It is empty if no pool is open to the Service.
	Tried []PoolTried
}

func (e *ExhaustedError) Error() string {
	if len(e.Tried) == 0 {
		names := make([]string, len(e.Families))
		for i, f := range e.Families {
			names[i] = f.String()
		}
		return fmt.Sprintf("no %s address: no pool is open to this Service", strings.Join(names, " or "))
	}
	var clauses []string
	for _, f := range e.Families {
		var tried []string
		for _, t := range e.Tried {
			if t.Family == f {
				tried = append(tried, t.String())
			}
		}
		clauses = append(clauses, fmt.Sprintf("no %s address left: %s", f, shorten(tried)))
	}
	return strings.Join(clauses, "; ")
}

// OverlapError says that two pools have an address in common.
type OverlapError struct {
	// Pool and Other are the names of the two, first the one whose range starts lower.
	Pool, Other string
	// Range and OtherRange are the ranges that overlap.
	Range, OtherRange Range
}

func (e *OverlapError) Error() string {
	return fmt.Sprintf("pools %s and %s overlap: %s and %s", e.Pool, e.Other, e.Range, e.OtherRange)
}

func poolList(names []string) string {
	if len(names) == 1 {
		return "pool " + names[0]
	}
	return "pools " + shorten(names)
}

// shorten joins parts and keeps the text within what an event can hold (1,024 bytes) whatever the number of pools.
func shorten(parts []string) string {
	const most = 8
	if more := len(parts) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(parts[:most], ", "), more)
	}
	return strings.Join(parts, ", ")
}
