package main

import (
	"context"
	"net/netip"

	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/neighbor"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/watch"
)

// layer2 are the parts of a speaker that have to do with the nodes' networks.
type layer2 struct {
	links     *netif.Watcher
	announcer *l2.Announcer
	members   members
	others    others
	conflicts *conflicts
	audits    *audits
	tasks     []daemon.Task
}

func newLayer2(d deps, members *membership.Membership) (*layer2, error) {
	o := d.options.layer2
	links := netif.New(netif.Config{Logger: d.logger})
	announcer, err := l2.New(l2.Config{Links: links, Logger: d.logger, Metrics: d.metrics.l2, Refresh: o.refresh})
	if err != nil {
		return nil, err
	}
	prober, err := neighbor.New(neighbor.Config{Links: links, Logger: d.logger, Metrics: d.metrics.neighbor})
	if err != nil {
		return nil, err
	}
	news := newFanOut(members.Changes(), 2)
	limit := o.standInLimit
	if !o.standIn {
		limit = 0
	}
	nodes, err := watch.New(watch.Config{
		Node: d.options.node, Bind: netip.AddrPortFrom(d.bind.Addr(), o.watchPort),
		StandInLimit: limit, ProxyURL: d.options.kubeProxyHealth,
		Members: watch.FromMembership(members, d.options.node, news.to[1]), Prober: watch.FromProber(prober),
		Witnesses: witnesses{links: links, gateways: netif.Gateways, askers: announcer.RecentAskers},
		Logger:    d.logger, Metrics: d.metrics.watch,
	})
	if err != nil {
		return nil, err
	}
	l := &layer2{
		links: links, announcer: announcer, members: loopGroup{members, news.to[0]}, others: nodeWatch{nodes},
		conflicts: newConflicts(prober, prober, o.conflictProbe, d.logger),
		audits:    newAudits(prober, d.logger, d.metrics.loop.unheard.Inc),
	}
	l.tasks = []daemon.Task{
		{Name: "links", Run: links.Run},
		{Name: "layer 2", Run: announcer.Run},
		{Name: "neighbors", Run: prober.Run},
		{Name: "membership news", Run: news.run},
		{Name: "node watch", Run: nodes.Run},
		{Name: "conflicts", Run: l.conflicts.run},
		{Name: "audits", Run: l.audits.run},
	}
	return l, nil
}

// join takes part in the membership. The first that is told of this speaker says
// how its node can be asked and that it takes nothing yet: what its former process
// said is gone with that, and others must be able to see that the node is there.
func (l *layer2) join(ctx context.Context, members *membership.Membership, watchPort uint16) error {
	select {
	case <-l.links.Synced():
	case <-ctx.Done():
		return nil
	}
	members.SetLocal(membership.Info{Links: linksToTell(l.links.Links()), Abstains: true, WatchPort: watchPort})
	return members.Run(ctx)
}
