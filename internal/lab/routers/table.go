package routers

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Table is what a router knows of one family: all paths to each prefix, in the
// order of their peers' addresses.
type Table map[netip.Prefix][]Path

// Path is one way to a prefix, as a neighbor told it.
type Path struct {
	// Peer is the neighbor's address, invalid for the router's own routes.
	Peer netip.Addr
	// NextHops are the addresses to which packets are sent: one, or a global and a
	// link-local one.
	NextHops []netip.Addr
	ASPath   []uint32
	// Origin is IGP, EGP or Incomplete.
	Origin string
	// LocalPref and MED are nil if the router does not know any.
	LocalPref, MED   *uint32
	Communities      []Community
	LargeCommunities []LargeCommunity
	AtomicAggregate  bool
	// Best is the path that the router has chosen.
	Best bool
	// Stale: the neighbor restarts, and the path is from its former life. BIRD does
	// not tell paths apart: all are stale until the neighbor has told the last.
	Stale bool
}

// Received returns the paths that neighbors have told.
func (t Table) Received() Table {
	received := Table{}
	for prefix, paths := range t {
		for _, path := range paths {
			if path.Peer.IsValid() {
				received[prefix] = append(received[prefix], path)
			}
		}
	}
	return received
}

// Prefixes returns all prefixes of the table in order.
func (t Table) Prefixes() []netip.Prefix {
	return slices.SortedFunc(maps.Keys(t), netip.Prefix.Compare)
}

// sort puts paths into an order that does not depend on when they came.
func (t Table) sort() Table {
	for _, paths := range t {
		slices.SortStableFunc(paths, func(a, b Path) int { return a.Peer.Compare(b.Peer) })
	}
	return t
}

// Community is that of RFC 1997.
type Community uint32

// NewCommunity returns the one written as high:low.
func NewCommunity(high, low uint16) Community { return Community(uint32(high)<<16 | uint32(low)) }

// Well-known communities.
const (
	GracefulShutdown Community = 0xFFFF0000 // RFC 8326
	Blackhole        Community = 0xFFFF029A // RFC 7999
	NoExport         Community = 0xFFFFFF01 // RFC 1997
	NoAdvertise      Community = 0xFFFFFF02 // RFC 1997
	NoExportSubAS    Community = 0xFFFFFF03 // RFC 1997
	NoPeer           Community = 0xFFFFFF04 // RFC 3765
	LLGRStale        Community = 0xFFFF0006 // RFC 9494
)

func (c Community) String() string { return fmt.Sprintf("%d:%d", uint32(c)>>16, uint32(c)&0xFFFF) }

// frrNames are what FRR calls the well-known communities.
func frrNames() map[string]Community {
	return map[string]Community{
		"internet": 0, "graceful-shutdown": GracefulShutdown, "accept-own": 0xFFFF0001,
		"route-filter-translated-v4": 0xFFFF0002, "route-filter-v4": 0xFFFF0003,
		"route-filter-translated-v6": 0xFFFF0004, "route-filter-v6": 0xFFFF0005,
		"llgr-stale": LLGRStale, "no-llgr": 0xFFFF0007, "accept-own-nexthop": 0xFFFF0008,
		"blackhole": Blackhole, "no-export": NoExport, "no-advertise": NoAdvertise,
		"local-AS": NoExportSubAS, "no-peer": NoPeer,
	}
}

// LargeCommunity is that of RFC 8092.
type LargeCommunity [3]uint32

func (c LargeCommunity) String() string { return fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]) }

// numbers reads n numbers of at most bits bits, with separator between them.
func numbers(text, separator string, n, bits int) ([]uint32, error) {
	parts := strings.Split(text, separator)
	if len(parts) != n {
		return nil, fmt.Errorf("%q is not %d numbers", text, n)
	}
	values := make([]uint32, n)
	for i, part := range parts {
		value, err := strconv.ParseUint(strings.TrimSpace(part), 10, bits)
		if err != nil {
			return nil, fmt.Errorf("%q is not %d numbers: %w", text, n, err)
		}
		values[i] = uint32(value)
	}
	return values, nil
}

func parseCommunity(text, separator string) (Community, error) {
	parts, err := numbers(text, separator, 2, 16)
	if err != nil {
		return 0, fmt.Errorf("community %w", err)
	}
	return NewCommunity(uint16(parts[0]), uint16(parts[1])), nil
}

func parseLargeCommunity(text, separator string) (LargeCommunity, error) {
	parts, err := numbers(text, separator, 3, 32)
	if err != nil {
		return LargeCommunity{}, fmt.Errorf("large community %w", err)
	}
	return LargeCommunity(parts), nil
}

// Session is a BGP session with one neighbor.
type Session struct {
	// Neighbor is its address; invalid while an unnumbered one is not found.
	Neighbor netip.Addr
	ASN      uint32
	// RouterID of the neighbor, once it has been told.
	RouterID netip.Addr
	// State is that of RFC 4271 section 8, or Passive.
	State string
	// Since is when the session was established, to a second; zero if it is not.
	Since time.Time
	// Times is how often it has been established; BIRD does not count.
	Times int
	Hold  time.Duration
	// Families that both sides speak, and how many prefixes of each were accepted.
	Families []Family
	Prefixes map[Family]int
	// LastError is why the session is not, or was last not, established.
	LastError string
	// restarting: the neighbor restarts gracefully, as BIRD has it.
	restarting bool
}

// Established is the State of a session that works.
const Established = "Established"

// Up reports whether the session is established.
func (s Session) Up() bool { return s.State == Established }

// SameAs reports whether the session has not been reset since earlier was seen.
func (s Session) SameAs(earlier Session) bool {
	const precision = 1500 * time.Millisecond // FRR counts back in whole seconds
	return s.Up() && earlier.Up() && s.Neighbor == earlier.Neighbor && s.Times == earlier.Times &&
		s.Since.Sub(earlier.Since).Abs() < precision
}

// BFDSession is one with one neighbor.
type BFDSession struct {
	Neighbor  netip.Addr
	Interface string
	// State is Up, Down, Init or AdminDown.
	State string
	// Interval is the time between two packets that the router sends, Detection
	// how long it waits for one before it takes the neighbor for dead.
	Interval, Detection time.Duration
}

// Up reports whether the session is up.
func (s BFDSession) Up() bool { return s.State == "Up" }
