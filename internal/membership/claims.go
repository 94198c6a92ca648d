package membership

import (
	"cmp"
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
)

// Claim says that a node owns an address. Which of several claims to an address counts is for the users to decide.
type Claim struct {
	// Term counts the takeovers of the address: who takes it over claims it with a higher term.
	Term uint64
	// Provisional says that the claim was made without knowing of most speakers; it gives way to one that is not.
	Provisional bool
	// To is the node that the address is offered to, in a planned move; empty otherwise. The node's own name says that it
	// holds the address and does not answer for it, because a foreign host has it.
	To string
}

// Claims are the claims of one node. They are immutable and may be shared. A nil *Claims is empty.
type Claims struct {
	// shards are ordered by address. There are several so that one change copies only a part of thousands of claims.
	shards [claimShards][]entry
	count  int
}

// entry is the claim to one address.
type entry struct {
	addr  netip.Addr
	claim Claim
}

const (
	claimShardBits = 6
	claimShards    = 1 << claimShardBits
)

var noClaims = &Claims{}

// shardOf spreads addresses that lie side by side evenly, by multiplicative hashing.
func shardOf(addr netip.Addr) int {
	b := addr.As16()
	x := binary.BigEndian.Uint64(b[8:]) ^ binary.BigEndian.Uint64(b[:8])*0x9e3779b97f4a7c15
	return int(x * 0x9e3779b97f4a7c15 >> (64 - claimShardBits))
}

func compareEntries(a, b entry) int { return a.addr.Compare(b.addr) }

func find(entries []entry, addr netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(entries, addr, func(e entry, a netip.Addr) int { return e.addr.Compare(a) })
}

// Get returns the claim to the address, and whether there is one.
func (c *Claims) Get(addr netip.Addr) (Claim, bool) {
	if c == nil || c.count == 0 {
		return Claim{}, false
	}
	shard := c.shards[shardOf(addr)]
	i, ok := find(shard, addr)
	if !ok {
		return Claim{}, false
	}
	return shard[i].claim, true
}

// All yields every address and the claim to it, in no particular order.
func (c *Claims) All() iter.Seq2[netip.Addr, Claim] {
	return func(yield func(netip.Addr, Claim) bool) {
		if c == nil {
			return
		}
		for _, shard := range c.shards {
			for _, e := range shard {
				if !yield(e.addr, e.claim) {
					return
				}
			}
		}
	}
}

// Len returns the number of addresses.
func (c *Claims) Len() int {
	if c == nil {
		return 0
	}
	return c.count
}

// NewClaims returns the claims in the map, of which it keeps no part.
func NewClaims(claims map[netip.Addr]Claim) *Claims {
	changes := make([]change, 0, len(claims))
	for a, claim := range canonical(claims) {
		changes = append(changes, change{entry{a, claim}, true})
	}
	return noClaims.with(changes)
}

// change says what the claim to an address is now, if there is one.
type change struct {
	entry
	claimed bool
}

// with returns the claims after the changes, of which no two are about the same address; c itself if they change nothing.
func (c *Claims) with(changes []change) *Claims {
	changes = slices.DeleteFunc(changes, func(ch change) bool {
		old, ok := c.Get(ch.addr)
		return ok == ch.claimed && (!ok || old == ch.claim)
	})
	if len(changes) == 0 {
		return c
	}
	slices.SortFunc(changes, func(a, b change) int {
		return cmp.Or(cmp.Compare(shardOf(a.addr), shardOf(b.addr)), compareEntries(a.entry, b.entry))
	})
	next := &Claims{shards: c.shards, count: c.count}
	for len(changes) > 0 {
		i := shardOf(changes[0].addr)
		n := 1
		for n < len(changes) && shardOf(changes[n].addr) == i {
			n++
		}
		next.count -= len(next.shards[i])
		next.shards[i] = applied(next.shards[i], changes[:n])
		next.count += len(next.shards[i])
		changes = changes[n:]
	}
	if next.count == 0 {
		return noClaims
	}
	return next
}

// applied merges the changes into the entries; both are ordered by address.
func applied(entries []entry, changes []change) []entry {
	out := make([]entry, 0, len(entries)+len(changes))
	for _, ch := range changes {
		i, found := find(entries, ch.addr)
		out = append(out, entries[:i]...)
		if found {
			i++
		}
		entries = entries[i:]
		if ch.claimed {
			out = append(out, ch.entry)
		}
	}
	return append(out, entries...)
}

// isCanonical reports whether the address is as addresses are compared, without zone and IPv4 as IPv4, and the claim can be
// told to others.
func isCanonical(a netip.Addr, c Claim) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && len(c.To) <= maxNodeName
}

// canonical returns the claims under canonical addresses, without what cannot be told to others.
func canonical(claims map[netip.Addr]Claim) map[netip.Addr]Claim {
	out := make(map[netip.Addr]Claim, len(claims))
	for a, c := range claims {
		if a = a.Unmap().WithZone(""); isCanonical(a, c) {
			out[a] = c
		}
	}
	return out
}
