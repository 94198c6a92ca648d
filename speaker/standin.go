package main

import (
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/ownership"
)

// While the speaker of a node is away, because it crashed or is being replaced,
// but the node itself goes on, nothing moves: another speaker answers for the
// node's addresses, with the node's own MAC. An answer too many does no harm, as
// it says what the owner says. So whoever may have to stand in soon is armed: it
// hears what is asked for those addresses, and if the owner turns out to be away,
// answers what was asked in the last moment.

// standInRole is what this node does for another.
type standInRole uint8

const (
	noStandIn standInRole = iota
	armedStandIn
	activeStandIn
)

// armedSpeakers is how many speakers are ready to stand in for a node.
const armedSpeakers = 2

// standInRoles says what this node does for each of the nodes.
func standInRoles(in planInput, judged []ownership.Node) []standInRole {
	roles := make([]standInRole, len(in.nodes))
	if !in.standIns || in.standing.ring == nil {
		return roles
	}
	for i, n := range in.nodes {
		if n.name == in.self || judged[i].State == ownership.Down {
			continue
		}
		at := slices.Index(in.standing.ring(n.name), in.self)
		away := in.standing.of(n.name, true).away || judged[i].State == ownership.Orphaned || judged[i].Joining
		switch {
		case at == 0 && away:
			roles[i] = activeStandIn
		case at >= 0 && at < armedSpeakers:
			roles[i] = armedStandIn
		}
	}
	return roles
}

// standIn adds to desired what this node does for the owner of the address that
// was placed last.
func (j *judge) standIn(p *placement, in planInput, desired l2.Desired) {
	role := j.roles[p.owner]
	if role == noStandIn || j.self.Node < 0 {
		return
	}
	owner, self := j.members[p.owner], in.view.Member(in.self)
	macs := map[string]l2.MAC{}
	var names []string
	for i := range owner.Info.Links {
		theirs := &owner.Info.Links[i]
		if !slices.Contains(p.interfaces, theirs.Name) || theirs.MAC == (membership.MAC{}) {
			continue
		}
		for k := range self.Info.Links {
			ours := &self.Info.Links[k]
			if !ours.Speaks(p.addr) || !sameNetwork(ours, theirs) {
				continue
			}
			if _, known := macs[ours.Name]; !known {
				names = append(names, ours.Name)
			}
			macs[ours.Name] = l2.MAC(theirs.MAC)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	desired[p.addr] = l2.Announcement{Interfaces: names, StandIn: macs, Armed: role == armedStandIn}
}

// sameNetwork guesses whether two links of different nodes are on the same
// Ethernet: they have a subnet in common, or the same name where they have none.
func sameNetwork(a, b *membership.Link) bool {
	if len(a.Prefixes) == 0 || len(b.Prefixes) == 0 {
		return a.Name == b.Name
	}
	return slices.ContainsFunc(a.Prefixes, func(p netip.Prefix) bool { return slices.Contains(b.Prefixes, p) })
}
