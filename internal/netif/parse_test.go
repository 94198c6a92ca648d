package netif

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// message builds the body of an rtnetlink message: a header and attributes.
type message []byte

func linkMessage(family byte, index, flags uint32) message {
	m := make(message, sizeIfInfo)
	m[0] = family
	native.PutUint32(m[4:], index)
	native.PutUint32(m[8:], flags)
	return m
}

func addressMessage(family, bits, flags byte, index uint32) message {
	m := make(message, sizeIfAddr)
	m[0], m[1], m[2] = family, bits, flags
	native.PutUint32(m[4:], index)
	return m
}

func (m message) attr(kind uint16, value string) message {
	head := make([]byte, unix.SizeofRtAttr)
	native.PutUint16(head, uint16(unix.SizeofRtAttr+len(value)))
	native.PutUint16(head[2:], kind)
	m = append(append(m, head...), value...)
	for len(m)%4 != 0 {
		m = append(m, 0)
	}
	return m
}

func TestParseLinkIgnoresBridgeMessages(t *testing.T) {
	m := linkMessage(unix.AF_BRIDGE, 7, unix.IFF_UP).attr(unix.IFLA_IFNAME, "eth0\x00")
	if l, ok := parseLink(m); ok {
		t.Fatalf("a message about a bridge port was taken for one about the link: %+v", l)
	}
	if l, ok := parseLink(linkMessage(unix.AF_UNSPEC, 7, unix.IFF_UP)); ok {
		t.Fatalf("a message without a name (as of wireless events) was taken for a link: %+v", l)
	}
}

func TestParseAddressFlags(t *testing.T) {
	local := netip.MustParseAddr("2001:db8::1").As16()
	base := func(flags byte) message {
		return addressMessage(unix.AF_INET6, 64, flags, 3).attr(unix.IFA_ADDRESS, string(local[:]))
	}
	for _, tc := range []struct {
		name   string
		msg    message
		usable bool
	}{
		{"valid", base(unix.IFA_F_PERMANENT), true},
		{"tentative in the header", base(unix.IFA_F_TENTATIVE), false},
		{"failed in the header", base(unix.IFA_F_DADFAILED), false},
		{"the attribute overrules the header", base(unix.IFA_F_TENTATIVE).attr(unix.IFA_FLAGS, "\x80\x00\x00\x00"), true},
	} {
		a, ok := parseAddress(tc.msg)
		if !ok || a.usable != tc.usable || a.index != 3 || a.prefix.String() != "2001:db8::1/64" {
			t.Errorf("%s: got %+v, %t", tc.name, a, ok)
		}
	}
}

func TestParseAddressPeer(t *testing.T) {
	m := addressMessage(unix.AF_INET, 32, 0, 3).
		attr(unix.IFA_ADDRESS, "\x0a\x00\x00\x02").attr(unix.IFA_LOCAL, "\x0a\x00\x00\x01")
	if a, ok := parseAddress(m); !ok || a.prefix.String() != "10.0.0.1/32" {
		t.Fatalf("got %+v, %t; want our own address, not the peer's", a, ok)
	}
	if a, ok := parseAddress(addressMessage(unix.AF_INET, 33, 0, 3).attr(unix.IFA_LOCAL, "\x0a\x00\x00\x01")); ok {
		t.Fatalf("a prefix longer than the address was taken: %+v", a)
	}
}

func FuzzState(f *testing.F) {
	wrap := func(kind uint16, m message) []byte {
		head := make([]byte, unix.NLMSG_HDRLEN)
		native.PutUint32(head, uint32(unix.NLMSG_HDRLEN+len(m)))
		native.PutUint16(head[4:], kind)
		return append(head, m...)
	}
	f.Add(wrap(unix.RTM_NEWLINK, linkMessage(0, 7, unix.IFF_UP).attr(unix.IFLA_IFNAME, "eth0\x00").
		attr(unix.IFLA_LINKINFO, string(message(nil).attr(unix.IFLA_INFO_KIND, "veth\x00")))))
	f.Add(wrap(unix.RTM_NEWADDR, addressMessage(unix.AF_INET, 24, 0, 7).attr(unix.IFA_LOCAL, "\x0a\x00\x00\x01")))
	f.Add(wrap(unix.RTM_DELLINK, linkMessage(0, 7, 0).attr(unix.IFLA_IFNAME, "eth0\x00")))
	f.Fuzz(func(t *testing.T, b []byte) {
		st := newState()
		before := st.snapshot()
		if changed := st.applyAll(b); !changed && len(st.snapshot()) != len(before) {
			t.Fatalf("a change was not reported: %+v", st.snapshot())
		}
		st.applyAll(b)
		for _, l := range st.snapshot() {
			_, _ = l.CanARP(), l.CanNDP()
		}
	})
}

func TestEventsThatChangeNothing(t *testing.T) {
	st := newState()
	link := linkMessage(0, 7, unix.IFF_UP).attr(unix.IFLA_IFNAME, "eth0\x00").attr(unix.IFLA_ADDRESS, "\x02\x00\x00\x00\x00\x01")
	addr := addressMessage(unix.AF_INET, 24, 0, 7).attr(unix.IFA_LOCAL, "\x0a\x00\x00\x01")
	if st.apply(unix.RTM_NEWADDR, addr) {
		t.Fatal("an address without its link was reported")
	}
	if !st.apply(unix.RTM_NEWLINK, link) {
		t.Fatal("a new link was not reported")
	}
	if got := st.snapshot(); len(got) != 1 || len(got[0].Prefixes) != 1 {
		t.Fatalf("the address that came before its link is lost: %+v", got)
	}
	for _, again := range []struct {
		kind uint16
		body message
	}{{unix.RTM_NEWLINK, link}, {unix.RTM_NEWADDR, addr}} {
		if st.apply(again.kind, again.body) {
			t.Fatalf("message %d changed nothing and was reported", again.kind)
		}
	}
	if !st.apply(unix.RTM_DELADDR, addr) || st.apply(unix.RTM_DELADDR, addr) {
		t.Fatal("want the first removal of the address reported, and not the second")
	}
	if !st.apply(unix.RTM_DELLINK, link) || len(st.snapshot()) != 0 {
		t.Fatal("the removal of the link was not reported")
	}
}

// BenchmarkIgnoredEvent is an event about one of many Pods' links.
func BenchmarkIgnoredEvent(b *testing.B) {
	st := newState()
	pod := func(i int) message {
		return linkMessage(0, uint32(i), unix.IFF_UP).attr(unix.IFLA_IFNAME, "veth1234\x00").
			attr(unix.IFLA_ADDRESS, "\x02\x00\x00\x00\x00\x01").
			attr(unix.IFLA_LINKINFO, string(message(nil).attr(unix.IFLA_INFO_KIND, "veth\x00")))
	}
	for i := range 30000 {
		st.apply(unix.RTM_NEWLINK, pod(i+1))
	}
	m := pod(77)
	b.ReportAllocs()
	for b.Loop() {
		if st.apply(unix.RTM_NEWLINK, m) {
			b.Fatal("a Pod's link is visible")
		}
	}
}

func TestLinkPredicates(t *testing.T) {
	t.Parallel()
	good := Link{
		Index: 1, Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Up: true, Carrier: true,
		Broadcast: true, Multicast: true, LinkLocal: netip.MustParseAddr("fe80::1"),
	}
	for _, tc := range []struct {
		name     string
		change   func(*Link)
		arp, ndp error
	}{
		{"good", func(*Link) {}, nil, nil},
		{"down", func(l *Link) { l.Up = false }, ErrDown, ErrDown},
		{"no carrier", func(l *Link) { l.Carrier = false }, ErrNoCarrier, ErrNoCarrier},
		{"loopback", func(l *Link) { l.Loopback = true }, ErrLoopback, ErrLoopback},
		{"enslaved", func(l *Link) { l.Master = 9 }, ErrEnslaved, ErrEnslaved},
		{"no ARP", func(l *Link) { l.NoARP = true }, ErrNoARP, ErrNoARP},
		{"no MAC", func(l *Link) { l.MAC = nil }, ErrNoMAC, ErrNoMAC},
		{"no broadcast", func(l *Link) { l.Broadcast = false }, ErrNoBroadcast, nil},
		{"no multicast", func(l *Link) { l.Multicast = false }, nil, ErrNoMulticast},
		{"no link-local", func(l *Link) { l.LinkLocal = netip.Addr{} }, nil, ErrNoLinkLocal},
	} {
		l := good
		tc.change(&l)
		if err := l.CanARP(); !errors.Is(err, tc.arp) {
			t.Errorf("%s: CanARP: got %v, want %v", tc.name, err, tc.arp)
		}
		if err := l.CanNDP(); !errors.Is(err, tc.ndp) {
			t.Errorf("%s: CanNDP: got %v, want %v", tc.name, err, tc.ndp)
		}
	}
}
