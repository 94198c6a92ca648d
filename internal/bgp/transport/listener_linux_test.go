package transport

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/netnstest"
)

func TestListenerDelivers(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "lis0")
	l := n.passive(t)
	for router, node := range map[string]string{"192.0.2.1": "192.0.2.9", "2001:db8::1": "2001:db8::9", "fe80::1": "fe80::9"} {
		o := Options{Remote: netip.AddrPortFrom(addr(router), 179), TTL: 1}
		if o.Remote.Addr().IsLinkLocalUnicast() {
			o.Device = n.dev
		}
		a := n.accept(t, l, o)
		c, err := n.connect(t, node, "")
		if err != nil {
			t.Fatal(err)
		}
		got := a.take(t)
		talk(t, c, got)
		talk(t, got, c)
		_ = a.Close()
		// Nobody listens any more, and what was accepted goes on.
		if _, err := n.connect(t, node, ""); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: connected after the end: %v", node, err)
		}
		talk(t, c, got)
	}
}

func TestListenerResetsStrangers(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "str0")
	n.router.AddAddress("rstr0", "192.0.2.66/24")
	l := n.passive(t)
	a := n.accept(t, l, Options{Remote: remotes[0]})
	c, err := n.connect(t, "192.0.2.9", "192.0.2.66")
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("stranger sees %v", err)
	}
	select {
	case <-a.Conns():
		t.Error("stranger was delivered")
	default:
	}
}

func TestListenerHasOneSocketForAll(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "all0")
	n.router.AddAddress("rall0", "192.0.2.2/24")
	n.router.AddAddress("rall0", "192.0.2.3/24")
	l := n.passive(t)
	router := func(s string) netip.AddrPort { return netip.AddrPortFrom(addr(s), 179) }
	one := n.accept(t, l, Options{Remote: router("192.0.2.1"), Local: addr("192.0.2.9")})
	if _, err := n.connect(t, "192.0.2.10", "192.0.2.1"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the other address is listened on: %v", err)
	}
	two := n.accept(t, l, Options{Remote: router("192.0.2.2")})
	three := n.accept(t, l, Options{Remote: router("192.0.2.3"), Local: addr("192.0.2.10")})
	for router, c := range map[string]struct {
		node string
		a    *Acceptor
	}{"192.0.2.1": {"192.0.2.9", one}, "192.0.2.2": {"192.0.2.9", two}, "192.0.2.3": {"192.0.2.10", three}} {
		conn, err := n.connect(t, c.node, router)
		if err != nil {
			t.Fatal(err)
		}
		talk(t, conn, c.a.take(t))
	}
	// The local address is still looked at.
	if c, err := n.connect(t, "192.0.2.10", "192.0.2.1"); err == nil {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("connection to the wrong address: %v", err)
		}
	}
	n.node.MustDo(two.Close)
	if _, err := n.connect(t, "192.0.2.9", "192.0.2.1"); err != nil {
		t.Errorf("listening by address again: %v", err)
	}
	if _, err := l.Accept(Options{Remote: router("192.0.2.1")}, port); err == nil || !strings.Contains(err.Error(), "same address") {
		t.Errorf("second acceptor of a router: %v", err)
	}
}

func TestListenerLatestConnectionWins(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "late0")
	l := n.passive(t)
	a := n.accept(t, l, Options{Remote: remotes[0]})
	first, err := n.connect(t, "192.0.2.9", "")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "first connection", func() bool { return len(a.conns) == 1 })
	second, err := n.connect(t, "192.0.2.9", "")
	if err != nil {
		t.Fatal(err)
	}
	_ = first.SetReadDeadline(time.Now().Add(patience))
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("first connection sees %v", err)
	}
	talk(t, second, a.take(t))
}

func TestListenerPassword(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "lmd0")
	n.router.AddAddress("rlmd0", "192.0.2.2/24")
	l := n.passive(t)
	for router, node := range map[string]string{"192.0.2.1": "192.0.2.9", "2001:db8::1": "2001:db8::9", "::": "fe80::9"} {
		o := Options{Remote: netip.AddrPortFrom(addr(router), 179), Password: "sesame"}
		if router == "::" {
			o.Device = n.dev // unnumbered
		}
		key := func(password string) sockopt {
			return md5Key(netip.PrefixFrom(addr(node), addr(node).BitLen()), password)
		}
		a := n.accept(t, l, o)
		c, err := n.connect(t, node, "", key("sesame"))
		if err != nil {
			t.Fatalf("%s: %v", node, err)
		}
		talk(t, c, a.take(t))
		if _, err := n.connectInVain(t, node, "", key("wrong")); err == nil {
			t.Errorf("%s: connected with a wrong password", node)
		}
		if _, err := n.connectInVain(t, node, ""); err == nil {
			t.Errorf("%s: connected without password", node)
		}
		// A second router on the same socket, with a key of its own, disturbs
		// neither the first nor is it disturbed.
		if router == "192.0.2.1" {
			b := n.accept(t, l, Options{Remote: netip.AddrPortFrom(addr("192.0.2.2"), 179), Password: "other"})
			if _, err := n.connectInVain(t, node, "192.0.2.2", key("sesame")); err == nil {
				t.Error("connected with another router's password")
			}
			c, err := n.connect(t, node, "192.0.2.2", key("other"))
			if err != nil {
				t.Fatal(err)
			}
			talk(t, c, b.take(t))
			_ = b.Close()
		}
		_ = a.Close()
		// The password goes with the acceptor.
		o.Password = ""
		a = n.accept(t, l, o)
		if c, err = n.connect(t, node, ""); err != nil {
			t.Fatalf("%s: %v", node, err)
		}
		talk(t, c, a.take(t))
		_ = a.Close()
	}
}

// Peers at one router's address are told apart by ours, passwords included.
func TestListenerOneRouterTwice(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "twice0")
	l := n.passive(t)
	o := Options{Remote: remotes[0], Password: "nine", Local: addr("192.0.2.9")}
	nine := n.accept(t, l, o)
	o.Password, o.Local = "ten", addr("192.0.2.10")
	ten := n.accept(t, l, o)
	for node, c := range map[string]struct {
		key string
		a   *Acceptor
	}{"192.0.2.9": {"nine", nine}, "192.0.2.10": {"ten", ten}} {
		conn, err := n.connect(t, node, "", md5Key(netip.PrefixFrom(addr(node), 32), c.key))
		if err != nil {
			t.Fatal(err)
		}
		talk(t, conn, c.a.take(t))
	}
	n.node.MustDo(func() error {
		o.Local = netip.Addr{}
		if _, err := l.Accept(o, port); err == nil || !strings.Contains(err.Error(), "same address and ports") {
			t.Errorf("a third one: %v", err)
		}
		// One socket for all addresses cannot have two keys.
		if _, err := l.Accept(Options{Remote: netip.AddrPortFrom(addr("192.0.2.2"), 179)}, port); err == nil || !strings.Contains(err.Error(), "different passwords") {
			t.Errorf("one without a source address: %v", err)
		}
		return nil
	})
	conn, err := n.connect(t, "192.0.2.9", "", md5Key(netip.MustParsePrefix("192.0.2.9/32"), "nine"))
	if err != nil {
		t.Fatal(err)
	}
	talk(t, conn, nine.take(t))
}

func TestListenerTTL(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "lttl0")
	l := n.passive(t)
	for router, node := range map[string]string{"192.0.2.1": "192.0.2.9", "2001:db8::1": "2001:db8::9"} {
		is4 := addr(router).Is4()
		a := n.accept(t, l, Options{Remote: netip.AddrPortFrom(addr(router), 179), TTL: 255, MinTTL: 255})
		// The router demands 255 from the first segment on.
		c, err := n.connect(t, node, "", sendTTL(is4, 255), leastTTL(is4, 255))
		if err != nil {
			t.Fatalf("%s: %v", node, err)
		}
		talk(t, c, a.take(t))
		// One that is too far away does not get a word through.
		c, err = n.connect(t, node, "", sendTTL(is4, 254))
		if err == nil {
			got := a.take(t)
			eventually(t, "nothing read", func() bool {
				_, _ = c.Write(keepalive)
				_ = got.SetReadDeadline(time.Now().Add(dialTimeout))
				n, _ := got.Read(make([]byte, 100))
				return n == 0
			})
		}
		_ = a.Close()
	}
}

func TestListenerDevice(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "ldev0")
	other := netnstest.New(t)
	netnstest.Connect(n.node, "ldev1", other, "rldev1")
	n.node.AddAddress("ldev1", "198.51.100.9/24")
	other.AddAddress("rldev1", "198.51.100.1/24")
	l := n.passive(t)
	a := n.accept(t, l, Options{Remote: remotes[0], Device: "ldev0"})
	c, err := n.connect(t, "192.0.2.9", "")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, a.take(t))
	other.MustDo(func() error {
		if c, err := net.DialTimeout("tcp4", netip.AddrPortFrom(addr("198.51.100.9"), port).String(), dialTimeout); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connected over the other link: %v, %v", c, err)
		}
		return nil
	})
}

func TestListenerReportsBusyPort(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "busy0")
	var busy net.Listener
	n.node.MustDo(func() (err error) {
		busy, err = net.Listen("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
		return err
	})
	l := n.passive(t)
	n.node.MustDo(func() error {
		if _, err := l.Accept(Options{Remote: remotes[0]}, port); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("error is %v", err)
		}
		return nil
	})
	_ = busy.Close()
	a := n.accept(t, l, Options{Remote: remotes[0]})
	c, err := n.connect(t, "192.0.2.9", "")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, a.take(t))
}

// A socket that cannot be had does not keep other routers from being heard.
func TestListenerGoesOnWithoutSocket(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "part0")
	l := n.passive(t)
	router := func(s string) Options { return Options{Remote: netip.AddrPortFrom(addr(s), 179)} }
	gone := router("192.0.2.66")
	gone.Local = addr("192.0.2.77")
	n.node.AddAddress(n.dev, "192.0.2.77/24")
	n.accept(t, l, gone)
	// That one's address, while nothing depends on it, goes.
	any := n.accept(t, l, router("192.0.2.1"))
	remove, err := netlink.ParseAddr("192.0.2.77/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.node.Netlink().AddrDel(n.node.Link(n.dev), remove); err != nil {
		t.Fatal(err)
	}
	n.node.MustDo(func() error {
		if err := any.Close(); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Errorf("closing: %v", err)
		}
		return nil
	})
	o := router("192.0.2.1")
	o.Local = addr("192.0.2.9")
	for _, o := range []Options{o, router("2001:db8::1")} {
		a := n.accept(t, l, o)
		node := "192.0.2.9"
		if o.Remote.Addr().Is6() {
			node = "2001:db8::9"
		}
		c, err := n.connect(t, node, "")
		if err != nil {
			t.Fatal(err)
		}
		talk(t, c, a.take(t))
	}
}
