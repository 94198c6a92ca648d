package gobgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/bgp"
)

const frrConfig = `
router bgp 64501
 bgp router-id 203.0.113.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor 192.0.2.1 remote-as 64500
 neighbor 2001:db8::1 remote-as 64500
 address-family ipv4 unicast
  neighbor 192.0.2.1 activate
  neighbor 2001:db8::1 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor 192.0.2.1 activate
  neighbor 2001:db8::1 activate
 exit-address-family
`

func fullRoutes() []bgp.Route {
	full := bgp.Route{
		LocalPref: pointer[uint32](150), MED: pointer[uint32](20), Prepend: 2,
		Communities: []bgp.Community{64500<<16 | 7}, LargeCommunities: []bgp.LargeCommunity{{4200000000, 1, 2}},
	}
	six := full
	full.Prefix, six.Prefix = netip.MustParsePrefix("198.51.100.1/32"), netip.MustParsePrefix("2001:db8:1::1/128")
	return []bgp.Route{full, six}
}

func TestFRRTakesRoutes(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]string{"over IPv4": router4, "over IPv6": router6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			d := n.startFRR(t, frrConfig)
			s, stop := n.startSpeaker(t)
			apply(s, testPeer(64501, func(p *bgp.Peer) { p.Address = netip.MustParseAddr(address) }), fullRoutes()...)
			for family, want := range map[string]struct{ prefix, hop string }{"ipv4": {"198.51.100.1/32", node4}, "ipv6": {"2001:db8:1::1/128", node6}} {
				var paths []frrPath
				eventually(t, 20*time.Second, want.prefix, func() bool { paths = d.paths(family, want.prefix); return len(paths) == 1 })
				p := paths[0]
				if !p.Valid || p.Origin != "IGP" || p.AsPath.String != "64500 64500 64500" || p.Community.String != "64500:7" ||
					p.LargeCommunity.String != "4200000000:1:2" || len(p.Nexthops) == 0 || p.Nexthops[0].IP != want.hop || p.Metric == nil || *p.Metric != 20 {
					t.Errorf("%s is %+v", want.prefix, p)
				}
			}
			s.Drain("node worker-1 is drained")
			eventually(t, 10*time.Second, "graceful shutdown", func() bool {
				p := d.paths("ipv4", "198.51.100.1/32")
				return len(p) == 1 && strings.Contains(p[0].Community.String, "graceful-shutdown")
			})
			stop()
			eventually(t, 10*time.Second, "the text of the Cease", func() bool {
				return strings.Contains(d.say("show bgp neighbors json"), "node worker-1 is drained")
			})
			eventually(t, 10*time.Second, "the routes to go", func() bool { return len(d.paths("ipv4", "198.51.100.1/32")) == 0 })
		})
	}
}

func TestFRRKeepsRoutesOverRestart(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	d := n.startFRR(t, frrConfig)
	peer := testPeer(64501, restarting)
	s, stop := n.startSpeaker(t)
	apply(s, peer, fullRoutes()...)
	has := func(stale bool) bool {
		p := d.paths("ipv4", "198.51.100.1/32")
		return len(p) == 1 && p[0].Valid && p[0].Stale == stale
	}
	eventually(t, 20*time.Second, "the route", func() bool { return has(false) })
	stop()
	eventually(t, 10*time.Second, "the route to be stale", func() bool { return has(true) })
	if !strings.Contains(d.say("show bgp ipv6 unicast 2001:db8:1::1/128"), "stale") {
		t.Error("the IPv6 route is not stale")
	}
	// The successor has the route, and no longer the other one.
	s, _ = n.startSpeaker(t)
	apply(s, peer, fullRoutes()[:1]...)
	eventually(t, 20*time.Second, "the route to be fresh", func() bool { return has(false) })
	eventually(t, 10*time.Second, "the other route to go", func() bool { return len(d.paths("ipv6", "2001:db8:1::1/128")) == 0 })
}

func TestFRRPassword(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	d := n.startFRR(t, frrConfig+" neighbor 192.0.2.1 password secret\n")
	s, _ := n.startSpeaker(t)
	peer := testPeer(64501, func(p *bgp.Peer) { p.Password = "other"; p.ConnectTime = time.Second })
	apply(s, peer, fullRoutes()...)
	eventually(t, 10*time.Second, "an error", func() bool { return strings.Contains(state(t, s, "tor").LastError, "password differs") })
	if d.prefixes("192.0.2.1") != 0 {
		t.Error("there are routes without the right password")
	}
	peer.Password = "secret"
	apply(s, peer, fullRoutes()...)
	eventually(t, 10*time.Second, "the route", func() bool { return len(d.paths("ipv4", "198.51.100.1/32")) == 1 })
}

// An unnumbered peer is known by its interface alone, and IPv4 routes have its
// link-local address for a next hop.
func TestFRRUnnumbered(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	d := n.startFRR(t, `
router bgp 64501
 bgp router-id 203.0.113.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor eth0 interface remote-as external
 neighbor eth0 capability extended-nexthop
 address-family ipv4 unicast
  neighbor eth0 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor eth0 activate
 exit-address-family
`)
	s, _ := n.startSpeaker(t)
	apply(s, testPeer(0, func(p *bgp.Peer) {
		p.Dynamic, p.Address, p.Interface, p.NextHops = bgp.External, netip.Addr{}, "eth0", nil
	}), fullRoutes()...)
	for family, prefix := range map[string]string{"ipv4": "198.51.100.1/32", "ipv6": "2001:db8:1::1/128"} {
		eventually(t, 30*time.Second, prefix, func() bool {
			p := d.paths(family, prefix)
			return len(p) == 1 && p[0].Valid && len(p[0].Nexthops) > 0 && strings.HasPrefix(p[0].Nexthops[0].IP, "fe80::")
		})
	}
	if st := state(t, s, "tor"); st.RemoteASN != 64501 || !strings.HasSuffix(st.RemoteAddress.Addr().String(), "%eth0") {
		t.Errorf("state is %+v", st)
	}
}

const birdConfig = `
router id 203.0.113.1;
protocol device { }
protocol bgp node {
  local 192.0.2.99 as %d;
  neighbor 192.0.2.1 as 64500;
  graceful restart aware;
  %s
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
`

func TestBIRDTakesRoutes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		asn     uint32
		options string
		change  func(*bgp.Peer)
		want    []string
	}{
		"external": {64501, "", func(*bgp.Peer) {}, []string{"BGP.as_path: 64500 64500 64500", "BGP.med: 20", "BGP.local_pref: 100"}},
		"internal, password": {64500, `password "secret";`, func(p *bgp.Peer) { p.Password = "secret" },
			[]string{"BGP.as_path: \n", "BGP.med: 20", "BGP.local_pref: 150"}},
		"ttl security": {64501, "ttl security on;", func(p *bgp.Peer) { p.TTLSecurity = 1 }, nil},
		"passive":      {64501, "", func(p *bgp.Peer) { p.Passive = true }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			d := n.startBIRD(t, fmt.Sprintf(birdConfig, test.asn, test.options))
			s, stop := n.startSpeaker(t)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("state is %+v; BIRD says %s", s.States(), d.say("show protocols all node"))
				}
			})
			peer := testPeer(test.asn, restarting, test.change)
			apply(s, peer, fullRoutes()...)
			for prefix, hop := range map[string]string{"198.51.100.1/32": node4, "2001:db8:1::1/128": node6} {
				var text string
				eventually(t, 30*time.Second, prefix, func() bool {
					text = d.say("show route all " + prefix)
					return strings.Contains(text, "BGP.next_hop: "+hop)
				})
				for _, want := range append(test.want, "BGP.origin: IGP", "BGP.community: (64500,7)", "BGP.large_community: (4200000000, 1, 2)") {
					if !strings.Contains(text, want) {
						t.Errorf("%s is not in\n%s", want, text)
					}
				}
			}
			stop()
			if text := d.say("show route all 198.51.100.1/32"); !strings.Contains(text, "198.51.100.1/32") {
				t.Errorf("BIRD does not keep the route over a restart: %s", text)
			}
		})
	}
}
