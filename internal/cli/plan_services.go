package cli

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
)

// What becomes of a Service.
const (
	AddressGained       = "AddressGained"
	AddressLost         = "AddressLost"
	AddressChanged      = "AddressChanged"
	PoolChanged         = "PoolChanged"
	AnnouncementGained  = "AnnouncementGained"
	AnnouncementLost    = "AnnouncementLost"
	AnnouncementChanged = "AnnouncementChanged"
	// AnnouncementInterrupted: every session that tells of an address ends and is made
	// again.
	AnnouncementInterrupted = "AnnouncementInterrupted"
	// OwnerMoves: the node that owns an address is not eligible any more, another is.
	OwnerMoves = "OwnerMoves"
	// ReasonChanged: the condition berth.dev/AddressAllocated says something else.
	ReasonChanged = "ReasonChanged"
)

// PlannedService is what becomes of a Service.
type PlannedService struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Changes are what becomes of it; none if all stays as it is.
	Changes []string      `json:"changes,omitempty"`
	Before  *ServiceState `json:"before,omitempty"`
	After   *ServiceState `json:"after,omitempty"`
}

// ServiceState is how a Service is doing.
type ServiceState struct {
	Addresses []string `json:"addresses,omitempty"`
	Pools     []string `json:"pools,omitempty"`
	// Reason and Message are those of the condition berth.dev/AddressAllocated.
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
	// Announcements are how each address is announced.
	Announcements []PlannedAnnouncement `json:"announcements,omitempty"`
}

// PlannedAnnouncement is how an address is announced, as far as can be told from the
// API: which interfaces nodes have and which sessions are established is not in it.
type PlannedAnnouncement struct {
	Address string `json:"address"`
	// L2Advertisements select it, and Nodes are eligible to own it, on Interfaces if
	// these are named.
	L2Advertisements []string `json:"l2Advertisements,omitempty"`
	Nodes            []string `json:"nodes,omitempty"`
	Interfaces       []string `json:"interfaces,omitempty"`
	// BGPAdvertisements select it, and Peers are told.
	BGPAdvertisements []string   `json:"bgpAdvertisements,omitempty"`
	Peers             []ToldPeer `json:"peers,omitempty"`
	// Why says why nobody announces it, if nobody does.
	Why  string `json:"why,omitempty"`
	told map[sessionOf]bool
}

// ToldPeer is a BGPPeer that is told of an address by some nodes.
type ToldPeer struct {
	Peer  string   `json:"peer"`
	Nodes []string `json:"nodes"`
}

func (a *PlannedAnnouncement) isAnnounced() bool { return len(a.Nodes)+len(a.Peers) > 0 }

func (a *PlannedAnnouncement) equal(b *PlannedAnnouncement) bool {
	one, other := *a, *b
	one.told, other.told = nil, nil
	return reflect.DeepEqual(one, other)
}

// foresight is what follows from one state of a cluster.
type foresight struct {
	c        *Cluster
	class    class
	snapshot *config.Snapshot
	served   map[netip.Addr]served
	sharers  map[netip.Addr][]*corev1.Service
	nodes    []*corev1.Node
	// unfit says why nodes can own nothing.
	unfit   map[string]string
	routing []nodeRouting
}

func foresee(c *Cluster) *foresight {
	f := &foresight{c: c, class: c.class(), snapshot: c.inForce(), nodes: byName(c.Nodes), unfit: map[string]string{}}
	f.served, f.sharers = c.servedEverywhere()
	f.routing = c.routing(f.served)
	for _, n := range f.nodes {
		f.unfit[n.Name] = c.unfit(n)
	}
	return f
}

// state describes a Service; nil if it is not there or not Berth's.
func (f *foresight) state(svc *corev1.Service) *ServiceState {
	if svc == nil || !f.class.owns(svc) {
		return nil
	}
	s := &ServiceState{Pools: announcedOf(svc).Pools}
	if c := condition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated); c != nil {
		s.Reason, s.Message = c.Reason, c.Message
	}
	for _, addr := range addressesOf(svc) {
		s.Addresses = append(s.Addresses, addr.String())
		s.Announcements = append(s.Announcements, f.announcement(addr))
	}
	return s
}

func (f *foresight) announcement(addr netip.Addr) PlannedAnnouncement {
	a := PlannedAnnouncement{Address: addr.String(), told: map[sessionOf]bool{}}
	var layer2 []*config.L2Advertisement
	var routed []*config.BGPAdvertisement
	for _, svc := range f.sharers[addr] {
		layer2 = append(layer2, f.snapshot.L2AdvertisementsFor(announcedOf(svc), addr)...)
		routed = append(routed, f.snapshot.BGPAdvertisementsFor(announcedOf(svc), addr)...)
	}
	for _, adv := range layer2 {
		a.L2Advertisements = append(a.L2Advertisements, adv.Name)
		a.Interfaces = append(a.Interfaces, adv.Interfaces...)
	}
	for _, adv := range routed {
		a.BGPAdvertisements = append(a.BGPAdvertisements, adv.Name)
	}
	for _, names := range []*[]string{&a.L2Advertisements, &a.BGPAdvertisements, &a.Interfaces} {
		slices.Sort(*names)
		*names = slices.Compact(*names)
	}
	if slices.ContainsFunc(layer2, func(adv *config.L2Advertisement) bool { return len(adv.Interfaces) == 0 }) {
		a.Interfaces = nil // those with its subnet as well
	}
	served := f.served[addr]
	for _, n := range f.nodes {
		if served.on(n.Name) && selectedBy(layer2, n) && f.unfit[n.Name] == "" {
			a.Nodes = append(a.Nodes, n.Name)
		}
	}
	f.tell(&a, addr, routed)
	switch {
	case a.isAnnounced():
	case len(layer2)+len(routed) == 0:
		a.Why = "no advertisement is for it"
	case !served.anywhere:
		a.Why = "no endpoint serves it"
	case len(layer2) > 0:
		a.Why = "no node is eligible"
	default:
		a.Why = "no node has a session to tell routers of it"
	}
	return a
}

// tell adds the BGPPeers that are told of an address.
func (f *foresight) tell(a *PlannedAnnouncement, addr netip.Addr, routed []*config.BGPAdvertisement) {
	served, peers := f.served[addr], map[string][]string{}
	for _, n := range f.routing {
		if len(routed) == 0 || !served.on(n.node.Name) || silentNode(n.node) {
			continue
		}
		for _, s := range n.sessions {
			if !slices.Contains(s.Families, bgp.FamilyOf(addr)) || !slices.ContainsFunc(routed, func(adv *config.BGPAdvertisement) bool {
				return adv.SelectsPeer(s.Object) && config.MatchesAny(adv.NodeSelectors, labels.Set(n.node.Labels))
			}) {
				continue
			}
			a.told[sessionOf{n.node.Name, s.Name}] = true
			if !slices.Contains(peers[s.Object], n.node.Name) {
				peers[s.Object] = append(peers[s.Object], n.node.Name)
			}
		}
	}
	for _, peer := range sortedKeys(peers) {
		a.Peers = append(a.Peers, ToldPeer{Peer: peer, Nodes: peers[peer]})
	}
}

// planServices compares Berth's Services.
func (p *planner) planServices() {
	names := map[string]*corev1.Service{}
	for _, c := range []*Cluster{p.before.c, p.after.c} {
		for _, svc := range c.ours() {
			names[nameOf(svc)] = svc
		}
	}
	before, after := servicesByName(p.before.c), servicesByName(p.after.c)
	for _, name := range sortedKeys(names) {
		s := PlannedService{
			Namespace: names[name].Namespace, Name: names[name].Name,
			Before: p.before.state(before[name]), After: p.after.state(after[name]),
		}
		p.compare(&s, after[name])
		p.changes = p.changes || len(s.Changes) > 0
		if len(s.Changes) > 0 || p.all {
			p.plan.Services = append(p.plan.Services, s)
		}
	}
}

func servicesByName(c *Cluster) map[string]*corev1.Service {
	all := map[string]*corev1.Service{}
	for _, svc := range c.Services {
		all[nameOf(svc)] = svc
	}
	return all
}

// compare finds out what becomes of a Service, and what it loses.
func (p *planner) compare(s *PlannedService, svc *corev1.Service) {
	name := s.Namespace + "/" + s.Name
	before, after := s.Before, s.After
	if before == nil {
		before = &ServiceState{}
	}
	if after == nil {
		after = &ServiceState{}
	}
	lost, gained := without(before.Addresses, after.Addresses), without(after.Addresses, before.Addresses)
	why := after.Reason + ": " + after.Message
	if s.After == nil {
		why = "it is Berth's no more"
	}
	switch {
	case len(lost) > 0 && len(gained) > 0:
		s.Changes = append(s.Changes, AddressChanged)
		p.lose("Service %s gets %s in place of %s", name, strings.Join(gained, ", "), strings.Join(lost, ", "))
	case len(lost) > 0:
		s.Changes = append(s.Changes, AddressLost)
		p.lose("Service %s loses %s: %s", name, strings.Join(lost, ", "), why)
	case len(gained) > 0:
		s.Changes = append(s.Changes, AddressGained)
	case !slices.Equal(before.Pools, after.Pools):
		s.Changes = append(s.Changes, PoolChanged)
	}
	if s.Before != nil && s.After != nil && len(s.Changes) == 0 && before.Reason != after.Reason {
		s.Changes = append(s.Changes, ReasonChanged)
	}
	p.compareAnnouncements(s, before, after, svc)
}

func (p *planner) compareAnnouncements(s *PlannedService, before, after *ServiceState, svc *corev1.Service) {
	note := func(change string) {
		if !slices.Contains(s.Changes, change) {
			s.Changes = append(s.Changes, change)
		}
	}
	name := s.Namespace + "/" + s.Name
	for i := range after.Announcements {
		b := &after.Announcements[i]
		j := slices.IndexFunc(before.Announcements, func(a PlannedAnnouncement) bool { return a.Address == b.Address })
		if j < 0 {
			continue
		}
		a := &before.Announcements[j]
		switch was, is := a.isAnnounced(), b.isAnnounced(); {
		case was && !is:
			note(AnnouncementLost)
			p.lose("%s of Service %s is not announced any more: %s", a.Address, name, b.Why)
		case !was && is:
			note(AnnouncementGained)
		case p.interrupted(a, b):
			note(AnnouncementInterrupted)
			p.lose("%s of Service %s is withdrawn for a moment: every session that tells of it ends and is made again", a.Address, name)
		case !a.equal(b):
			note(AnnouncementChanged)
		}
		if said := announcementOf(svc, netip.MustParseAddr(a.Address)); slices.Contains(a.Nodes, said.Node) && len(b.Nodes) > 0 && !slices.Contains(b.Nodes, said.Node) {
			note(OwnerMoves)
		}
	}
	if slices.Contains(s.Changes, AddressChanged) && announces(before) && !announces(after) {
		note(AnnouncementLost)
		p.lose("%s of Service %s is not announced: %s", after.Announcements[0].Address, name, after.Announcements[0].Why)
	}
}

func announces(s *ServiceState) bool {
	return slices.ContainsFunc(s.Announcements, func(a PlannedAnnouncement) bool { return a.isAnnounced() })
}

// interrupted says that routers alone are told of an address, and that none of them is
// all the time.
func (p *planner) interrupted(a, b *PlannedAnnouncement) bool {
	if len(a.Nodes) > 0 || len(b.Nodes) > 0 || len(a.told) == 0 || len(b.told) == 0 {
		return false
	}
	for session := range a.told {
		if b.told[session] && !p.broken[session] {
			return false
		}
	}
	return true
}

// without returns those of a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// announced renders how addresses are announced: "layer 2 on 3 nodes, tor (BGP, 3 nodes)".
func (s *ServiceState) announced() string {
	var texts []string
	for i := range s.Announcements {
		if text := s.Announcements[i].short(); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; ")
}

func (a *PlannedAnnouncement) short() string {
	var texts []string
	if len(a.Nodes) > 0 {
		text := fmt.Sprintf("layer 2 (%s)", plural(len(a.Nodes), "node"))
		if len(a.Interfaces) > 0 {
			text = fmt.Sprintf("layer 2 (%s on %s)", plural(len(a.Nodes), "node"), strings.Join(a.Interfaces, ", "))
		}
		texts = append(texts, text)
	}
	for _, t := range a.Peers {
		texts = append(texts, fmt.Sprintf("BGP to %s (%s)", t.Peer, plural(len(t.Nodes), "node")))
	}
	if len(texts) == 0 {
		return "nobody: " + a.Why
	}
	return strings.Join(texts, ", ")
}
