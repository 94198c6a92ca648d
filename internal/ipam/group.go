package ipam

import (
	"slices"
	"sort"
)

// scope is whom an address may be shared with.
type scope uint8

// Services find the addresses of their own namespace in the one scope, and in the other those that are open to other
// namespaces: of a pool that shares across namespaces all, otherwise those whose owners all allow it.
const (
	withinNamespace scope = iota
	acrossNamespaces
)

// groupKey is what Services must have in common to share an address of a pool. The namespace is anyNamespace across
// namespaces: no namespace has that name.
type groupKey struct{ namespace, key, backend string }

const anyNamespace = "*"

func newGroupKey(sc scope, o Owner, s *Sharing) groupKey {
	if sc == acrossNamespaces {
		return groupKey{anyNamespace, s.Key, s.Backend}
	}
	return groupKey{o.Namespace, s.Key, s.Backend}
}

// searches tells whether a Service looks for a shared address in the scope.
func (p *pool) searches(sc scope, s *Sharing) bool {
	if sc == acrossNamespaces {
		return p.spec.ShareAcrossNamespaces || s.AcrossNamespaces
	}
	return !p.spec.ShareAcrossNamespaces
}

// group is the addresses of a space that carry one groupKey: those that a newcomer with that key may join if the ports
// are free.
type group struct {
	holdings []*holding  // by position
	inline   [1]*holding // backs holdings while there is one
	// byPort has for each port the holdings on which it is taken, by position. It is nil while the group is small: most
	// groups are a single address, and then it would be most of their memory.
	byPort map[Port][]*holding
}

func newGroup() *group {
	g := new(group)
	g.holdings = g.inline[:0]
	return g
}

// smallGroup is the number of addresses up to which a group is searched one by one.
const smallGroup = 4

// fit returns the lowest address on which all ports are free and that passes, or nil.
//
// A key that very many Services carry makes a large group, of which nearly all addresses are unfit if most Services use
// the same port. So each port says where the next address without it is, in a binary search, until they all agree.
func (g *group) fit(ports []Port, passes func(*holding) bool) *holding {
	if g.byPort == nil {
		return g.scan(ports, passes)
	}
	for i := 0; i < len(g.holdings); {
		next := i
		for _, p := range ports {
			next = g.nextWithout(p, next)
		}
		if next == i {
			if passes(g.holdings[i]) {
				return g.holdings[i]
			}
			next++
		}
		i = next
	}
	return nil
}

func (g *group) scan(ports []Port, passes func(*holding) bool) *holding {
	for _, h := range g.holdings {
		taken := slices.ContainsFunc(ports, func(p Port) bool { return h.shared.user(p) != nil })
		if !taken && passes(h) {
			return h
		}
	}
	return nil
}

// nextWithout returns the index of the first holding at or after i on which p is free, or the number of holdings. Those
// with p are a sorted part of all: from any common element the two lists run alike until the first that is only in the
// larger, and never again after it.
func (g *group) nextWithout(p Port, i int) int {
	taken := g.byPort[p]
	if i == len(g.holdings) || len(taken) == 0 {
		return i
	}
	rank, found := search(taken, g.holdings[i])
	if !found {
		return i
	}
	taken = taken[rank:]
	return i + sort.Search(len(taken), func(d int) bool { return g.holdings[i+d] != taken[d] })
}

// join adds a holding with all its ports.
func (g *group) join(h *holding) {
	g.holdings = insert(g.holdings, h)
	switch {
	case g.byPort != nil:
		g.takeAll(h)
	case len(g.holdings) > smallGroup:
		g.byPort = map[Port][]*holding{}
		for _, h := range g.holdings {
			g.takeAll(h)
		}
	}
}

// leave undoes join.
func (g *group) leave(h *holding) {
	g.holdings = remove(g.holdings, h)
	if len(g.holdings) <= smallGroup/2 {
		g.byPort = nil
	}
	if g.byPort != nil {
		h.shared.each(func(p Port) { g.freed(p, h) })
	}
}

func (g *group) takeAll(h *holding) {
	h.shared.each(func(p Port) { g.taken(p, h) })
}

// taken notes that a port of a holding is used from now on.
func (g *group) taken(p Port, h *holding) {
	if g.byPort != nil {
		g.byPort[p] = insert(g.byPort[p], h)
	}
}

// freed undoes taken.
func (g *group) freed(p Port, h *holding) {
	if g.byPort == nil {
		return
	}
	if rest := remove(g.byPort[p], h); len(rest) > 0 {
		g.byPort[p] = rest
	} else {
		delete(g.byPort, p)
	}
}

func search(list []*holding, h *holding) (int, bool) {
	return slices.BinarySearchFunc(list, h.pos, func(h *holding, pos u128) int { return h.pos.compare(pos) })
}

func insert(list []*holding, h *holding) []*holding {
	i, _ := search(list, h)
	return slices.Insert(list, i, h)
}

func remove(list []*holding, h *holding) []*holding {
	i, _ := search(list, h)
	return slices.Delete(list, i, i+1)
}
