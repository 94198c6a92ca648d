// Package gobgp implements bgp.Speaker with GoBGP, of which it is the only
// importer. Every session has a GoBGP server of its own, made when the peer's
// OPEN has been seen and thrown away with the session, so that no session sees
// another's state and everything that was negotiated is known beforehand. The
// server speaks to internal/bgp/transport over a loopback connection and never
// to the network; what this package keeps across sessions is what to announce.
package gobgp
