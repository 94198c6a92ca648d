package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/berth-lb/berth/api/v1beta1"
)

// describe says what the condition of the Service should say.
func (p *plan) describe(s *service, self string, failing failures) statement {
	var texts []string
	reasons := map[outcome]int{}
	byBGP := false
	for _, addr := range s.addresses {
		place := p.placements[addr]
		result, l2 := p.onLayer2(place, self, failing)
		routers := p.routed(place)
		byBGP = byBGP || routers.selected
		result, text := together(addr, result, l2, routers)
		reasons[result]++
		texts = append(texts, text)
	}
	st := statement{message: strings.Join(texts, sentenceEnd), byBGP: byBGP}
	st.soon = strings.Contains(st.message, beingPrepared)
	st.hesitant = strings.Contains(st.message, hesitating)
	switch {
	case reasons[announced] == len(s.addresses):
		st.announced, st.reason = true, reasonAnnounced
	case reasons[announced] > 0:
		st.reason = reasonPartly
	case reasons[cannotAnswer] > 0:
		st.reason = reasonFailing
	case reasons[conflicting] > 0:
		st.reason = v1beta1.ReasonAddressConflict
	case reasons[preparing] > 0:
		st.reason = reasonPreparing
	case reasons[noNode] > 0:
		st.reason = reasonNoNode
	case reasons[noEndpoints] > 0:
		st.reason = reasonNoEndpoints
	case reasons[noRouter] > 0:
		st.reason = reasonNoSession
	default:
		st.reason = reasonNoAdvertisement
	}
	return st
}

// onLayer2 says what becomes of an address on layer 2. What fails on other nodes than
// self is not known here; each says so of what it reports on.
func (p *plan) onLayer2(place *placement, self string, failing failures) (outcome, string) {
	addr, owner := place.addr, p.ownerOf(place)
	result, why := place.outcome, p.why(place)
	if owner == self {
		if failure := failing.of(addr, place.interfaces); failure != "" {
			result, why = cannotAnswer, "its owner "+owner+" cannot answer: "+failure
		}
		switch w, is := p.withheld[addr]; {
		case is:
			result, why = w.outcome, w.why
		case result == announced && !isIn(p.desired, addr):
			result, why = cannotAnswer, hesitating
		}
	}
	if p.isNew(place) {
		result, why = preparing, beingPrepared
	}
	if p.late[addr] {
		result, why = cannotAnswer, "node "+owner+" should announce it but does not yet; see its NodeState for conflicts, or its log"
	}
	if result != announced {
		return result, fmt.Sprintf("%s is not announced: %s", addr, why)
	}
	text := byWhom(addr, owner, place.interfaces)
	if rival := p.rivals[addr]; rival != "" {
		text += ", though " + rival
	}
	return result, text
}

// isNew says whether another node is to announce the address, has not claimed it yet,
// and takes it from nobody. It may still find that another host has it, and must not
// learn from the condition that it is announced; unless it says so already, as it
// does where all speakers were restarted.
func (p *plan) isNew(place *placement) bool {
	return place.outcome == announced && p.pending[place.addr] && p.awaited[place.addr] == "" && !place.announcedBy(p.ownerOf(place))
}

// hesitating says why a node does not answer for an address that is its own by the
// plan. Where it waits for the other speakers to come up that is never written: what
// the condition says of former owners has to stay until then.
const hesitating = "its owner takes no addresses at present: it hears nobody on its network, or waits for other speakers"

// together says what becomes of an address of which layer 2 says l2, and routers
// are told.
func together(addr netip.Addr, result outcome, l2 string, routers routed) (outcome, string) {
	switch {
	case !routers.selected:
		return result, l2
	case result == notAdvertised && routers.nodes > 0:
		return announced, fmt.Sprintf("%s by %s", addr, routers)
	case result == notAdvertised && routers.preparing:
		return preparing, fmt.Sprintf("%s is not announced: %s", addr, routers.why)
	case result == notAdvertised && routers.unserved:
		return noEndpoints, fmt.Sprintf("%s is not announced: %s", addr, routers.why)
	case result == notAdvertised:
		return noRouter, fmt.Sprintf("%s is not announced: %s", addr, routers.why)
	case result == announced && routers.nodes > 0:
		return announced, fmt.Sprintf("%s and by %s", l2, routers)
	case routers.nodes > 0:
		return announced, fmt.Sprintf("%s by %s, but not on the network of the nodes: %s", addr, routers, l2)
	}
	return result, fmt.Sprintf("%s, and to no router: %s", l2, routers.why)
}

// why says why nobody announces the address.
func (p *plan) why(place *placement) string {
	switch place.outcome {
	case notAdvertised:
		return "no L2Advertisement selects it, nor does a BGPAdvertisement"
	case noEndpoints:
		return "none of its Services has an endpoint that serves"
	case noNode:
		var counts [numVerdicts]int
		nodes := 0
		for i, v := range place.verdicts {
			if !p.nodes[i].former {
				counts[v]++
				nodes++
			}
		}
		if nodes == 0 {
			return "there are no nodes"
		}
		var parts []string
		for v := notSelected; v < numVerdicts; v++ {
			if counts[v] > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", counts[v], v))
			}
		}
		return fmt.Sprintf("none of %d nodes is eligible: %s", nodes, strings.Join(parts, ", "))
	}
	return ""
}
