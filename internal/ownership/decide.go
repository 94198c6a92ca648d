package ownership

import (
	"net/netip"

	"github.com/berth-lb/berth/internal/election"
)

// Candidate is a node that may own an address.
type Candidate struct {
	// Node is its index.
	Node int
	// Tier comes before everything else: an owner does not stay while there is a candidate of a higher tier that can take
	// over.
	Tier int
	// Preference chooses among candidates of a tier: the highest wins. It moves no address that has an owner.
	Preference int
}

// Self is the node that decides.
type Self struct {
	// Node is its index, or -1 if it is not one of the nodes: then it has nothing to do.
	Node int
	// Settled says that the node has spoken with all others that can be reached; until then it takes nothing.
	Settled bool
	// Isolated says that the node hears nobody at all on its network, so that it takes nothing.
	Isolated bool
	// Minority says that the node sees but a minority of the speakers; see Claim.Provisional. Unsure says that it did a
	// moment ago, so that it may not have heard yet what the majority has done.
	Minority, Unsure bool
}

// Decision is what becomes of an address.
type Decision struct {
	// Owner is the index of the node that owns the address or is to take it over, or -1.
	Owner int
	// Answer says whether the deciding node has to answer for the address, and Claims whether it has to claim it, with
	// Claim. A node that is to give up an address answers for it until the next owner has claimed it.
	Answer, Claims bool
	Claim          Claim
	// First says that the node takes an address that nobody is known to have had.
	First bool
}

// Decide says what becomes of addr. For an even spread all addresses have to be decided about in the same order by all
// nodes, and each once for a Book.
func (b *Book) Decide(addr netip.Addr, candidates []Candidate, self Self) Decision {
	e, holder := b.look(addr)
	d := Decision{Owner: b.owner(addr, holder, candidates)}
	switch {
	case self.Node < 0:
	case holder.node == self.Node:
		d.Claims, d.Claim = true, holder.Claim
		d.Claim.Provisional = self.Minority || self.Unsure && d.Claim.Provisional
		if (e.term > d.Claim.Term || e.absent.node >= 0 && e.absent.Term == e.term && e.absent.node != self.Node) && !self.Minority {
			// Somebody who is down, away or sees a minority has been thought its owner meanwhile.
			d.Claim.Term = e.term + 1
		}
		// With nobody to take over, a node that may own the address no more falls silent.
		d.Answer = d.Owner >= 0
	case d.Owner == self.Node && self.Settled && !self.Isolated:
		d.Answer, d.Claims, d.First = true, true, e.term == 0
		d.Claim = Claim{Term: e.term + 1, Provisional: self.Minority || self.Unsure}
		if holder.node >= 0 {
			d.Claim.Provisional = holder.Provisional // it is there and gives the address up
		}
	}
	return d
}

// owner returns who is to own the address.
func (b *Book) owner(addr netip.Addr, h candidacy, candidates []Candidate) int {
	top, held := tiers(b.nodes, h.node, candidates)
	if held != nil && h.To != "" {
		// It is on offer, and goes nowhere else.
		for _, c := range candidates {
			if n := &b.nodes[c.Node]; n.Key.Name() == h.To && n.takes() && c.Tier >= held.Tier {
				return c.Node
			}
		}
	}
	if held != nil && held.Tier >= top {
		return h.node
	}
	if chosen := b.choose(addr, candidates, top, h.node); chosen >= 0 {
		b.loads[chosen]++
		return chosen
	}
	if held != nil {
		return h.node
	}
	return -1
}

// tiers returns the highest tier of those that can take an address over, and the candidate who holds it, or nil.
func tiers(nodes []Node, holder int, candidates []Candidate) (top int, held *Candidate) {
	first := true
	for i := range candidates {
		c := &candidates[i]
		if c.Node == holder {
			held = c
		}
		if nodes[c.Node].takes() && (first || c.Tier > top) {
			top, first = c.Tier, false
		}
	}
	if first && held != nil {
		top = held.Tier // there is nobody else
	}
	return top, held
}

// choose elects among the candidates of a tier that can take an address: the most preferred; of these, those in zones
// and then on nodes that have less than their share; of these, the one that the address elects. It returns -1 if there is
// none.
func (b *Book) choose(addr netip.Addr, candidates []Candidate, tier, except int) int {
	var best []Candidate
	for _, c := range candidates {
		if c.Node == except || c.Tier != tier || !b.nodes[c.Node].takes() {
			continue
		}
		if len(best) > 0 && c.Preference > best[0].Preference {
			best = best[:0]
		}
		if len(best) == 0 || c.Preference == best[0].Preference {
			best = append(best, c)
		}
	}
	if len(best) == 0 {
		return -1
	}
	best = b.zonesWithRoom(best)
	best = b.nodesWithRoom(best)
	ranked := make([]election.Candidate, len(best))
	for i, c := range best {
		ranked[i].Node = b.nodes[c.Node].Key
	}
	return best[election.Owner(addr, ranked)].Node
}

// zonesWithRoom leaves the candidates whose zone has less than its share, in proportion to its candidates, of what all
// have and one address more. Some zone always has.
func (b *Book) zonesWithRoom(candidates []Candidate) []Candidate {
	type zone struct{ nodes, load int }
	zones, total := map[string]zone{}, 1
	for _, c := range candidates {
		z := zones[b.nodes[c.Node].Zone]
		z.nodes++
		z.load += b.loads[c.Node]
		zones[b.nodes[c.Node].Zone] = z
		total += b.loads[c.Node]
	}
	if len(zones) == 1 {
		return candidates
	}
	room := make([]Candidate, 0, len(candidates))
	for _, c := range candidates {
		if z := zones[b.nodes[c.Node].Zone]; z.load*len(candidates) < total*z.nodes {
			room = append(room, c)
		}
	}
	return room
}

// nodesWithRoom leaves the candidates that have less than their even share of what all have and one address more.
func (b *Book) nodesWithRoom(candidates []Candidate) []Candidate {
	total := 1
	for _, c := range candidates {
		total += b.loads[c.Node]
	}
	room := make([]Candidate, 0, len(candidates))
	for _, c := range candidates {
		if b.loads[c.Node]*len(candidates) < total {
			room = append(room, c)
		}
	}
	return room
}
