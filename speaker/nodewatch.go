package main

import (
	"context"
	"net/netip"

	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/ownership"
	"github.com/berth-lb/berth/internal/watch"
)

// standing is what this node thinks of the others, beside what the membership
// says.
type standing struct {
	nodes map[string]nodeStanding
	// isolated says that this node hears nobody on its network.
	isolated bool
	// ring returns the living speakers that stand in for a node, the first first.
	ring func(node string) []string
}

// nodeStanding is what this node thinks of another.
type nodeStanding struct {
	state ownership.State
	// away says that its speaker does not answer, so that others stand in for it.
	away bool
}

// of returns what to think of a node. Without an opinion the membership's counts.
func (s *standing) of(name string, lives bool) nodeStanding {
	if n, known := s.nodes[name]; known {
		return n
	}
	if lives {
		return nodeStanding{state: ownership.Up}
	}
	return nodeStanding{state: ownership.Down}
}

// nodeWatch tells the plan what is thought of the other nodes.
type nodeWatch struct{ *watch.Watch }

func (w nodeWatch) standing() *standing {
	snapshot := w.Standing()
	s := &standing{nodes: make(map[string]nodeStanding, len(snapshot.Nodes)), isolated: snapshot.Isolated, ring: snapshot.Ring}
	for name, n := range snapshot.Nodes {
		state := ownership.Up
		switch n.State {
		case watch.Orphaned:
			state = ownership.Orphaned
		case watch.Down:
			state = ownership.Down
		}
		s.nodes[name] = nodeStanding{state: state, away: n.SpeakerGone}
	}
	return s
}

// fanOut passes the news of one channel on to several receivers.
type fanOut struct {
	from <-chan struct{}
	to   []chan struct{}
}

func newFanOut(from <-chan struct{}, receivers int) *fanOut {
	f := &fanOut{from: from}
	for range receivers {
		f.to = append(f.to, make(chan struct{}, 1))
	}
	return f
}

func (f *fanOut) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.from:
		}
		for _, ch := range f.to {
			signal(ch)
		}
	}
}

// loopGroup is the membership for the speaker's loop, which is not the only one to
// whom it matters.
type loopGroup struct {
	*membership.Membership
	changes <-chan struct{}
}

func (g loopGroup) Changes() <-chan struct{} { return g.changes }

// maxWitnesses is how many hosts on a link are asked whether this node is cut off.
const maxWitnesses = 8

// witnesses are the routers and the hosts that asked of late: if none of them can
// be heard, this node is cut off.
type witnesses struct {
	links    interface{ Links() []netif.Link }
	gateways func() ([]netip.Addr, error)
	askers   func(ifname string) []l2.Asker
}

func (w witnesses) Witnesses() []watch.Target {
	gateways, err := w.gateways()
	if err != nil {
		gateways = nil // askers may still do
	}
	var all []watch.Target
	for _, l := range w.links.Links() {
		for _, g := range gateways {
			if g.Zone() == l.Name || g.Zone() == "" && within(l.Prefixes, g) {
				all = append(all, watch.Target{Interface: l.Name, Addr: g.WithZone("")})
			}
		}
		if l.CanARP() != nil && l.CanNDP() != nil {
			continue
		}
		askers := w.askers(l.Name)
		for _, a := range askers[:min(len(askers), maxWitnesses)] {
			all = append(all, watch.Target{Interface: l.Name, Addr: a.Addr, MAC: a.MAC})
		}
	}
	return all
}

func within(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
