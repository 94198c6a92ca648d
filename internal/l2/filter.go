package l2

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// Every ARP request and neighbour solicitation on the Ethernet reaches every
// node's kernel; the programs made here stop there what is not for one of our
// addresses. They are classic BPF, which is limited to 4096 instructions and to
// conditional jumps over 255. A program that would exceed its limit accepts
// more than it should, never less: the exact decision is made in user space.

// maxProgram is the kernel's limit of instructions (BPF_MAXINSNS) less the
// three of onInterface.
const maxProgram = 4096 - 3

// A packet is accepted whole, however long.
const acceptAll = 1 << 18

// leafIntervals is how many intervals are compared one after the other before
// the search divides. Sharing the two return instructions among them halves the
// program; sixteen comparisons cost less than the system call they spare.
const leafIntervals = 8

// Offsets into an Ethernet frame.
const (
	offARPHardware = 14 // hardware and protocol type
	offARPSizes    = 18 // address lengths and operation
	offARPTarget   = 38 // target protocol address
	offIPv6Next    = 20 // next header and hop limit
	offICMPv6Type  = 54 // type and code
	offNSTarget    = 62 // target address
)

var (
	accept = bpf.RetConstant{Val: acceptAll}
	reject = bpf.RetConstant{Val: 0}
)

// An interval is a range of 32-bit words, both ends included.
type interval struct{ lo, hi uint32 }

// FilterARP returns a program over Ethernet frames that accepts ARP requests
// for IPv4 over Ethernet (RFC 826) whose target is one of addrs. It accepts
// each of addrs, and nothing else if that fits into limit instructions. If not,
// it accepts also the smallest gaps between them, as many as it must. Addresses
// of the other family are ignored. The order of addrs does not matter.
func FilterARP(addrs []netip.Addr, limit int) []bpf.Instruction {
	var words []uint32
	for _, a := range addrs {
		if a.Is4() {
			b := a.As4()
			words = append(words, binary.BigEndian.Uint32(b[:]))
		}
	}
	if len(words) == 0 {
		return []bpf.Instruction{reject}
	}
	prog := slices.Concat(
		require(offARPHardware, 4, 0x0001_0800),
		require(offARPSizes, 4, 0x0604_0001),
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offARPTarget, Size: 4}},
	)
	return append(prog, searchWithin(words, limit-len(prog))...)
}

// FilterNDP returns a program over Ethernet frames that accepts neighbour
// solicitations (RFC 4861 section 4.3, with the hop limit of section 7.1.1)
// whose target is one of addrs. It accepts each of addrs, and nothing else if
// that fits into limit instructions, which it does for any number of addresses
// in few ranges. If not, it compares only the last 32 bits of the target, and
// accepts gaps between those as FilterARP does. Extension headers before ICMPv6
// are not looked through: no host sends a solicitation with any.
func FilterNDP(addrs []netip.Addr, limit int) []bpf.Instruction {
	networks := make(map[[12]byte][]uint32)
	var words []uint32
	for _, a := range addrs {
		if !a.Is6() {
			continue
		}
		b := a.As16()
		word := binary.BigEndian.Uint32(b[12:])
		words = append(words, word)
		networks[[12]byte(b[:12])] = append(networks[[12]byte(b[:12])], word)
	}
	if len(words) == 0 {
		return []bpf.Instruction{reject}
	}
	prog := slices.Concat(
		require(offIPv6Next, 2, 0x3aff),
		require(offICMPv6Type, 2, 0x8700),
	)
	if exact := searchNetworks(networks, limit-len(prog)); exact != nil {
		return append(prog, exact...)
	}
	prog = append(prog, bpf.LoadAbsolute{Off: offNSTarget + 12, Size: 4})
	return append(prog, searchWithin(words, limit-len(prog))...)
}

// require rejects frames that do not hold want at off. A load beyond the end of
// the frame rejects it as well.
func require(off uint32, size int, want uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: off, Size: size},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: want, SkipTrue: 1},
		reject,
	}
}

// searchNetworks compares the first 96 bits of the target with each network in
// turn and searches the rest among its words. It returns nil if that exceeds
// limit.
func searchNetworks(networks map[[12]byte][]uint32, limit int) []bpf.Instruction {
	// A program this long could not fit: do not build it.
	if len(networks)*10 > limit {
		return nil
	}
	keys := make([][12]byte, 0, len(networks))
	for k := range networks {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [12]byte) int { return slices.Compare(a[:], b[:]) })
	var prog []bpf.Instruction
	for _, k := range keys {
		spans := intervals(networks[k])
		if len(prog)+len(spans) > limit {
			return nil
		}
		body := append([]bpf.Instruction{bpf.LoadAbsolute{Off: offNSTarget + 12, Size: 4}}, search(spans)...)
		for i := 2; i >= 0; i-- {
			body = slices.Concat([]bpf.Instruction{
				bpf.LoadAbsolute{Off: offNSTarget + uint32(4*i), Size: 4},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(k[4*i:]), SkipTrue: 1},
				bpf.Jump{Skip: uint32(len(body))}, // to the next network
			}, body)
		}
		prog = append(prog, body...)
	}
	prog = append(prog, reject)
	if len(prog) > limit {
		return nil
	}
	return prog
}

// searchWithin returns a search that accepts all of words and has at most limit
// instructions.
func searchWithin(words []uint32, limit int) []bpf.Instruction {
	spans := intervals(words)
	if len(spans) <= limit { // it has at least one instruction for each
		if prog := search(spans); len(prog) <= limit {
			return prog
		}
	}
	// An interval costs two comparisons, a leaf two returns, and the branch to
	// a leaf up to two more.
	most := max(limit/(2*leafIntervals+4)*leafIntervals, 1)
	for {
		if prog := search(merge(spans, most)); len(prog) <= limit || most == 1 {
			return prog
		}
		most = max(most*7/8, 1)
	}
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

// merge joins neighbouring intervals until at most most are left, closing the
// smallest gaps. It takes intervals as intervals returns them.
func merge(spans []interval, most int) []interval {
	if len(spans) <= most {
		return spans
	}
	gaps := make([]int, len(spans)-1) // gaps[i] is the index of the interval before it
	for i := range gaps {
		gaps[i] = i
	}
	width := func(i int) uint32 { return spans[i+1].lo - spans[i].hi }
	slices.SortStableFunc(gaps, func(a, b int) int {
		switch wa, wb := width(a), width(b); {
		case wa > wb:
			return -1
		case wa < wb:
			return 1
		}
		return 0
	})
	keep := gaps[:most-1]
	slices.Sort(keep)
	out := make([]interval, 0, most)
	lo := spans[0].lo
	for _, i := range keep {
		out = append(out, interval{lo, spans[i].hi})
		lo = spans[i+1].lo
	}
	return append(out, interval{lo, spans[len(spans)-1].hi})
}

// search returns a balanced binary search of the accumulator among sorted
// intervals. Each way through it ends in a return.
func search(spans []interval) []bpf.Instruction {
	if len(spans) <= leafIntervals {
		return leaf(spans)
	}
	mid := len(spans) / 2
	left, right := search(spans[:mid]), search(spans[mid:])
	if len(left) <= 255 {
		return slices.Concat([]bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: spans[mid].lo, SkipTrue: uint8(len(left))},
		}, left, right)
	}
	return slices.Concat([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: spans[mid].lo, SkipFalse: 1},
		bpf.Jump{Skip: uint32(len(left))},
	}, left, right)
}

// leaf compares with a few sorted intervals, one after the other.
func leaf(spans []interval) []bpf.Instruction {
	size := 0
	for _, s := range spans {
		size++
		if s.lo != s.hi {
			size++
		}
	}
	// The two returns follow the comparisons: reject at size, accept after it.
	var prog []bpf.Instruction
	skipTo := func(at int) uint8 { return uint8(at - len(prog) - 1) }
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
