package routers

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// birdConfig renders BIRD's configuration. Only what was announced by neighbors
// goes to the kernel: the router's own routes lead nowhere.
func birdConfig(c Config) (string, error) {
	var l lines
	l.add("log stderr all;")
	l.add("debug protocols { states, events };")
	for _, what := range []string{"log", "protocol", "route"} {
		l.add("timeformat %s iso long ms;", what)
	}
	l.add("router id %s;", c.RouterID)
	l.add("protocol device { }")
	for _, family := range Families() {
		restart := ""
		if c.GracefulRestart == Restarter {
			restart = " graceful restart yes;"
		}
		l.add("protocol kernel kernel_%s {%s merge paths yes limit 64; %s { import none; export where source = RTS_BGP; }; }", family, restart, family)
	}
	for _, family := range Families() {
		birdStatic(&l, family, c)
	}
	l.add("protocol bfd watch { }")
	var errs []error
	for _, n := range c.Neighbors {
		errs = append(errs, birdNeighbor(&l, c, n))
	}
	return l.String(), errors.Join(errs...)
}

// birdStatic adds the routes that the router originates, and the filter that sets
// their attributes: a metric that were set any earlier would not be told to other
// systems.
func birdStatic(l *lines, family Family, c Config) {
	special := map[string][]string{}
	l.block("protocol static announce_"+string(family)+" {", "}", func() {
		l.add("%s;", family)
		for _, announcement := range c.Announce {
			if familyOf(announcement.Prefix) != family {
				continue
			}
			l.add("route %s unreachable;", announcement.Prefix)
			if !announcement.isZero() {
				set := birdSet(announcement.Attributes, c.ASN)
				special[set] = append(special[set], announcement.Prefix.String())
			}
		}
	})
	l.block("filter tell_"+string(family)+" {", "}", func() {
		l.add("if source != RTS_STATIC then reject;")
		for _, set := range slices.Sorted(maps.Keys(special)) {
			l.add("if net ~ [%s] then { %s }", strings.Join(special[set], ", "), set)
		}
		l.add("accept;")
	})
}

// birdSet are the statements that set the attributes.
func birdSet(a Attributes, asn uint32) string {
	var all []string
	if a.MED != nil {
		all = append(all, fmt.Sprintf("bgp_med = %d;", *a.MED))
	}
	for _, c := range a.Communities {
		all = append(all, fmt.Sprintf("bgp_community.add((%d, %d));", uint32(c)>>16, uint32(c)&0xFFFF))
	}
	for _, c := range a.LargeCommunities {
		all = append(all, fmt.Sprintf("bgp_large_community.add((%d, %d, %d));", c[0], c[1], c[2]))
	}
	for range a.Prepend {
		all = append(all, fmt.Sprintf("bgp_path.prepend(%d);", asn))
	}
	return strings.Join(all, " ")
}

// birdNeighbor adds the protocol of one neighbor. BIRD waits longer with each
// failure, up to five minutes, before it connects again; tests want it at once.
func birdNeighbor(l *lines, c Config, n Neighbor) error {
	if err := n.birdLacks(); err != nil {
		return fmt.Errorf("neighbor %s: BIRD has no %w", n.Name, err)
	}
	l.block("protocol bgp "+birdName(n)+" {", "}", func() {
		birdSession(l, c, n)
		l.add("connect delay time 1; connect retry time 2; error wait time 1, 2;")
		if n.BFD != nil {
			b := n.BFD.complete()
			passive := ""
			if b.Passive {
				passive = " passive yes;"
			}
			l.add("bfd { min rx interval %d ms; min tx interval %d ms; multiplier %d;%s };",
				b.Receive.Milliseconds(), b.Transmit.Milliseconds(), b.Multiplier, passive)
		}
		switch c.GracefulRestart {
		case Restarter:
			l.add("graceful restart on;")
		case NoRestarts:
			l.add("graceful restart off; long lived graceful restart off;")
		case Helper:
			l.add("graceful restart aware;")
		}
		for _, family := range Families() {
			if !slices.Contains(n.families(), family) {
				continue
			}
			extended := ""
			if n.ExtendedNextHop && family == IPv4 {
				extended = " extended next hop yes;"
			}
			l.add("%s { import all; export filter tell_%s;%s };", family, family, extended)
		}
	})
	return nil
}

func (n Neighbor) birdLacks() error {
	switch {
	case n.Unnumbered != "":
		return errors.New("unnumbered neighbors; use a range of link-local addresses")
	case n.BFD != nil && n.BFD.Echo != 0:
		return errors.New("echo function")
	case n.BFD != nil && n.BFD.MinimumTTL != 0:
		return errors.New("minimum TTL for BFD")
	}
	return nil
}

// birdSession adds what says who talks to whom, and how.
func birdSession(l *lines, c Config, n Neighbor) {
	local := fmt.Sprint(c.ASN)
	if n.LocalASN != 0 {
		local = fmt.Sprint(n.LocalASN)
	}
	if n.Source.IsValid() {
		local = n.Source.String() + " as " + local
	} else {
		local = "as " + local
	}
	l.add("local %s;", local)
	as := "external"
	if n.ASN != 0 {
		as = fmt.Sprintf("as %d", n.ASN)
	}
	switch {
	case n.Range.IsValid():
		l.add("neighbor range %s %s; dynamic name %q;", n.Range, as, birdName(n)+"_")
		if n.Range.Addr().IsLinkLocalUnicast() {
			l.add("interface %q;", ethernet)
		}
	case n.Port != 0:
		l.add("neighbor %s port %d %s;", n.Address, n.Port, as)
	default:
		l.add("neighbor %s %s;", birdAddress(n), as)
	}
	switch {
	case n.Multihop > 0:
		l.add("multihop %d;", n.Multihop)
	case n.TTLSecurity > 1:
		l.add("multihop %d; ttl security yes;", n.TTLSecurity)
	case n.TTLSecurity == 1:
		l.add("direct; ttl security yes;")
	default:
		l.add("direct;") // also within one AS, where BIRD takes neighbors for far ones
	}
	if n.Password != "" {
		l.add("password %q;", n.Password)
	}
	if n.Passive {
		l.add("passive yes;")
	}
	if n.Hold > 0 || n.Keepalive > 0 {
		hold, keepalive := n.timers()
		l.add("hold time %d; keepalive time %d;", hold/time.Second, keepalive/time.Second)
	}
}

// birdName is that of a neighbor's protocol. Words of BIRD's language, such as
// link, cannot be names.
func birdName(n Neighbor) string { return "to_" + n.Name }

func birdAddress(n Neighbor) string {
	if zone := n.Address.Zone(); zone != "" {
		return fmt.Sprintf("%s%%%s", n.Address.WithZone(""), zone)
	}
	return n.Address.String()
}

// ethernet is a router's interface to the nodes.
const ethernet = "eth0"
