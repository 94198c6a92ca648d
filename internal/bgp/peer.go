package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Family is an address family of unicast routes.
type Family uint8

// The families.
const (
	IPv4 Family = iota + 1
	IPv6
)

// FamilyOf returns the family of an address; IPv4-mapped IPv6 is IPv4.
func FamilyOf(addr netip.Addr) Family {
	if addr.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// String returns the name that is used in logs and in status.
func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	}
	return "unknown"
}

// DynamicASN says which AS numbers of a peer are accepted when PeerASN is zero.
type DynamicASN string

// The values of Peer.Dynamic; the empty one asks for PeerASN exactly.
const (
	// Internal accepts a peer of our own AS.
	Internal DynamicASN = "internal"
	// External accepts a peer of any other AS.
	External DynamicASN = "external"
)

// Password is a TCP MD5 key (RFC 2385). It never prints itself: neither by a
// formatting verb, nor as text, nor as JSON.
type Password string

const redacted = "redacted"

// String tells only whether a password is set.
func (p Password) String() string {
	if p == "" {
		return ""
	}
	return redacted
}

// GoString is String for %#v.
func (p Password) GoString() string { return fmt.Sprintf("%q", p.String()) }

// MarshalText is String for encoders.
func (p Password) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// GracefulRestart asks for RFC 4724: the peer keeps our routes while we restart.
type GracefulRestart struct {
	// RestartTime is for how long the peer keeps the routes of a session that is
	// gone, in whole seconds from 1 to 4095.
	RestartTime time.Duration
}

// String returns the restart time.
func (g *GracefulRestart) String() string {
	if g == nil {
		return "off"
	}
	return g.RestartTime.String()
}

// A Peer is everything about one session, resolved for one node.
type Peer struct {
	// Name identifies the session among all of a Speaker. It is the BGPPeer's
	// name, or "name@address" where the object takes addresses from elsewhere.
	Name string

	// LocalASN is the AS number that this session shows of us.
	LocalASN uint32
	// PeerASN is the AS number that the peer must have; zero leaves it to Dynamic.
	PeerASN uint32
	Dynamic DynamicASN
	// RouterID is our BGP identifier, an IPv4 address.
	RouterID netip.Addr

	// Address of the peer, with a zone if it is link-local. It is invalid where
	// the peer is found by Interface.
	Address netip.Addr
	// Interface of an unnumbered peer, or to which a link-local peer is bound.
	Interface string
	// VRF is the device to which the session's socket is bound.
	VRF string
	// Port of the peer, 179 if zero.
	Port uint16
	// Passive peers are waited for, never called.
	Passive bool
	// LocalPort is where a passive peer is waited for, 179 if zero.
	LocalPort uint16
	// SourceAddress of the session; invalid leaves it to the kernel.
	SourceAddress netip.Addr

	Password Password
	// HoldTime is what we propose: zero (never expires) or at least 3 s, in whole
	// seconds. The smaller of both sides' counts (RFC 4271 section 4.2).
	HoldTime time.Duration
	// KeepaliveTime is a third of the negotiated hold time if zero.
	KeepaliveTime time.Duration
	// ConnectTime is how long one attempt to connect may take.
	ConnectTime time.Duration
	// Multihop allows an external peer that is not on a link of ours.
	Multihop bool
	// TTLSecurity is the number of hops that a peer may be away (GTSM, RFC 5082);
	// zero is off. It excludes Multihop.
	TTLSecurity uint8

	// Families that are offered, in no particular order.
	Families []Family
	// NextHops are addresses of this node for families that are not the
	// transport's, or that are to differ from the session's own address.
	NextHops map[Family]netip.Addr
	// GracefulRestart is off if nil.
	GracefulRestart *GracefulRestart
}

// Internal reports whether a peer with AS number asn is an internal one (iBGP).
func (p Peer) Internal(asn uint32) bool { return p.LocalASN == asn }

// AcceptsASN reports whether the peer may have AS number asn.
func (p Peer) AcceptsASN(asn uint32) bool {
	switch {
	case asn == 0: // RFC 7607
		return false
	case p.PeerASN != 0:
		return asn == p.PeerASN
	case p.Dynamic == Internal:
		return asn == p.LocalASN
	case p.Dynamic == External:
		return asn != p.LocalASN
	}
	return false
}

// Where returns where the peer is: its address, or its interface.
func (p Peer) Where() string {
	if p.Address.IsValid() {
		return p.Address.String()
	}
	return p.Interface
}

// String describes the peer in one line, without its password.
func (p Peer) String() string {
	var b strings.Builder
	remote := fmt.Sprint(p.PeerASN)
	if p.PeerASN == 0 {
		remote = string(p.Dynamic)
	}
	fmt.Fprintf(&b, "%s: AS %d to %s (AS %s)", p.Name, p.LocalASN, p.Where(), remote)
	if p.VRF != "" {
		fmt.Fprintf(&b, " in %s", p.VRF)
	}
	if p.Passive {
		b.WriteString(" passive")
	}
	return b.String()
}

// Equal reports whether both describe the same session in all respects. The
// order of families does not matter.
func (p Peer) Equal(o Peer) bool {
	return !p.NeedsReset(o) && p.ConnectTime == o.ConnectTime && maps.Equal(p.NextHops, o.NextHops)
}

// NeedsReset reports whether a session made for p has to be ended and made
// again to become one for o. Next hops can be told by an UPDATE and the
// connection's time-out concerns only the next attempt; all else is part of the
// socket or of the OPEN message.
func (p Peer) NeedsReset(o Peer) bool {
	if !equalGracefulRestart(p.GracefulRestart, o.GracefulRestart) || !sameFamilies(p.Families, o.Families) {
		return true
	}
	return p.scalars() != o.scalars()
}

// ResetReasons says why a session made for p needs a reset to become one for o: what
// differs, in the order of the fields. It is empty exactly where NeedsReset is false.
func (p Peer) ResetReasons(o Peer) []string {
	var reasons []string
	before, after := reflect.ValueOf(p.scalars()), reflect.ValueOf(o.scalars())
	for i := range before.NumField() {
		a, b := before.Field(i).Interface(), after.Field(i).Interface()
		if a == b {
			continue
		}
		reason := before.Type().Field(i).Name
		if _, secret := a.(Password); !secret {
			reason += fmt.Sprintf(" %s -> %s", shown(a), shown(b))
		}
		reasons = append(reasons, reason)
	}
	if !equalGracefulRestart(p.GracefulRestart, o.GracefulRestart) {
		reasons = append(reasons, fmt.Sprintf("GracefulRestart %s -> %s", p.GracefulRestart, o.GracefulRestart))
	}
	if !sameFamilies(p.Families, o.Families) {
		reasons = append(reasons, fmt.Sprintf("Families %v -> %v", p.Families, o.Families))
	}
	return reasons
}

// shown renders a value of a session; nothing is "none".
func shown(value any) string {
	addr, is := value.(netip.Addr)
	text := fmt.Sprint(value)
	if text == "" || is && !addr.IsValid() {
		return "none"
	}
	return text
}

// A session's scalars are the comparable part of a Peer of which every change
// needs a reset.
type scalars struct {
	Name                    string
	LocalASN, PeerASN       uint32
	Dynamic                 DynamicASN
	RouterID, Address       netip.Addr
	Interface, VRF          string
	Port, LocalPort         uint16
	Passive                 bool
	SourceAddress           netip.Addr
	Password                Password
	HoldTime, KeepaliveTime time.Duration
	Multihop                bool
	TTLSecurity             uint8
}

func (p Peer) scalars() scalars {
	return scalars{
		Name: p.Name, LocalASN: p.LocalASN, PeerASN: p.PeerASN, Dynamic: p.Dynamic,
		RouterID: p.RouterID, Address: p.Address, Interface: p.Interface, VRF: p.VRF,
		Port: p.Port, LocalPort: p.LocalPort, Passive: p.Passive, SourceAddress: p.SourceAddress,
		Password: p.Password, HoldTime: p.HoldTime, KeepaliveTime: p.KeepaliveTime,
		Multihop: p.Multihop, TTLSecurity: p.TTLSecurity,
	}
}

// Clone returns a copy that shares nothing with p.
func (p Peer) Clone() Peer {
	p.Families = slices.Clone(p.Families)
	p.NextHops = maps.Clone(p.NextHops)
	if p.GracefulRestart != nil {
		restart := *p.GracefulRestart
		p.GracefulRestart = &restart
	}
	return p
}

func equalGracefulRestart(a, b *GracefulRestart) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func sameFamilies(a, b []Family) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
