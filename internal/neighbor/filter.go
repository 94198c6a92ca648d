package neighbor

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"

	"github.com/berth-lb/berth/internal/ether"
)

// Offsets into an Ethernet frame.
const (
	offARPHardware = 14 // hardware and protocol type
	offARPSizes    = 18 // address lengths and operation
	offARPSender   = 28 // sender protocol address
	offARPTarget   = 38 // target protocol address
	offIPv6Next    = 20 // next header and hop limit
	offICMPv6Type  = 54 // type and code
	offNDTarget    = 62 // target address of a solicitation or advertisement
)

// A packet is accepted whole, however long.
var (
	accept = bpf.RetConstant{Val: 1 << 18}
	reject = bpf.RetConstant{Val: 0}
)

// filterFor returns a program over Ethernet frames that accepts answers to self
// and what others say about the addresses that are being detected. The exact
// decision is made in user space.
func filterFor(proto protocol, self ether.MAC, detected []netip.Addr) []bpf.Instruction {
	if proto == protoARP {
		return filterARP(self, detected)
	}
	return filterNDP(self, detected)
}

// filterARP accepts replies sent to self, and packets of any operation whose
// sender uses one of detected or whose sender is 0.0.0.0 and target one of
// detected.
func filterARP(self ether.MAC, detected []netip.Addr) []bpf.Instruction {
	addressed := toSelf(self)
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offARPHardware, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0001_0800, SkipTrue: 1},
		reject,
		bpf.LoadAbsolute{Off: offARPSizes, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0604_0002, SkipTrue: uint8(len(addressed))},
	}
	prog = append(prog, addressed...)
	if len(detected) == 0 {
		return append(prog, reject)
	}
	words := make([]uint32, 0, len(detected))
	for _, a := range detected {
		b := a.As4()
		words = append(words, binary.BigEndian.Uint32(b[:]))
	}
	prog = append(prog, bpf.LoadAbsolute{Off: offARPSender, Size: 4})
	prog = append(prog, acceptAny(words)...)
	prog = append(prog,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		reject,
		bpf.LoadAbsolute{Off: offARPTarget, Size: 4},
	)
	prog = append(prog, acceptAny(words)...)
	return append(prog, reject)
}

// filterNDP accepts advertisements sent to self, and advertisements and
// solicitations whose target ends in the last 32 bits of one of detected.
func filterNDP(self ether.MAC, detected []netip.Addr) []bpf.Instruction {
	addressed := toSelf(self)
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offIPv6Next, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x3aff, SkipTrue: 1},
		reject,
		bpf.LoadAbsolute{Off: offICMPv6Type, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeNA << 8, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeNS << 8, SkipTrue: uint8(1 + len(addressed))},
		reject,
	}
	prog = append(prog, addressed...)
	if len(detected) == 0 {
		return append(prog, reject)
	}
	words := make([]uint32, 0, len(detected))
	for _, a := range detected {
		b := a.As16()
		words = append(words, binary.BigEndian.Uint32(b[12:]))
	}
	prog = append(prog, bpf.LoadAbsolute{Off: offNDTarget + 12, Size: 4})
	prog = append(prog, acceptAny(words)...)
	return append(prog, reject)
}

// toSelf accepts frames sent to self and goes on behind itself with others.
func toSelf(self ether.MAC) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(self[:4]), SkipTrue: 3},
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(binary.BigEndian.Uint16(self[4:])), SkipTrue: 1},
		accept,
	}
}

// acceptAny accepts if the accumulator is one of words and goes on if not.
func acceptAny(words []uint32) []bpf.Instruction {
	prog := make([]bpf.Instruction, 0, 2*len(words))
	for _, w := range words {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: w, SkipTrue: 1}, accept)
	}
	return prog
}
