package main

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/neighbor"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/ownership"
	"github.com/berth-lb/berth/internal/watch"
)

// This file puts the parts that judge the other nodes together: each speaks in
// its own terms.

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

// watchedGroup is the membership as package watch wants it.
type watchedGroup struct {
	*membership.Membership
	self     string
	changes  <-chan struct{}
	verdicts chan watch.Verdict
}

func (g *watchedGroup) Changes() <-chan struct{} { return g.changes }

func (g *watchedGroup) View() watch.View {
	view := g.Membership.View()
	var v watch.View
	for i := range view.Members {
		m := &view.Members[i]
		if m.Node == g.self {
			v.Links = watchLinks(m.Info.Links)
		}
		v.Nodes = append(v.Nodes, watchNode(m))
	}
	for i := range view.Gone {
		gone := &view.Gone[i]
		n := watchNode(&gone.Member)
		n.Gone, n.Left, n.Returns, n.Since = true, gone.Left, gone.Returns, gone.Since
		v.Nodes = append(v.Nodes, n)
	}
	return v
}

func watchNode(m *membership.Member) watch.Node {
	return watch.Node{
		Name: m.Node, Addr: m.Addr.Addr(), WatchPort: m.Info.WatchPort, Epoch: m.Epoch, Abstains: m.Info.Abstains, Links: watchLinks(m.Info.Links),
	}
}

func watchLinks(links []membership.Link) []watch.Link {
	all := make([]watch.Link, len(links))
	for i, l := range links {
		all[i] = watch.Link{Name: l.Name, MAC: l.MAC, Prefixes: l.Prefixes, Addr4: l.Addr4, Addr6: l.Addr6}
	}
	return all
}

func (g *watchedGroup) Broadcast(v watch.Verdict) { g.Membership.Broadcast(membership.Verdict(v)) }

func (g *watchedGroup) Verdicts() <-chan watch.Verdict { return g.verdicts }

// run translates verdicts.
func (g *watchedGroup) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-g.Membership.Verdicts():
			select {
			case g.verdicts <- watch.Verdict(v):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// watchProber is the prober as package watch wants it.
type watchProber struct{ *neighbor.Prober }

func (p watchProber) Watch(targets []watch.Target) {
	all := make([]neighbor.Target, len(targets))
	for i, t := range targets {
		all[i] = neighborTarget(t)
	}
	p.Prober.Watch(all)
}

func (p watchProber) Heard() map[watch.Target]watch.Health {
	all := map[watch.Target]watch.Health{}
	for t, h := range p.Prober.Heard() {
		all[watch.Target{Interface: t.Interface, Addr: t.Addr, MAC: t.MAC}] = watch.Health{Answered: h.Answered, Missed: h.Missed}
	}
	return all
}

func (p watchProber) Ask(ctx context.Context, t watch.Target, tries int, every time.Duration) (bool, error) {
	_, err := p.Prober.Ask(ctx, neighborTarget(t), tries, every)
	if errors.Is(err, neighbor.ErrNoAnswer) {
		return false, nil
	}
	return err == nil, err
}

func neighborTarget(t watch.Target) neighbor.Target {
	return neighbor.Target{Interface: t.Interface, Addr: t.Addr, MAC: t.MAC}
}

// maxWitnesses is how many hosts on a link are asked whether this node is cut off.
const maxWitnesses = 8

// witnesses are the routers and the hosts that asked of late: if none of them can
// be heard, this node is cut off.
type witnesses struct {
	links    *netif.Watcher
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
			all = append(all, watch.Target{Interface: l.Name, Addr: a.Addr, MAC: ether.MAC(a.MAC)})
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
