// Package routers runs real routing daemons on hosts of a lab, for Berth to peer
// with: FRR (zebra, bfdd and bgpd) and BIRD. A Router is made to have a Config,
// the same for both kinds, and says in the same words what it has received: which
// routes with which attributes, and how its BGP and BFD sessions are. All that a
// router consists of lies in one folder and one network namespace, so that it
// goes with the lab, and any number can run side by side.
package routers
