package routers

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// frrTable is the answer to `show bgp FAMILY unicast json detail`.
type frrTable struct {
	// Routes have first what is common to all paths, then the paths.
	Routes map[netip.Prefix][]json.RawMessage `json:"routes"`
}

type frrPath struct {
	ASPath struct {
		Segments []struct {
			List []uint32 `json:"list"`
		} `json:"segments"`
	} `json:"aspath"`
	Origin    string  `json:"origin"`
	Metric    *uint32 `json:"metric"`
	LocalPref *uint32 `json:"locPrf"`
	Community struct {
		String string `json:"string"`
	} `json:"community"`
	LargeCommunity struct {
		List []string `json:"list"`
	} `json:"largeCommunity"`
	AtomicAggregate bool `json:"atomicAggregate"`
	Stale           bool `json:"stale"`
	Best            struct {
		Overall bool `json:"overall"`
	} `json:"bestpath"`
	NextHops []struct {
		IP netip.Addr `json:"ip"`
	} `json:"nexthops"`
	Peer struct {
		ID        string `json:"peerId"`
		Interface string `json:"interface"`
	} `json:"peer"`
}

// parseFRRTable reads FRR's JSON. A family without routes is a table without.
func parseFRRTable(content []byte) (Table, error) {
	var answer frrTable
	if err := json.Unmarshal(content, &answer); err != nil {
		return nil, fmt.Errorf("FRR's routes: %w", err)
	}
	return answer.table()
}

func (t frrTable) table() (Table, error) {
	table := Table{}
	for prefix, entries := range t.Routes {
		if len(entries) == 0 {
			continue
		}
		for _, entry := range entries[1:] {
			var raw frrPath
			if err := json.Unmarshal(entry, &raw); err != nil {
				return nil, fmt.Errorf("FRR's route %s: %w", prefix, err)
			}
			path, err := raw.path()
			if err != nil {
				return nil, fmt.Errorf("FRR's route %s: %w", prefix, err)
			}
			table[prefix] = append(table[prefix], path)
		}
	}
	return table.sort(), nil
}

func (r frrPath) path() (Path, error) {
	path := Path{
		Origin: r.Origin, LocalPref: r.LocalPref, MED: r.Metric,
		AtomicAggregate: r.AtomicAggregate, Best: r.Best.Overall, Stale: r.Stale,
	}
	if path.Origin == "incomplete" {
		path.Origin = "Incomplete" // as BIRD has it
	}
	for _, segment := range r.ASPath.Segments {
		path.ASPath = append(path.ASPath, segment.List...)
	}
	for _, hop := range r.NextHops {
		path.NextHops = append(path.NextHops, hop.IP)
	}
	// Own routes have the peer 0.0.0.0 or ::, and unnumbered neighbors' routes are
	// from an interface.
	peer, err := netip.ParseAddr(r.Peer.ID)
	switch {
	case err != nil && len(path.NextHops) > 0:
		path.Peer = path.NextHops[len(path.NextHops)-1]
	case err != nil:
		return Path{}, fmt.Errorf("peer: %w", err)
	case !peer.IsUnspecified():
		path.Peer = peer
	}
	names := frrNames()
	for _, text := range strings.Fields(r.Community.String) {
		community, known := names[text]
		if !known {
			if community, err = parseCommunity(text, ":"); err != nil {
				return Path{}, err
			}
		}
		path.Communities = append(path.Communities, community)
	}
	for _, text := range r.LargeCommunity.List {
		community, err := parseLargeCommunity(text, ":")
		if err != nil {
			return Path{}, err
		}
		path.LargeCommunities = append(path.LargeCommunities, community)
	}
	return path, nil
}

// frrNeighbor is part of the answer to `show bgp neighbors json`.
type frrNeighbor struct {
	RemoteAS    uint32 `json:"remoteAs"`
	RouterID    string `json:"remoteRouterId"`
	State       string `json:"bgpState"`
	Epoch       int64  `json:"bgpTimerUpEstablishedEpoch"`
	Hold        int64  `json:"bgpTimerHoldTimeMsecs"`
	Times       int    `json:"connectionsEstablished"`
	Reset       string `json:"lastResetDueTo"`
	Error       string `json:"lastErrorCodeSubcode"`
	NotifReason string `json:"lastNotificationReason"`
	HostForeign string `json:"hostForeign"`
	Families    map[string]struct {
		Accepted int `json:"acceptedPrefixCounter"`
	} `json:"addressFamilyInfo"`
	Capabilities struct {
		Multiprotocol map[string]struct {
			Both bool `json:"advertisedAndReceived"`
		} `json:"multiprotocolExtensions"`
	} `json:"neighborCapabilities"`
}

func parseFRRSessions(content []byte) ([]Session, error) {
	// Beside neighbors by address or interface there are flags of FRR's own.
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(content, &answer); err != nil {
		return nil, fmt.Errorf("FRR's neighbors: %w", err)
	}
	var sessions []Session
	for key, entry := range answer {
		var raw frrNeighbor
		if !strings.HasPrefix(string(entry), "{") {
			continue
		}
		if err := json.Unmarshal(entry, &raw); err != nil {
			return nil, fmt.Errorf("FRR's neighbor %s: %w", key, err)
		}
		sessions = append(sessions, raw.session(key))
	}
	slices.SortFunc(sessions, func(a, b Session) int { return a.Neighbor.Compare(b.Neighbor) })
	return sessions, nil
}

func (r frrNeighbor) session(key string) Session {
	session := Session{ASN: r.RemoteAS, State: r.State, Times: r.Times, LastError: r.Reset, Prefixes: map[Family]int{}}
	var err error
	if session.Neighbor, err = netip.ParseAddr(key); err != nil {
		// An interface: the address is known once the neighbor is.
		session.Neighbor, _ = netip.ParseAddr(r.HostForeign)
	}
	if id, err := netip.ParseAddr(r.RouterID); err == nil && !id.IsUnspecified() {
		session.RouterID = id
	}
	if r.NotifReason != "" {
		session.LastError += ": " + r.NotifReason
	}
	for family, name := range map[Family]string{IPv4: "ipv4Unicast", IPv6: "ipv6Unicast"} {
		if r.Capabilities.Multiprotocol[name].Both {
			session.Families = append(session.Families, family)
			session.Prefixes[family] = r.Families[name].Accepted
		}
	}
	slices.Sort(session.Families)
	if session.Up() {
		session.Since = time.Unix(r.Epoch, 0)
		session.Hold = time.Duration(r.Hold) * time.Millisecond
	}
	return session
}

// frrBFD is part of the answer to `show bfd peers json`. Intervals are in
// milliseconds.
type frrBFD struct {
	Peer       netip.Addr `json:"peer"`
	Interface  string     `json:"interface"`
	Status     string     `json:"status"`
	Transmit   int64      `json:"transmit-interval"`
	Receive    int64      `json:"receive-interval"`
	Multiplier int64      `json:"remote-detect-multiplier"`
	RemoteRX   int64      `json:"remote-receive-interval"`
	RemoteTX   int64      `json:"remote-transmit-interval"`
}

func parseFRRBFD(content []byte) ([]BFDSession, error) {
	var answer []frrBFD
	if err := json.Unmarshal(content, &answer); err != nil {
		return nil, fmt.Errorf("FRR's BFD sessions: %w", err)
	}
	states := map[string]string{"up": "Up", "down": "Down", "init": "Init", "shutdown": "AdminDown"}
	var sessions []BFDSession
	for _, raw := range answer {
		state, known := states[raw.Status]
		if !known {
			return nil, fmt.Errorf("FRR's BFD session with %s: state %q is unknown", raw.Peer, raw.Status)
		}
		sessions = append(sessions, BFDSession{
			Neighbor: raw.Peer, Interface: raw.Interface, State: state,
			// RFC 5880 section 6.8.2 and 6.8.4: the slower of both sides counts.
			Interval:  time.Duration(max(raw.Transmit, raw.RemoteRX)) * time.Millisecond,
			Detection: time.Duration(raw.Multiplier*max(raw.Receive, raw.RemoteTX)) * time.Millisecond,
		})
	}
	slices.SortFunc(sessions, func(a, b BFDSession) int { return a.Neighbor.Compare(b.Neighbor) })
	return sessions, nil
}
