// Package bfd tells within a fraction of a second whether a peer can still be
// reached: Bidirectional Forwarding Detection in asynchronous mode (RFC 5880)
// over one hop (RFC 5881) or several (RFC 5883), with the echo function where
// both sides want it. A Monitor is told the complete set of sessions and keeps
// them; every session is a pure state machine that is handed packets and the
// time, so that all of section 6.8 of RFC 5880 is tested without a network.
package bfd
