package bfd

import (
	"fmt"
	"math"
	"net/netip"
	"time"
)

// State is the state of a session (RFC 5880 section 4.1).
type State uint8

// The states, with their values on the wire.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

// String returns the state's name in RFC 5880.
func (s State) String() string {
	if s > Up {
		return fmt.Sprintf("State(%d)", uint8(s))
	}
	return [...]string{"AdminDown", "Down", "Init", "Up"}[s]
}

// Diagnostic says why a session last changed its state (RFC 5880 section 4.1).
type Diagnostic uint8

// The diagnostics that this package gives or explains.
const (
	NoDiagnostic Diagnostic = iota
	DetectionExpired
	EchoFailed
	NeighborDown
	ForwardingReset
	PathDown
	ConcatenatedPathDown
	AdministrativelyDown
	ReverseConcatenatedPathDown
)

// String returns the diagnostic in words.
func (d Diagnostic) String() string {
	names := [...]string{
		"no diagnostic", "control detection time expired", "echo function failed", "neighbor signaled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down",
	}
	if int(d) < len(names) {
		return names[d]
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

// Values that a Config gets where it says nothing.
const (
	DefaultReceive          = 300 * time.Millisecond
	DefaultTransmit         = 300 * time.Millisecond
	DefaultEcho             = 50 * time.Millisecond
	DefaultDetectMultiplier = 3
	DefaultMinimumTTL       = 254
)

// maxInterval is the longest interval that fits a packet's 32 bits of microseconds.
const maxInterval = math.MaxUint32 * time.Microsecond

// Config is one session that is to be kept.
type Config struct {
	// Name is the caller's name for the session, unique among the Configs.
	Name string
	// Peer is the other system. A link-local address needs Interface, or the
	// interface's name as its zone.
	Peer netip.Addr
	// Local is the source address; the kernel chooses if it is not valid.
	Local netip.Addr
	// Interface binds the session to a link, VRF to a VRF's device. Either may
	// be empty.
	Interface, VRF string
	// Multihop chooses RFC 5883 instead of RFC 5881.
	Multihop bool
	// MinimumTTL is the lowest TTL or hop limit that a packet of a multihop
	// session may arrive with; 0 means 254. Over a single hop it is always 255.
	MinimumTTL uint8
	// Receive is the shortest interval between packets that we can take,
	// Transmit the one at which we would like to send, 0 means 300 ms each.
	Receive, Transmit time.Duration
	// Echo is the shortest interval of echo packets, in either direction, 0
	// means 50 ms. Over a single hop the peer is offered to have its echo
	// packets forwarded back, if this host forwards.
	Echo time.Duration
	// DetectMultiplier is how many packets in a row may get lost less one: with
	// 3, the third missing one ends the session. 0 means 3.
	DetectMultiplier uint8
	// Passive waits for the peer's first packet before it sends any.
	Passive bool
	// Absence is for how long the peer is to keep the session when this process
	// ends, because another one will go on with it; see Monitor.Run. 0 is not at
	// all.
	Absence time.Duration
	// EchoMode sends echo packets once the session is up and the peer offers to
	// return them. It works over a single hop only.
	EchoMode bool
}

// normalise fills in defaults and brings addresses into one form.
func (c Config) normalise() Config {
	c.Peer, c.Local = c.Peer.Unmap(), c.Local.Unmap().WithZone("")
	if zone := c.Peer.Zone(); zone != "" && c.Interface == "" {
		c.Interface = zone
	}
	c.Peer = c.Peer.WithZone("")
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&c.Receive, DefaultReceive}, {&c.Transmit, DefaultTransmit}, {&c.Echo, DefaultEcho}} {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.DetectMultiplier == 0 {
		c.DetectMultiplier = DefaultDetectMultiplier
	}
	if c.MinimumTTL == 0 {
		c.MinimumTTL = DefaultMinimumTTL
	}
	return c
}

// validate says what is wrong with a normalised Config.
func (c Config) validate() error {
	switch {
	case !c.Peer.IsValid() || c.Peer.IsUnspecified() || c.Peer.IsMulticast():
		return fmt.Errorf("BFD session %q: peer %v is not a unicast address", c.Name, c.Peer)
	case c.Local.IsValid() && c.Local.Is4() != c.Peer.Is4():
		return fmt.Errorf("BFD session %q: local address %v and peer %v are of different families", c.Name, c.Local, c.Peer)
	case c.Peer.Is6() && c.Peer.IsLinkLocalUnicast() && c.Interface == "":
		return fmt.Errorf("BFD session %q: link-local peer %v needs an interface", c.Name, c.Peer)
	case c.Multihop && c.Peer.IsLinkLocalUnicast():
		return fmt.Errorf("BFD session %q: link-local peer %v cannot be several hops away, unset multihop", c.Name, c.Peer)
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"receive", c.Receive}, {"transmit", c.Transmit}, {"echo", c.Echo}} {
		if d.value < time.Millisecond || d.value > maxInterval {
			return fmt.Errorf("BFD session %q: %s interval %v is not between 1ms and %v", c.Name, d.field, d.value, maxInterval)
		}
	}
	return nil
}

// Status is what there is to know of one session.
type Status struct {
	// Name is that of the Config.
	Name string
	// Peer carries the interface as its zone if it is link-local; Local is the
	// source address in use, not valid before the session's socket is open.
	Peer, Local netip.Addr
	// State is ours, RemoteState the one that the peer last told of; it is
	// Down before it has told any.
	State, RemoteState State
	// Diagnostic is why State last changed, RemoteDiagnostic why the peer's did.
	Diagnostic, RemoteDiagnostic Diagnostic
	// Since is when State was entered.
	Since time.Time
	// Failures counts how often the path was lost: how often the session was up
	// and then down for another reason than that the peer took it down on
	// purpose (AdminDown), which says nothing about the path (RFC 5882 section
	// 4.1), nor because the peer said that we did so, which makes no sense, and
	// came back within three seconds, as FRR does when it makes its session
	// anew. It is what a routing protocol should act upon; it also tells of
	// failures that were over before anybody looked.
	Failures uint64
	// TransmitInterval and DetectionTime are what was negotiated: the longest
	// time between two of our packets, and how long we wait for the peer's.
	TransmitInterval, DetectionTime time.Duration
	// Echo says whether echo packets watch the path: they are being sent and
	// return.
	Echo bool
	// Err is why packets cannot be sent or received at present, or why those that
	// come are not taken; nil if all is well.
	Err error
}
