package routers

import (
	"bufio"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// birdPathLine begins a path in the answer to `show route all`. The prefix is
// there only with the first path; an s behind the preference means stale.
var birdPathLine = regexp.MustCompile(
	`^(\S*)\s+(?:unicast|unreachable|blackhole|prohibited) \[\S+ [^\]]*?(?: from ([^\]\s]+))?\]( \*)? \(\d+-?(s?)[^)]*\)`)

// parseBirdTable reads BIRD's text. No routes at all are a table without.
func parseBirdTable(content []byte) (Table, error) {
	table := Table{}
	var prefix netip.Prefix
	var path *Path
	attribute := ""
	finish := func() {
		if path != nil {
			table[prefix] = append(table[prefix], *path)
		}
		path = nil
	}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case birdSays(line):
		case strings.HasPrefix(line, "\t") && path != nil:
			name, value, found := strings.Cut(strings.TrimLeft(line, "\t"), ": ")
			switch {
			case strings.HasPrefix(line, "\tvia "):
				name, value = "via", strings.TrimSpace(line)
			case strings.HasPrefix(line, "\t\t"), !found:
				name, value = attribute, strings.TrimSpace(line) // goes on from the line before
			}
			attribute = name
			if err := path.birdAttribute(name, value); err != nil {
				return nil, fmt.Errorf("BIRD's route %s: %w", prefix, err)
			}
		default:
			finish()
			match := birdPathLine.FindStringSubmatch(line)
			if match == nil {
				return nil, fmt.Errorf("BIRD's routes: unexpected line %q", line)
			}
			if match[1] != "" {
				var err error
				if prefix, err = netip.ParsePrefix(match[1]); err != nil {
					return nil, fmt.Errorf("BIRD's routes: %w", err)
				}
			} else if !prefix.IsValid() {
				return nil, fmt.Errorf("BIRD's routes: line %q has no prefix", line)
			}
			path = &Path{Best: match[3] != "", Stale: match[4] != ""}
			path.Peer, _ = netip.ParseAddr(match[2]) // else the gateway's, which follows
		}
	}
	finish()
	return table.sort(), nil
}

// birdSays reports whether a line is not part of the answer proper.
func birdSays(line string) bool {
	return line == "" || line == birdNotFound || strings.HasPrefix(line, "Table ") ||
		(strings.HasPrefix(line, "BIRD ") && strings.HasSuffix(line, " ready."))
}

// birdAttribute adds what a line says. Lines that nobody asks for are ignored.
func (p *Path) birdAttribute(name, value string) error {
	var err error
	switch name {
	case "via":
		if fields := strings.Fields(value); !p.Peer.IsValid() && len(fields) > 1 {
			p.Peer, err = netip.ParseAddr(fields[1])
		}
	case "BGP.origin":
		p.Origin = value
	case "BGP.as_path":
		err = p.birdASPath(value)
	case "BGP.next_hop":
		for _, text := range strings.Fields(value) {
			hop, err := netip.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("next hop: %w", err)
			}
			p.NextHops = append(p.NextHops, hop)
		}
	case "BGP.med":
		p.MED, err = birdNumber(value)
	case "BGP.local_pref":
		p.LocalPref, err = birdNumber(value)
	case "BGP.atomic_aggr":
		p.AtomicAggregate = true
	case "BGP.community":
		for _, text := range parenthesized(value) {
			community, err := parseCommunity(text, ",")
			if err != nil {
				return err
			}
			p.Communities = append(p.Communities, community)
		}
	case "BGP.large_community":
		for _, text := range parenthesized(value) {
			community, err := parseLargeCommunity(text, ",")
			if err != nil {
				return err
			}
			p.LargeCommunities = append(p.LargeCommunities, community)
		}
	}
	return err
}

// birdASPath reads numbers in a row; those of a set are in braces, of a
// confederation in parentheses.
func (p *Path) birdASPath(value string) error {
	for _, text := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(" {}()", r) }) {
		asn, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fmt.Errorf("AS path %q: %w", value, err)
		}
		p.ASPath = append(p.ASPath, uint32(asn))
	}
	return nil
}

func birdNumber(text string) (*uint32, error) {
	value, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, err
	}
	number := uint32(value)
	return &number, nil
}

// parenthesized returns what is in each pair of parentheses.
func parenthesized(text string) []string {
	var all []string
	for {
		_, rest, found := strings.Cut(text, "(")
		if !found {
			return all
		}
		inside, after, _ := strings.Cut(rest, ")")
		all = append(all, inside)
		text = after
	}
}

// birdTime is how times are written after `timeformat … iso long ms`.
const birdTime = "2006-01-02 15:04:05.000"

// birdSince finds in a line of `show protocols` since when a protocol is as it is.
var birdSince = regexp.MustCompile(`^(\S+)\s+BGP\s+\S+\s+(\S+)\s+(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3})`)

// parseBirdSessions reads the answer to `show protocols all`, in which local says
// where BIRD's clock is.
func parseBirdSessions(content []byte, local *time.Location) ([]Session, error) {
	var sessions []Session
	var session *birdProtocol
	scanner := bufio.NewScanner(strings.NewReader(string(content)))
	for scanner.Scan() {
		line := scanner.Text()
		if strings.HasPrefix(line, " ") {
			if session != nil {
				if err := session.line(strings.TrimSpace(line)); err != nil {
					return nil, fmt.Errorf("BIRD's protocol %s: %w", session.name, err)
				}
			}
			continue
		}
		sessions = session.appendTo(sessions)
		session = nil
		if match := birdSince.FindStringSubmatch(line); match != nil {
			since, err := time.ParseInLocation(birdTime, match[3], local)
			if err != nil {
				return nil, fmt.Errorf("BIRD's protocol %s: %w", match[1], err)
			}
			session = &birdProtocol{name: match[1], since: since, session: Session{Prefixes: map[Family]int{}}}
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("BIRD's protocols: %w", err)
	}
	sessions = session.appendTo(sessions)
	slices.SortFunc(sessions, func(a, b Session) int { return a.Neighbor.Compare(b.Neighbor) })
	return sessions, nil
}

// birdProtocol is a session of which some lines have been read.
type birdProtocol struct {
	name    string
	since   time.Time
	session Session
	// remote: the lines are about what the neighbor can do.
	remote bool
	// channel that the lines are about, if any.
	channel Family
	isRange bool
}

func (b *birdProtocol) line(text string) error {
	name, value, _ := strings.Cut(text, ":")
	value = strings.TrimSpace(value)
	s := &b.session
	var err error
	switch name {
	case "BGP state":
		s.State = value
	case "Neighbor range":
		b.isRange = true
	case "Neighbor address":
		s.Neighbor, err = netip.ParseAddr(value)
	case "Neighbor AS":
		s.ASN, err = birdASN(value)
	case "Neighbor ID":
		s.RouterID, err = netip.ParseAddr(value)
	case "Neighbor graceful restart active":
		s.restarting = true
	case "Last error":
		s.LastError = value
	case "Local capabilities":
		b.remote = false
	case "Neighbor capabilities":
		b.remote = true
	case "AF announced":
		if b.remote {
			for _, family := range Families() {
				if slices.Contains(strings.Fields(value), string(family)) {
					s.Families = append(s.Families, family)
				}
			}
		}
	case "Hold timer":
		_, seconds, _ := strings.Cut(value, "/")
		var hold int
		hold, err = strconv.Atoi(seconds)
		s.Hold = time.Duration(hold) * time.Second
	case "Channel ipv4", "Channel ipv6":
		b.channel = Family(strings.TrimPrefix(name, "Channel "))
	case "Routes":
		if b.channel != "" {
			count, _, _ := strings.Cut(value, " ")
			s.Prefixes[b.channel], err = strconv.Atoi(count)
		}
	}
	return err
}

func birdASN(text string) (uint32, error) {
	value, err := strconv.ParseUint(text, 10, 32)
	return uint32(value), err
}

// appendTo adds the session, unless it only stands for a range.
func (b *birdProtocol) appendTo(all []Session) []Session {
	if b == nil || b.isRange {
		return all
	}
	if b.session.Up() {
		b.session.Since = b.since
	} else {
		b.session.Families = nil
	}
	return append(all, b.session)
}

// parseBirdBFD reads the answer to `show bfd sessions`.
func parseBirdBFD(content []byte) ([]BFDSession, error) {
	var sessions []BFDSession
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || strings.HasPrefix(line, "IP address") || birdSays(strings.TrimSpace(line)) {
			continue
		}
		neighbor, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue // some other message
		}
		session := BFDSession{Neighbor: neighbor, State: fields[2]}
		if fields[1] != "---" {
			session.Interface = fields[1]
		}
		for i, into := range map[int]*time.Duration{2: &session.Interval, 1: &session.Detection} {
			if *into, err = time.ParseDuration(fields[len(fields)-i] + "s"); err != nil {
				return nil, fmt.Errorf("BIRD's BFD session with %s: %w", neighbor, err)
			}
		}
		sessions = append(sessions, session)
	}
	slices.SortFunc(sessions, func(a, b BFDSession) int { return a.Neighbor.Compare(b.Neighbor) })
	return sessions, nil
}
