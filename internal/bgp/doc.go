// Package bgp holds the values of BGP: what a session is to be (Peer), what it
// is to announce (Route), how it is doing (PeerState), and the Speaker interface
// that turns the first two into the third. It is pure: it checks nothing, opens
// nothing and knows no implementation; internal/bgp/gobgp is one.
package bgp
