package bgp

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func somePeer() Peer {
	return Peer{
		Name: "tor", LocalASN: 64500, PeerASN: 64501, RouterID: netip.MustParseAddr("192.0.2.1"),
		Address: netip.MustParseAddr("192.0.2.99"), Password: "hunter2", HoldTime: 90 * time.Second,
		Families: []Family{IPv4, IPv6}, NextHops: map[Family]netip.Addr{IPv6: netip.MustParseAddr("2001:db8::1")},
		GracefulRestart: &GracefulRestart{RestartTime: 2 * time.Minute},
	}
}

func TestPasswordNeverShows(t *testing.T) {
	t.Parallel()
	peer := somePeer()
	asJSON, err := json.Marshal(peer)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		peer.String(), fmt.Sprint(peer), fmt.Sprintf("%v %+v %#v", peer, peer, peer), fmt.Sprintf("%v %+v", &peer, &peer),
		fmt.Sprint(peer.Password), fmt.Sprintf("%s %q %#v %x", peer.Password, peer.Password, peer.Password, peer.Password), string(asJSON),
	} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("the password is in %q", text)
		}
	}
}

func TestNeedsReset(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change       func(*Peer)
		equal, reset bool
		reasons      string
	}{
		"nothing":          {func(*Peer) {}, true, false, ""},
		"order":            {func(p *Peer) { p.Families = []Family{IPv6, IPv4} }, true, false, ""},
		"next hop":         {func(p *Peer) { p.NextHops = map[Family]netip.Addr{} }, false, false, ""},
		"connect time":     {func(p *Peer) { p.ConnectTime = time.Second }, false, false, ""},
		"password":         {func(p *Peer) { p.Password = "other" }, false, true, "Password"},
		"hold time":        {func(p *Peer) { p.HoldTime = time.Minute }, false, true, "HoldTime 1m30s -> 1m0s"},
		"families":         {func(p *Peer) { p.Families = []Family{IPv4} }, false, true, "Families [ipv4 ipv6] -> [ipv4]"},
		"local ASN":        {func(p *Peer) { p.LocalASN++ }, false, true, "LocalASN 64500 -> 64501"},
		"address":          {func(p *Peer) { p.Address = p.Address.Next() }, false, true, "Address 192.0.2.99 -> 192.0.2.100"},
		"graceful restart": {func(p *Peer) { p.GracefulRestart = nil }, false, true, "GracefulRestart 2m0s -> off"},
		"restart time":     {func(p *Peer) { p.GracefulRestart = &GracefulRestart{RestartTime: time.Second} }, false, true, "GracefulRestart 2m0s -> 1s"},
		"same restart":     {func(p *Peer) { p.GracefulRestart = &GracefulRestart{RestartTime: 2 * time.Minute} }, true, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := somePeer(), somePeer().Clone()
			test.change(&b)
			if got := a.Equal(b); got != test.equal {
				t.Errorf("Equal = %v", got)
			}
			if got := a.NeedsReset(b); got != test.reset {
				t.Errorf("NeedsReset = %v", got)
			}
			if got := strings.Join(a.ResetReasons(b), ", "); got != test.reasons {
				t.Errorf("ResetReasons = %q", got)
			}
			if !a.Equal(somePeer()) {
				t.Error("the change reached the original through its clone")
			}
		})
	}
}

func TestAcceptsASN(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		peer   Peer
		asn    uint32
		accept bool
	}{
		{Peer{LocalASN: 1, PeerASN: 2}, 2, true},
		{Peer{LocalASN: 1, PeerASN: 2}, 3, false},
		{Peer{LocalASN: 1, PeerASN: 2, Dynamic: Internal}, 1, false},
		{Peer{LocalASN: 1, Dynamic: Internal}, 1, true},
		{Peer{LocalASN: 1, Dynamic: Internal}, 2, false},
		{Peer{LocalASN: 1, Dynamic: External}, 1, false},
		{Peer{LocalASN: 1, Dynamic: External}, 4200000000, true},
		{Peer{LocalASN: 1, Dynamic: External}, 0, false},
		{Peer{LocalASN: 1}, 1, false},
	} {
		if got := test.peer.AcceptsASN(test.asn); got != test.accept {
			t.Errorf("%v accepts %d: %v", test.peer, test.asn, got)
		}
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	route := func(prefix string, change ...func(*Route)) Route {
		r := Route{Prefix: netip.MustParsePrefix(prefix), Communities: []Community{2, 1, 2}, LargeCommunities: []LargeCommunity{{2, 0, 0}, {1, 2, 3}}}
		for _, f := range change {
			f(&r)
		}
		return r
	}
	med := func(v uint32) func(*Route) { return func(r *Route) { r.MED = &v } }
	for name, test := range map[string]struct {
		have, want         []Route
		announce, withdraw string
	}{
		"nothing": {nil, nil, "", ""},
		"new":     {nil, []Route{route("2001:db8::1/128"), route("192.0.2.2/32"), route("192.0.2.1/32")}, "192.0.2.1/32 192.0.2.2/32 2001:db8::1/128", ""},
		"same":    {[]Route{route("192.0.2.1/32", med(5))}, []Route{route("192.0.2.1/32", med(5), func(r *Route) { r.Communities = []Community{1, 2} })}, "", ""},
		"changed and gone": {[]Route{route("192.0.2.1/32"), route("192.0.2.2/32"), route("192.0.2.0/24")}, []Route{route("192.0.2.1/32", med(0))},
			"192.0.2.1/32", "192.0.2.0/24 192.0.2.2/32"},
		"unmasked, last counts": {[]Route{route("192.0.2.0/24")}, []Route{route("192.0.2.9/24", med(1)), route("192.0.2.7/24")}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			announce, withdraw := NewRoutes(test.have).Diff(NewRoutes(test.want))
			var got []string
			for _, r := range announce {
				got = append(got, r.Prefix.String())
			}
			if s := strings.Join(got, " "); s != test.announce {
				t.Errorf("announce %q, want %q", s, test.announce)
			}
			if s := strings.Trim(fmt.Sprint(withdraw), "[]"); s != test.withdraw {
				t.Errorf("withdraw %q, want %q", s, test.withdraw)
			}
		})
	}
}

func TestNormaliseSharesNothing(t *testing.T) {
	t.Parallel()
	pref := uint32(7)
	r := Route{Prefix: netip.MustParsePrefix("192.0.2.1/24"), LocalPref: &pref, Communities: []Community{3, 1}}
	n := r.Normalise()
	pref, r.Communities[0] = 8, 9
	if got, want := n.String(), "192.0.2.0/24 local-pref 7 0:1 0:3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
