package ownership

import (
	"net/netip"
	"slices"
)

// Better returns the index of the node that the deciding node should offer addr to in a rebalance, or -1 if the address
// is well where it is: a more preferred one, or one that holds two addresses less at least. For the sake of the spread
// only the node that holds most gives anything away, so that all do not give to the same node at once.
func (b *Book) Better(addr netip.Addr, candidates []Candidate, self Self) int {
	_, h := b.look(addr)
	if h.node != self.Node || h.To != "" || !self.Settled || self.Isolated {
		return -1
	}
	top, held := tiers(b.nodes, h.node, candidates)
	if held == nil || held.Tier != top {
		return -1 // it moves anyway
	}
	mine := b.loads[self.Node]
	heaviest := true
	var better []Candidate
	for _, c := range candidates {
		if c.Tier != top || !b.nodes[c.Node].takes() || c.Node == self.Node || c.Preference < held.Preference {
			continue
		}
		load := b.loads[c.Node]
		if c.Preference > held.Preference || load+1 < mine {
			better = append(better, c)
		}
		if c.Preference == held.Preference && (load > mine || load == mine && c.Node < self.Node) {
			heaviest = false
		}
	}
	chosen := b.choose(addr, better, top, self.Node)
	if chosen >= 0 && !heaviest && !slices.ContainsFunc(better, func(c Candidate) bool { return c.Preference > held.Preference }) {
		return -1
	}
	return chosen
}
