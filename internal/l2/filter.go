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

// Offsets into an Ethernet frame.
const (
	offARPHardware  = 14 // hardware and protocol type
	offARPSizes     = 18 // address lengths
	offARPOperation = 20
	offARPSender    = 28 // sender protocol address
	offARPTarget    = 38 // target protocol address
	offIPv6Next     = 20 // next header and hop limit
	offICMPv6Type   = 54 // type and code
	offNSTarget     = 62 // target address, of an advertisement too
)

var (
	accept = bpf.RetConstant{Val: acceptAll}
	reject = bpf.RetConstant{Val: 0}
)

// FilterARP returns a program over Ethernet frames that accepts ARP requests
// for IPv4 over Ethernet (RFC 826) whose target is one of asked, and ARP packets
// of any operation whose sender says to have one of owned. It accepts nothing
// else if that fits into limit instructions. If not, it accepts also the
// smallest gaps between the addresses, as many as it must; those of owned are
// closed first, for few hosts but ours send from a pool. Addresses of the other
// family are ignored. Their order does not matter.
func FilterARP(asked, owned []netip.Addr, limit int) []bpf.Instruction {
	targets, senders := words4(asked), words4(owned)
	if len(targets)+len(senders) == 0 {
		return []bpf.Instruction{reject}
	}
	prog := slices.Concat(
		require(offARPHardware, 4, 0x0001_0800),
		require(offARPSizes, 2, 0x0604),
	)
	if len(targets) == 0 {
		return append(prog, searchWithin(offARPSender, senders, limit-len(prog))...)
	}
	// Requests are looked up by target, and if that is not asked for by sender
	// like all else.
	prog = append(prog, bpf.LoadAbsolute{Off: offARPOperation, Size: 2})
	limit -= len(prog) + 2 // the jump over the search of targets
	if len(senders) == 0 {
		search := searchWithin(offARPTarget, targets, limit)
		return append(append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipTrue: 1}, reject), search...)
	}
	second := planWithin(senders, limit/4)
	first := planWithin(targets, limit-second.size)
	second = planWithin(senders, limit-first.size)
	search := first.build(offARPTarget)
	prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipTrue: 1}, bpf.Jump{Skip: uint32(len(search))})
	return append(append(prog, orElse(search)...), second.build(offARPSender)...)
}

// FilterNDP returns a program over Ethernet frames that accepts neighbour
// solicitations and advertisements (RFC 4861 sections 4.3 and 4.4, with the hop
// limit of section 7.1) whose target is one of addrs. It accepts each of addrs,
// and nothing else if that fits into limit instructions, which it does for any
// number of addresses in few ranges. If not, it compares only the last 32 bits
// of the target, and accepts gaps between those as FilterARP does. Extension
// headers before ICMPv6 are not looked through: no host sends such a message
// with any.
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
		[]bpf.Instruction{
			bpf.LoadAbsolute{Off: offICMPv6Type, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x8700, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x8800, SkipTrue: 1},
			reject,
		},
	)
	if exact := searchNetworks(networks, limit-len(prog)); exact != nil {
		return append(prog, exact...)
	}
	return append(prog, searchWithin(offNSTarget+12, intervals(words), limit-len(prog))...)
}

// words4 returns the IPv4 addresses among addrs as sorted intervals.
func words4(addrs []netip.Addr) []interval {
	words := make([]uint32, 0, len(addrs))
	for _, a := range addrs {
		if a.Is4() {
			b := a.As4()
			words = append(words, binary.BigEndian.Uint32(b[:]))
		}
	}
	return intervals(words)
}

// orElse makes a search go on behind its end where it would reject.
func orElse(search []bpf.Instruction) []bpf.Instruction {
	for i, ins := range search {
		if ins == reject {
			search[i] = bpf.Jump{Skip: uint32(len(search) - i - 1)}
		}
	}
	return search
}

// searchWithin returns a search for the word at off among spans.
func searchWithin(off uint32, spans []interval, limit int) []bpf.Instruction {
	p := planWithin(spans, limit)
	return p.build(off)
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
		p := planFor(intervals(networks[k]))
		if len(prog)+p.size > limit {
			return nil
		}
		body := p.build(offNSTarget + 12)
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
