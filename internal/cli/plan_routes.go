package cli

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
)

// What becomes of a session.
const (
	SessionAdded   = "Added"
	SessionRemoved = "Removed"
	// SessionReset: it ends and is made again.
	SessionReset = "Reset"
	// SessionUpdated: it goes on, with something else about it.
	SessionUpdated = "Updated"
	SessionKept    = "Unchanged"
)

// PlannedSession is what becomes of the same session of some nodes.
type PlannedSession struct {
	Name string `json:"name"`
	// Peer is the name of the BGPPeer.
	Peer   string   `json:"peer"`
	Change string   `json:"change"`
	Nodes  []string `json:"nodes"`
	// Why says what differs.
	Why string `json:"why,omitempty"`
}

// What becomes of a route.
const (
	RouteAnnounced = "Announced"
	RouteWithdrawn = "Withdrawn"
	// RouteChanged: it is announced with other attributes.
	RouteChanged = "Changed"
	RouteKept    = "Unchanged"
)

// PlannedRoute is what becomes of a prefix that some nodes tell a BGPPeer.
type PlannedRoute struct {
	Prefix string   `json:"prefix"`
	Peer   string   `json:"peer"`
	Change string   `json:"change"`
	Nodes  []string `json:"nodes"`
	// Before and After are its attributes.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	prefix netip.Prefix
}

// sessionOf names a session of a node.
type sessionOf struct{ node, session string }

// sessions returns the sessions of all nodes.
func (f *foresight) sessions() map[sessionOf]config.Session {
	all := map[sessionOf]config.Session{}
	for _, n := range f.routing {
		for _, s := range n.sessions {
			all[sessionOf{n.node.Name, s.Name}] = s
		}
	}
	return all
}

// inOrderOf returns the sessions of both, by node and name.
func inOrderOf[V any](before, after map[sessionOf]V) []sessionOf {
	all := maps.Clone(before)
	maps.Copy(all, after)
	return slices.SortedFunc(maps.Keys(all), func(a, b sessionOf) int {
		return cmp.Or(strings.Compare(a.session, b.session), strings.Compare(a.node, b.node))
	})
}

// planSessions compares the sessions.
func (p *planner) planSessions() {
	before, after := p.before.sessions(), p.after.sessions()
	p.broken = map[sessionOf]bool{}
	for _, at := range inOrderOf(before, after) {
		old, was := before[at]
		next, is := after[at]
		s := PlannedSession{Name: at.session, Peer: cmp.Or(next.Object, old.Object), Nodes: []string{at.node}}
		switch {
		case !was:
			s.Change = SessionAdded
		case !is:
			s.Change, p.broken[at] = SessionRemoved, true
		default:
			s.Change, s.Why = sessionChange(old, next)
			p.broken[at] = s.Change == SessionReset
		}
		p.changes = p.changes || s.Change != SessionKept
		if s.Change != SessionKept || p.all {
			p.addSession(s)
		}
	}
}

// addSession adds a session, to those of other nodes if it is the same there.
func (p *planner) addSession(s PlannedSession) {
	i := slices.IndexFunc(p.plan.Sessions, func(o PlannedSession) bool {
		return o.Name == s.Name && o.Peer == s.Peer && o.Change == s.Change && o.Why == s.Why
	})
	if i < 0 {
		p.plan.Sessions = append(p.plan.Sessions, s)
		return
	}
	p.plan.Sessions[i].Nodes = append(p.plan.Sessions[i].Nodes, s.Nodes...)
}

// sessionChange says what a speaker does that has one session and is to have another
// of the same name.
func sessionChange(old, next config.Session) (change, why string) {
	var updates []string
	if !maps.Equal(old.NextHops, next.NextHops) {
		updates = append(updates, "next hops")
	}
	if old.ConnectTime != next.ConnectTime {
		updates = append(updates, "ConnectTime "+old.ConnectTime.String()+" -> "+next.ConnectTime.String())
	}
	if text := bfdChange(old.BFD, next.BFD); text != "" {
		updates = append(updates, text)
	}
	switch {
	case old.NeedsReset(next.Peer):
		return SessionReset, strings.Join(append(old.ResetReasons(next.Peer), updates...), ", ")
	case len(updates) > 0:
		return SessionUpdated, strings.Join(updates, ", ")
	}
	return SessionKept, ""
}

// bfdChange says how the watch of a session changes; "" if it does not.
func bfdChange(old, next *config.BFDProfile) string {
	switch {
	case old == nil && next == nil:
		return ""
	case old == nil:
		return "BFD by profile " + next.Name
	case next == nil:
		return "no BFD any more"
	case *old == *next:
		return ""
	case old.Name != next.Name:
		return "BFD profile " + old.Name + " -> " + next.Name
	}
	return "times of BFD profile " + next.Name
}

// told returns what is told over each session.
func (f *foresight) told() map[sessionOf]bgp.Routes {
	all := map[sessionOf]bgp.Routes{}
	for _, n := range f.routing {
		for _, s := range n.sessions {
			all[sessionOf{n.node.Name, s.Name}] = bgp.NewRoutes(n.routes[s.Name])
		}
	}
	return all
}

// planRoutes compares what routers are told, session by session, as a speaker does
// that has told the one and is to tell the other.
func (p *planner) planRoutes() {
	before, after := p.before.told(), p.after.told()
	objects := p.before.sessions()
	maps.Copy(objects, p.after.sessions())
	index := map[string]int{}
	add := func(at sessionOf, change string, prefix netip.Prefix, old, next bgp.Route) {
		r := PlannedRoute{Prefix: prefix.String(), Peer: objects[at].Object, Change: change, prefix: prefix}
		if change != RouteAnnounced {
			r.Before = attributesOf(old)
		}
		if change != RouteWithdrawn {
			r.After = attributesOf(next)
		}
		key := strings.Join([]string{r.Prefix, r.Peer, r.Change, r.Before, r.After}, "\x00")
		i, known := index[key]
		if !known {
			i = len(p.plan.Routes)
			index[key] = i
			p.plan.Routes = append(p.plan.Routes, r)
		}
		if nodes := &p.plan.Routes[i].Nodes; !slices.Contains(*nodes, at.node) {
			*nodes = append(*nodes, at.node)
		}
	}
	for _, at := range inOrderOf(before, after) {
		announce, withdraw := before[at].Diff(after[at])
		p.changes = p.changes || len(announce)+len(withdraw) > 0
		changed := map[netip.Prefix]bool{}
		for _, next := range announce {
			old, was := before[at][next.Prefix]
			add(at, map[bool]string{true: RouteChanged, false: RouteAnnounced}[was], next.Prefix, old, next)
			changed[next.Prefix] = true
		}
		for _, prefix := range withdraw {
			add(at, RouteWithdrawn, prefix, before[at][prefix], bgp.Route{})
		}
		for prefix, route := range after[at] {
			if p.all && !changed[prefix] {
				add(at, RouteKept, prefix, route, route)
			}
		}
	}
	slices.SortStableFunc(p.plan.Routes, func(a, b PlannedRoute) int {
		return cmp.Or(
			a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(a.Peer, b.Peer),
			cmp.Compare(a.Change, b.Change), cmp.Compare(a.Before+a.After, b.Before+b.After),
		)
	})
}

func attributesOf(from bgp.Route) string {
	r := newRoute("", from)
	return cmp.Or(r.attributes(), "no attributes")
}
