package transport

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestVRF: a router behind a link that belongs to a VRF is reached by way of the
// VRF's device, and by no other; and it reaches a passive node likewise. All that
// Berth does for it is to bind sockets to the device, which TestDialDevice shows
// with a device of another kind, where the kernel has no VRFs.
func TestVRF(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "vrf0")
	red := &netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "red"}, Table: 10}
	if err := n.node.Netlink().LinkAdd(red); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel is built without VRFs (CONFIG_NET_VRF)")
	} else if err != nil {
		t.Fatal(err)
	}
	n.node.SetUp("red", true)
	if err := n.node.Netlink().LinkSetMaster(n.node.Link("vrf0"), n.node.Link("red")); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"2001:db8::9/64", "fe80::9/64"} { // the kernel may drop them with the change
		_ = n.node.Netlink().AddrReplace(n.node.Link("vrf0"), parseAddr(t, a))
	}
	usable(t, n.node, "vrf0")
	listener := n.passive(t)
	for _, remote := range remotes[:2] {
		is4 := remote.Addr().Is4()
		l := n.listen(t, is4)
		if _, err := n.dial(t, Options{Remote: remote, ConnectTimeout: dialTimeout}); err == nil {
			t.Errorf("%s is reached without the VRF", remote)
		}
		c, err := n.dial(t, Options{Remote: remote, Device: "red"})
		if err != nil {
			t.Fatal(err)
		}
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		talk(t, peer, c)
		_, _ = peer.Close(), l.Close()

		a := n.accept(t, listener, Options{Remote: remote, Device: "red"})
		in, err := n.connect(t, map[bool]string{true: "192.0.2.9", false: "2001:db8::9"}[is4], "")
		if err != nil {
			t.Fatal(err)
		}
		talk(t, in, a.take(t))
		n.node.MustDo(a.Close)
	}
}

func parseAddr(t *testing.T, text string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
