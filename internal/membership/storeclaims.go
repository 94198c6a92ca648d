package membership

import (
	"cmp"
	"net/netip"
	"slices"
)

// maxClaimBytes bounds what is kept of all other speakers' claims together: some 400,000 IPv4 addresses.
const maxClaimBytes = 4 << 20

// claims returns what the speaker on node claims.
func (s *store) claims(node string) *Claims {
	if node == s.self {
		return s.pack.table.current()
	}
	return s.tables[node].current()
}

// epoch returns which process of the speaker on node was heard last, or 0.
func (s *store) epoch(node string) uint64 {
	if e, ok := s.records[node]; ok {
		return e.epoch
	}
	return 0
}

// setClaims replaces this speaker's claims. It returns the indices of the chunks that have to be sent, and how many
// addresses found no room.
func (s *store) setClaims(claims map[netip.Addr]Claim) (changed []int, left int) {
	s.claimed = true
	chunks, left := s.pack.set(claims, s.speaks())
	s.spoken()
	return indices(chunks), left
}

// speaks reports whether this process has said what it claims, all of it: one that abstains has not made up its mind.
func (s *store) speaks() bool { return s.claimed && !s.own().info.Abstains }

// spoken drops what former processes of this speaker claimed once it speaks for itself, for good. It returns which chunks
// have to be sent for others to know.
func (s *store) spoken() []int {
	if !s.speaks() && s.pack.whole == 0 {
		return nil
	}
	if len(s.former.generations) > 0 {
		s.former = newTable()
	}
	return indices(s.pack.speak())
}

func indices(chunks []*chunk) []int {
	out := make([]int, 0, len(chunks))
	for _, c := range chunks {
		out = append(out, c.index)
	}
	return out
}

// mergeResult says what merging a chunk has led to.
type mergeResult uint8

const (
	wasKnown mergeResult = iota
	isNews               // worth passing on
	isAhead              // this speaker has to say everything again
	noRoom
)

// mergeChunk takes in a chunk from the network. One of this speaker's own is from a former life. If the clock was ahead
// then, the speaker moves past its epoch, as merge does.
func (s *store) mergeChunk(c *chunk) mergeResult {
	if c.node == s.self {
		return s.mergeFormer(c)
	}
	t := s.tables[c.node]
	if t == nil {
		if len(s.tables) >= maxRecords {
			return noRoom
		}
		t = newTable()
	}
	room := maxClaimBytes - s.bytes
	if held := t.held(c); held != nil {
		room += chunkCost(held)
	}
	if chunkCost(c) > room {
		return noRoom
	}
	before := t.bytes
	merged := t.merge(c)
	s.bytes += t.bytes - before
	if !merged {
		return wasKnown
	}
	s.tables[c.node] = t
	return isNews
}

// knows reports whether it would be of no use to merge a chunk with this head.
func (s *store) knows(head *chunk) bool {
	t := s.tables[head.node]
	switch {
	case head.node == s.self && head.epoch == s.own().epoch:
		t = s.pack.table
	case head.node == s.self:
		t = s.former
	case t == nil:
		return false
	}
	held := t.held(head)
	return head.epoch < t.floor || held != nil && head.seq <= held.seq
}

func (s *store) mergeFormer(c *chunk) mergeResult {
	result := wasKnown
	switch own := s.own().epoch; {
	case c.epoch == own:
		if held := s.pack.table.held(c); held != nil && c.seq <= held.seq {
			return wasKnown // an echo
		}
		s.restart(own + 1) // another process that started at the same moment
		return isAhead
	case s.mine[c.epoch]:
		return wasKnown
	case c.epoch > own:
		s.restart(c.epoch + 1)
		result = isAhead
	}
	if s.pack.whole == 0 {
		s.former.merge(c)
	}
	return result
}

// items returns what there is to tell about the node in a state exchange.
func (s *store) items(node string) [][]byte {
	var items [][]byte
	if e, ok := s.records[node]; ok {
		items = append(items, e.raw)
	}
	var chunks []*chunk
	if node == s.self {
		chunks = s.former.all(s.pack.table.all(nil))
	} else {
		chunks = s.tables[node].all(nil)
	}
	slices.SortFunc(chunks, func(a, b *chunk) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.index, b.index))
	})
	for _, c := range chunks {
		items = append(items, c.raw)
	}
	return items
}

// nodes returns of whom there is something to tell beside this speaker, in no particular order.
func (s *store) nodes() []string {
	nodes := make([]string, 0, len(s.records))
	for node := range s.records {
		if node != s.self {
			nodes = append(nodes, node)
		}
	}
	for node := range s.tables {
		if _, listed := s.records[node]; !listed {
			nodes = append(nodes, node)
		}
	}
	return nodes
}
