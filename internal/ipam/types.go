package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Family is an address family.
type Family uint8

// The two families. The zero Family is neither.
const (
	IPv4 Family = iota + 1
	IPv6
)

// families lists both, in the order in which arrays indexed by Family.index hold them.
var families = [2]Family{IPv4, IPv6}

// FamilyOf returns the family of a valid address. An IPv4-mapped IPv6 address is IPv6 here; the allocator refuses it.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return fmt.Sprintf("Family(%d)", uint8(f))
}

func (f Family) index() int { return int(f - IPv4) }

// Owner names a Service.
type Owner struct{ Namespace, Name string }

// String returns namespace/name.
func (o Owner) String() string { return o.Namespace + "/" + o.Name }

// Compare orders owners by namespace, then name.
func (o Owner) Compare(other Owner) int {
	return cmp.Or(cmp.Compare(o.Namespace, other.Namespace), cmp.Compare(o.Name, other.Name))
}

// Protocol is the transport protocol of a Service port.
type Protocol uint8

// The protocols that a Service port may have.
const (
	TCP Protocol = iota + 1
	UDP
	SCTP
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("Protocol(%d)", uint8(p))
}

// ParseProtocol is the inverse of Protocol.String; "" is TCP, as in a Service.
func ParseProtocol(s string) (Protocol, error) {
	switch s {
	case "TCP", "":
		return TCP, nil
	case "UDP":
		return UDP, nil
	case "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("unknown protocol %q: use TCP, UDP or SCTP", s)
}

// Port is a port that a Service serves on its addresses.
type Port struct {
	Protocol Protocol
	Number   uint16
}

// String returns for example "TCP port 80".
func (p Port) String() string { return fmt.Sprintf("%s port %d", p.Protocol, p.Number) }

func (p Port) compare(other Port) int {
	return cmp.Or(cmp.Compare(p.Protocol, other.Protocol), cmp.Compare(p.Number, other.Number))
}

// Sharing says with whom a Service is willing to share its addresses: with Services of the same key and the same
// backend whose ports are all different. They must be of the same namespace unless the pool or all of them allow
// otherwise.
type Sharing struct {
	// Key is the sharing key. With an empty key nothing is shared.
	Key string
	// Ports are all ports of the Service.
	Ports []Port
	// Backend is "" under externalTrafficPolicy Cluster. Under Local it is the Pod selector in any canonical form: only
	// Services with the same Pods can share an address whose traffic must go where these Pods are.
	Backend string
	// AcrossNamespaces tells that the namespace of the Service allows it to share with Services of other namespaces. All
	// that share the address must have it, unless the pool allows sharing across namespaces.
	AcrossNamespaces bool
}

// normalized returns a copy with sorted, distinct ports, or nil where nothing is shared.
func (s *Sharing) normalized() *Sharing {
	if s == nil || s.Key == "" {
		return nil
	}
	c := new(struct {
		Sharing
		few [2]Port // backs Ports while they are few, as they mostly are
	})
	c.Sharing = *s
	c.Ports = append(c.few[:0], s.Ports...)
	slices.SortFunc(c.Ports, Port.compare)
	c.Ports = slices.Compact(c.Ports)
	return &c.Sharing
}

func (s *Sharing) equal(other *Sharing) bool {
	if s == nil || other == nil {
		return s == other
	}
	return s.Key == other.Key && s.Backend == other.Backend && s.AcrossNamespaces == other.AcrossNamespaces &&
		slices.Equal(s.Ports, other.Ports)
}

// Pool is a named set of addresses.
type Pool struct {
	Name string
	// Ranges are used up in this order, each from its lowest address. What a range repeats of an earlier one is ignored.
	// Exclusions are made by the caller, see Subtract and WithoutBuggy.
	Ranges []Range
	// ShareAcrossNamespaces lets Services of different namespaces share an address of this pool. By default they may not:
	// a key is easily guessed, and who shares an address can keep others from a port.
	ShareAcrossNamespaces bool
	// Disabled keeps what is assigned and gives nothing new at all: not on request, not to share, not to whom an address
	// is reserved or rests for.
	Disabled bool
	// ReuseDelay is how long an address rests after its last owner gave it up. Until then only that owner may have it
	// again, and gets it before any other free address if it asks for none in particular. A change applies to what rests
	// already, counted from the time of release.
	ReuseDelay time.Duration
	// Quota bounds what each namespace may have of the pool. Nobody loses anything by a lower one.
	Quota Quota
}

// Quota bounds what the Services of one namespace may have of a pool. 0 is no bound.
type Quota struct {
	// Addresses is how many addresses they may have together; one that several of them share counts once.
	Addresses int
	// Services is how many of them may have an address of the pool.
	Services int
}

// Request describes the addresses that a Service is to have.
type Request struct {
	Owner Owner
	// Families are one or two distinct families in the Service's order: one address of each is wanted.
	Families []Family
	// Partial makes the second of two families optional (PreferDualStack): whichever can be had is enough, and the other
	// is added by a later call. Without it (RequireDualStack) it is both or nothing.
	Partial bool
	// Addresses are those the Service asks for; the result has exactly these of their family. They must include one of
	// every family, or under Partial of any: the other family is then chosen as usual.
	Addresses []netip.Addr
	// Pools are the names of the pools that may give an address, most preferred first.
	Pools []string
	// OnRequest are the names of further pools that give no address unless Addresses has it.
	OnRequest []string
	// Named tells that the Service itself named Pools. When it names others than at the last successful call, it asks to
	// move: an address outside the newly named pools is replaced. Any other change of Pools, and any change of what the
	// pools contain, moves nothing.
	Named bool
	// Sharing is nil if the addresses are for this Service alone.
	Sharing *Sharing
	// Renew asks for other addresses than the owner has, of every family of which it asks for none in particular. What it
	// has is given up once the others are had: if there is no other for one of them, the request fails and all stays. It
	// is for a single call: the next one with it asks for others again. An address that rests for the owner is not taken.
	Renew bool
}

// Assigned is an address that an owner holds.
type Assigned struct {
	Address netip.Addr
	// Pool is the pool that covers the address now. It is "" if none does: the address is out of pool, because the pool
	// was edited or deleted while its owner lived.
	Pool string
	// From is Pool or, out of pool, the one that last covered the address; "" if that is not known.
	From string
}

// Result is what came of an Allocate.
type Result struct {
	// Addresses are all that the owner holds now: in the order of the requested families, inside a family in the order
	// asked for or else of assignment.
	Addresses []Assigned
	// Released are the addresses that the owner gave up, because it asked for others or for fewer families. Another owner
	// that shares one may still hold it.
	Released []netip.Addr
	// Freed tells that something became available to others: an address, also one to share, a port of a shared address, a
	// sharing key, or a part of a quota. (An address that rests is not available, but with it a quota is.)
	// Requests that failed before deserve another attempt.
	Freed bool
	// Missing says why a Partial request got only one of its two families. It is nil if nothing is missing.
	Missing error
}
