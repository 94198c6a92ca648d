package watch

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// ring has living and orphaned nodes in the order of the hashes of their names, which is the same for every speaker that
// knows the same nodes, and has nothing to do with the order in which names were given to machines or racks.
type ring []spot

type spot struct {
	hash uint64
	name string
	// living says that there is a speaker on the node that can watch and stand in.
	living bool
	links  []Link
}

func newSpot(name string, living bool) spot {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return spot{hash: mix(h.Sum64()), name: name, living: living}
}

// mix is the finalizer of SplitMix64. FNV alone leaves names that differ only in their last character (node-1, node-2)
// close together, as internal/election says, whose hash this is.
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

func (s spot) compare(o spot) int {
	return cmp.Or(cmp.Compare(s.hash, o.hash), cmp.Compare(s.name, o.name))
}

func newRing(spots []spot) ring {
	slices.SortFunc(spots, spot.compare)
	return spots
}

// behind returns the next up to three living speakers behind the named node, which need not be in the ring itself. Those
// that share a network with the node come first: the others can neither ask its kernel nor answer for it.
func (r ring) behind(name string) []string {
	at, known := slices.BinarySearchFunc(r, newSpot(name, false), spot.compare)
	var near, far []string
	for i := range r {
		s := &r[(at+i)%len(r)]
		switch {
		case !s.living || s.name == name:
		case known && len(targetsOf(s.links, r[at].links)) > 0:
			if near = append(near, s.name); len(near) == watchers {
				return near
			}
		case len(far) < watchers:
			far = append(far, s.name)
		}
	}
	all := append(near, far...)
	return all[:min(len(all), watchers)]
}
