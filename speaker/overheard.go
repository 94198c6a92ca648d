package main

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/go-kit/log/level"

	"github.com/berth-lb/berth/internal/election"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/neighbor"
	"github.com/berth-lb/berth/internal/ownership"
)

// Speakers whose membership is disturbed (a packet filter before its port) cannot
// exchange their claims, though their nodes are on one Ethernet. After a while each
// takes over what the other had, and clients would find two owners. But they hear
// each other announce: that a speaker which the membership has lost announces an
// address is as good as its claim. The minority leaves it to the majority, and asks
// now and then whether that still answers.
const (
	// overheardRecheck is how often it is asked.
	overheardRecheck = 10 * time.Second
	// overheardFirst is when it is asked first, by the node that the address elects:
	// where neither sees a majority, both have left it to the other.
	overheardFirst = time.Second
	// overheardGrace is for how long what was overheard counts once the membership
	// has found the speaker again, which may not have told its claims yet.
	overheardGrace = 5 * time.Second
	// overheardTries and overheardWait are how the question is put.
	overheardTries = 3
	overheardWait  = 200 * time.Millisecond
)

// overheard is an address that a speaker which the membership has lost was heard
// to announce.
type overheard struct {
	node   string // "" when it has fallen silent
	mac    l2.MAC
	ifname string
	// term is what it must have claimed it with at least.
	term uint64
	due  time.Time // when to ask
	// found is since when the membership has it again.
	found time.Time
}

// meetSpeaker deals with another speaker that has announced an address of this
// node, and says whether a plan may depend on it. Speakers settle such things by
// their claims, so each is let know the other's. If the membership has lost the
// other, one of them yields.
func (s *speaker) meetSpeaker(node string, r l2.Rival) bool {
	s.metrics.rivals.WithLabelValues("speaker").Inc()
	s.members.Meet(node)
	view, standing := s.members.View(), s.others.standing()
	if view.Member(node) != nil && standing.of(node, true).state == ownership.Up {
		return false
	}
	if !s.outnumbered(view, standing) {
		s.announcer.Announce(r.Addr)
		return false
	}
	if !s.conflicts.overhears(node) {
		level.Warn(s.logger).Log("msg", "a speaker that the membership has lost announces addresses of this node, which leaves them to it; is the membership port blocked?",
			"node", node, "address", r.Addr, "mac", r.MAC)
	}
	first := overheardFirst
	if !election.Outranks(r.Addr, election.NewNode(s.self), election.NewNode(node)) {
		first *= 2
	}
	s.conflicts.heard[r.Addr] = &overheard{
		node: node, mac: r.MAC, ifname: r.Interface, term: s.claims[r.Addr].Term + 1, due: s.clock.Now().Add(first),
	}
	return true
}

// outnumbered says whether more speakers may have lost this node than it has in
// sight; of two halves, that without the first of all names is outnumbered. Those
// that stand in for each other do not count: it is not known what they do.
func (s *speaker) outnumbered(view *membership.View, standing *standing) bool {
	living, first, firstLost := 0, "", ""
	for i := range view.Members {
		name := view.Members[i].Node
		switch {
		case name == s.self || standing.of(name, true).state == ownership.Up:
			living++
			first = cmp.Or(first, name)
		default:
			firstLost = cmp.Or(firstLost, name)
		}
	}
	if len(view.Gone) > 0 && (firstLost == "" || view.Gone[0].Node < firstLost) {
		firstLost = view.Gone[0].Node
	}
	if known := max(view.Known, living); 2*living != known {
		return 2*living < known
	}
	return firstLost != "" && firstLost < first
}

// overhears says whether anything counts that the node was heard to announce.
func (c *conflicts) overhears(node string) bool {
	for _, o := range c.heard {
		if o.node == node {
			return true
		}
	}
	return false
}

// followOverheard asks for addresses that are left to others, and forgets those of
// which the membership knows by now. It returns when it wants to be called again;
// zero for never.
func (s *speaker) followOverheard(view *membership.View) (again time.Time) {
	c, now := s.conflicts, s.clock.Now()
	standing := s.others.standing()
	for addr, o := range c.heard {
		if o.node == "" {
			if isIn(s.claims, addr) || !now.Before(o.due) {
				delete(c.heard, addr)
			}
			continue
		}
		m := view.Member(o.node)
		if m == nil || standing.of(o.node, true).state != ownership.Up {
			o.found = time.Time{}
		} else if o.found.IsZero() {
			o.found = now
		}
		if !o.found.IsZero() {
			due := o.found.Add(overheardGrace)
			if c, claims := m.Claims.Get(addr); claims && c.Term >= o.term || !now.Before(due) {
				delete(s.conflicts.heard, addr)
				continue
			}
			again = earlier(again, due)
		}
		if now.Before(o.due) {
			again = earlier(again, o.due)
			continue
		}
		o.due = now.Add(overheardRecheck + rand.N(overheardFirst)) // lest two ask in step
		c.order(order{addr: addr, interfaces: []string{o.ifname}, heard: true, mac: o.mac})
	}
	return again
}

// ask finds out who answers for an address that was left to another speaker.
func (c *conflicts) ask(ctx context.Context, o order) finding {
	f := finding{addr: o.addr, heard: true}
	for _, to := range []l2.MAC{o.mac, {}} { // it may have moved on among the others
		f.rival, f.err = c.asker.Ask(ctx, neighbor.Target{Interface: o.interfaces[0], Addr: o.addr, MAC: to}, overheardTries, overheardWait)
		if f.err == nil {
			f.ifname = o.interfaces[0]
			return f
		}
	}
	return f
}

// concludeHeard takes in who answers for an address that was left to another
// speaker: if nobody does it is anybody's again.
func (c *conflicts) concludeHeard(f finding, speakerWith func(l2.MAC) string) {
	o := c.heard[f.addr]
	if o == nil || o.node == "" {
		return
	}
	node := ""
	if f.ifname != "" {
		node = speakerWith(f.rival)
	}
	switch {
	case node != "":
		o.node, o.mac = node, f.rival
	case f.ifname == "" && !errors.Is(f.err, neighbor.ErrNoAnswer): // it could not be asked
	default:
		level.Info(c.logger).Log("msg", "the speaker that an address was left to does not answer for it any more", "address", f.addr, "node", o.node)
		o.node, o.due = "", c.clock.Now().Add(overheardRecheck) // that somebody had it is worth knowing
	}
}

// heardClaims returns what others were heard to announce as what they must have
// claimed, and by "" what those that have fallen silent had.
func (c *conflicts) heardClaims() map[string]map[netip.Addr]ownership.Claim {
	if len(c.heard) == 0 {
		return nil
	}
	all := map[string]map[netip.Addr]ownership.Claim{}
	for addr, o := range c.heard {
		if all[o.node] == nil {
			all[o.node] = map[netip.Addr]ownership.Claim{}
		}
		all[o.node][addr] = ownership.Claim{Term: o.term}
	}
	return all
}

// revive takes nodes for orphaned at worst whose speakers are heard, though the
// membership and the watch have given them up.
func (j *judge) revive(in planInput) {
	for i, n := range in.nodes {
		if m := goneMember(in.view, n.name); m != nil && !n.former && j.judged[i].State == ownership.Down && in.overheard[n.name] != nil {
			j.judged[i].State, j.members[i] = ownership.Orphaned, m
		}
	}
}
