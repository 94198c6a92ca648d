package watch

import (
	"context"
	"errors"
	"time"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/neighbor"
)

// Group is the part of *membership.Membership that FromMembership needs.
type Group interface {
	View() *membership.View
	Broadcast(membership.Verdict)
	Verdicts() <-chan membership.Verdict
}

// FromMembership makes Members of the membership of the speaker on node self. A channel of the membership's changes has
// one receiver, so changes is to be another: it gets a value after the view has changed.
func FromMembership(group Group, self string, changes <-chan struct{}) Members {
	return &members{Group: group, self: self, changes: changes}
}

type members struct {
	Group
	self    string
	changes <-chan struct{}
}

func (m *members) Changes() <-chan struct{} { return m.changes }

func (m *members) View() View {
	from := m.Group.View()
	v := View{Nodes: make([]Node, 0, len(from.Members)+len(from.Gone))}
	for i := range from.Members {
		x := &from.Members[i]
		if x.Node == m.self {
			v.Links = linksOf(x.Info.Links)
		} else {
			v.Nodes = append(v.Nodes, nodeOf(x))
		}
	}
	for i := range from.Gone {
		g := &from.Gone[i]
		n := nodeOf(&g.Member)
		n.Gone, n.Left, n.Returns, n.Since = true, g.Left, g.Returns, g.Since
		v.Nodes = append(v.Nodes, n)
	}
	return v
}

func nodeOf(m *membership.Member) Node {
	return Node{
		Name: m.Node, Addr: m.Addr.Addr(), WatchPort: m.Info.WatchPort, Epoch: m.Epoch, Abstains: m.Info.Abstains,
		Links: linksOf(m.Info.Links),
	}
}

func linksOf(from []membership.Link) []Link {
	links := make([]Link, len(from))
	for i, l := range from {
		links[i] = Link{Name: l.Name, MAC: l.MAC, Prefixes: l.Prefixes, Addr4: l.Addr4, Addr6: l.Addr6}
	}
	return links
}

// Neighbors is the part of *neighbor.Prober that FromProber needs.
type Neighbors interface {
	Watch([]neighbor.Target)
	Heard() map[neighbor.Target]neighbor.Health
	Changes() <-chan struct{}
	Ask(ctx context.Context, target neighbor.Target, tries int, every time.Duration) (ether.MAC, error)
}

// FromProber makes a Prober of the one that package neighbor has.
func FromProber(p Neighbors) Prober { return prober{p} }

type prober struct{ Neighbors }

func (p prober) Watch(targets []Target) {
	to := make([]neighbor.Target, len(targets))
	for i, t := range targets {
		to[i] = neighborOf(t)
	}
	p.Neighbors.Watch(to)
}

func (p prober) Heard() map[Target]Health {
	from := p.Neighbors.Heard()
	heard := make(map[Target]Health, len(from))
	for t, h := range from {
		heard[Target{Interface: t.Interface, Addr: t.Addr, MAC: t.MAC}] = Health{Answered: h.Answered, Missed: h.Missed, Err: h.Err}
	}
	return heard
}

func (p prober) Ask(ctx context.Context, target Target, tries int, every time.Duration) (bool, error) {
	_, err := p.Neighbors.Ask(ctx, neighborOf(target), tries, every)
	if errors.Is(err, neighbor.ErrNoAnswer) {
		return false, nil
	}
	return err == nil, err
}

func neighborOf(t Target) neighbor.Target {
	return neighbor.Target{Interface: t.Interface, Addr: t.Addr, MAC: t.MAC}
}
