package cli

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
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
	r := Routes{Routes: []Route{}}
	index := map[string]int{}
	served, _ := c.servedEverywhere()
	for _, n := range c.routing(served) {
		for _, s := range n.sessions {
			told := c.established(n.node.Name, s.Name)
			for _, route := range n.routes[s.Name] {
				key := s.Object + " " + route.String()
				i, known := index[key]
				if !known {
					i = len(r.Routes)
					index[key] = i
					r.Routes = append(r.Routes, newRoute(s.Object, route))
				}
				r.Routes[i].tell(n.node.Name, told, n.services)
			}
		}
	}
	slices.SortStableFunc(r.Routes, func(a, b Route) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(a.Peer, b.Peer))
	})
	return r
}

// nodeRouting is what a node is to have with routers and to tell them.
type nodeRouting struct {
	node     *corev1.Node
	sessions []config.Session
	// services are those that the node can serve, and routes what it tells of them
	// over each session.
	services []config.Announced
	routes   map[string][]bgp.Route
}

// routing returns what each node is to have with routers, in the order of their
// names.
func (c *Cluster) routing(all map[netip.Addr]served) []nodeRouting {
	snapshot, services := c.inForce(), c.ours()
	var routing []nodeRouting
	for _, object := range byName(c.Nodes) {
		n := nodeRouting{node: object}
		n.sessions, _ = config.SessionsOf(snapshot, c.nodeOf(object, snapshot))
		if len(n.sessions) > 0 && !silentNode(object) {
			n.services = servedBy(object.Name, services, all)
			n.routes, _ = config.NewRouter(snapshot, labels.Set(object.Labels), n.sessions).Routes(n.services)
		}
		routing = append(routing, n)
	}
	return routing
}

// silentNode says that a node tells routers nothing.
func silentNode(n *corev1.Node) bool { return excludedNode(n) || networkUnavailable(n) || drained(n) }

// servedBy returns the Services with those of their addresses that a node can
// serve.
func servedBy(node string, services []*corev1.Service, all map[netip.Addr]served) []config.Announced {
	var able []config.Announced
	for _, svc := range services {
		a := announcedOf(svc)
		a.Addresses = slices.DeleteFunc(a.Addresses, func(addr netip.Addr) bool {
			s := all[addr]
			return !s.on(node)
		})
		if len(a.Addresses) > 0 {
			able = append(able, a)
		}
	}
	return able
}

// nodeOf describes a node to the configuration. Its default gateways it knows alone;
// here they are those that it has sessions with because of that.
func (c *Cluster) nodeOf(object *corev1.Node, snapshot *config.Snapshot) config.Node {
	node := config.NewNode(object)
	state := c.nodeState(object.Name)
	if state == nil {
		return node
	}
	for _, p := range snapshot.BGPPeers {
		if !p.IsDefaultGateway() {
			continue
		}
		for _, s := range state.Status.BGPSessions {
			if addr, is := gatewayOf(p.Name, s); is && !slices.Contains(node.Gateways, addr) {
				node.Gateways = append(node.Gateways, addr)
			}
		}
	}
	return node
}

// gatewayOf returns the gateway that a session is with, false if it is not of that
// BGPPeer or was made when that named an address.
func gatewayOf(peer string, s v1beta1.BGPSessionStatus) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s.Address)
	return addr, err == nil && s.Peer == peer && s.Name == peer+"@"+addr.String()
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
