package main

import (
	"context"
	"maps"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/neighbor"
	"github.com/berth-lb/berth/internal/ownership"
)

// townGroup is the membership of one process.
type townGroup struct {
	r     *resident
	epoch int
}

func (g townGroup) View() *membership.View {
	r := g.r
	r.town.mu.Lock()
	defer r.town.mu.Unlock()
	v := &membership.View{Settled: r.settled, Former: r.former, Known: len(r.town.residents)}
	for _, o := range r.town.residents {
		if o == r {
			v.Members = append(v.Members, membership.Member{Node: r.name, Known: true, Info: r.said.info, Claims: r.said.claims})
			continue
		}
		h, knows := r.heard[o.name]
		if !knows {
			continue
		}
		m := membership.Member{Node: o.name, Known: true, Info: h.info, Claims: h.claims}
		if r.judged[o.name].state == ownership.Up {
			v.Members = append(v.Members, m)
		} else {
			v.Gone = append(v.Gone, membership.Gone{Member: m, Since: r.lost[o.name]})
		}
	}
	return v
}

func (g townGroup) Changes() <-chan struct{} { return g.r.changed }

func (g townGroup) SetLocal(info membership.Info) {
	g.r.town.mu.Lock()
	defer g.r.town.mu.Unlock()
	if g.r.epoch == g.epoch && !g.r.said.info.Equal(info) {
		g.r.version++
		g.r.said.version, g.r.said.info = g.r.version, info
		g.r.tell()
	}
}

func (g townGroup) SetClaims(c map[netip.Addr]membership.Claim) {
	g.r.town.mu.Lock()
	defer g.r.town.mu.Unlock()
	if g.r.epoch == g.epoch {
		g.r.version++
		g.r.said.claimed, g.r.said.claims = g.r.version, membership.NewClaims(c)
		g.r.tell()
	}
}

func (g townGroup) SetPeers([]membership.Peer) {}
func (g townGroup) Meet(string)                { g.r.town.meetAll() }
func (g townGroup) Rejoin()                    {}

// townOthers is what one resident thinks of the others.
type townOthers struct{ r *resident }

func (o townOthers) standing() *standing {
	r := o.r
	view := townGroup{r, r.epoch}.View()
	r.town.mu.Lock()
	defer r.town.mu.Unlock()
	nodes := maps.Clone(r.judged)
	for name, h := range r.heard {
		if h.info.Abstains && nodes[name].state == ownership.Up {
			nodes[name] = nodeStanding{away: true}
		}
	}
	return &standing{nodes: nodes, ring: func(node string) []string { return ringOf(view, node) }}
}

func (o townOthers) Changes() <-chan struct{} { return o.r.rejudged }

// townAsker asks whoever is on the same network.
type townAsker struct{ r *resident }

func (a townAsker) Ask(_ context.Context, t neighbor.Target, _ int, _ time.Duration) (ether.MAC, error) {
	w := a.r.town
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.residents {
		if answer, does := o.answers[t.Addr]; does && o != a.r && answer.StandIn == nil && a.r.reaches(o) && (t.MAC == ether.MAC{} || t.MAC == o.mac) {
			return o.mac, nil
		}
	}
	return ether.MAC{}, neighbor.ErrNoAnswer
}
