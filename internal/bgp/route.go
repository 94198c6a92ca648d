package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// GracefulShutdown is the well-known community that asks a peer to prefer any
// other path before this one goes away (RFC 8326).
const GracefulShutdown Community = 0xffff0000

// Community is a standard community (RFC 1997): AS number and value.
type Community uint32

// String returns "asn:value".
func (c Community) String() string { return fmt.Sprintf("%d:%d", uint32(c)>>16, uint32(c)&0xffff) }

// LargeCommunity is a large community (RFC 8092): administrator and two values.
type LargeCommunity [3]uint32

// String returns "administrator:value:value".
func (c LargeCommunity) String() string { return fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]) }

// A Route is one prefix as one peer is to be told of it. The origin is always
// IGP, the next hop that of the session.
type Route struct {
	Prefix netip.Prefix
	// LocalPref is told to internal peers only; they get 100 if it is nil.
	LocalPref *uint32
	// MED is left out if nil.
	MED *uint32
	// Communities and LargeCommunities are sets: neither order nor repetition
	// matters.
	Communities      []Community
	LargeCommunities []LargeCommunity
	// Prepend is how many times our AS number is in the AS path beside the one
	// time that an external peer always sees. Internal peers see none.
	Prepend uint8
}

// Family returns the family of the prefix.
func (r Route) Family() Family { return FamilyOf(r.Prefix.Addr()) }

// Normalise returns a copy of r that shares nothing with it, with a masked
// prefix and with sorted communities, each once.
func (r Route) Normalise() Route {
	r.Prefix = r.Prefix.Masked()
	r.LocalPref, r.MED = clonePointer(r.LocalPref), clonePointer(r.MED)
	r.Communities = slices.Clone(r.Communities)
	slices.Sort(r.Communities)
	r.Communities = slices.Compact(r.Communities)
	r.LargeCommunities = slices.Clone(r.LargeCommunities)
	slices.SortFunc(r.LargeCommunities, func(a, b LargeCommunity) int { return slices.Compare(a[:], b[:]) })
	r.LargeCommunities = slices.Compact(r.LargeCommunities)
	return r
}

// Equal reports whether two normalised routes are the same.
func (r Route) Equal(o Route) bool {
	return r.Prefix == o.Prefix && r.Prepend == o.Prepend &&
		equalPointer(r.LocalPref, o.LocalPref) && equalPointer(r.MED, o.MED) &&
		slices.Equal(r.Communities, o.Communities) && slices.Equal(r.LargeCommunities, o.LargeCommunities)
}

// String describes the route in one line.
func (r Route) String() string {
	var b strings.Builder
	b.WriteString(r.Prefix.String())
	if r.LocalPref != nil {
		fmt.Fprintf(&b, " local-pref %d", *r.LocalPref)
	}
	if r.MED != nil {
		fmt.Fprintf(&b, " med %d", *r.MED)
	}
	if r.Prepend != 0 {
		fmt.Fprintf(&b, " prepend %d", r.Prepend)
	}
	for _, c := range r.Communities {
		fmt.Fprintf(&b, " %v", c)
	}
	for _, c := range r.LargeCommunities {
		fmt.Fprintf(&b, " large:%v", c)
	}
	return b.String()
}

// Routes are normalised routes by prefix.
type Routes map[netip.Prefix]Route

// NewRoutes normalises and indexes routes. Of several with the same prefix the
// last counts.
func NewRoutes(routes []Route) Routes {
	out := make(Routes, len(routes))
	for _, r := range routes {
		r = r.Normalise()
		out[r.Prefix] = r
	}
	return out
}

// Diff returns what has to be told to a peer that knows r so that it knows want:
// routes that are new or differ, and prefixes that are gone, both in order.
func (r Routes) Diff(want Routes) (announce []Route, withdraw []netip.Prefix) {
	for prefix, route := range want {
		if have, ok := r[prefix]; !ok || !have.Equal(route) {
			announce = append(announce, route)
		}
	}
	for prefix := range r {
		if _, ok := want[prefix]; !ok {
			withdraw = append(withdraw, prefix)
		}
	}
	slices.SortFunc(announce, func(a, b Route) int { return comparePrefix(a.Prefix, b.Prefix) })
	slices.SortFunc(withdraw, comparePrefix)
	return announce, withdraw
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func equalPointer[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
