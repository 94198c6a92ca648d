package netif

import (
	"fmt"
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/internal/netnstest"
)

func TestGateways(t *testing.T) {
	t.Parallel()
	a, b := netnstest.New(t), netnstest.New(t)
	netnstest.Connect(a, "eth0", b, "peer0")
	a.SetUp("eth0", true)
	b.SetUp("peer0", true)
	a.AddAddress("eth0", "192.0.2.1/24")
	a.AddAddress("eth0", "2001:db8::1/64")
	link := a.Link("eth0").Attrs().Index
	add := func(r netlink.Route) {
		t.Helper()
		r.LinkIndex = link
		if err := a.Netlink().RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want string) {
		t.Helper()
		a.MustDo(func() error {
			got, err := Gateways()
			if text := fmt.Sprint(got); err != nil || text != want {
				t.Errorf("gateways %s, error %v, want %s", text, err, want)
			}
			return nil
		})
	}
	want("[]")
	_, elsewhere, err := net.ParseCIDR("198.51.100.0/24")
	if err != nil {
		t.Fatal(err)
	}
	add(netlink.Route{Dst: elsewhere, Gw: net.ParseIP("192.0.2.9")})
	add(netlink.Route{Gw: net.ParseIP("192.0.2.254")})
	add(netlink.Route{Gw: net.ParseIP("192.0.2.253"), Priority: 7, Table: 100})
	add(netlink.Route{Gw: net.ParseIP("fe80::1"), Family: netlink.FAMILY_V6})
	add(netlink.Route{Gw: net.ParseIP("2001:db8::fe"), Priority: 5000})
	want("[192.0.2.254 2001:db8::fe fe80::1%eth0]")
}
