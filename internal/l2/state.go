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
	// Addresses holds, for each address that is answered for somewhere, the
	// names of those interfaces, sorted.
	Addresses map[netip.Addr][]string
	// Interfaces has one entry for each interface and protocol that some
	// desired address asks for, sorted by name, then protocol.
	Interfaces []InterfaceState
}

// InterfaceState tells how one protocol fares on one interface.
type InterfaceState struct {
	Name     string
	Protocol Protocol
	// Addresses counts those answered for.
	Addresses int
	// Err is nil while the responder works. It says what is wrong otherwise: no
	// such interface, a link that cannot (see netif.Link.CanARP and CanNDP), a
	// socket that could not be opened or a group that could not be joined, which
	// are tried again.
	Err error
	// Since is when Err last changed between nil and not nil.
	Since time.Time
}

// equal reports whether two states tell the same.
func (s *State) equal(o *State) bool {
	return slices.EqualFunc(s.Interfaces, o.Interfaces, func(a, b InterfaceState) bool {
		return a.Name == b.Name && a.Protocol == b.Protocol && a.Addresses == b.Addresses && message(a.Err) == message(b.Err)
	}) && maps.EqualFunc(s.Addresses, o.Addresses, slices.Equal)
}

// message is the text of err, empty for nil.
func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// report returns the present state, given what is wrong with each port that is
// wanted, and logs what changed.
func (l *loop) report(errs map[portKey]error) *State {
	s := &State{Addresses: l.state.Load().Addresses}
	if l.moved {
		l.moved = false
		s.Addresses = l.addresses()
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
	if p := l.ports[k]; p != nil {
		st.Addresses = len(p.held)
	}
	old, known := l.states[k]
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
	return st
}

// addresses returns which addresses are answered for, and where.
func (l *loop) addresses() map[netip.Addr][]string {
	out := make(map[netip.Addr][]string)
	for k, p := range l.ports {
		for addr := range p.held {
			out[addr] = append(out[addr], k.ifname)
		}
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}
