package cli

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
)

// Routes is the report of what routers are told: what follows from the
// configuration, and over which sessions it gets there.
type Routes struct {
	Routes []Route `json:"routes"`
}

// Route is one prefix that a BGPPeer is told with the same attributes by some
// nodes.
type Route struct {
	Prefix string `json:"prefix"`
	// Peer is the name of the BGPPeer.
	Peer string `json:"peer"`
	// Nodes tell it; Silent are those that would, but their session is not
	// established.
	Nodes       []string `json:"nodes,omitempty"`
	Silent      []string `json:"silent,omitempty"`
	LocalPref   *uint32  `json:"localPref,omitempty"`
	MED         *uint32  `json:"med,omitempty"`
	Prepend     uint8    `json:"asPathPrepend,omitempty"`
	Communities []string `json:"communities,omitempty"`
	Services    []string `json:"services,omitempty"`
	prefix      netip.Prefix
}

// ReportRoutes reports on the routes.
func ReportRoutes(c *Cluster) Routes {
	snapshot, _ := c.build()
	r := Routes{Routes: []Route{}}
	index := map[string]int{}
	for _, object := range byName(c.Nodes) {
		if excludedNode(object) || networkUnavailable(object) || drained(object) {
			continue
		}
		services := c.servedBy(object.Name)
		sessions, _ := config.SessionsOf(snapshot, config.NewNode(object))
		sessions = append(sessions, c.gatewaySessions(snapshot, object.Name, sessions)...)
		routes, _ := config.NewRouter(snapshot, labels.Set(object.Labels), sessions).Routes(services)
		for _, s := range sessions {
			told := c.established(object.Name, s.Name)
			for _, route := range routes[s.Name] {
				key := s.Object + " " + route.String()
				i, known := index[key]
				if !known {
					i = len(r.Routes)
					index[key] = i
					r.Routes = append(r.Routes, newRoute(s.Object, route))
				}
				r.Routes[i].tell(object.Name, told, services)
			}
		}
	}
	slices.SortStableFunc(r.Routes, func(a, b Route) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(a.Peer, b.Peer))
	})
	return r
}

// servedBy returns the Services with those of their addresses that a node can
// serve.
func (c *Cluster) servedBy(node string) []config.Announced {
	var all []config.Announced
	for _, svc := range c.ours() {
		a := announcedOf(svc)
		a.Addresses = slices.DeleteFunc(a.Addresses, func(addr netip.Addr) bool {
			s := c.servedAt(addr, c.sharers(addr))
			return !s.on(node)
		})
		if len(a.Addresses) > 0 {
			all = append(all, a)
		}
	}
	return all
}

// gatewaySessions returns sessions that only the node itself can work out, as it
// reports them.
func (c *Cluster) gatewaySessions(snapshot *config.Snapshot, node string, known []config.Session) []config.Session {
	state := c.nodeState(node)
	if state == nil {
		return nil
	}
	var sessions []config.Session
	for _, p := range snapshot.BGPPeers {
		if !p.IsDefaultGateway() {
			continue
		}
		for _, s := range state.Status.BGPSessions {
			if s.Peer != p.Name || slices.ContainsFunc(known, func(k config.Session) bool { return k.Name == s.Name }) {
				continue
			}
			session := config.Session{Object: p.Name}
			session.Name, session.LocalASN, session.PeerASN = s.Name, uint32(s.LocalASN), uint32(s.PeerASN)
			for _, f := range s.Families {
				family := bgp.IPv4
				if f == string(v1beta1.FamilyIPv6) {
					family = bgp.IPv6
				}
				session.Families = append(session.Families, family)
			}
			sessions = append(sessions, session)
		}
	}
	return sessions
}

func (c *Cluster) established(node, session string) bool {
	state := c.nodeState(node)
	return state != nil && slices.ContainsFunc(state.Status.BGPSessions, func(s v1beta1.BGPSessionStatus) bool {
		return s.Name == session && s.State == v1beta1.BGPEstablished
	})
}

func newRoute(peer string, from bgp.Route) Route {
	r := Route{
		Prefix: from.Prefix.String(), Peer: peer, LocalPref: from.LocalPref, MED: from.MED, Prepend: from.Prepend, prefix: from.Prefix,
	}
	for _, c := range from.Communities {
		r.Communities = append(r.Communities, c.String())
	}
	for _, c := range from.LargeCommunities {
		r.Communities = append(r.Communities, c.String())
	}
	return r
}

func (r *Route) tell(node string, told bool, services []config.Announced) {
	into := &r.Silent
	if told {
		into = &r.Nodes
	}
	if !slices.Contains(*into, node) {
		*into = append(*into, node)
	}
	for _, svc := range services {
		if slices.ContainsFunc(svc.Addresses, r.prefix.Contains) && !slices.Contains(r.Services, svc.Name) {
			r.Services = append(r.Services, svc.Name)
		}
	}
	slices.Sort(r.Services)
}

// attributes renders those that are set: "med 10, 65000:1".
func (r *Route) attributes() string {
	var texts []string
	if r.LocalPref != nil {
		texts = append(texts, fmt.Sprintf("localPref %d", *r.LocalPref))
	}
	if r.MED != nil {
		texts = append(texts, fmt.Sprintf("med %d", *r.MED))
	}
	if r.Prepend > 0 {
		texts = append(texts, fmt.Sprintf("prepend %d", r.Prepend))
	}
	return strings.Join(append(texts, r.Communities...), ", ")
}

func (r Routes) text(p *Printer) {
	if len(r.Routes) == 0 {
		p.printf("No router is to be told anything.\n")
		return
	}
	t := table{columns: []column{
		{name: "PREFIX"}, {name: "PEER"}, {name: "TOLD BY"}, {name: "NODES", wide: true}, {name: "ATTRIBUTES"}, {name: "SERVICES"}, {name: "NOTE"},
	}}
	for i := range r.Routes {
		route := &r.Routes[i]
		all := len(route.Nodes) + len(route.Silent)
		told := cell{text: fmt.Sprintf("%d/%s", len(route.Nodes), plural(all, "node")), state: StateOK}
		note := cell{}
		if len(route.Silent) > 0 {
			told.state = StateError
			note = cell{text: "no session from " + few(route.Silent, 3), state: StateError}
		}
		t.add(plain(route.Prefix), plain(route.Peer), told, plain(few(route.Nodes, 5)), plain(route.attributes()), plain(few(route.Services, 3)), note)
	}
	t.print(p)
}
