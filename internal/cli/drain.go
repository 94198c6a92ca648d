package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berth-lb/berth/api/v1beta1"
)

// reasonDraining of the condition BGPReady.
const reasonDraining = "Draining"

// DrainProgress says how far a node is drained.
type DrainProgress struct {
	Node string `json:"node"`
	// Done says that it owns no address and tells routers nothing.
	Done bool `json:"done"`
	// Owned is how many addresses it owns, and Routes how many prefixes it tells
	// routers over all sessions.
	Owned  int32 `json:"owned"`
	Routes int32 `json:"routes"`
	// Services are those whose addresses it still announces on layer 2.
	Services []string `json:"services,omitempty"`
}

// Draining looks how far a node is drained.
func Draining(c *Cluster, node string) (DrainProgress, error) {
	state := c.nodeState(node)
	if state == nil {
		return DrainProgress{}, fmt.Errorf("node %s reports nothing: there is no NodeState of that name, so nobody can say when it is drained", node)
	}
	p := DrainProgress{Node: node}
	if l2 := state.Status.L2; l2 != nil {
		p.Owned = l2.OwnedIPv4 + l2.OwnedIPv6
	}
	for _, s := range state.Status.BGPSessions {
		p.Routes += s.AnnouncedPrefixes
	}
	if p.Owned > 0 {
		for _, svc := range c.ours() {
			if slices.ContainsFunc(announcements(svc), func(a Announcement) bool { return a.Node == node }) {
				p.Services = append(p.Services, nameOf(svc))
			}
		}
	}
	p.Done = p.Owned == 0 && p.Routes == 0
	return p, nil
}

// Left says what a node that is not drained still has.
func (p DrainProgress) Left() string {
	var parts []string
	if p.Owned > 0 {
		text := fmt.Sprintf("owns %d addresses", p.Owned)
		if p.Owned == 1 {
			text = "owns 1 address"
		}
		if len(p.Services) > 0 {
			text += " (" + few(p.Services, 5) + ")"
		}
		parts = append(parts, text)
	}
	if p.Routes > 0 {
		parts = append(parts, "tells routers "+plural(int(p.Routes), "route"))
	}
	return strings.Join(parts, " and ")
}

func (p DrainProgress) text(out *Printer) {
	if p.Done {
		out.printf("Node %s is drained: it owns no address and tells routers nothing.\n", p.Node)
		return
	}
	out.printf("Node %s still %s.\n", p.Node, p.Left())
}

// InService says whether a node that was drained takes part again. An address
// comes back to it only when another node cannot have it.
func InService(c *Cluster, node string) bool {
	state := c.nodeState(node)
	if state == nil {
		return false
	}
	ready := condition(state.Status.Conditions, v1beta1.ConditionBGPReady)
	return ready == nil || ready.Reason != reasonDraining
}

// Undrained is the report of a node that is in service again.
type Undrained struct {
	Node string `json:"node"`
}

func (u Undrained) text(p *Printer) {
	p.printf("Node %s is in service again. Addresses stay where they are: see rebalance.\n", u.Node)
}
