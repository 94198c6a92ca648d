package config

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// Snapshot is the configuration that is in force. It never changes; an edit
// makes a new one. Objects are in the order of their names, reservations and BGP
// peers in that of their age: the older goes first.
type Snapshot struct {
	Pools             []*Pool
	Reservations      []*Reservation
	L2Advertisements  []*L2Advertisement
	BGPPeers          []*BGPPeer
	BGPAdvertisements []*BGPAdvertisement
	// memory is what the names that the objects use mean.
	memory memory
}

// Pool is an IPAddressPool that is in force.
type Pool struct {
	Name   string
	Labels labels.Set
	// Ranges are the addresses in the order of the spec.
	Ranges []ipam.Range
	// Assignable are those of them that may be handed out: not excluded, not
	// buggy where these are avoided, and not the cluster's own.
	Assignable []ipam.Range
	// Disabled hands out nothing new.
	Disabled bool
	// ReuseDelay is how long an address rests between two Services.
	ReuseDelay time.Duration
	// AddressQuota and ServiceQuota bound what one namespace may have; 0 is no
	// bound.
	AddressQuota, ServiceQuota int
	// Reassign moves Services whose address the pool no longer has.
	Reassign bool
	// ShareAcrossNamespaces lets Services of different namespaces share.
	ShareAcrossNamespaces bool
	// AutoAssign lets Services have an address without asking for it.
	AutoAssign bool
	// Allocation says whom the pool is for; nil is everyone.
	Allocation *ServiceAllocation
}

// ServiceAllocation says which Services a pool is for, and when it is tried.
type ServiceAllocation struct {
	// Priority orders the pools that match: 1 first, 0 last.
	Priority           int32
	Namespaces         []string
	NamespaceSelectors []labels.Selector
	ServiceSelectors   []labels.Selector
}

// Reservation is an IPReservation that is in force: Ranges, or Count addresses
// of Pool.
type Reservation struct {
	Name   string
	Ranges []ipam.Range
	Count  int
	Pool   string
	Family ipam.Family
	// Held are the addresses that a count has taken so far.
	Held []netip.Addr
	// Namespace, and Service unless it is for the whole namespace.
	Namespace, Service string
	// Group is not empty if others of the same group may hold the same addresses.
	Group string
}

// L2Advertisement is an L2Advertisement that is in force.
type L2Advertisement struct {
	Name string
	// AllPools says that no pool is chosen by name or selector, which means all.
	AllPools bool
	// Pools are the names of the chosen pools, sorted: by name, whether the pool
	// exists or not (an address outlives its pool), and by selector, whether the
	// pool is in force or not.
	Pools []string
	// Selects says that pools are chosen by selector, so that nobody can tell of
	// a pool that is gone whether it was; Existing are the names of those that
	// are not, sorted.
	Selects  bool
	Existing []string
	// NodeSelectors, ServiceSelectors: one match is enough; none at all matches
	// everything.
	NodeSelectors    []labels.Selector
	ServiceSelectors []labels.Selector
	// Interfaces are names; none means those that have the address's subnet.
	Interfaces     []string
	PreferredNodes []PreferredNodes
	// OnConflict is never empty. Where several advertisements select an address,
	// see OnConflict.
	OnConflict v1beta1.ConflictPolicy
	// Rebalance is the value of the annotation berth.dev/rebalance; "" without it.
	// A value that the advertisement did not have before asks to spread its
	// addresses anew.
	Rebalance string
}

// OnConflict returns what to do about another host that has an address which
// these advertisements select. If they disagree it is to yield: who asks for
// that has a host that must not be disturbed, and a defence would.
func OnConflict(advertisements ...*L2Advertisement) v1beta1.ConflictPolicy {
	for _, a := range advertisements {
		if a.OnConflict == v1beta1.ConflictYield {
			return v1beta1.ConflictYield
		}
	}
	return v1beta1.ConflictDefend
}

// PoolSelection says which pools an advertisement is for.
type PoolSelection struct {
	// AllPools, Pools, Selects and Existing are those of L2Advertisement.
	AllPools bool
	Pools    []string
	Selects  bool
	Existing []string
}

// PreferredNodes gives the nodes that match a weight.
type PreferredNodes struct {
	Weight   int32
	Selector labels.Selector
}

// Service is what decides about the pools of a Service.
type Service struct {
	Namespace       string
	Labels          labels.Set
	NamespaceLabels labels.Set
}

// Pool returns the pool of that name.
func (s *Snapshot) Pool(name string) (*Pool, bool) {
	i, found := slices.BinarySearchFunc(s.Pools, name, func(p *Pool, name string) int {
		return strings.Compare(p.Name, name)
	})
	if !found {
		return nil, false
	}
	return s.Pools[i], true
}

// PoolOf returns the pool that contains addr.
func (s *Snapshot) PoolOf(addr netip.Addr) (*Pool, bool) {
	for _, p := range s.Pools {
		if p.Contains(addr) {
			return p, true
		}
	}
	return nil, false
}

// AutoAssignPools returns the pools that may give svc an address without being
// asked for, in the order in which they are tried: those that are for some
// Services, and for this one, by priority; then those that are for everyone.
// Equals are in the order of their names.
func (s *Snapshot) AutoAssignPools(svc Service) []*Pool {
	var pools []*Pool
	for _, p := range s.Pools {
		if p.AutoAssign && p.Serves(svc) {
			pools = append(pools, p)
		}
	}
	slices.SortStableFunc(pools, func(a, b *Pool) int {
		return cmp.Compare(a.rank(), b.rank())
	})
	return pools
}

// rank orders pools for AutoAssignPools.
func (p *Pool) rank() int64 {
	const forSome, forAll = 1 << 31, 1<<31 + 1
	switch {
	case p.Allocation == nil:
		return forAll
	case p.Allocation.Priority == 0:
		return forSome
	}
	return int64(p.Allocation.Priority)
}

// Serves says whether svc may have addresses of the pool, asked for or not.
func (p *Pool) Serves(svc Service) bool {
	return p.Excludes(svc) == ""
}

// Excludes says why svc may not have addresses of the pool; "" if it may.
func (p *Pool) Excludes(svc Service) string {
	a := p.Allocation
	if a == nil {
		return ""
	}
	if len(a.Namespaces)+len(a.NamespaceSelectors) > 0 &&
		!slices.Contains(a.Namespaces, svc.Namespace) &&
		!matchesOne(a.NamespaceSelectors, svc.NamespaceLabels) {
		return "it is for other namespaces than " + svc.Namespace
	}
	if !MatchesAny(a.ServiceSelectors, svc.Labels) {
		return "none of its serviceSelectors matches the labels of the Service"
	}
	return ""
}

// Contains says whether addr is one of the pool's.
func (p *Pool) Contains(addr netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r ipam.Range) bool { return r.Contains(addr) })
}

// MayAssign says whether addr is one that the pool hands out.
func (p *Pool) MayAssign(addr netip.Addr) bool {
	return slices.ContainsFunc(p.Assignable, func(r ipam.Range) bool { return r.Contains(addr) })
}

// SelectsPool says whether the advertisement is for addresses of the pool of
// that name. A pool that does not exist any more may have been chosen by its
// labels, which are gone with it: rather than silence its addresses, every
// advertisement with selectors is for them. "" stands for an address that no
// pool is known for.
func (a *L2Advertisement) SelectsPool(name string) bool {
	selection := PoolSelection{AllPools: a.AllPools, Pools: a.Pools, Selects: a.Selects, Existing: a.Existing}
	return selection.SelectsPool(name)
}

// SelectsPool is the same for any advertisement.
func (p *PoolSelection) SelectsPool(name string) bool {
	if p.AllPools {
		return true
	}
	if _, found := slices.BinarySearch(p.Pools, name); found {
		return true
	}
	_, exists := slices.BinarySearch(p.Existing, name)
	return p.Selects && !exists
}

// MatchesAny says whether one of the selectors matches, or there is none.
func MatchesAny(selectors []labels.Selector, set labels.Set) bool {
	return len(selectors) == 0 || matchesOne(selectors, set)
}

func matchesOne(selectors []labels.Selector, set labels.Set) bool {
	return slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(set) })
}
