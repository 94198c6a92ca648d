package bgp

import "context"

// A Speaker keeps sessions with peers and announces routes to them. It takes no
// routes from anybody. Its methods may be called from any goroutine.
type Speaker interface {
	// Apply makes sessions and routes be exactly these; routes are by the peer's
	// name. It does not wait: sessions come up in the background, their routes are
	// kept and sent in full once they are up. A changed peer ends only its own
	// session, and only if the change needs it (Peer.NeedsReset). Apply keeps no
	// reference to its arguments and may be called again at no cost.
	Apply(peers []Peer, routes map[string][]Route)
	// States returns the state of every peer, by name.
	States() []PeerState
	// Changes gets a value after something in States has changed, at most one
	// until it is read. Mere counting of messages is no change.
	Changes() <-chan struct{}
	// PeerDown ends the named session at once and keeps it down until PeerUp, as
	// when BFD has lost the peer (RFC 5882 section 4.3). Unknown names are
	// remembered: the order of PeerDown and Apply does not matter.
	PeerDown(name, reason string)
	// PeerUp lets the named session come up again.
	PeerUp(name string)
	// Drain announces every route again with the community GRACEFUL_SHUTDOWN and
	// has Run end with a Cease that carries reason (RFC 8326, RFC 9003).
	Drain(reason string)
	// Run keeps the sessions until ctx is done. It then ends them: those with
	// graceful restart so that the peer keeps our routes, the others, and all
	// after Drain, with a Cease. Once it has returned, every connection to a peer
	// is closed, and none will be made: what the peer is to see only afterwards,
	// such as the end of its BFD session, can follow.
	Run(ctx context.Context) error
}
