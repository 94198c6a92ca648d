package membership

import (
	"maps"
	"net/netip"
	"slices"
)

// packer keeps this speaker's own claims in chunks. An address stays in its chunk as long as it is claimed, so that a
// change is told by one packet and is not torn apart by the loss of one.
type packer struct {
	node  string
	epoch uint64
	seq   uint64 // of the last chunk, over all of them
	whole int    // see chunk
	table *table // of this epoch alone
	// late are chunks that still hold an outdated claim to addresses which have outgrown them and moved. The others have
	// to have the chunk with the new one before that goes.
	late map[int]int
}

func newPacker(node string, epoch uint64) *packer {
	return &packer{node: node, epoch: epoch, table: newTable(), late: map[int]int{}}
}

// chunks returns the number of chunks; their indices are those below.
func (p *packer) chunks() int {
	if g := p.table.generation(p.epoch); g != nil {
		return len(g.chunks)
	}
	return 0
}

func (p *packer) chunk(index int) *chunk { return p.table.generation(p.epoch).chunks[index] }

// drafts are the chunks that are being changed.
type drafts struct {
	p       *packer
	byIndex map[int]*draft
	edited  []int                   // in the order in which they are to be sent
	moving  map[netip.Addr]struct{} // what leaves its chunk for another
}

func (p *packer) edit() *drafts {
	return &drafts{p: p, byIndex: map[int]*draft{}, moving: map[netip.Addr]struct{}{}}
}

// draft is what becomes of a chunk.
type draft struct {
	entries []entry
	size    int
	names   map[string]struct{}
}

func (d *draft) add(e entry) {
	d.size += d.cost(e)
	d.entries = append(d.entries, e)
	if e.claim.To != "" {
		d.names[e.claim.To] = struct{}{}
	}
}

// cost bounds how much longer the chunk becomes by e.
func (d *draft) cost(e entry) int {
	n := claimSize(e)
	if _, known := d.names[e.claim.To]; !known && e.claim.To != "" {
		n += nameSize(e.claim.To)
	}
	return n
}

// draft makes a draft of the entries. Its size is an upper bound.
func (p *packer) draft(entries []entry) *draft {
	const head = 1 + 2 + 10 + 2 + 10 + 2 // version, length of the name, epoch, index, seq, whole
	d := &draft{size: head + len(p.node), names: map[string]struct{}{}}
	for _, e := range entries {
		d.add(e)
	}
	return d
}

// open returns the draft of the chunk with the index, which may be one more than there are.
func (ds *drafts) open(index int) *draft {
	d, ok := ds.byIndex[index]
	if !ok {
		d = ds.p.draft(ds.kept(index, nil))
		ds.put(index, d)
	}
	return d
}

func (ds *drafts) put(index int, d *draft) {
	if _, ok := ds.byIndex[index]; !ok {
		ds.edited = append(ds.edited, index)
	}
	ds.byIndex[index] = d
}

// chunks returns how many chunks there will be.
func (ds *drafts) chunks() int {
	n := ds.p.chunks()
	for index := range ds.byIndex {
		n = max(n, index+1)
	}
	return n
}

// edit is what changes about the claims that are in a chunk.
type edit struct {
	updated []entry
	removed map[netip.Addr]struct{}
}

// kept returns the entries that stay in the chunk as they are: not those which have moved to another.
func (ds *drafts) kept(index int, ed *edit) []entry {
	p := ds.p
	if index >= p.chunks() {
		return nil
	}
	c := p.chunk(index)
	out := make([]entry, 0, len(c.entries))
	for _, e := range c.entries {
		if _, moving := ds.moving[e.addr]; moving || p.table.where[e.addr].chunk != c {
			continue
		}
		if ed != nil {
			if _, gone := ed.removed[e.addr]; gone {
				continue
			}
			if slices.ContainsFunc(ed.updated, func(u entry) bool { return u.addr == e.addr }) {
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// set makes the claims this speaker's, and returns the chunks that changed, in the order in
// which they are to be sent, and for how many addresses there is no room. speaks says whether the speaker, with that, has
// said all that it claims; see speak.
func (p *packer) set(claims map[netip.Addr]Claim, speaks bool) (changed []*chunk, left int) {
	edits, fresh := p.compare(claims)
	ds := p.edit()
	flush := false
	for _, index := range slices.Sorted(maps.Keys(edits)) {
		ed := edits[index]
		kept := ds.kept(index, ed)
		d := p.draft(slices.Concat(kept, ed.updated))
		if d.size > chunkLimit && len(ed.updated) > 0 {
			fresh = append(fresh, ed.updated...)
			for _, e := range ed.updated {
				ds.moving[e.addr] = struct{}{}
			}
			p.late[index] = 0
			if len(ed.removed) == 0 {
				continue
			}
			d = p.draft(kept)
		}
		ds.put(index, d)
		for a := range ed.removed {
			flush = flush || p.table.where[a].copies > 1
		}
	}
	left = ds.place(fresh)
	if flush {
		// An outdated claim must not outlive the one that is given up.
		for index := range p.late {
			ds.open(index)
		}
	}
	return p.commit(ds, speaks), left
}

// compare returns what is different in the claims, by chunk, and what is in no chunk yet.
func (p *packer) compare(claims map[netip.Addr]Claim) (edits map[int]*edit, fresh []entry) {
	edits = map[int]*edit{}
	of := func(index int) *edit {
		ed := edits[index]
		if ed == nil {
			ed = &edit{removed: map[netip.Addr]struct{}{}}
			edits[index] = ed
		}
		return ed
	}
	known := 0
	for a, claim := range claims {
		if !isCanonical(a, claim) { // as they hardly ever are
			return p.compare(canonical(claims))
		}
		h, ok := p.table.where[a]
		if !ok {
			fresh = append(fresh, entry{a, claim})
			continue
		}
		known++
		if h.claim() != claim {
			ed := of(h.chunk.index)
			ed.updated = append(ed.updated, entry{a, claim})
		}
	}
	if known == len(p.table.where) {
		return edits, fresh
	}
	for a, h := range p.table.where {
		if _, ok := claims[a]; !ok {
			of(h.chunk.index).removed[a] = struct{}{}
		}
	}
	return edits, fresh
}

// place finds room for the entries and returns how many find none.
func (ds *drafts) place(fresh []entry) (left int) {
	slices.SortFunc(fresh, compareEntries)
	next := 0
	for i, e := range fresh {
		for ; next < maxChunks && !ds.room(next, e); next++ {
		}
		if next == maxChunks {
			return len(fresh) - i
		}
		ds.open(next).add(e)
	}
	return 0
}

// room reports whether the chunk can take the entry. It does not draft one that is full.
func (ds *drafts) room(index int, e entry) bool {
	if d, ok := ds.byIndex[index]; ok {
		return d.size+d.cost(e) <= chunkFill
	}
	if index >= ds.p.chunks() {
		return true
	}
	if _, late := ds.p.late[index]; late || len(ds.p.chunk(index).raw)+claimSize(e) > chunkFill {
		return false
	}
	d := ds.p.draft(ds.kept(index, nil))
	return d.size+d.cost(e) <= chunkFill
}

// commit puts the drafts in force.
func (p *packer) commit(ds *drafts, speaks bool) []*chunk {
	if speaks && p.whole == 0 {
		p.whole = max(1, ds.chunks())
		ds.open(0)
	}
	// Those that take addresses in go before those that such have left.
	shrinks := func(index int) int {
		if _, late := p.late[index]; late {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(ds.edited, func(a, b int) int { return shrinks(a) - shrinks(b) })
	changed := make([]*chunk, 0, len(ds.edited))
	for _, index := range ds.edited {
		changed = append(changed, p.put(index, ds.byIndex[index].entries))
		delete(p.late, index)
	}
	return changed
}

func (p *packer) put(index int, entries []entry) *chunk {
	p.seq++
	head := chunk{node: p.node, epoch: p.epoch, index: index, seq: p.seq}
	if index == 0 {
		head.whole = p.whole
	}
	c := newChunk(head, entries)
	p.table.merge(c)
	return c
}

// speak says that this speaker has said all that it claims, so that its former processes' claims are void. It returns
// what changes by that.
func (p *packer) speak() []*chunk {
	if p.whole > 0 {
		return nil
	}
	return p.commit(p.edit(), true)
}

// tick takes outdated claims out of chunks that have held them for a full interval between ticks, and returns those.
func (p *packer) tick() []*chunk {
	ds := p.edit()
	for index := range p.late {
		if p.late[index]++; p.late[index] > 1 {
			ds.open(index)
		}
	}
	return p.commit(ds, false)
}

// restart says everything again as of another epoch, and returns all chunks.
func (p *packer) restart(epoch uint64) []*chunk {
	n, old := p.chunks(), p.epoch
	entries, ds := make([][]entry, n), p.edit()
	for i := range n {
		entries[i] = ds.kept(i, nil)
	}
	// The snapshot of the claims stays the same.
	p.table.current()
	p.table.forget(old)
	p.epoch = epoch
	if p.whole > 0 {
		p.whole = max(1, n)
	}
	clear(p.late)
	changed := make([]*chunk, 0, n)
	for i := range n {
		changed = append(changed, p.put(i, entries[i]))
	}
	return changed
}
