package membership

import (
	"cmp"
	"net/netip"
	"slices"
)

// maxGenerations bounds of how many processes of one node, the last ones, claims are kept: more than two matter only if a
// speaker ends over and over before it has spoken for itself.
const maxGenerations = 4

// table is what is known of one node's claims. Of each chunk of each process it holds the newest, and the claims in force
// are those in all chunks, the later one for an address that is in several. When a process has spoken for itself, the
// chunks of all before it go. What is held depends only on which chunks were merged, not on their order.
type table struct {
	generations []*generation // ordered by epoch
	floor       uint64        // chunks of earlier epochs are void
	where       map[netip.Addr]holder
	stale       map[netip.Addr]struct{} // where claims may be behind
	claims      *Claims
	bytes       int
}

// generation is the chunks of one process.
type generation struct {
	epoch  uint64
	chunks map[int]*chunk
}

// holder says which chunk's entry for an address counts, and in how many chunks there is one.
type holder struct {
	chunk  *chunk
	at     int
	copies int
}

func (h holder) claim() Claim { return h.chunk.entries[h.at].claim }

func newTable() *table {
	return &table{where: map[netip.Addr]holder{}, stale: map[netip.Addr]struct{}{}, claims: noClaims}
}

// current returns the claims in force.
func (t *table) current() *Claims {
	if t == nil {
		return noClaims
	}
	if len(t.stale) == 0 {
		return t.claims
	}
	changes := make([]change, 0, len(t.stale))
	for a := range t.stale {
		h, ok := t.where[a]
		ch := change{entry{addr: a}, ok}
		if ok {
			ch.claim = h.claim()
		}
		changes = append(changes, ch)
	}
	clear(t.stale)
	t.claims = t.claims.with(changes)
	return t.claims
}

// held returns the chunk with the same key as c, or nil.
func (t *table) held(c *chunk) *chunk {
	if g := t.generation(c.epoch); g != nil {
		return g.chunks[c.index]
	}
	return nil
}

func (t *table) generation(epoch uint64) *generation {
	for _, g := range t.generations {
		if g.epoch == epoch {
			return g
		}
	}
	return nil
}

// merge takes the chunk in and reports whether it was news.
func (t *table) merge(c *chunk) bool {
	if c.epoch < t.floor {
		return false
	}
	g := t.generation(c.epoch)
	if g == nil {
		if len(t.generations) == maxGenerations && c.epoch < t.generations[0].epoch {
			return false
		}
		g = &generation{epoch: c.epoch, chunks: map[int]*chunk{}}
		t.generations = append(t.generations, g)
		slices.SortFunc(t.generations, func(a, b *generation) int { return cmp.Compare(a.epoch, b.epoch) })
		if len(t.generations) > maxGenerations {
			t.drop(t.generations[0])
			t.generations = t.generations[1:]
		}
	}
	old := g.chunks[c.index]
	if old != nil && c.seq <= old.seq {
		return false
	}
	g.chunks[c.index] = c
	if old != nil {
		t.remove(old)
	}
	t.add(c)
	if g.speaksForItself() {
		t.void(g.epoch)
	}
	return true
}

// speaksForItself reports whether the process has said all that it claims.
func (g *generation) speaksForItself() bool {
	head := g.chunks[0]
	if head == nil || head.whole == 0 || len(g.chunks) < head.whole {
		return false
	}
	for i := range head.whole {
		if g.chunks[i] == nil {
			return false
		}
	}
	return true
}

// void drops what processes before the epoch claimed.
func (t *table) void(epoch uint64) {
	t.floor = max(t.floor, epoch)
	for len(t.generations) > 0 && t.generations[0].epoch < t.floor {
		t.drop(t.generations[0])
		t.generations = t.generations[1:]
	}
}

func (t *table) drop(g *generation) {
	for i, c := range g.chunks {
		delete(g.chunks, i) // lest remove finds a claim in it
		t.remove(c)
	}
}

func (t *table) add(c *chunk) {
	t.bytes += chunkCost(c)
	for i, e := range c.entries {
		h, ok := t.where[e.addr]
		if !ok || c.outranks(h.chunk) {
			h.chunk, h.at = c, i
		}
		h.copies++
		t.where[e.addr] = h
		t.stale[e.addr] = struct{}{}
	}
}

// remove forgets the chunk, which is no longer in its generation.
func (t *table) remove(c *chunk) {
	t.bytes -= chunkCost(c)
	for _, e := range c.entries {
		h := t.where[e.addr]
		t.stale[e.addr] = struct{}{}
		if h.copies--; h.copies == 0 {
			delete(t.where, e.addr)
			continue
		}
		if h.chunk == c {
			h = t.search(e.addr, h.copies)
		}
		t.where[e.addr] = h
	}
}

// search looks through all chunks for the one that counts for an address that is in several.
func (t *table) search(addr netip.Addr, copies int) holder {
	best := holder{copies: copies}
	for _, g := range t.generations {
		for _, c := range g.chunks {
			if i, ok := find(c.entries, addr); ok && (best.chunk == nil || c.outranks(best.chunk)) {
				best.chunk, best.at = c, i
			}
		}
	}
	return best
}

// chunkCost is what counts against the bound on what is kept, with something for what surrounds the bytes.
func chunkCost(c *chunk) int { return len(c.raw) + 64 }

// all appends every chunk that is held.
func (t *table) all(to []*chunk) []*chunk {
	if t == nil {
		return to
	}
	for _, g := range t.generations {
		for _, c := range g.chunks {
			to = append(to, c)
		}
	}
	return to
}

// forget drops the chunks of the process as if they had never come.
func (t *table) forget(epoch uint64) {
	if g := t.generation(epoch); g != nil {
		t.generations = slices.DeleteFunc(t.generations, func(o *generation) bool { return o == g })
		t.drop(g)
	}
}
