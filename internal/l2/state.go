package l2

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/go-kit/log/level"
)

// State is what an Announcer has really applied. It is immutable.
type State struct {
	// Addresses holds, for each address that is answered for somewhere as its
	// owner, the names of those interfaces, sorted.
	Addresses map[netip.Addr][]string
	// StandIns holds the same for addresses that are answered for with the MAC
	// of their owner.
	StandIns map[netip.Addr][]string
	// Interfaces has one entry for each interface and protocol that some
	// desired address asks for, sorted by name, then protocol.
	Interfaces []InterfaceState
}

// InterfaceState tells how one protocol fares on one interface.
type InterfaceState struct {
	Name     string
	Protocol Protocol
	// Addresses counts those answered for as their owner, StandIns those
	// answered for with the owner's MAC, and Armed those whose queries are
	// remembered.
	Addresses, StandIns, Armed int
	// Err is nil while the responder works. It says what is wrong otherwise: no
	// such interface, a link that cannot (see netif.Link.CanARP and CanNDP), a
	// socket that could not be opened or a group that could not be joined, which
	// are tried again.
	Err error
	// Since is when Err last changed between nil and not nil.
	Since time.Time

	// Queries counts the requests for any of the addresses that were seen,
	// LastQuery is when the last was, zero if never. SendErrors counts packets
	// that the link did not take, and Unsent tells of those since the last that it
	// did take. They go on counting while the State is in force, as they do not
	// count as a change of it.
	Queries    uint64
	LastQuery  time.Time
	SendErrors uint64
	Unsent     Unsent

	stats *portStats
}

// Unsent tells of packets that a link did not take, none of which it has since:
// when the first and the last of them were to leave, and what is wrong. It is zero
// if the last packet left.
type Unsent struct {
	First, Last time.Time
	Err         error
}

// unsentMemory is how long after a packet that did not leave another counts as part
// of the same failure: what happens once in a while is none.
const unsentMemory = 10 * time.Second

// sent takes in what became of a packet.
func (s *portStats) sent(now time.Time, err error) {
	if err == nil {
		if s.unsent.Load() != nil {
			s.unsent.Store(nil)
		}
		return
	}
	s.sendErrors.Add(1)
	u := Unsent{First: now, Last: now, Err: err}
	if before := s.unsent.Load(); before != nil && now.Sub(before.Last) < unsentMemory {
		u.First = before.First
	}
	s.unsent.Store(&u)
}

// current returns s with the present figures.
func (s *State) current() *State {
	out := *s
	out.Interfaces = slices.Clone(s.Interfaces)
	for i := range out.Interfaces {
		st := &out.Interfaces[i]
		if st.stats == nil {
			continue
		}
		st.Queries, st.SendErrors = st.stats.queries.Load(), st.stats.sendErrors.Load()
		if unsent := st.stats.unsent.Load(); unsent != nil {
			st.Unsent = *unsent
		}
		if last := st.stats.lastQuery.Load(); last != 0 {
			st.LastQuery = time.Unix(0, last)
		}
	}
	return &out
}

// equal reports whether two states tell the same.
func (s *State) equal(o *State) bool {
	return slices.EqualFunc(s.Interfaces, o.Interfaces, func(a, b InterfaceState) bool {
		return a.Name == b.Name && a.Protocol == b.Protocol && a.Addresses == b.Addresses &&
			a.StandIns == b.StandIns && a.Armed == b.Armed && text(a.Err) == text(b.Err)
	}) && maps.EqualFunc(s.Addresses, o.Addresses, slices.Equal) && maps.EqualFunc(s.StandIns, o.StandIns, slices.Equal)
}

// text is the text of err, empty for nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// report returns the present state, given what is wrong with each port that is
// wanted, and logs what changed.
func (l *loop) report(errs map[portKey]error) *State {
	last := l.state.Load()
	s := &State{Addresses: last.Addresses, StandIns: last.StandIns}
	if l.moved {
		l.moved = false
		s.Addresses, s.StandIns = l.addresses()
	}
	for k := range l.states {
		if _, ok := errs[k]; !ok {
			level.Info(l.logger).Log("msg", "no longer announcing on interface", "interface", k.ifname, "protocol", k.proto)
			delete(l.states, k)
			l.metrics.forget(k)
		}
	}
	for k, err := range errs {
		s.Interfaces = append(s.Interfaces, l.reportPort(k, err))
	}
	slices.SortFunc(s.Interfaces, func(a, b InterfaceState) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol))
	})
	return s
}

// reportPort returns the state of one wanted port and logs a transition.
func (l *loop) reportPort(k portKey, err error) InterfaceState {
	st := InterfaceState{Name: k.ifname, Protocol: k.proto, Err: err}
	old, known := l.states[k]
	st.stats = old.stats
	if p := l.ports[k]; p != nil {
		st.stats = p.stats
		for _, r := range p.held {
			switch r {
			case owner:
				st.Addresses++
			case standIn:
				st.StandIns++
			case armed:
				st.Armed++
			}
		}
	}
	st.Since = old.Since
	if !known || (old.Err == nil) != (err == nil) {
		st.Since = l.clock.Now()
		if err == nil {
			level.Info(l.logger).Log("msg", "announcing on interface", "interface", k.ifname, "protocol", k.proto, "addresses", st.Addresses)
		} else {
			level.Warn(l.logger).Log("msg", "cannot announce on interface", "interface", k.ifname, "protocol", k.proto, "err", err)
		}
	}
	l.states[k] = st
	l.metrics.addresses.WithLabelValues(k.proto.String(), k.ifname).Set(float64(st.Addresses))
	l.metrics.standIns.WithLabelValues(k.proto.String(), k.ifname).Set(float64(st.StandIns))
	return st
}

// addresses returns which addresses are answered for, and where: as their owner,
// and for their owner.
func (l *loop) addresses() (owned, standIns map[netip.Addr][]string) {
	owned, standIns = make(map[netip.Addr][]string), make(map[netip.Addr][]string)
	for k, p := range l.ports {
		alone := []string{k.ifname} // shared, as most addresses are on one interface
		for addr, r := range p.held {
			out := owned
			switch r {
			case armed:
				continue
			case standIn:
				out = standIns
			}
			if names := out[addr]; names != nil {
				out[addr] = append(slices.Clip(names), k.ifname)
			} else {
				out[addr] = alone
			}
		}
	}
	for _, out := range []map[netip.Addr][]string{owned, standIns} {
		for _, names := range out {
			if len(names) > 1 {
				slices.Sort(names)
			}
		}
	}
	return owned, standIns
}
