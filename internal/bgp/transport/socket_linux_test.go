package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/netnstest"
)

const port = 1790

// dialTimeout is for connections that must not come about.
const dialTimeout = 400 * time.Millisecond

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// A testNetwork is a node and a router joined by a link, on which both have an IPv4,
// an IPv6 and a link-local address, and the node a second one of each global
// kind.
type testNetwork struct {
	node, router *netnstest.NS
	dev          string // of the node
}

// newNetwork makes a network. Package net caches the names of interfaces of all
// namespaces together, so every test gives its link a name of its own.
func newNetwork(t *testing.T, dev string) testNetwork {
	t.Helper()
	n := testNetwork{node: netnstest.New(t), router: netnstest.New(t), dev: dev}
	netnstest.Connect(n.node, dev, n.router, "r"+dev)
	for _, a := range []string{"192.0.2.9/24", "192.0.2.10/24", "2001:db8::9/64", "2001:db8::a/64", "fe80::9/64"} {
		n.node.AddAddress(dev, a)
	}
	for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"} {
		n.router.AddAddress("r"+dev, a)
	}
	usable(t, n.node, dev)
	usable(t, n.router, "r"+dev)
	return n
}

// usable waits until no address of a link is tentative. Even where duplicates
// are not looked for, that is so only after a moment, and another address is the
// source until then.
func usable(t *testing.T, ns *netnstest.NS, link string) {
	t.Helper()
	netnstest.Eventually(t, "addresses of "+link, func() bool {
		addrs, err := ns.Netlink().AddrList(ns.Link(link), netlink.FAMILY_V6)
		return err == nil && !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
	})
}

// listen makes the router listen with socket options.
func (n testNetwork) listen(t *testing.T, is4 bool, opts ...sockopt) *net.TCPListener {
	t.Helper()
	any := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	if is4 {
		any = netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	}
	var l *net.TCPListener
	n.router.MustDo(func() error {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		generic, err := c.Listen(testContext(t), network(any.Addr()), any.String())
		if err == nil {
			l = generic.(*net.TCPListener)
		}
		return err
	})
	raw, err := l.SyscallConn()
	if err == nil {
		err = apply(raw, opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// dial connects from the node.
func (n testNetwork) dial(t *testing.T, o Options) (c *net.TCPConn, err error) {
	t.Helper()
	n.node.MustDo(func() error {
		c, err = Dial(testContext(t), o)
		return nil
	})
	if c != nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// talk demands that what one side writes reaches the other.
func talk(t *testing.T, from, to net.Conn) {
	t.Helper()
	if _, err := from.Write(keepalive); err != nil {
		t.Fatal(err)
	}
	_ = to.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, len(keepalive))
	if _, err := to.Read(b); err != nil {
		t.Fatal(err)
	}
}

// remotes are the router's addresses.
var remotes = []netip.AddrPort{
	netip.AddrPortFrom(addr("192.0.2.1"), port),
	netip.AddrPortFrom(addr("2001:db8::1"), port),
	netip.AddrPortFrom(addr("fe80::1"), port),
}

func (n testNetwork) remote(a netip.AddrPort) netip.AddrPort { return withZone(a, n.dev) }

func TestDial(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "dial0")
	for _, is4 := range []bool{true, false} {
		l := n.listen(t, is4)
		for _, remote := range remotes {
			if remote.Addr().Is4() != is4 {
				continue
			}
			sources := map[string]string{"192.0.2.1": "192.0.2.10", "2001:db8::1": "2001:db8::a", "fe80::1": "fe80::9"}
			for _, o := range []Options{
				{Remote: n.remote(remote)},
				{Remote: n.remote(remote), Local: addr(sources[remote.Addr().String()])},
				{Remote: remote, Device: n.dev},
			} {
				c, err := n.dial(t, o)
				if err != nil {
					t.Fatal(err)
				}
				peer, err := l.AcceptTCP()
				if err != nil {
					t.Fatal(err)
				}
				if got := addrPort(peer.RemoteAddr()).Addr().WithZone(""); o.Local.IsValid() && got != o.Local {
					t.Errorf("%s: connected from %s", o, got)
				}
				talk(t, peer, c)
				_ = peer.Close()
			}
		}
	}
}

func TestDialRefusesNonsense(t *testing.T) {
	t.Parallel()
	ok := Options{Remote: remotes[0]}
	for what, change := range map[string]func(*Options){
		"is not a router's":         func(o *Options) { o.Remote = netip.AddrPort{} },
		"address ff02::1":           func(o *Options) { o.Remote = netip.AddrPortFrom(addr("ff02::1"), port) },
		"port is 0":                 func(o *Options) { o.Remote = netip.AddrPortFrom(addr("192.0.2.1"), 0) },
		"IPv4 written as IPv6":      func(o *Options) { o.Remote = netip.AddrPortFrom(addr("::ffff:192.0.2.1"), port) },
		"no interface is given":     func(o *Options) { o.Remote = netip.AddrPortFrom(addr("fe80::1"), port) },
		"of different families":     func(o *Options) { o.Local = addr("2001:db8::1") },
		"takes at most 80":          func(o *Options) { o.Password = strings.Repeat("x", 81) },
		"binding to device nowhere": func(o *Options) { o.Device = "nowhere0" },
	} {
		o := ok
		change(&o)
		_, err := Dial(testContext(t), o)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: error is %v", what, err)
		}
		if o.Password != "" && strings.Contains(err.Error()+o.String()+o.GoString(), o.Password) {
			t.Errorf("password shows in %v", err)
		}
	}
}

func TestDialRefused(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "refus0")
	_, err := n.dial(t, Options{Remote: remotes[0]})
	if !errors.Is(err, unix.ECONNREFUSED) || err.Error() != "connecting to 192.0.2.1:1790: connect: connection refused" {
		t.Errorf("error is %v", err)
	}
}

func TestDialIsCancelled(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "cancel0")
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	n.node.MustDo(func() error {
		_, err := Dial(ctx, Options{Remote: netip.AddrPortFrom(addr("192.0.2.77"), port)})
		if !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "canceled") || time.Since(start) > patience {
			t.Errorf("error is %v after %s", err, time.Since(start))
		}
		return nil
	})
}

func TestDialPassword(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "md0")
	for _, remote := range remotes {
		is4 := remote.Addr().Is4()
		var keys []sockopt
		for _, node := range []string{"192.0.2.9/32", "2001:db8::9/128", "2001:db8::a/128", "fe80::9/128", "fe80::/10"} {
			if p := netip.MustParsePrefix(node); p.Addr().Is4() == is4 {
				keys = append(keys, md5Key(p, "sesame"))
			}
		}
		l := n.listen(t, is4, keys...)
		o := Options{Remote: n.remote(remote), Password: "sesame"}
		if is4 {
			o.Local = addr("192.0.2.9")
		}
		c, err := n.dial(t, o)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		talk(t, peer, c)
		_ = peer.Close()
		for _, wrong := range []string{"wrong", ""} {
			o.Password, o.ConnectTimeout = wrong, dialTimeout
			_, err := n.dial(t, o)
			if err == nil || !strings.Contains(err.Error(), "no answer") || strings.Contains(err.Error(), "password differs") != (wrong != "") {
				t.Errorf("%s with password %q: error is %v", remote, wrong, err)
			}
		}
		_ = l.Close()
	}
}

// With GTSM a router that answers with too low a TTL, because it is too far
// away or not it at all, is not heard, neither at the beginning nor later.
func TestDialTTL(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "ttl0")
	for _, remote := range remotes {
		is4 := remote.Addr().Is4()
		near := n.listen(t, is4, sendTTL(is4, 255), leastTTL(is4, 255))
		o := Options{Remote: n.remote(remote), TTL: 255, MinTTL: 255}
		c, err := n.dial(t, o)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := near.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		talk(t, peer, c)
		if err := applyTo(peer, []sockopt{sendTTL(is4, 254)}); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Write(keepalive); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(dialTimeout))
		if b := make([]byte, 1); true {
			if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: segment with TTL 254 was read (%v)", remote, err)
			}
		}
		reset(peer)
		// The router wants 255 as well.
		o.TTL, o.ConnectTimeout = 64, dialTimeout
		if _, err := n.dial(t, o); err == nil {
			t.Errorf("%s: connected with TTL 64", remote)
		}
		_ = near.Close()

		far := n.listen(t, is4, sendTTL(is4, 254))
		o.TTL = 255
		if _, err := n.dial(t, o); err == nil || !strings.Contains(err.Error(), "ttlSecurity") {
			t.Errorf("%s: error is %v", remote, err)
		}
		o.MinTTL, o.ConnectTimeout = 254, patience
		if _, err := n.dial(t, o); err != nil {
			t.Errorf("%s: two hops are allowed: %v", remote, err)
		}
		_ = far.Close()
	}
}

// Bound to a device, a connection takes no other way, even if the routing table
// has a better one.
func TestDialDevice(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "dev0")
	other := netnstest.New(t)
	netnstest.Connect(n.node, "dev1", other, "rdev1")
	n.node.AddAddress("dev1", "198.51.100.9/24")
	other.AddAddress("rdev1", "198.51.100.1/24")
	other.AddAddress("rdev1", "192.0.2.1/24") // a second router of this address
	n.node.AddAddress("dev1", "192.0.2.20/24")
	l := n.listen(t, true)
	var l2 net.Listener
	other.MustDo(func() (err error) {
		l2, err = net.Listen("tcp4", remotes[0].String())
		return err
	})
	t.Cleanup(func() { _ = l2.Close() })
	for dev, listener := range map[string]net.Listener{"dev0": l, "dev1": l2} {
		c, err := n.dial(t, Options{Remote: remotes[0], Device: dev})
		if err != nil {
			t.Fatal(err)
		}
		peer, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		talk(t, peer, c)
		_ = peer.Close()
	}
}

// passive runs a Listener in the node's namespace.
func (n testNetwork) passive(t *testing.T) *Listener {
	t.Helper()
	l := NewListener(log.NewNopLogger())
	n.node.Run(l.Run)
	return l
}

func (n testNetwork) accept(t *testing.T, l *Listener, o Options) *Acceptor {
	t.Helper()
	var a *Acceptor
	n.node.MustDo(func() (err error) {
		a, err = l.Accept(o, port)
		return err
	})
	return a
}

// connect dials from the router to the node.
func (n testNetwork) connect(t *testing.T, to, from string, opts ...sockopt) (net.Conn, error) {
	t.Helper()
	return n.connectWithin(t, patience, to, from, opts...)
}

// connectInVain is connect for what is not answered.
func (n testNetwork) connectInVain(t *testing.T, to, from string, opts ...sockopt) (net.Conn, error) {
	t.Helper()
	return n.connectWithin(t, dialTimeout, to, from, opts...)
}

func (n testNetwork) connectWithin(t *testing.T, timeout time.Duration, to, from string, opts ...sockopt) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{Timeout: timeout}
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr(from), 0))
	}
	d.Control = func(_, _ string, raw syscall.RawConn) error { return apply(raw, opts) }
	var c net.Conn
	var err error
	n.router.MustDo(func() error {
		a, err2 := withIndex(withZone(netip.AddrPortFrom(addr(to), port), "r"+n.dev))
		if err2 != nil {
			return err2
		}
		c, err = d.DialContext(testContext(t), network(a.Addr()), a.String())
		return nil
	})
	if c != nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (a *Acceptor) take(t *testing.T) *net.TCPConn {
	t.Helper()
	select {
	case c := <-a.Conns():
		t.Cleanup(func() { _ = c.Close() })
		return c
	case <-time.After(patience):
		t.Fatal("no connection")
		return nil
	}
}
