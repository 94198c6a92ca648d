package routers

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"
)

// Config is all that a router is told.
type Config struct {
	ASN uint32 `json:"asn"`
	// RouterID is the BGP identifier: an IPv4 address.
	RouterID  netip.Addr `json:"routerID"`
	Neighbors []Neighbor `json:"neighbors,omitempty"`
	// Announce are the routes that the router itself tells all neighbors.
	Announce []Announcement `json:"announce,omitempty"`
	// GracefulRestart is the router's part in RFC 4724.
	GracefulRestart GracefulRestart `json:"gracefulRestart,omitempty"`
}

// GracefulRestart says what a router does about graceful restarts (RFC 4724).
type GracefulRestart string

// The parts in a graceful restart. A Helper keeps the routes of a neighbor that
// restarts; a Restarter also asks its neighbors for the same.
const (
	Helper     GracefulRestart = ""
	Restarter  GracefulRestart = "restarter"
	NoRestarts GracefulRestart = "off"
)

// Family is an address family of routes, all of them unicast.
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Families returns both.
func Families() []Family { return []Family{IPv4, IPv6} }

func familyOf(prefix netip.Prefix) Family {
	if prefix.Addr().Is4() {
		return IPv4
	}
	return IPv6
}

// Neighbor is a BGP speaker, or many of them, that the router has sessions with.
// Exactly one of Address, Range and Unnumbered says who it is.
type Neighbor struct {
	// Name is unique in a Config: lower-case letters, digits and underscores.
	Name string `json:"name"`
	// Address of the neighbor. A link-local one has the interface as its zone.
	Address netip.Addr `json:"address,omitzero"`
	// Range makes every speaker in it that connects a neighbor. The router itself
	// connects to none.
	Range netip.Prefix `json:"range,omitzero"`
	// Unnumbered is the interface on which the neighbor is found by its router
	// advertisements. Only FRR can do that.
	Unnumbered string `json:"unnumbered,omitempty"`

	// ASN of the neighbor; 0 stands for any but the router's own.
	ASN uint32 `json:"asn,omitempty"`
	// LocalASN, unless 0, is the router's as this neighbor sees it.
	LocalASN uint32 `json:"localASN,omitempty"`
	// Port is where the neighbor listens; 0 means 179.
	Port uint16 `json:"port,omitempty"`
	// Source is the router's address for the session; by default the kernel's choice.
	Source netip.Addr `json:"source,omitzero"`
	// Password is that of TCP MD5 (RFC 2385).
	Password string `json:"password,omitempty"`
	// Passive routers wait for the neighbor to connect.
	Passive bool `json:"passive,omitempty"`
	// Multihop, unless 0, is the TTL for a neighbor behind other routers.
	Multihop uint8 `json:"multihop,omitempty"`
	// TTLSecurity, unless 0, is how many hops away the neighbor may be (RFC 5082).
	TTLSecurity uint8 `json:"ttlSecurity,omitempty"`
	// Hold and Keepalive are whole seconds; zero means the daemon's own.
	Hold      time.Duration `json:"hold,omitempty"`
	Keepalive time.Duration `json:"keepalive,omitempty"`
	// BFD, if set, watches the session.
	BFD *BFD `json:"bfd,omitempty"`
	// Families that are exchanged; both if empty.
	Families []Family `json:"families,omitempty"`
	// ExtendedNextHop allows IPv4 routes with IPv6 next hops (RFC 8950).
	ExtendedNextHop bool `json:"extendedNextHop,omitempty"`
}

// BFD are the parameters of BFD sessions (RFC 5880); zero means 300 ms and 3.
type BFD struct {
	Receive    time.Duration `json:"receive,omitempty"`
	Transmit   time.Duration `json:"transmit,omitempty"`
	Multiplier uint8         `json:"multiplier,omitempty"`
	// Passive routers wait for the neighbor's first packet.
	Passive bool `json:"passive,omitempty"`
	// Echo, unless 0, is the interval of the echo function. Only FRR has it.
	Echo time.Duration `json:"echo,omitempty"`
	// MinimumTTL is the lowest that packets of a multihop session may have. Only
	// FRR has it.
	MinimumTTL uint8 `json:"minimumTTL,omitempty"`
}

func (b BFD) complete() BFD {
	const interval, multiplier = 300 * time.Millisecond, 3
	if b.Receive == 0 {
		b.Receive = interval
	}
	if b.Transmit == 0 {
		b.Transmit = interval
	}
	if b.Multiplier == 0 {
		b.Multiplier = multiplier
	}
	return b
}

// Announcement is a route that a router originates.
type Announcement struct {
	Prefix netip.Prefix `json:"prefix"`
	Attributes
}

// Attributes are what an Announcement is given.
type Attributes struct {
	MED              *uint32          `json:"med,omitempty"`
	Communities      []Community      `json:"communities,omitempty"`
	LargeCommunities []LargeCommunity `json:"largeCommunities,omitempty"`
	// Prepend is how often the router's ASN is put in front once more.
	Prepend uint8 `json:"prepend,omitempty"`
}

func (a Attributes) isZero() bool {
	return a.MED == nil && len(a.Communities) == 0 && len(a.LargeCommunities) == 0 && a.Prepend == 0
}

// FullTable returns announcements of n IPv4 networks, all different: what a
// router on the Internet would tell, if n is large.
func FullTable(n int) []Announcement {
	const bits = 24
	all := make([]Announcement, n)
	for i := range all {
		// From 32.0.0.0 on; 2^21 of them fit before the multicast addresses.
		address := netip.AddrFrom4([4]byte{32 + byte(i>>16), byte(i >> 8), byte(i), 0})
		all[i] = Announcement{Prefix: netip.PrefixFrom(address, bits)}
	}
	return all
}

// clone returns a copy that shares nothing which either may change.
func (c Config) clone() Config {
	c.Neighbors = slices.Clone(c.Neighbors)
	c.Announce = slices.Clone(c.Announce)
	return c
}

// families of the neighbor.
func (n Neighbor) families() []Family {
	if len(n.Families) == 0 {
		return Families()
	}
	return n.Families
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)

// validPassword has what neither FRR nor BIRD reads as anything else.
var validPassword = regexp.MustCompile(`^[A-Za-z0-9_-]{0,80}$`)

// Validate reports everything that makes the configuration unusable for any kind.
func (c Config) Validate() error {
	var errs []error
	if c.ASN == 0 {
		errs = append(errs, errors.New("asn: is 0; give the router a number of its own"))
	}
	if !c.RouterID.Is4() {
		errs = append(errs, fmt.Errorf("routerID: %q is not an IPv4 address", c.RouterID))
	}
	if !slices.Contains([]GracefulRestart{Helper, Restarter, NoRestarts}, c.GracefulRestart) {
		errs = append(errs, fmt.Errorf("gracefulRestart: %q is unknown", c.GracefulRestart))
	}
	seen := map[string]bool{}
	for i, neighbor := range c.Neighbors {
		if seen[neighbor.Name] {
			errs = append(errs, fmt.Errorf("neighbors[%d].name: %q is taken", i, neighbor.Name))
		}
		seen[neighbor.Name] = true
		for _, err := range neighbor.check() {
			errs = append(errs, fmt.Errorf("neighbors[%d].%w", i, err))
		}
	}
	for i, announcement := range c.Announce {
		if announcement.Prefix != announcement.Prefix.Masked() || !announcement.Prefix.IsValid() {
			errs = append(errs, fmt.Errorf("announce[%d].prefix: %q is not a network's", i, announcement.Prefix))
		}
	}
	return errors.Join(errs...)
}

func (n Neighbor) check() []error {
	var errs []error
	if !validName.MatchString(n.Name) {
		errs = append(errs, fmt.Errorf("name: %q is not made of lower-case letters, digits and underscores", n.Name))
	}
	identities := 0
	for _, given := range []bool{n.Address.IsValid(), n.Range.IsValid(), n.Unnumbered != ""} {
		if given {
			identities++
		}
	}
	if identities != 1 {
		errs = append(errs, fmt.Errorf("address, range, unnumbered: %d are given; give exactly one", identities))
	}
	if n.Address.IsLinkLocalUnicast() && n.Address.Is6() && n.Address.Zone() == "" {
		errs = append(errs, fmt.Errorf("address: %s needs an interface, as in %s%%eth0", n.Address, n.Address))
	}
	if !validPassword.MatchString(n.Password) {
		errs = append(errs, errors.New("password: has characters that not every router takes; use letters, digits and dashes"))
	}
	if n.Multihop > 0 && n.TTLSecurity > 0 {
		errs = append(errs, errors.New("ttlSecurity: already says how many hops there may be; leave out multihop"))
	}
	if n.Hold%time.Second != 0 || n.Keepalive%time.Second != 0 {
		errs = append(errs, errors.New("hold, keepalive: are not whole seconds"))
	}
	return errs
}
