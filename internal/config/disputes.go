package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/ipam"
)

// disputes says on advertisements which others disagree with them about a prefix
// that both can announce: there may be such a Service, and there is such a peer
// on a node. Router.Routes says which routes it concerns.
func (b *builder) disputes(nodes []Node) {
	messages := map[string][]string{}
	all := b.snapshot.BGPAdvertisements
	for i, one := range all {
		for _, other := range all[i+1:] {
			for _, field := range b.disputed(one, other, nodes) {
				for _, pair := range [][2]*BGPAdvertisement{{one, other}, {other, one}} {
					messages[pair[0].Name] = append(messages[pair[0].Name],
						fmt.Sprintf("%s: BGPAdvertisement %s has another value for the same prefixes and peers", field, pair[1].Name))
				}
			}
		}
	}
	for name, texts := range messages {
		v := b.verdicts.BGPAdvertisements[name]
		if !v.Accepted {
			continue // there is something worse to be told
		}
		v.Reason = v1beta1.ReasonConflict
		v.Message += "; " + few(texts) + ". The one counts that makes a route most preferred; make them agree, or select different Services, nodes or peers"
		b.verdicts.BGPAdvertisements[name] = v
	}
}

// disputed returns the fields about which two advertisements disagree somewhere.
func (b *builder) disputed(one, other *BGPAdvertisement, nodes []Node) []string {
	differ := func(x, y *uint32) bool { return x != nil && y != nil && *x != *y }
	localPref, med := differ(one.LocalPref, other.LocalPref), differ(one.MED, other.MED)
	prepend := differ(prependOf(one), prependOf(other))
	if !localPref && !med && !prepend || !meet(one.ServiceSelectors, other.ServiceSelectors) {
		return nil
	}
	families := b.sharedFamilies(one, other)
	if len(families) == 0 {
		return nil
	}
	internal, external := b.sharedPeers(one, other, families, nodes)
	var fields []string
	for _, f := range []struct {
		disputed bool
		name     string
	}{{localPref && internal, "spec.localPref"}, {med && (internal || external), "spec.med"}, {prepend && external, "spec.asPathPrepend"}} {
		if f.disputed {
			fields = append(fields, f.name)
		}
	}
	return fields
}

// sharedFamilies returns the families of the prefixes that both announce.
func (b *builder) sharedFamilies(one, other *BGPAdvertisement) []bgp.Family {
	var families []bgp.Family
	for _, pool := range b.snapshot.Pools {
		if !one.SelectsPool(pool.Name) || !other.SelectsPool(pool.Name) {
			continue
		}
		for _, r := range merged(pool.Ranges) {
			family := bgp.FamilyOf(r.From)
			if !slices.Contains(families, family) && one.lengthsIn(r).Intersection(other.lengthsIn(r)).Len() > 0 {
				families = append(families, family)
			}
		}
	}
	return families
}

// lengthsIn returns the lengths of the prefixes that an advertisement announces
// for addresses of a range.
func (a *BGPAdvertisement) lengthsIn(r ipam.Range) sets.Set[int] {
	whole := r.From.BitLen()
	length := a.Length[bgp.FamilyOf(r.From)]
	first := netip.PrefixFrom(r.From, length).Masked()
	last := netip.PrefixFrom(r.To, length).Masked()
	ranges := []ipam.Range{r}
	lengths := sets.New[int]()
	if a.Specific || !covers(ranges, first) || !covers(ranges, last) {
		lengths.Insert(whole)
	}
	second := first
	if next := ipam.RangeOf(first).To.Next(); next.IsValid() {
		second = netip.PrefixFrom(next, length)
	}
	if covers(ranges, first) || covers(ranges, second) {
		lengths.Insert(length)
	}
	return lengths
}

// sharedPeers says whether both are for an internal peer that can be told one of
// the families, and for an external one.
func (b *builder) sharedPeers(one, other *BGPAdvertisement, families []bgp.Family, nodes []Node) (internal, external bool) {
	for _, p := range b.snapshot.BGPPeers {
		if p.noPassword != "" || !one.SelectsPeer(p.Name) || !other.SelectsPeer(p.Name) || !p.mayBeTold(families) {
			continue
		}
		for _, node := range nodes {
			if internal && external {
				return internal, external
			}
			set := labels.Set(node.Labels)
			if !p.selects(node) || !MatchesAny(one.NodeSelectors, set) || !MatchesAny(other.NodeSelectors, set) {
				continue
			}
			s := Session{Peer: p.session.Clone()}
			if p.resolveASNs(&s.Peer, node) != nil {
				continue
			}
			is := s.mayBeInternal()
			internal, external = internal || is, external || !is
		}
	}
	return internal, external
}

// mayBeTold says whether a session with the peer, as far as is known before its
// address is, has one of the families.
func (p *BGPPeer) mayBeTold(families []bgp.Family) bool {
	has := p.session.Families
	if len(has) == 0 {
		if !p.session.Address.IsValid() {
			return true // unnumbered, or not known yet
		}
		has = p.familiesFor(Session{Peer: p.session}, bgp.FamilyOf(p.session.Address))
	}
	return slices.ContainsFunc(has, func(f bgp.Family) bool { return slices.Contains(families, f) })
}

// meet says whether labels can match one of some selectors and one of others.
func meet(some, others []labels.Selector) bool {
	if len(some) == 0 {
		some = []labels.Selector{labels.Everything()}
	}
	if len(others) == 0 {
		others = []labels.Selector{labels.Everything()}
	}
	return slices.ContainsFunc(some, func(a labels.Selector) bool {
		return slices.ContainsFunc(others, func(b labels.Selector) bool {
			x, xSelectable := a.Requirements()
			y, ySelectable := b.Requirements()
			return xSelectable && ySelectable && satisfiable(slices.Concat(x, y))
		})
	})
}

// satisfiable says whether there are labels that meet all requirements. Those of
// different keys do not concern each other.
func satisfiable(requirements labels.Requirements) bool {
	byKey := map[string]labels.Requirements{}
	for _, r := range requirements {
		byKey[r.Key()] = append(byKey[r.Key()], r)
	}
	for key, of := range byKey {
		// A label that is not there, one that nobody names, or one that somebody does.
		candidates := []labels.Set{{}, {key: strings.Repeat("x", 64)}}
		for _, r := range of {
			if r.Operator() == selection.Exists || r.Operator() == selection.DoesNotExist {
				continue
			}
			for value := range r.Values() {
				candidates = append(candidates, labels.Set{key: value})
			}
		}
		if !slices.ContainsFunc(candidates, func(set labels.Set) bool {
			return !slices.ContainsFunc(of, func(r labels.Requirement) bool { return !r.Matches(set) })
		}) {
			return false
		}
	}
	return true
}
