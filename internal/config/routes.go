package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/ipam"
)

// Announced is a Service that this node can serve, and the addresses at which
// it can.
type Announced struct {
	// Name is "namespace/name".
	Name      string
	Labels    labels.Set
	Addresses []netip.Addr
	// Pools are those that the addresses came from. They matter once a pool no
	// longer contains an address that it gave.
	Pools []string
}

// Conflict is an attribute about which advertisements of one prefix disagree.
type Conflict struct {
	// Session is the name of the session whose peer is told.
	Session string
	Prefix  netip.Prefix
	// Field of the BGPAdvertisements.
	Field string
	// Advertisements that have a say, sorted.
	Advertisements []string
	// Message says what each wants and what was chosen.
	Message string
}

// maxRouteCommunities is how many communities one route has at most, so that
// its UPDATE fits into one message (RFC 4271 section 4.1: 4096 bytes).
const maxRouteCommunities = 250

// Router works out the routes of one node.
type Router struct {
	snapshot *Snapshot
	// tellers are the sessions that an advertisement of this node concerns, with
	// the indexes of the advertisements that concern it.
	tellers []teller
	// ranges are those of each pool, merged.
	ranges map[string][]ipam.Range
}

type teller struct {
	session        Session
	advertisements []int
}

// NewRouter returns what works out the routes of a node with these labels and
// sessions.
func NewRouter(snapshot *Snapshot, nodeLabels labels.Set, sessions []Session) *Router {
	r := &Router{snapshot: snapshot, ranges: map[string][]ipam.Range{}}
	for _, p := range snapshot.Pools {
		r.ranges[p.Name] = merged(p.Ranges)
	}
	var here []int
	for i, a := range snapshot.BGPAdvertisements {
		if MatchesAny(a.NodeSelectors, nodeLabels) {
			here = append(here, i)
		}
	}
	for _, s := range sessions {
		t := teller{session: s}
		for _, i := range here {
			if snapshot.BGPAdvertisements[i].SelectsPeer(s.Object) {
				t.advertisements = append(t.advertisements, i)
			}
		}
		r.tellers = append(r.tellers, t)
	}
	return r
}

// BGPAdvertisementsFor returns the BGPAdvertisements that are for an address of a
// Service, on whatever nodes.
func (s *Snapshot) BGPAdvertisementsFor(svc Announced, addr netip.Addr) []*BGPAdvertisement {
	pool, _ := s.PoolOf(addr)
	var all []*BGPAdvertisement
	for _, a := range s.BGPAdvertisements {
		if a.selects(svc, pool) {
			all = append(all, a)
		}
	}
	return all
}

// L2AdvertisementsFor returns the L2Advertisements that are for an address of a
// Service, on whatever nodes.
func (s *Snapshot) L2AdvertisementsFor(svc Announced, addr netip.Addr) []*L2Advertisement {
	pool, _ := s.PoolOf(addr)
	var all []*L2Advertisement
	for _, a := range s.L2Advertisements {
		selection := PoolSelection{AllPools: a.AllPools, Pools: a.Pools, Selects: a.Selects, Existing: a.Existing}
		if selection.selects(svc, pool, a.ServiceSelectors) {
			all = append(all, a)
		}
	}
	return all
}

func (a *BGPAdvertisement) selects(svc Announced, pool *Pool) bool {
	return a.PoolSelection.selects(svc, pool, a.ServiceSelectors)
}

// selects says whether an advertisement is for an address of a Service, which is
// in pool, or in none if that is nil. An edit of pools silences nobody: an
// address that its pool has lost, be it to another pool, is announced as those of
// that pool are.
func (p *PoolSelection) selects(svc Announced, pool *Pool, serviceSelectors []labels.Selector) bool {
	if !MatchesAny(serviceSelectors, svc.Labels) {
		return false
	}
	if pool != nil && (p.SelectsPool(pool.Name) || slices.Contains(svc.Pools, pool.Name)) {
		return p.SelectsPool(pool.Name)
	}
	return p.AllPools || slices.ContainsFunc(svc.Pools, p.SelectsPool)
}

// claims are the indexes of the advertisements that announce each prefix.
type claims map[netip.Prefix][]int

// Routes returns what each session's peer is to be told, by the name of the
// session and in the order of the prefixes, and where advertisements disagree.
// The result depends on neither the order of the Services nor on anything
// before, and a Service touches no prefixes but those that its own addresses
// are in.
func (r *Router) Routes(services []Announced) (map[string][]bgp.Route, []Conflict) {
	all := r.claims(services)
	prefixes := make([]netip.Prefix, 0, len(all))
	for prefix := range all {
		prefixes = append(prefixes, prefix)
	}
	slices.SortFunc(prefixes, comparePrefixes)
	routes := make(map[string][]bgp.Route, len(r.tellers))
	var conflicts []Conflict
	for _, t := range r.tellers {
		told := make([]bgp.Route, 0, len(prefixes))
		for _, prefix := range prefixes {
			if !slices.Contains(t.session.Families, bgp.FamilyOf(prefix.Addr())) {
				continue
			}
			var claiming []*BGPAdvertisement
			for _, i := range all[prefix] {
				if slices.Contains(t.advertisements, i) {
					claiming = append(claiming, r.snapshot.BGPAdvertisements[i])
				}
			}
			if len(claiming) == 0 {
				continue
			}
			route, disputed := Merge(prefix, claiming, t.session.mayBeInternal())
			for i := range disputed {
				disputed[i].Session = t.session.Name
			}
			told, conflicts = append(told, route), append(conflicts, disputed...)
		}
		routes[t.session.Name] = told
	}
	return routes, conflicts
}

// mayBeInternal says whether the peer can be told what only internal peers are.
func (s Session) mayBeInternal() bool {
	return s.Dynamic == bgp.Internal || s.Dynamic == "" && s.PeerASN == s.LocalASN
}

func (r *Router) claims(services []Announced) claims {
	all := claims{}
	add := func(prefix netip.Prefix, i int) {
		if !slices.Contains(all[prefix], i) {
			all[prefix] = append(all[prefix], i)
		}
	}
	for _, svc := range services {
		for _, addr := range svc.Addresses {
			pool, _ := r.snapshot.PoolOf(addr)
			whole := netip.PrefixFrom(addr, addr.BitLen())
			for i, a := range r.snapshot.BGPAdvertisements {
				if !a.selects(svc, pool) {
					continue
				}
				aggregate := r.aggregate(a, addr, pool)
				add(aggregate, i)
				if a.Specific && aggregate != whole {
					add(whole, i)
				}
			}
		}
	}
	for _, indexes := range all {
		slices.Sort(indexes)
	}
	return all
}

// aggregate returns the prefix that an advertisement announces for an address.
// One that reaches beyond the address's pool would draw the traffic of others,
// so that the address is announced by itself.
func (r *Router) aggregate(a *BGPAdvertisement, addr netip.Addr, pool *Pool) netip.Prefix {
	whole := netip.PrefixFrom(addr, addr.BitLen())
	length := a.Length[bgp.FamilyOf(addr)]
	if length <= 0 || length >= addr.BitLen() {
		return whole
	}
	prefix := netip.PrefixFrom(addr, length).Masked()
	if pool == nil || !covers(r.ranges[pool.Name], prefix) {
		return whole
	}
	return prefix
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Merge returns the route that several advertisements of one prefix make
// together. It has the communities of all. Where they disagree about anything
// else, the value counts that makes the route most preferred: the highest
// localPref, the lowest med, the shortest path. One that leaves an attribute
// open disagrees with none. External peers are told no localPref and internal
// ones no path (RFC 4271 section 5.1), so these cannot be disagreed about there.
func Merge(prefix netip.Prefix, claiming []*BGPAdvertisement, internal bool) (bgp.Route, []Conflict) {
	route := bgp.Route{Prefix: prefix}
	m := merger{prefix: prefix, claiming: claiming}
	if internal {
		route.LocalPref = m.choose("localPref", func(a *BGPAdvertisement) *uint32 { return a.LocalPref }, cmp.Compare[uint32])
	}
	lowest := func(a, b uint32) int { return cmp.Compare(b, a) }
	route.MED = m.choose("med", func(a *BGPAdvertisement) *uint32 { return a.MED }, lowest)
	if prepend := m.choose("asPathPrepend", prependOf, lowest); !internal && prepend != nil {
		route.Prepend = uint8(*prepend)
	}
	for _, a := range claiming {
		route.Communities = append(route.Communities, a.Communities...)
		route.LargeCommunities = append(route.LargeCommunities, a.LargeCommunities...)
	}
	route = route.Normalise()
	m.limit(&route)
	if internal {
		m.conflicts = slices.DeleteFunc(m.conflicts, func(c Conflict) bool { return c.Field == "spec.asPathPrepend" })
	}
	return route, m.conflicts
}

func prependOf(a *BGPAdvertisement) *uint32 {
	if a.Prepend == 0 {
		return nil
	}
	n := uint32(a.Prepend)
	return &n
}

type merger struct {
	prefix    netip.Prefix
	claiming  []*BGPAdvertisement
	conflicts []Conflict
}

// choose returns the value that compares highest, or nil if there is none.
func (m *merger) choose(name string, value func(*BGPAdvertisement) *uint32, compare func(a, b uint32) int) *uint32 {
	var chosen *uint32
	var names, wishes []string
	disputed := false
	for _, a := range m.claiming {
		v := value(a)
		if v == nil {
			continue
		}
		names, wishes = append(names, a.Name), append(wishes, fmt.Sprintf("%d in %s", *v, a.Name))
		disputed = disputed || chosen != nil && *chosen != *v
		if chosen == nil || compare(*v, *chosen) > 0 {
			chosen = v
		}
	}
	if disputed {
		slices.Sort(names)
		slices.Sort(wishes)
		m.conflicts = append(m.conflicts, Conflict{
			Prefix: m.prefix, Field: "spec." + name, Advertisements: names,
			Message: fmt.Sprintf("%s: BGPAdvertisements disagree about spec.%s (%s); %d counts. Make them agree, or select different Services, nodes or peers",
				m.prefix, name, strings.Join(firstOf(wishes), ", "), *chosen),
		})
	}
	return chosen
}

// limit cuts what no UPDATE can carry, last the well-known communities, which
// say how far the route may go.
func (m *merger) limit(route *bgp.Route) {
	n := len(route.Communities) + len(route.LargeCommunities)
	if n <= maxRouteCommunities {
		return
	}
	// They are the highest numbers, 65535:0 and above.
	slices.SortFunc(route.Communities, func(a, b bgp.Community) int { return cmp.Compare(b, a) })
	route.Communities = route.Communities[:min(len(route.Communities), maxRouteCommunities)]
	route.LargeCommunities = route.LargeCommunities[:min(len(route.LargeCommunities), maxRouteCommunities-len(route.Communities))]
	*route = route.Normalise()
	names := make([]string, len(m.claiming))
	for i, a := range m.claiming {
		names[i] = a.Name
	}
	slices.Sort(names)
	m.conflicts = append(m.conflicts, Conflict{
		Prefix: m.prefix, Field: "spec.communities", Advertisements: names,
		Message: fmt.Sprintf("%s: BGPAdvertisements give it %d communities together; %d are the most, and the others are left out", m.prefix, n, maxRouteCommunities),
	})
}
