package neighbor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/internal/ether"
)

func macs() *rapid.Generator[ether.MAC] {
	return rapid.Custom(func(t *rapid.T) ether.MAC {
		m := ether.MAC(rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac"))
		m[0] &^= 1
		return m
	})
}

func addrs4() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], rapid.Uint32Range(1, 0xdfffffff).Draw(t, "addr"))
		return netip.AddrFrom4(b)
	})
}

func addrs6() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		b := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr"))
		b[0] = 0x20
		return netip.AddrFrom16(b)
	})
}

// TestQuestionsAreWhatOthersMake compares with packages arp and ndp.
func TestQuestionsAreWhatOthersMake(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		q := question{self: macs().Draw(rt, "self"), source: addrs4().Draw(rt, "source"), target: addrs4().Draw(rt, "target")}
		if rapid.Bool().Draw(rt, "unicast") {
			q.to = macs().Draw(rt, "to")
		}
		p, err := arp.NewPacket(arp.OperationRequest, q.self[:], q.source, make([]byte, 6), q.target)
		if err != nil {
			rt.Fatal(err)
		}
		want, _ := p.MarshalBinary()
		if got := q.appendARP(nil); !bytes.Equal(got[ether.HeaderLen:], want) {
			rt.Fatalf("got  %x\nwant %x", got[ether.HeaderLen:], want)
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		q := question{self: macs().Draw(rt, "self"), source: addrs6().Draw(rt, "source"), target: addrs6().Draw(rt, "target")}
		dst := ether.SolicitedNode(q.target)
		etherDst := ether.GroupMAC(dst)
		if rapid.Bool().Draw(rt, "unicast") {
			q.to = macs().Draw(rt, "to")
			dst, etherDst = q.target, q.to
		}
		if q.to == (ether.MAC{}) && rapid.Bool().Draw(rt, "probe") {
			q.source = netip.IPv6Unspecified()
		}
		ns := &ndp.NeighborSolicitation{TargetAddress: q.target}
		if !q.source.IsUnspecified() {
			ns.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: q.self[:]}}
		}
		if q.to == (ether.MAC{}) {
			etherDst = ether.GroupMAC(dst)
		}
		if got, want := q.appendNDP(nil), ndpFrame(t, etherDst, q.self, q.source, dst, ns); !bytes.Equal(got, want) {
			rt.Fatalf("got  %x\nwant %x", got, want)
		}
	})
}

func TestParse(t *testing.T) {
	t.Parallel()
	a4, a6 := ip("192.0.2.9"), ip("2001:db8::9")
	other := ether.MAC{0x02, 0, 0, 0, 0, 0x55}
	group := ether.SolicitedNode(a6)
	at := func(frame []byte, off int, value byte) []byte {
		frame = slices.Clone(frame)
		frame[off] = value
		return frame
	}
	const icmp = ether.HeaderLen + ether.IPv6Len
	na := func(src, dst netip.Addr, etherDst ether.MAC, solicited bool, options ...ndp.Option) []byte {
		return ndpFrame(t, etherDst, peerMAC, src, dst, &ndp.NeighborAdvertisement{Solicited: solicited, TargetAddress: a6, Options: options})
	}
	dad := ndpFrame(t, ether.GroupMAC(group), peerMAC, ip("::"), group, &ndp.NeighborSolicitation{TargetAddress: a6})
	target := &ndp.LinkLayerAddress{Direction: ndp.Target, Addr: other[:]}
	for _, tc := range []struct {
		name  string
		proto protocol
		frame []byte
		want  heard // zero: says nothing
		err   error
	}{
		{"reply", protoARP, arpReply(peerMAC, a4), heard{a4, peerMAC, peerMAC, true}, nil},
		{"reply to another", protoARP, arpFrame(other, arp.OperationReply, ether.ARPSide{MAC: peerMAC, IP: a4}, ether.ARPSide{MAC: other, IP: a4}), heard{a4, peerMAC, peerMAC, false}, nil},
		{"gratuitous reply", protoARP, arpFrame(ether.Broadcast, arp.OperationReply, ether.ARPSide{MAC: peerMAC, IP: a4}, ether.ARPSide{IP: a4}), heard{a4, peerMAC, peerMAC, false}, nil},
		{"reply relayed", protoARP, at(arpReply(peerMAC, a4), 11, 0x55), heard{a4, peerMAC, other, true}, nil},
		{"padded", protoARP, append(arpReply(peerMAC, a4), make([]byte, 18)...), heard{a4, peerMAC, peerMAC, true}, nil},
		{"request", protoARP, arpFrame(ourMAC, arp.OperationRequest, ether.ARPSide{MAC: peerMAC, IP: a4}, ether.ARPSide{IP: ip("192.0.2.1")}), heard{a4, peerMAC, peerMAC, false}, nil},
		{"probe", protoARP, arpFrame(ether.Broadcast, arp.OperationRequest, ether.ARPSide{MAC: peerMAC, IP: ip("0.0.0.0")}, ether.ARPSide{IP: a4}), heard{a4, peerMAC, peerMAC, false}, nil},
		{"reply about nothing", protoARP, arpReply(peerMAC, ip("0.0.0.0")), heard{}, nil},
		{"reverse ARP", protoARP, at(arpReply(peerMAC, a4), 21, 3), heard{}, nil},
		{"group as sender", protoARP, at(arpReply(peerMAC, a4), 22, 1), heard{}, ether.ErrMalformed},
		{"from a group", protoARP, at(arpReply(peerMAC, a4), 6, 1), heard{}, ether.ErrMalformed},
		{"other hardware", protoARP, at(arpReply(peerMAC, a4), 15, 2), heard{}, ether.ErrMalformed},
		{"other lengths", protoARP, at(arpReply(peerMAC, a4), 19, 16), heard{}, ether.ErrMalformed},

		{"advertisement", protoNDP, ndpReply(t, peerMAC, a6, true), heard{a6, peerMAC, peerMAC, true}, nil},
		{"advertisement without option", protoNDP, ndpReply(t, peerMAC, a6, false), heard{a6, peerMAC, peerMAC, true}, nil},
		{"advertisement with another's address", protoNDP, na(a6, ourLL, ourMAC, true, target), heard{a6, other, peerMAC, true}, nil},
		{"unsolicited advertisement", protoNDP, na(a6, ourLL, ourMAC, false, target), heard{a6, other, peerMAC, false}, nil},
		{"advertisement to all", protoNDP, na(a6, ip("ff02::1"), ether.AllNodes, false, target), heard{a6, other, peerMAC, false}, nil},
		{"probe, IPv6", protoNDP, dad, heard{a6, peerMAC, peerMAC, false}, nil},
		{"solicitation", protoNDP, ndpFrame(t, ether.GroupMAC(group), peerMAC, peerLL, group, &ndp.NeighborSolicitation{TargetAddress: a6}), heard{}, nil},
		{"router advertisement", protoNDP, fix(at(dad, icmp, 134)), heard{}, nil},
		// RFC 4861 sections 7.1.1 and 7.1.2.
		{"solicited to all", protoNDP, na(a6, ip("ff02::1"), ether.AllNodes, true, target), heard{}, ether.ErrMalformed},
		{"from nobody", protoNDP, na(ip("::"), ourLL, ourMAC, true), heard{}, ether.ErrMalformed},
		{"from a group, IPv6", protoNDP, na(ip("ff02::9"), ourLL, ourMAC, true), heard{}, ether.ErrMalformed},
		{"group as target", protoNDP, fix(at(ndpReply(t, peerMAC, a6, false), icmp+8, 0xff)), heard{}, ether.ErrMalformed},
		{"hop limit", protoNDP, at(dad, ether.HeaderLen+7, 64), heard{}, ether.ErrMalformed},
		{"code", protoNDP, fix(at(dad, icmp+1, 1)), heard{}, ether.ErrMalformed},
		{"checksum", protoNDP, at(dad, icmp+2, dad[icmp+2]+1), heard{}, ether.ErrMalformed},
		{"option of no length", protoNDP, fix(at(ndpReply(t, peerMAC, a6, true), icmp+25, 0)), heard{}, ether.ErrMalformed},
		{"option too long", protoNDP, fix(at(ndpReply(t, peerMAC, a6, true), icmp+25, 2)), heard{}, ether.ErrMalformed},
		{"option with a group", protoNDP, fix(at(ndpReply(t, peerMAC, a6, true), icmp+26, 1)), heard{}, ether.ErrMalformed},
		{"probe with option", protoNDP, ndpFrame(t, ether.GroupMAC(group), peerMAC, ip("::"), group, &ndp.NeighborSolicitation{
			TargetAddress: a6, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: peerMAC[:]}},
		}), heard{}, ether.ErrMalformed},
		{"probe to one", protoNDP, ndpFrame(t, ourMAC, peerMAC, ip("::"), a6, &ndp.NeighborSolicitation{TargetAddress: a6}), heard{}, ether.ErrMalformed},
	} {
		h, ok, err := parse(tc.proto, ourMAC, tc.frame)
		if !errors.Is(err, tc.err) || ok != (tc.want != heard{}) || ok && h != tc.want {
			t.Errorf("%s: got %+v, %t, %v", tc.name, h, ok, err)
		}
	}
	for _, whole := range [][]byte{arpReply(peerMAC, a4), ndpReply(t, peerMAC, a6, true)} {
		proto := protocol(1 + whole[13]/0xdd)
		for n := range whole {
			if _, ok, err := parse(proto, ourMAC, whole[:n]); ok || !errors.Is(err, ether.ErrMalformed) {
				t.Errorf("%s cut to %d bytes: got %t, %v", proto, n, ok, err)
			}
		}
	}
}

// accepts runs a filter.
func accepts(t testing.TB, filter []bpf.Instruction, frame []byte) bool {
	t.Helper()
	vm, err := bpf.NewVM(filter)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestFilters(t *testing.T) {
	t.Parallel()
	a4, a6 := ip("192.0.2.9"), ip("2001:db8::9")
	other := ether.MAC{0x02, 0, 0, 0, 0, 0x55}
	toOther := func(frame []byte) []byte {
		frame = slices.Clone(frame)
		copy(frame, other[:])
		return frame
	}
	group := ether.SolicitedNode(a6)
	asks4 := arpFrame(ourMAC, arp.OperationRequest, ether.ARPSide{MAC: peerMAC, IP: ip("198.51.100.99")}, ether.ARPSide{IP: a4})
	probes4 := arpFrame(ether.Broadcast, arp.OperationRequest, ether.ARPSide{MAC: peerMAC, IP: ip("0.0.0.0")}, ether.ARPSide{IP: a4})
	dad := ndpFrame(t, ether.GroupMAC(group), peerMAC, ip("::"), group, &ndp.NeighborSolicitation{TargetAddress: a6})
	for _, tc := range []struct {
		name                string
		proto               protocol
		frame               []byte
		idle, others, asked bool // with nothing, others or the address detected
	}{
		{"reply to us", protoARP, arpReply(peerMAC, a4), true, true, true},
		{"reply to another", protoARP, toOther(arpReply(peerMAC, a4)), false, false, true},
		{"question", protoARP, asks4, false, false, false},
		{"probe", protoARP, probes4, false, false, true},
		{"announcement", protoARP, arpFrame(ether.Broadcast, arp.OperationRequest, ether.ARPSide{MAC: peerMAC, IP: a4}, ether.ARPSide{IP: a4}), false, false, true},
		{"cut", protoARP, arpReply(peerMAC, a4)[:20], false, false, false},
		{"advertisement to us", protoNDP, ndpReply(t, peerMAC, a6, true), true, true, true},
		{"advertisement to another", protoNDP, toOther(ndpReply(t, peerMAC, a6, true)), false, false, true},
		{"probe, IPv6", protoNDP, dad, false, false, true},
		{"router solicitation", protoNDP, fix(append(slices.Clone(dad[:54]), append([]byte{133}, dad[55:]...)...)), false, false, false},
		{"UDP", protoNDP, append(slices.Clone(dad[:20]), append([]byte{17}, dad[21:]...)...), false, false, false},
	} {
		var many []netip.Addr
		for a := a4.Next(); len(many) < maxDetects-1; a = a.Next() {
			many = append(many, a)
		}
		all := append(slices.Clone(many), a4)
		if tc.proto == protoNDP {
			many = nil
			for a := a6.Next(); len(many) < maxDetects-1; a = a.Next() {
				many = append(many, a)
			}
			all = append(slices.Clone(many), a6)
		}
		for i, detected := range [][]netip.Addr{nil, many, all} {
			want := []bool{tc.idle, tc.others, tc.asked}[i]
			if got := accepts(t, filterFor(tc.proto, ourMAC, detected), tc.frame); got != want {
				t.Errorf("%s with %d detected: accepted %t, want %t", tc.name, len(detected), got, want)
			}
		}
	}
}

// FuzzParse: whatever is understood is possible, and the filter would have let it
// in if it were an answer.
func FuzzParse(f *testing.F) {
	a4, a6 := ip("192.0.2.9"), ip("2001:db8::9")
	f.Add(arpReply(peerMAC, a4))
	f.Add(ndpReply(f, peerMAC, a6, true))
	f.Add(ndpReply(f, peerMAC, a6, false))
	f.Add(question{self: peerMAC, source: ip("0.0.0.0"), target: a4}.appendARP(nil))
	f.Add(question{self: peerMAC, source: ip("::"), target: a6}.appendNDP(nil))
	filters := map[protocol]*bpf.VM{}
	for _, proto := range []protocol{protoARP, protoNDP} {
		vm, err := bpf.NewVM(filterFor(proto, ourMAC, nil))
		if err != nil {
			f.Fatal(err)
		}
		filters[proto] = vm
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for proto, vm := range filters {
			h, ok, err := parse(proto, ourMAC, frame)
			if err != nil || !ok {
				continue
			}
			if h.addr.Is4() != (proto == protoARP) || h.addr.IsUnspecified() && proto == protoARP || h.src.IsGroup() || h.mac.IsGroup() {
				t.Fatalf("impossible packet %+v", h)
			}
			if n, err := vm.Run(frame); h.reply && (err != nil || n == 0) {
				t.Fatalf("the filter keeps out %+v: %v", h, err)
			}
		}
	})
}
