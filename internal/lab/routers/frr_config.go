package routers

import (
	"fmt"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"
	"time"
)

// frrBase is the part of FRR's configuration that never changes. It comes from
// the file that each daemon reads when it starts, because from then on it logs.
const frrBase = "hostname router\nlog timestamp precision 3\n"

// frrPaths is how many equal paths FRR uses at once. Debian's can do 256.
const frrPaths = 64

// frrConnect is after how many seconds FRR tries to connect again; its own
// default of 120 makes tests wait.
const frrConnect = 2

// lines collects commands; the depth of their indentation is of no meaning to
// FRR and BIRD, only to readers.
type lines struct {
	strings.Builder
	depth int
}

func (l *lines) add(format string, arguments ...any) {
	l.WriteString(strings.Repeat(" ", l.depth))
	fmt.Fprintf(&l.Builder, format, arguments...)
	l.WriteByte('\n')
}

// block adds commands that belong to a first one and are ended by a last one.
func (l *lines) block(first, last string, body func()) {
	l.add("%s", first)
	l.depth++
	body()
	l.depth--
	l.add("%s", last)
}

// frrChange returns the commands that turn one configuration into another. The
// sessions with neighbors that are the same in both are left alone.
func frrChange(before, after Config) string {
	var l lines
	if before.ASN != 0 && (before.ASN != after.ASN || before.RouterID != after.RouterID || before.GracefulRestart != after.GracefulRestart) {
		l.add("no router bgp %d", before.ASN)
		before = Config{}
	}
	frrProfiles(&l, after)
	frrRouteMaps(&l, after)
	l.block(fmt.Sprintf("router bgp %d", after.ASN), "exit", func() {
		if before.ASN == 0 {
			frrGlobals(&l, after)
		}
		frrNeighbors(&l, before, after)
		for _, family := range Families() {
			l.block("address-family "+string(family)+" unicast", "exit-address-family", func() {
				frrFamily(&l, family, before, after)
			})
		}
	})
	return l.String()
}

func frrGlobals(l *lines, c Config) {
	l.add("bgp router-id %s", c.RouterID)
	l.add("bgp log-neighbor-changes")
	l.add("no bgp ebgp-requires-policy")
	l.add("no bgp default ipv4-unicast")
	l.add("no bgp network import-check")
	l.add("bgp bestpath as-path multipath-relax")
	l.add("bgp listen limit 1000")
	switch c.GracefulRestart {
	case Restarter:
		l.add("bgp graceful-restart")
		l.add("bgp graceful-restart preserve-fw-state")
	case NoRestarts:
		l.add("bgp graceful-restart-disable")
	}
}

// frrProfiles defines a BFD profile for each neighbor that has BFD.
func frrProfiles(l *lines, c Config) {
	l.block("bfd", "exit", func() {
		for _, n := range c.Neighbors {
			if n.BFD == nil {
				continue
			}
			b := n.BFD.complete()
			l.block("profile "+n.Name, "exit", func() {
				l.add("receive-interval %d", b.Receive.Milliseconds())
				l.add("transmit-interval %d", b.Transmit.Milliseconds())
				l.add("detect-multiplier %d", b.Multiplier)
				l.add("%spassive-mode", negated(!b.Passive))
				if b.Echo > 0 {
					l.add("echo transmit-interval %d", b.Echo.Milliseconds())
					l.add("echo receive-interval %d", b.Echo.Milliseconds())
				}
				l.add("%secho-mode", negated(b.Echo == 0))
				if b.MinimumTTL > 0 {
					l.add("minimum-ttl %d", b.MinimumTTL)
				}
			})
		}
	})
}

func negated(no bool) string {
	if no {
		return "no "
	}
	return ""
}

// frrID is how commands name the neighbor: by its address, its interface, or the
// group of all in a range.
func (n Neighbor) frrID() string {
	switch {
	case n.Address.IsValid():
		return n.Address.WithZone("").String()
	case n.Unnumbered != "":
		return n.Unnumbered
	default:
		return n.Name
	}
}

// frrNeighbors removes the neighbors that are no longer wanted and adds those
// that are new. A change of the password alone needs neither.
func frrNeighbors(l *lines, before, after Config) {
	for _, n := range before.Neighbors {
		if i := indexByName(after.Neighbors, n.Name); i < 0 || !sameButPassword(n, after.Neighbors[i]) {
			n.frrRemove(l)
		}
	}
	for _, n := range after.Neighbors {
		i := indexByName(before.Neighbors, n.Name)
		if i < 0 || !sameButPassword(n, before.Neighbors[i]) {
			n.frrAdd(l)
		} else if old := before.Neighbors[i].Password; old != n.Password {
			n.frrPassword(l, old)
		}
	}
}

func indexByName(all []Neighbor, name string) int {
	return slices.IndexFunc(all, func(n Neighbor) bool { return n.Name == name })
}

func sameButPassword(a, b Neighbor) bool {
	a.Password = b.Password
	return reflect.DeepEqual(a, b)
}

func (n Neighbor) frrRemove(l *lines) {
	switch {
	case n.Address.IsValid():
		l.add("no neighbor %s", n.frrID())
	case n.Unnumbered != "":
		l.add("no neighbor %s interface", n.frrID())
	default:
		l.add("no bgp listen range %s peer-group %s", n.Range, n.Name)
		l.add("no neighbor %s peer-group", n.Name)
	}
}

func (n Neighbor) frrPassword(l *lines, old string) {
	if n.Password == "" {
		l.add("no neighbor %s password %s", n.frrID(), old)
		return
	}
	l.add("neighbor %s password %s", n.frrID(), n.Password)
}

func (n Neighbor) frrAdd(l *lines) {
	as := "external"
	if n.ASN != 0 {
		as = fmt.Sprint(n.ASN)
	}
	set := func(format string, arguments ...any) {
		l.add("neighbor %s %s", n.frrID(), fmt.Sprintf(format, arguments...))
	}
	switch {
	case n.Range.IsValid():
		set("peer-group")
	case n.Unnumbered != "":
		set("interface")
	}
	set("remote-as %s", as)
	if zone := n.Address.Zone(); zone != "" {
		set("interface %s", zone)
	}
	if n.LocalASN != 0 {
		set("local-as %d", n.LocalASN)
	}
	if n.Port != 0 {
		set("port %d", n.Port)
	}
	if n.Source.IsValid() {
		set("update-source %s", n.Source)
	}
	if n.Password != "" {
		n.frrPassword(l, "")
	}
	if n.Passive {
		set("passive")
	}
	if n.Multihop > 0 {
		set("ebgp-multihop %d", n.Multihop)
	}
	if n.TTLSecurity > 0 {
		set("ttl-security hops %d", n.TTLSecurity)
	}
	if n.Hold > 0 || n.Keepalive > 0 {
		hold, keepalive := n.timers()
		set("timers %d %d", keepalive/time.Second, hold/time.Second)
	}
	set("timers connect %d", frrConnect)
	if n.BFD != nil {
		set("bfd profile %s", n.Name)
	}
	if n.ExtendedNextHop {
		set("capability extended-nexthop")
	}
	if n.Range.IsValid() {
		l.add("bgp listen range %s peer-group %s", n.Range, n.Name)
	}
}

// timers fills in the one of hold and keepalive that is not given, in the
// proportion that RFC 4271 section 10 suggests.
func (n Neighbor) timers() (hold, keepalive time.Duration) {
	const share = 3
	hold, keepalive = n.Hold, n.Keepalive
	if hold == 0 {
		hold = share * keepalive
	}
	if keepalive == 0 {
		keepalive = max(hold/share, time.Second).Truncate(time.Second)
	}
	return hold, keepalive
}

func frrFamily(l *lines, family Family, before, after Config) {
	if before.ASN == 0 {
		l.add("maximum-paths %d", frrPaths)
		l.add("maximum-paths ibgp %d", frrPaths)
	}
	for _, n := range after.Neighbors {
		i := indexByName(before.Neighbors, n.Name)
		if i >= 0 && sameButPassword(n, before.Neighbors[i]) {
			continue
		}
		l.add("%sneighbor %s activate", negated(!slices.Contains(n.families(), family)), n.frrID())
	}
	frrNetworks(l, family, before, after)
}

// frrNetworks withdraws and announces what the configurations differ in.
func frrNetworks(l *lines, family Family, before, after Config) {
	wanted := announced(after, family)
	existing := announced(before, family)
	for prefix := range existing {
		if _, keep := wanted[prefix]; !keep {
			l.add("no network %s", prefix)
		}
	}
	for _, announcement := range after.Announce {
		if familyOf(announcement.Prefix) != family {
			continue
		}
		command := frrNetwork(announcement, after.ASN)
		if existing[announcement.Prefix.String()] != command {
			l.add("%s", command)
		}
	}
}

func announced(c Config, family Family) map[string]string {
	commands := map[string]string{}
	for _, announcement := range c.Announce {
		if familyOf(announcement.Prefix) == family {
			commands[announcement.Prefix.String()] = frrNetwork(announcement, c.ASN)
		}
	}
	return commands
}

func frrNetwork(a Announcement, asn uint32) string {
	if a.isZero() {
		return "network " + a.Prefix.String()
	}
	return "network " + a.Prefix.String() + " route-map " + frrRouteMap(a.Attributes, asn)
}

// frrRouteMap is the name of the map that sets the attributes: equal attributes
// share one.
func frrRouteMap(a Attributes, asn uint32) string {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(frrSet(a, asn))) // never fails
	return fmt.Sprintf("announce-%016x", hash.Sum64())
}

func frrRouteMaps(l *lines, c Config) {
	seen := map[string]bool{}
	for _, announcement := range c.Announce {
		name := frrRouteMap(announcement.Attributes, c.ASN)
		if announcement.isZero() || seen[name] {
			continue
		}
		seen[name] = true
		l.block("route-map "+name+" permit 10", "exit", func() {
			for command := range strings.Lines(frrSet(announcement.Attributes, c.ASN)) {
				l.add("%s", strings.TrimSpace(command))
			}
		})
	}
}

// frrSet are the commands of a route map that set the attributes.
func frrSet(a Attributes, asn uint32) string {
	var l lines
	if a.MED != nil {
		l.add("set metric %d", *a.MED)
	}
	if len(a.Communities) > 0 {
		l.add("set community %s", join(a.Communities, " "))
	}
	if len(a.LargeCommunities) > 0 {
		l.add("set large-community %s", join(a.LargeCommunities, " "))
	}
	if a.Prepend > 0 {
		l.add("set as-path prepend %s", join(slices.Repeat([]uint32{asn}, int(a.Prepend)), " "))
	}
	return l.String()
}

func join[T any](values []T, separator string) string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = fmt.Sprint(value)
	}
	return strings.Join(texts, separator)
}
