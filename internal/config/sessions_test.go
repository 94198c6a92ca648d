package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
)

func local(change func(*Node)) Node {
	n := Node{
		Name: "node-1", Local: true,
		Labels:      map[string]string{"asn": "4200000001", "router": "192.0.2.9"},
		Annotations: map[string]string{"example.com/tors": "192.0.2.2, 2001:db8::2,192.0.2.2"},
		Addresses:   []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
		Interfaces: []Interface{
			{Name: "lo", Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("203.0.113.1/32"), netip.MustParsePrefix("2001:db8:f::1/128")}},
			{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("fe80::10/64"), netip.MustParsePrefix("2001:db8::10/64")}},
			{Name: "eth1", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.10/24"), netip.MustParsePrefix("2001:db8:1::10/64")}},
		},
		Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1%eth0")},
	}
	if change != nil {
		change(&n)
	}
	return n
}

func TestSessionsOf(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	expect := func(change func(*bgp.Peer)) bgp.Peer {
		p := bgp.Peer{
			Name: "p", LocalASN: 64500, PeerASN: 64501, RouterID: addr("192.0.2.10"), Address: addr("192.0.2.1"), Port: 179,
			HoldTime: 90 * time.Second, ConnectTime: 10 * time.Second, Families: []bgp.Family{bgp.IPv4},
		}
		change(&p)
		return p
	}
	both := []bgp.Family{bgp.IPv4, bgp.IPv6}
	yes := true
	tests := map[string]struct {
		spec func(*bgpSpec)
		node Node
		want []bgp.Peer
		// problem is part of the one that is expected; "" for none.
		problem string
	}{
		"plain":        {func(*bgpSpec) {}, local(nil), []bgp.Peer{expect(func(*bgp.Peer) {})}, ""},
		"not selected": {func(s *bgpSpec) { s.NodeSelectors = rack("z") }, local(nil), nil, ""},
		"everything": {
			func(s *bgpSpec) {
				s.LocalASN, s.PeerPort, s.HoldTime, s.KeepaliveTime, s.ConnectTime = 64999, 1179, "30s", "5s", "2m"
				s.RouterID, s.SourceInterface, s.Password, s.EnableGracefulRestart, s.EBGPMultiHop, s.VRF = "10.0.0.1", "lo", "hunter2", true, true, "red"
				s.Families = []v1beta1.IPFamily{"IPv6", "IPv4"}
				s.Passive, s.ListenPort = true, 1790
			},
			local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.LocalASN, p.Port, p.LocalPort, p.HoldTime, p.KeepaliveTime, p.ConnectTime = 64999, 1179, 1790, 30*time.Second, 5*time.Second, 2*time.Minute
				p.RouterID, p.SourceAddress, p.Password, p.Multihop, p.VRF, p.Passive = addr("10.0.0.1"), addr("203.0.113.1"), "hunter2", true, "red", true
				p.GracefulRestart = &bgp.GracefulRestart{RestartTime: 2 * time.Minute}
				p.Families = both
				p.NextHops = map[bgp.Family]netip.Addr{bgp.IPv6: addr("2001:db8:f::1")}
			})},
			"",
		},
		"internal": {func(s *bgpSpec) { s.PeerASN, s.DynamicASN = 0, "internal" }, local(nil), []bgp.Peer{expect(func(p *bgp.Peer) { p.PeerASN, p.Dynamic = 0, bgp.Internal })}, ""},
		"TTL security, short restart": {
			func(s *bgpSpec) { s.TTLSecurity, s.EnableGracefulRestart, s.GracefulRestartTime = 1, true, "30s" }, local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.TTLSecurity, p.GracefulRestart = 1, &bgp.GracefulRestart{RestartTime: 30 * time.Second}
			})}, "",
		},
		"both families over IPv4": {
			func(s *bgpSpec) { s.DualStackAddressFamily = &yes; s.PeerAddress = "198.51.100.1" }, local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Address, p.Families, p.NextHops = addr("198.51.100.1"), both, map[bgp.Family]netip.Addr{bgp.IPv6: addr("2001:db8:1::10")}
			})}, "",
		},
		"IPv4 over IPv6": {
			func(s *bgpSpec) { s.PeerAddress, s.Families = "2001:db8::1", []v1beta1.IPFamily{"IPv4"} }, local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Address, p.NextHops = addr("2001:db8::1"), map[bgp.Family]netip.Addr{bgp.IPv4: addr("192.0.2.10")}
			})}, "",
		},
		"link-local": {
			func(s *bgpSpec) { s.PeerAddress = "fe80::1%eth1" }, local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Address, p.Interface, p.Families = addr("fe80::1%eth1"), "eth1", []bgp.Family{bgp.IPv6}
			})}, "",
		},
		"unnumbered": {
			func(s *bgpSpec) { s.PeerAddress, s.Interface = "", "eth1" }, local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Address, p.Interface, p.Families = netip.Addr{}, "eth1", both
				p.NextHops = map[bgp.Family]netip.Addr{bgp.IPv4: addr("198.51.100.10")}
			})}, "",
		},
		"unnumbered, on a link without addresses": {
			func(s *bgpSpec) { s.PeerAddress, s.Interface = "", "eth9" },
			local(func(n *Node) { n.Interfaces = append(n.Interfaces, Interface{Name: "eth9"}) }),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Address, p.Interface, p.Families = netip.Addr{}, "eth9", both // RFC 8950
			})}, "",
		},
		"unnumbered, from an address of another link": {
			func(s *bgpSpec) { s.PeerAddress, s.Interface, s.SourceAddress = "", "eth9", "2001:db8::10" },
			local(func(n *Node) { n.Interfaces = append(n.Interfaces, Interface{Name: "eth9"}) }),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Address, p.Interface, p.Families, p.SourceAddress = netip.Addr{}, "eth9", both, addr("2001:db8::10")
			})}, "",
		},
		"link-local, both families": {
			func(s *bgpSpec) { s.PeerAddress, s.DualStackAddressFamily = "fe80::1%eth1", &yes }, local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Address, p.Interface, p.Families = addr("fe80::1%eth1"), "eth1", both
				p.NextHops = map[bgp.Family]netip.Addr{bgp.IPv4: addr("198.51.100.10")}
			})}, "",
		},
		"link-local, both families, on a link without addresses": {
			func(s *bgpSpec) { s.PeerAddress, s.DualStackAddressFamily = "fe80::1%eth9", &yes }, local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Address, p.Interface, p.Families = addr("fe80::1%eth9"), "eth9", both
			})}, "",
		},
		"from a label": {
			func(s *bgpSpec) {
				s.PeerAddress, s.PeerASN, s.MyASN = "", 0, 0
				s.PeerAddressFrom = &v1beta1.PeerAddressSource{NodeLabel: "router"}
				s.MyASNFrom, s.PeerASNFrom = &v1beta1.NodeValue{NodeLabel: "asn"}, &v1beta1.NodeValue{NodeAnnotation: "asn"}
			},
			local(func(n *Node) { n.Annotations["asn"] = " 65001 " }),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Name, p.Address, p.LocalASN, p.PeerASN = "p@192.0.2.9", addr("192.0.2.9"), 4200000001, 65001
			})}, "",
		},
		"several from an annotation": {
			func(s *bgpSpec) {
				s.PeerAddress, s.PeerAddressFrom = "", &v1beta1.PeerAddressSource{NodeAnnotation: "example.com/tors"}
			},
			local(nil),
			[]bgp.Peer{
				expect(func(p *bgp.Peer) { p.Name, p.Address = "p@192.0.2.2", addr("192.0.2.2") }),
				expect(func(p *bgp.Peer) {
					p.Name, p.Address, p.Families = "p@2001:db8::2", addr("2001:db8::2"), []bgp.Family{bgp.IPv6}
				}),
			}, "",
		},
		"default gateway": {
			func(s *bgpSpec) {
				s.PeerAddress, s.PeerAddressFrom = "", &v1beta1.PeerAddressSource{DefaultGateway: "IPv6"}
			},
			local(nil),
			[]bgp.Peer{expect(func(p *bgp.Peer) {
				p.Name, p.Address, p.Interface, p.Families = "p@fe80::1%eth0", addr("fe80::1%eth0"), "eth0", []bgp.Family{bgp.IPv6}
			})}, "",
		},
		"default gateway of another node": {
			func(s *bgpSpec) {
				s.PeerAddress, s.PeerAddressFrom = "", &v1beta1.PeerAddressSource{DefaultGateway: "IPv6"}
			},
			Node{Name: "other"}, nil, "",
		},
		"no default gateway": {
			func(s *bgpSpec) {
				s.PeerAddress, s.PeerAddressFrom = "", &v1beta1.PeerAddressSource{DefaultGateway: "IPv6"}
			},
			local(func(n *Node) { n.Gateways = n.Gateways[:1] }), nil, "spec.peerAddressFrom.defaultGateway: node node-1 has no IPv6 default route with a gateway",
		},
		"bad annotation": {
			func(s *bgpSpec) {
				s.PeerAddress, s.PeerAddressFrom = "", &v1beta1.PeerAddressSource{NodeAnnotation: "example.com/tors"}
			},
			local(func(n *Node) { n.Annotations["example.com/tors"] = "192.0.2.2;192.0.2.3" }), nil,
			`spec.peerAddressFrom: annotation example.com/tors of node node-1: "192.0.2.2;192.0.2.3" is no IP address`,
		},
		"source interface without an address": {
			func(s *bgpSpec) { s.SourceInterface, s.PeerAddress = "eth7", "2001:db8::1" }, local(nil), nil, "spec.sourceInterface: node node-1 has no IPv6 address on eth7",
		},
		"local ASN of an internal peer by label": {
			func(s *bgpSpec) {
				s.LocalASN, s.PeerASN, s.PeerASNFrom = 64999, 0, &v1beta1.NodeValue{NodeLabel: "asn"}
			},
			local(func(n *Node) { n.Labels["asn"] = "64999" }), nil, "spec.localASN: is the AS number that node node-1 gives its peer",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			snapshot, verdicts := Build(Objects{BGPPeers: []*v1beta1.BGPPeer{peer("p", 1, test.spec)}})
			if v := verdicts.BGPPeers["p"]; !v.Accepted {
				t.Fatal(v.Message)
			}
			sessions, problems := SessionsOf(snapshot, test.node)
			var got []bgp.Peer
			for _, s := range sessions {
				got = append(got, s.Peer)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if text := fmt.Sprint(problems); (test.problem == "") != (len(problems) == 0) || !strings.Contains(text, test.problem) {
				t.Errorf("problems %s, want %q", text, test.problem)
			}
		})
	}
}

func TestRouterIDWithoutIPv4(t *testing.T) {
	t.Parallel()
	seen := map[netip.Addr]string{}
	for i := range 2000 {
		node := Node{Name: fmt.Sprintf("node-%d", i), Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}
		id := routerIDOf(node)
		if !id.Is4() || id.IsUnspecified() || id.IsMulticast() || id.IsLoopback() || id.As4()[0] > 223 {
			t.Errorf("%s: %s is no unicast address", node.Name, id)
		}
		if other, taken := seen[id]; taken {
			t.Errorf("%s has the router ID of %s", node.Name, other)
		}
		if seen[id] = node.Name; id != routerIDOf(node) {
			t.Errorf("%s: the router ID changes", node.Name)
		}
	}
}

func TestEchoOnlyOverOneHop(t *testing.T) {
	t.Parallel()
	p := profile("echo")
	p.Spec.EchoMode = true
	snapshot, _ := Build(Objects{
		BFDProfiles: []*v1beta1.BFDProfile{p},
		BGPPeers: []*v1beta1.BGPPeer{
			peer("far", 2, func(s *bgpSpec) { s.BFDProfile, s.EBGPMultiHop = "echo", true }),
			peer("near", 1, func(s *bgpSpec) { s.BFDProfile, s.PeerAddress = "echo", "192.0.2.2" }),
		},
	})
	sessions, _ := SessionsOf(snapshot, local(nil))
	for i, want := range []bool{false, true} {
		if sessions[i].BFD.EchoMode != want {
			t.Errorf("%s: echo is %v", sessions[i].Name, sessions[i].BFD.EchoMode)
		}
	}
}
