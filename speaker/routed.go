package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
)

// routed is who tells routers of an address.
type routed struct {
	// selected says that a BGPAdvertisement is for the address.
	selected bool
	// nodes is how many announce it, and peers are the BGPPeers that are told.
	nodes int
	peers []string
	// why says why nobody is told; unserved that it is for want of an endpoint,
	// preparing that kube-proxy may not serve it yet.
	why                 string
	unserved, preparing bool
}

// String renders "BGP from 3 nodes to tor-a, tor-b".
func (r routed) String() string {
	nodes := fmt.Sprintf("%d nodes", r.nodes)
	if r.nodes == 1 {
		nodes = "1 node"
	}
	return fmt.Sprintf("BGP from %s to %s", nodes, few(r.peers))
}

// few joins names, leaving out those beyond the first some.
func few(names []string) string {
	const some = 5
	text := strings.Join(names[:min(some, len(names))], ", ")
	if more := len(names) - some; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// routed says which nodes tell which routers of an address of a Service, as far
// as the other speakers have said with whom they have sessions.
func (p *plan) routed(place *placement) routed {
	var advertisements []*config.BGPAdvertisement
	for _, s := range place.services {
		advertisements = append(advertisements, p.config.BGPAdvertisementsFor(announcedService(s), place.addr)...)
	}
	r := routed{selected: len(advertisements) > 0}
	if !r.selected {
		return r
	}
	if _, serving := needs(place); !serving {
		r.unserved, r.why = true, "none of its Services has an endpoint that serves"
		return r
	}
	if isIn(p.fresh, place.addr) {
		r.preparing, r.why = true, beingPrepared
		return r
	}
	var counts struct{ nodes, unable, silent int }
	for i, n := range p.nodes {
		if n.former {
			continue
		}
		counts.nodes++
		if nodeExcluded(n) != eligible || n.draining || !servedHere(place, n.name) {
			counts.unable++
			continue
		}
		told := p.told(i, bgp.FamilyOf(place.addr), advertisements)
		if len(told) == 0 {
			counts.silent++
			continue
		}
		r.nodes++
		r.peers = append(r.peers, told...)
	}
	slices.Sort(r.peers)
	r.peers = slices.Compact(r.peers)
	if r.nodes == 0 {
		r.why = fmt.Sprintf("of %d nodes %d have no established session with a BGPPeer that is to be told of it, and %d are excluded, drained or without an endpoint",
			counts.nodes, counts.silent, counts.unable)
	}
	return r
}

// told returns the BGPPeers that the i-th node tells of what advertisements say
// about an address of a family.
func (p *plan) told(i int, f bgp.Family, advertisements []*config.BGPAdvertisement) []string {
	m := p.members[i]
	if m == nil {
		return nil
	}
	var peers []string
	for _, session := range m.Info.Sessions {
		name, ours := strings.CutPrefix(session, toldOf(f, ""))
		if ours && slices.ContainsFunc(advertisements, func(a *config.BGPAdvertisement) bool {
			return a.SelectsPeer(name) && config.MatchesAny(a.NodeSelectors, p.nodes[i].labels)
		}) {
			peers = append(peers, name)
		}
	}
	return peers
}
