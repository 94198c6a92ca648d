package routers

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// everything is a configuration that uses every field that both kinds have.
func everything() Config {
	return Config{
		ASN: 64512, RouterID: netip.MustParseAddr("192.0.2.1"), GracefulRestart: Restarter,
		Neighbors: []Neighbor{
			{
				Name: "plain", Address: netip.MustParseAddr("172.20.0.11"),
			},
			{
				Name: "full", Address: netip.MustParseAddr("fd00:172:20::12"), ASN: 64600, LocalASN: 64513, Port: 1179,
				Source: netip.MustParseAddr("fd00:172:20::1"), Password: "secret", Passive: true, Multihop: 3,
				Hold: 9 * time.Second, BFD: &BFD{Receive: 100 * time.Millisecond, Multiplier: 5, Passive: true},
				Families: []Family{IPv6}, ExtendedNextHop: true,
			},
			{
				Name: "link", Address: netip.MustParseAddr("fe80::1%eth0"), TTLSecurity: 1, Keepalive: 2 * time.Second,
				ExtendedNextHop: true,
			},
			{
				Name: "far", Address: netip.MustParseAddr("192.0.2.9"), TTLSecurity: 4,
			},
			{
				Name: "nodes", Range: netip.MustParsePrefix("172.20.0.0/16"), ASN: 64600, BFD: &BFD{},
			},
		},
		Announce: []Announcement{
			{Prefix: netip.MustParsePrefix("203.0.113.0/24")},
			{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Attributes: attributes()},
			{Prefix: netip.MustParsePrefix("2001:db8::/32"), Attributes: attributes()},
		},
	}
}

func TestFRRConfig(t *testing.T) {
	t.Parallel()
	golden(t, "frr-config.golden", []byte(frrChange(Config{}, everything())))
}

// FRR has more than BIRD does.
func TestFRRConfigOfItsOwn(t *testing.T) {
	t.Parallel()
	config := Config{
		ASN: 64512, RouterID: netip.MustParseAddr("192.0.2.1"), GracefulRestart: NoRestarts,
		Neighbors: []Neighbor{{
			Name: "tor", Unnumbered: "eth0",
			BFD: &BFD{Echo: 50 * time.Millisecond, MinimumTTL: 254},
		}},
	}
	golden(t, "frr-own-config.golden", []byte(frrChange(Config{}, config)))
	for name, change := range map[string]func(*Neighbor){
		"unnumbered":    func(n *Neighbor) { n.BFD = nil },
		"echo function": func(n *Neighbor) { n.Unnumbered, n.Address, n.BFD.MinimumTTL = "", config.RouterID, 0 },
		"minimum TTL":   func(n *Neighbor) { n.Unnumbered, n.Address, n.BFD.Echo = "", config.RouterID, 0 },
	} {
		neighbor := config.Neighbors[0]
		bfd := *neighbor.BFD
		neighbor.BFD = &bfd
		change(&neighbor)
		_, err := birdConfig(Config{ASN: 64512, RouterID: config.RouterID, Neighbors: []Neighbor{neighbor}})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("BIRD and %s: error %v", name, err)
		}
	}
}

func TestBirdConfig(t *testing.T) {
	t.Parallel()
	content, err := birdConfig(everything())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "bird-config.golden", []byte(content))
}

// TestFRRChange looks at which commands a change leads to.
func TestFRRChange(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change     func(*Config)
		has, lacks []string
	}{
		"nothing": {
			change: func(*Config) {},
			lacks:  []string{"neighbor", "network", "no router", "maximum-paths"},
		},
		"password": {
			change: func(c *Config) { c.Neighbors[1].Password = "other" },
			has:    []string{"neighbor fd00:172:20::12 password other"},
			lacks:  []string{"no neighbor", "remote-as", "activate"},
		},
		"no password": {
			change: func(c *Config) { c.Neighbors[1].Password = "" },
			has:    []string{"no neighbor fd00:172:20::12 password secret"},
			lacks:  []string{"remote-as", "activate"},
		},
		"hold time": {
			change: func(c *Config) { c.Neighbors[1].Hold = 30 * time.Second },
			has:    []string{"no neighbor fd00:172:20::12\n", "neighbor fd00:172:20::12 timers 10 30", "no neighbor fd00:172:20::12 activate", "neighbor fd00:172:20::12 activate"},
			lacks:  []string{"172.20.0.11"},
		},
		"a neighbor less": {
			change: func(c *Config) { c.Neighbors = c.Neighbors[:4] },
			has:    []string{"no bgp listen range 172.20.0.0/16 peer-group nodes", "no neighbor nodes peer-group"},
			lacks:  []string{"172.20.0.11", "remote-as"},
		},
		"announcements": {
			change: func(c *Config) { c.Announce = c.Announce[1:]; c.Announce[1].MED = nil },
			has:    []string{"no network 203.0.113.0/24", "network 2001:db8::/32 route-map"},
			lacks:  []string{"network 198.51.100.0/24", "neighbor"},
		},
		"ASN": {
			change: func(c *Config) { c.ASN = 64999 },
			has:    []string{"no router bgp 64512", "router bgp 64999", "neighbor 172.20.0.11 remote-as external", "network 203.0.113.0/24"},
		},
	} {
		after := everything()
		test.change(&after)
		commands := frrChange(everything(), after)
		for _, part := range test.has {
			if !strings.Contains(commands, part) {
				t.Errorf("%s: %q is missing in\n%s", name, part, commands)
			}
		}
		for _, part := range test.lacks {
			if strings.Contains(commands, part) {
				t.Errorf("%s: %q has no place in\n%s", name, part, commands)
			}
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	if err := everything().Validate(); err != nil {
		t.Errorf("good configuration: %v", err)
	}
	for want, spoil := range map[string]func(*Config){
		"asn: is 0":                               func(c *Config) { c.ASN = 0 },
		`routerID: "::1"`:                         func(c *Config) { c.RouterID = netip.MustParseAddr("::1") },
		`gracefulRestart: "maybe"`:                func(c *Config) { c.GracefulRestart = "maybe" },
		`neighbors[1].name: "plain" is taken`:     func(c *Config) { c.Neighbors[1].Name = "plain" },
		`neighbors[0].name: "a-b"`:                func(c *Config) { c.Neighbors[0].Name = "a-b" },
		"neighbors[0].address, range, unnum":      func(c *Config) { c.Neighbors[0].Unnumbered = "eth0" },
		"neighbors[2].address: fe80::1 needs":     func(c *Config) { c.Neighbors[2].Address = netip.MustParseAddr("fe80::1") },
		"neighbors[1].ttlSecurity":                func(c *Config) { c.Neighbors[1].TTLSecurity = 1 },
		"neighbors[1].password":                   func(c *Config) { c.Neighbors[1].Password = "two words" },
		"neighbors[1].hold, keepalive":            func(c *Config) { c.Neighbors[1].Hold = time.Millisecond },
		`announce[0].prefix: "203.0.113.1/24" is`: func(c *Config) { c.Announce[0].Prefix = netip.MustParsePrefix("203.0.113.1/24") },
	} {
		config := everything()
		spoil(&config)
		if err := config.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestFullTableHasNoDuplicates(t *testing.T) {
	t.Parallel()
	const n = 200_000
	seen := map[netip.Prefix]bool{}
	for _, announcement := range FullTable(n) {
		seen[announcement.Prefix] = announcement.Prefix == announcement.Prefix.Masked()
	}
	if len(seen) != n {
		t.Errorf("%d different prefixes, want %d", len(seen), n)
	}
}
