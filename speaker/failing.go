package main

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

const (
	// failureGrace is how long an interface may fail before that is reported.
	failureGrace = time.Second
	// unsentGrace is for how long no packet may leave an interface before that counts
	// as a failure of it.
	unsentGrace = 2 * time.Second
	// recoveryGrace is how long an interface that failed has to work before others
	// are told that it does: sockets that break over and over can be opened.
	recoveryGrace = 5 * time.Second
	// failureMemory is for how long an interface counts as failing that nothing is
	// asked of any more, so that nobody knows.
	failureMemory = time.Minute
)

// failures are what is wrong with announcements on this node's interfaces.
type failures map[port]string

// port is one protocol on one interface.
type port struct {
	name     string
	protocol l2.Protocol
}

// failuresIn returns what has been wrong for longer than grace. Much is wrong
// for a moment while a link goes down, before the plan has taken that in.
func failuresIn(state *l2.State, now time.Time, grace time.Duration) failures {
	all := failures{}
	for i := range state.Interfaces {
		switch s := &state.Interfaces[i]; {
		case s.Err != nil && now.Sub(s.Since) >= grace:
			all[port{s.Name, s.Protocol}] = s.Err.Error()
		case unsent(s, now):
			all[port{s.Name, s.Protocol}] = "no packet leaves: " + s.Unsent.Err.Error()
		}
	}
	return all
}

// unsent says whether nothing leaves an interface. If nothing was to leave it for
// long, it is not known any more.
func unsent(s *l2.InterfaceState, now time.Time) bool {
	return s.Unsent.Last.Sub(s.Unsent.First) >= unsentGrace && now.Sub(s.Unsent.Last) < failureMemory
}

// of returns why addr is answered for on none of the interfaces, or "".
func (f failures) of(addr netip.Addr, interfaces []string) string {
	var reasons []string
	for _, name := range interfaces {
		reason, bad := f[port{name, l2.ProtocolOf(addr)}]
		if !bad {
			return ""
		}
		reasons = append(reasons, reason)
	}
	return strings.Join(reasons, ", ")
}

// unfit are the interfaces over which this node had better own nothing, with when
// each was last seen to fail.
type unfit map[port]time.Time

// follow takes in how interfaces fare, and says whether others are to be told
// something else. What fails are failuresIn of the state.
func (u unfit) follow(failing failures, state *l2.State, links []membership.Link, now time.Time) (changed bool) {
	for p := range failing {
		_, known := u[p]
		changed = changed || !known
		u[p] = now
	}
	for p, last := range u {
		i := slices.IndexFunc(state.Interfaces, func(s l2.InterfaceState) bool { return s.Name == p.name && s.Protocol == p.protocol })
		patience := failureMemory
		if i >= 0 {
			patience = recoveryGrace
			if s := &state.Interfaces[i]; s.Err != nil || unsent(s, now) {
				u[p] = now
				patience = failureMemory
			}
		}
		linked := slices.ContainsFunc(links, func(l membership.Link) bool { return l.Name == p.name })
		if !linked || now.Sub(last) >= patience {
			delete(u, p) // a link that comes back is another
			changed = true
		}
	}
	return changed
}

// mark returns the links with what they are unfit for.
func (u unfit) mark(links []membership.Link) []membership.Link {
	if len(u) == 0 {
		return links
	}
	marked := slices.Clone(links)
	for i := range marked {
		l := &marked[i]
		_, l.ARPFails = u[port{l.Name, l2.ARP}]
		_, l.NDPFails = u[port{l.Name, l2.NDP}]
	}
	return marked
}

// failsFor says whether a node could not answer for the address that is being
// placed, though it has links for it.
func (j *judge) failsFor(addr netip.Addr, i int) bool {
	if !slices.ContainsFunc(j.members[i].Info.Links, func(l membership.Link) bool { return l.Fails(addr) }) {
		return false // most never do
	}
	names := j.class.nodes[i].interfaces(addr)
	return !slices.ContainsFunc(j.members[i].Info.Links, func(l membership.Link) bool {
		return slices.Contains(names, l.Name) && !l.Fails(addr)
	})
}
