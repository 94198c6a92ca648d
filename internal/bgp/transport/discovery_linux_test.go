package transport

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/mdlayher/ndp"

	"github.com/berth-lb/berth/internal/netnstest"
)

// What opens NDP sockets is not parallel: package net caches the names and
// indices of interfaces as if there was only one namespace.

// Two nodes that look for each other find each other: each advertises itself.
func TestDiscoveryIsMutual(t *testing.T) {
	n := newNetwork(t, "disc0")
	node, router := NewDiscovery("disc0", log.NewNopLogger()), NewDiscovery("rdisc0", log.NewNopLogger())
	n.node.Run(node.Run)
	n.router.Run(router.Run)
	got, err := node.Wait(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if got.Zone() != "disc0" || got.WithZone("") != router.Local().WithZone("") {
		t.Errorf("node found %s, router is %s", got, router.Local())
	}
	got, err = router.Wait(testContext(t))
	if err != nil || got.WithZone("") != node.Local().WithZone("") {
		t.Errorf("router found %s (%v), node is %s", got, err, node.Local())
	}
}

// A router that only answers solicitations is found.
func TestDiscoverySolicits(t *testing.T) {
	n := newNetwork(t, "soli0")
	var c *ndp.Conn
	var local netip.Addr
	n.router.MustDo(func() error {
		ifi, err := net.InterfaceByName("rsoli0")
		if err != nil {
			return err
		}
		if c, local, err = ndp.Listen(ifi, ndp.LinkLocal); err != nil {
			return err
		}
		return prepare(c)
	})
	t.Cleanup(func() { _ = c.Close() })
	d := NewDiscovery("soli0", log.NewNopLogger())
	stop := n.node.Run(d.Run)
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	solicited := false
	for advertised := false; !solicited || !advertised; {
		m, cm, from, err := c.ReadFrom()
		if err != nil {
			t.Fatal(err)
		}
		if cm.HopLimit != 255 || from.WithZone("") != d.Local().WithZone("") {
			t.Errorf("%T from %s with hop limit %d", m, from, cm.HopLimit)
		}
		switch m := m.(type) {
		case *ndp.RouterSolicitation:
			solicited = true
		case *ndp.RouterAdvertisement:
			advertised = true
			if m.RouterLifetime != 0 || m.ManagedConfiguration || m.OtherConfiguration {
				t.Errorf("node advertises %+v", m)
			}
		}
	}
	if a := d.Router(); a.IsValid() {
		t.Errorf("found %s already", a)
	}
	if err := c.WriteTo(&ndp.RouterAdvertisement{RouterLifetime: time.Hour}, nil, d.Local()); err != nil {
		t.Fatal(err)
	}
	got, err := d.Wait(testContext(t))
	if err != nil || got.WithZone("") != local.WithZone("") {
		t.Errorf("found %s (%v), router is %s", got, err, local)
	}
}

func TestDiscoveryWaitsForInterface(t *testing.T) {
	node, router := netnstest.New(t), netnstest.New(t)
	d := NewDiscovery("wait0", log.NewNopLogger())
	node.Run(d.Run)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if a, err := d.Wait(ctx); err == nil {
		t.Fatalf("found %s", a)
	}
	netnstest.Connect(node, "wait0", router, "rwait0")
	r := NewDiscovery("rwait0", log.NewNopLogger())
	router.Run(r.Run)
	if _, err := d.Wait(testContext(t)); err != nil {
		t.Error(err)
	}
}

func TestRouterIsKept(t *testing.T) {
	t.Parallel()
	a, b := addr("fe80::a%x"), addr("fe80::b%x")
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var r routers
	expect := func(what string, want netip.Addr) {
		t.Helper()
		if r.current.addr != want {
			t.Errorf("%s: router is %s", what, r.current.addr)
		}
	}
	r.unreachable(a, at(0))
	expect("nobody", netip.Addr{})
	r.heard(a, at(0))
	r.heard(b, at(1))
	expect("first", a)
	r.unreachable(b, at(2))
	expect("the other does not answer", a)
	r.unreachable(a, at(3))
	expect("does not answer", b)
	r.heard(a, at(20))
	r.heard(b, at(20))
	r.heard(a, at(49))
	expect("both are heard", b)
	r.heard(a, at(51))
	expect("silent", a)
	r.heard(b, at(52))
	r.heard(a, at(80))
	r.unreachable(a, at(90))
	expect("the other is silent, too", a)
}
