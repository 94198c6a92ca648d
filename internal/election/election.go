package election

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// Node is a node's name with its hash computed once, because a plan ranks the same nodes for thousands of addresses.
// The zero Node is not usable; make one with NewNode.
type Node struct {
	name string
	key  uint64
}

// NewNode prepares the node called name for ranking.
func NewNode(name string) Node {
	return Node{name: name, key: hashName(name)}
}

// Name returns the name the node was made with.
func (n Node) Name() string { return n.name }

// Candidate is a node that may own an address.
type Candidate struct {
	Node Node
	// Preference is compared first: a candidate with a higher preference wins over any with a lower one, whatever their
	// hashes. It has no unit; candidates nobody prefers have 0.
	Preference int
}

// Owner returns the index of the best candidate for addr, or -1 when there are no candidates. The order of candidates
// makes no difference to which of them is chosen.
func Owner(addr netip.Addr, candidates []Candidate) int {
	return best(hashAddr(addr), candidates)
}

// Rank returns the candidates for addr, best first: Rank(addr, c)[0] is the owner, and the one behind it is who takes
// over if the owner goes away. It leaves candidates as it is.
func Rank(addr netip.Addr, candidates []Candidate) []Candidate {
	type scored struct {
		Candidate
		score uint64
	}
	key := hashAddr(addr)
	all := make([]scored, len(candidates))
	for i, c := range candidates {
		all[i] = scored{Candidate: c, score: pair(key, c.Node.key)}
	}
	slices.SortFunc(all, func(a, b scored) int { return before(&a.Candidate, a.score, &b.Candidate, b.score) })
	ranked := make([]Candidate, len(all))
	for i := range all {
		ranked[i] = all[i].Candidate
	}
	return ranked
}

// Outranks reports whether addr, preferences aside, elects a rather than b.
func Outranks(addr netip.Addr, a, b Node) bool {
	key := hashAddr(addr)
	return before(&Candidate{Node: a}, pair(key, a.key), &Candidate{Node: b}, pair(key, b.key)) < 0
}

// OwnerOf elects for something that is not an address, such as the writer of a report about a Service that has no
// owner. The string is hashed as a node name is.
func OwnerOf(thing string, candidates []Candidate) int {
	return best(hashName(thing), candidates)
}

func best(key uint64, candidates []Candidate) int {
	winner, winnerScore := -1, uint64(0)
	for i := range candidates {
		score := pair(key, candidates[i].Node.key)
		if winner < 0 || before(&candidates[i], score, &candidates[winner], winnerScore) < 0 {
			winner, winnerScore = i, score
		}
	}
	return winner
}

// before orders candidates best first: by preference, then by score, and should two scores ever be equal, by name.
func before(a *Candidate, aScore uint64, b *Candidate, bScore uint64) int {
	if c := cmp.Compare(b.Preference, a.Preference); c != 0 {
		return c
	}
	if c := cmp.Compare(bScore, aScore); c != 0 {
		return c
	}
	return cmp.Compare(a.Node.name, b.Node.name)
}

// The hash. Names are hashed with FNV-1a (64 bit) and finished with mix, because FNV alone leaves names that differ
// only in their last character (node-1, node-2) close together. An address is its 16 bytes (IPv4 as ::ffff:a.b.c.d) as
// two big-endian words, each folded in with mix. A pair is mix(address XOR node): mix is a bijection with full
// avalanche, so for a fixed address the scores of different nodes are as independent as their keys are.
// TestGolden holds these values still.

const (
	fnvOffset = 0xcbf29ce484222325
	fnvPrime  = 0x100000001b3
)

func hashName(name string) uint64 {
	h := uint64(fnvOffset)
	for i := range len(name) {
		h ^= uint64(name[i])
		h *= fnvPrime
	}
	return mix(h)
}

func hashAddr(addr netip.Addr) uint64 {
	b := addr.As16()
	h := mix(binary.BigEndian.Uint64(b[:8]) + fnvOffset)
	return mix(bits.RotateLeft64(h, 32) + binary.BigEndian.Uint64(b[8:]))
}

func pair(a, b uint64) uint64 { return mix(a ^ b) }

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}
