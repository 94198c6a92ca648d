package ether

import (
	"net/netip"
	"testing"

	"github.com/mdlayher/ndp"
)

func TestGroups(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ addr, group, mac string }{
		{"2001:db8::1234:5678", "ff02::1:ff34:5678", "33:33:ff:34:56:78"},
		{"fe80::9", "ff02::1:ff00:9", "33:33:ff:00:00:09"},
	} {
		group := SolicitedNode(netip.MustParseAddr(tc.addr))
		if group != netip.MustParseAddr(tc.group) || !IsSolicitedNode(group) || GroupMAC(group).String() != tc.mac || !GroupMAC(group).IsGroup() {
			t.Errorf("%s: got %s at %s", tc.addr, group, GroupMAC(group))
		}
	}
	if all := netip.IPv6LinkLocalAllNodes(); IsSolicitedNode(all) || GroupMAC(all) != AllNodes {
		t.Errorf("all nodes are at %s", GroupMAC(all))
	}
}

// FuzzParseIPv6: what is accepted is whole and lies within the packet.
func FuzzParseIPv6(f *testing.F) {
	src, dst := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2")
	icmp, err := ndp.MarshalMessageChecksum(&ndp.NeighborSolicitation{TargetAddress: dst}, src, dst)
	if err != nil {
		f.Fatal(err)
	}
	b := append([]byte{0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255}, src.AsSlice()...)
	b = append(append(b, dst.AsSlice()...), icmp...)
	if _, _, _, err := ParseIPv6(b); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, icmp, err := ParseIPv6(b)
		if err == nil && (len(icmp) < 24 || IPv6Len+len(icmp) > len(b)) {
			t.Fatalf("%d bytes of %d", len(icmp), len(b))
		}
	})
}
