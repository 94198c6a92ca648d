package bgp

import (
	"net/netip"
	"time"
)

// State is the state of a session, RFC 4271 section 8.2.2.
type State uint8

// The states.
const (
	// Idle: not trying, because the last attempt failed a moment ago or because
	// the peer is held down.
	Idle State = iota
	// Connect: calling the peer.
	Connect
	// Active: waiting for the peer to call.
	Active
	// OpenSent: connected, the peer's OPEN is awaited.
	OpenSent
	// OpenConfirm: the peer's OPEN is accepted, its KEEPALIVE is awaited.
	OpenConfirm
	// Established: routes are exchanged.
	Established
)

// String returns the name that RFC 4271 gives the state.
func (s State) String() string {
	switch s {
	case Idle:
		return "Idle"
	case Connect:
		return "Connect"
	case Active:
		return "Active"
	case OpenSent:
		return "OpenSent"
	case OpenConfirm:
		return "OpenConfirm"
	case Established:
		return "Established"
	}
	return "unknown"
}

// Messages counts BGP messages of one direction by type, since the session's
// peer was configured.
type Messages struct {
	Open, Update, Notification, Keepalive, RouteRefresh uint64
}

// A PeerState says how one session is doing.
type PeerState struct {
	Name  string
	State State
	// Since is when State was entered.
	Since time.Time
	// LastError is why the session was last lost or could not be made, with the
	// text of a NOTIFICATION. It stays when the session comes back.
	LastError string
	// LastErrorAt is zero if there was none.
	LastErrorAt time.Time
	// HeldDown is why the session is kept from coming up, "" if it is not.
	HeldDown string

	// What follows is of the present session, from OpenConfirm on.
	LocalAddress, RemoteAddress netip.AddrPort
	RemoteASN                   uint32
	RemoteRouterID              netip.Addr
	// HoldTime is the negotiated one.
	HoldTime time.Duration
	// Families are those that both sides offer, in order.
	Families []Family
	// Capabilities are the names of those that the peer has offered.
	Capabilities []string
	// GracefulRestart tells that both sides have agreed on it.
	GracefulRestart bool
	// Announced is the number of prefixes that the peer knows from us.
	Announced int
	// Problem is why some routes are not announced though the session is up, ""
	// if all are.
	Problem string

	Sent, Received Messages
	// Flaps is how often an established session was lost.
	Flaps uint64
}
