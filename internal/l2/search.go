package l2

import (
	"slices"

	"golang.org/x/net/bpf"
)

// An interval is a range of 32-bit words, both ends included.
type interval struct{ lo, hi uint32 }

const (
	// leafIntervals is how many intervals are compared one after the other before
	// the search divides. Sharing the two return instructions among them halves
	// the program; sixteen comparisons cost less than the system call they spare.
	leafIntervals = 8
	// mapFrom is how many comparisons a block of 32 words must take for a bitmap
	// to be shorter.
	mapFrom = 4
)

// A chunk is where a search ends: a few intervals, or a bitmap of the 32 words
// from block on, of which one instruction holds all. Every third address of a
// pool, as one of three nodes has them, takes a tenth of an instruction each.
type chunk struct {
	lo    uint32 // the search gets here with words from lo on, but for the first
	spans []interval
	block uint32
	bits  uint32 // not zero: a bitmap
	below bool   // words below the block get here too
	above bool   // words above the block get here too
}

// size returns the number of instructions of code.
func (c *chunk) size() int {
	if c.bits == 0 {
		n := 2
		for _, s := range c.spans {
			n += s.comparisons()
		}
		return n
	}
	n := 2
	if c.below {
		n++
	}
	if c.above {
		n++
	}
	if c.below || c.above {
		n++
	}
	return n
}

// comparisons is how many instructions test for the interval.
func (s interval) comparisons() int {
	if s.lo == s.hi {
		return 1
	}
	return 2
}

// A plan is a search that can be measured before it is built.
type plan struct {
	chunks []chunk
	mapped bool // some chunk is a bitmap
	size   int
}

// planFor returns the shortest search for sorted intervals.
func planFor(spans []interval) plan {
	p := plan{}
	rest := slices.Clone(spans)
	for first := 0; first < len(rest); {
		s := rest[first]
		block := s.lo &^ 31
		end, comparisons, word := first, 0, uint32(0)
		for ; end < len(rest) && rest[end].lo <= block|31; end++ {
			comparisons += rest[end].comparisons()
			word |= within(rest[end], block)
		}
		if comparisons < mapFrom {
			p.add(s)
			first++
			continue
		}
		p.chunks = append(p.chunks, chunk{lo: s.lo, block: block, bits: word})
		p.mapped = true
		if last := &rest[end-1]; last.hi > block|31 {
			last.lo = block | 31 + 1
			end--
		}
		first = end
	}
	p.join()
	p.size = treeSize(p.chunks) + p.overhead()
	return p
}

// join finds out which words besides their own get to the bitmaps. Where the next
// chunk can take those that follow a block, it does.
func (p *plan) join() {
	for i := range p.chunks {
		c := &p.chunks[i]
		c.below = i == 0
		c.above = i == len(p.chunks)-1
		if c.bits == 0 || c.above {
			continue
		}
		next := &p.chunks[i+1]
		if next.bits == 0 || next.block == c.block+32 {
			next.lo = c.block + 32
		}
		c.above = next.lo > c.block+32
	}
}

// within returns which words of the block s covers.
func within(s interval, block uint32) uint32 {
	lo, hi := max(s.lo, block)-block, min(s.hi, block|31)-block
	return ^uint32(0) << lo & (^uint32(0) >> (31 - hi))
}

// add appends an interval to the last chunk, or to a new one if that is full.
func (p *plan) add(s interval) {
	if n := len(p.chunks); n > 0 {
		if c := &p.chunks[n-1]; c.bits == 0 && len(c.spans) < leafIntervals {
			c.spans = append(c.spans, s)
			return
		}
	}
	p.chunks = append(p.chunks, chunk{lo: s.lo, spans: []interval{s}})
}

// overhead is what comes before and after the tree.
func (p *plan) overhead() int {
	if p.mapped {
		return 4 + 4
	}
	return 1
}

// treeSize returns the number of instructions of tree.
func treeSize(chunks []chunk) int {
	if len(chunks) == 1 {
		return chunks[0].size()
	}
	left, right := halves(chunks)
	l := treeSize(left)
	return branchSize(l) + l + treeSize(right)
}

// branchSize is how many instructions it takes to jump over n.
func branchSize(n int) int {
	if n <= 255 {
		return 1
	}
	return 2
}

func halves(chunks []chunk) (left, right []chunk) {
	mid := len(chunks) / 2
	return chunks[:mid], chunks[mid:]
}

// toBitmap stands for the distance to the test of a bitmap, until it is known.
const toBitmap = 1<<32 - 1

// build returns the program, which looks for the word at off. Each way through
// it ends in a return.
func (p *plan) build(off uint32) []bpf.Instruction {
	prog := make([]bpf.Instruction, 0, p.size)
	word := bpf.LoadAbsolute{Off: off, Size: 4}
	if !p.mapped {
		return appendTree(append(prog, word), p.chunks)
	}
	// X is the place in its block of the word, which A holds.
	prog = append(prog, word, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 31}, bpf.TAX{}, word)
	prog = appendTree(prog, p.chunks)
	for i, ins := range prog {
		if j, ok := ins.(bpf.Jump); ok && j.Skip == toBitmap {
			prog[i] = bpf.Jump{Skip: uint32(len(prog) - i - 1)}
		}
	}
	return append(prog,
		bpf.ALUOpX{Op: bpf.ALUOpShiftRight},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 1, SkipTrue: 1},
		reject, accept)
}

// appendTree appends a balanced binary search of the accumulator among chunks.
func appendTree(prog []bpf.Instruction, chunks []chunk) []bpf.Instruction {
	if len(chunks) == 1 {
		return chunks[0].append(prog)
	}
	left, right := halves(chunks)
	if n := treeSize(left); branchSize(n) == 1 {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: right[0].lo, SkipTrue: uint8(n)})
	} else {
		prog = append(prog,
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: right[0].lo, SkipFalse: 1},
			bpf.Jump{Skip: uint32(n)})
	}
	return appendTree(appendTree(prog, left), right)
}

func (c *chunk) append(prog []bpf.Instruction) []bpf.Instruction {
	if c.bits == 0 {
		return appendLeaf(prog, c.spans)
	}
	// The comparisons jump to a return behind the bitmap.
	if c.below {
		skip := uint8(2)
		if c.above {
			skip++
		}
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: c.block, SkipTrue: skip})
	}
	if c.above {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: c.block | 31, SkipTrue: 2})
	}
	prog = append(prog, bpf.LoadConstant{Dst: bpf.RegA, Val: c.bits}, bpf.Jump{Skip: toBitmap})
	if c.below || c.above {
		prog = append(prog, reject)
	}
	return prog
}

// appendLeaf appends comparisons with a few sorted intervals, one after the
// other.
func appendLeaf(prog []bpf.Instruction, spans []interval) []bpf.Instruction {
	size := 0
	for _, s := range spans {
		size += s.comparisons()
	}
	// The two returns follow the comparisons: reject at size, accept after it.
	start := len(prog)
	skipTo := func(at int) uint8 { return uint8(at - (len(prog) - start) - 1) }
	for _, s := range spans {
		if s.lo == s.hi {
			prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: s.lo, SkipTrue: skipTo(size + 1)})
			continue
		}
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: s.lo, SkipTrue: skipTo(size)})
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: s.hi, SkipTrue: skipTo(size + 1)})
	}
	return append(prog, reject, accept)
}

// planWithin returns a search that accepts all of spans and has at most limit
// instructions. If need be it accepts also the smallest gaps between them, as
// few as it must.
func planWithin(spans []interval, limit int) plan {
	p := planFor(spans)
	if p.size <= limit {
		return p
	}
	// rank[i] is the place of the gap after spans[i] among all, the widest first
	// and of equal ones the earliest.
	order, rank := make([]uint64, len(spans)-1), make([]int, len(spans)-1)
	for i := range order {
		order[i] = uint64(^(spans[i+1].lo-spans[i].hi))<<32 | uint64(i)
	}
	slices.Sort(order)
	for place, gap := range order {
		rank[uint32(gap)] = place
	}
	fits, exceeds := 0, len(order) // how many gaps are kept
	p = planFor(merge(spans, rank, 0))
	for exceeds-fits > 1 {
		keep := fits + (exceeds-fits)/2
		if q := planFor(merge(spans, rank, keep)); q.size <= limit {
			p, fits = q, keep
		} else {
			exceeds = keep
		}
	}
	return p
}

// merge closes all gaps but the first keep by rank.
func merge(spans []interval, rank []int, keep int) []interval {
	out := make([]interval, 0, keep+1)
	lo := spans[0].lo
	for i, r := range rank {
		if r < keep {
			out = append(out, interval{lo, spans[i].hi})
			lo = spans[i+1].lo
		}
	}
	return append(out, interval{lo, spans[len(spans)-1].hi})
}

// intervals returns the sorted maximal runs of consecutive words. It sorts
// words in place.
func intervals(words []uint32) []interval {
	slices.Sort(words)
	var out []interval
	for _, w := range words {
		if n := len(out); n > 0 && w-out[n-1].hi <= 1 {
			out[n-1].hi = w
			continue
		}
		out = append(out, interval{w, w})
	}
	return out
}
