package main

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"github.com/berth-lb/berth/internal/membership"
)

// offerPatience is how long an address is offered to another node before that is
// given up.
const offerPatience = 3 * time.Second

// formingPatience is how long a speaker waits for the others that the API knows of,
// where nobody claims anything because all have just started.
const formingPatience = 5 * time.Second

// resumePatience is how long a speaker waits until it answers for what it took up
// before it says that it is back.
const resumePatience = 2 * time.Second

// minorityHold is for how long what a node claims counts as a minority's once it
// is not one any more: the others have to be heard first.
const minorityHold = time.Second

// holdings are what a speaker has told the others about the addresses it owns.
type holdings struct {
	// joined says that it has taken up what it claimed before it was restarted.
	joined   bool
	joinedAt time.Time
	// former is what it took up then, for a moment.
	former map[netip.Addr]membership.Claim
	claims map[netip.Addr]membership.Claim
	// waiting says that it owns addresses that it claims as soon as it answers for
	// them.
	waiting bool
	// minority says that the last plan saw a minority of the speakers, and minorityAt
	// when one did last, or had just ceased to.
	minority   bool
	minorityAt time.Time
	// disputed are the addresses it owns that others claimed too.
	disputed map[netip.Addr]bool
	// yields are the addresses to give up to a foreign host that has them.
	yields map[netip.Addr]bool
	// offered is since when it offers addresses to other nodes.
	offered map[netip.Addr]time.Time
	// standingInFor are the nodes for which it answers.
	standingInFor []string
	rebalancing   rebalancing
	// accusedSince is since when others do not hear this node; see audit.go.
	accusedSince time.Time
}

func newHoldings() holdings {
	return holdings{
		claims: map[netip.Addr]membership.Claim{}, disputed: map[netip.Addr]bool{}, offered: map[netip.Addr]time.Time{},
	}
}

// planInput gathers what a plan depends on.
func (s *speaker) planInput(view *membership.View) planInput {
	return planInput{
		self: s.self, config: s.world.config, services: s.world.servicesInOrder(), nodes: withFormer(s.world.nodesInOrder(), view),
		now: s.clock.Now(), view: view, standing: s.others.standing(),
		rebalance:    s.rebalancing.active(s.world.config.L2Advertisements, s.clock.Now()),
		wasMinority:  s.minority || s.clock.Since(s.minorityAt) < minorityHold,
		formingUntil: s.joinedAt.Add(formingPatience),
		joining:      !s.joined, claims: s.claims, held: s.held, standIns: s.standIns, passed: s.successors.passed(),
		fresh:     s.world.fresh.at(s.clock.Now()),
		overheard: s.conflicts.heardClaims(),
	}
}

// join takes up what the former process on this node claimed and nobody else has
// claimed since. The others have to hear of that before they hear that this
// speaker is back, or they would take its addresses for free.
func (s *speaker) join(view *membership.View) {
	p := makePlan(s.planInput(view))
	s.claims = p.claims
	s.members.SetClaims(maps.Clone(s.claims))
	s.joined, s.joinedAt, s.former = true, s.clock.Now(), s.claims
	if former := view.Former.Len(); former > 0 {
		level.Info(s.logger).Log("msg", "taking up what this node owned before", "claimed", former, "kept", len(s.claims))
	}
}

// resuming says whether this speaker does not answer yet for all that it took up
// when it joined. Until it does, or cannot for long, others stand in for it.
func (s *speaker) resuming() bool {
	if s.clock.Since(s.joinedAt) >= resumePatience {
		return false
	}
	answered := s.announcer.Applied().Addresses
	for addr := range s.former {
		if isIn(s.held, addr) && len(answered[addr]) == 0 {
			return true
		}
	}
	return false
}

// freshlyJoined says whether this speaker has only just joined the others.
func (s *speaker) freshlyJoined() bool {
	fresh := s.clock.Since(s.joinedAt) < restartGrace
	if !fresh {
		s.former = nil
	}
	return fresh
}

// claim tells the others what this node owns now. A new address is claimed only
// once this node answers for it, because until then its former owner does. It
// returns when it wants to be called again, if nothing else happens; zero for
// never.
func (s *speaker) claim(p *plan) (again time.Time) {
	s.waiting = false
	if !s.joined {
		return time.Time{}
	}
	answered := s.announcer.Applied().Addresses
	next := make(map[netip.Addr]membership.Claim, len(p.claims))
	for addr, c := range p.claims {
		if _, had := s.claims[addr]; !had && len(answered[addr]) == 0 {
			_, answering := p.desired[addr]
			s.waiting = s.waiting || answering
			continue
		}
		c = s.endOffer(addr, c)
		if c.To == "" || c.To == s.self {
			c.To = ""
			if isIn(p.withheld, addr) {
				c.To = s.self
			}
		}
		next[addr] = c
	}
	for addr := range s.offered {
		if to := next[addr].To; to == "" || to == s.self {
			delete(s.offered, addr)
		}
	}
	again = s.offer(p, next)
	again = earlier(again, s.leaveMinority(p.minority))
	if !maps.Equal(next, s.claims) {
		s.claims = next
		s.members.SetClaims(maps.Clone(next))
	}
	return again
}

// leaveMinority notes whether this node sees a minority, and returns when what it
// claims may cease to be provisional; zero if it need not wait for that.
func (s *speaker) leaveMinority(minority bool) (due time.Time) {
	now := s.clock.Now()
	if minority || s.minority {
		s.minorityAt = now
	}
	s.minority = minority
	if due = s.minorityAt.Add(minorityHold); minority || !now.Before(due) {
		return time.Time{}
	}
	return due
}

// endOffer takes an offer back that nobody has taken for long.
func (s *speaker) endOffer(addr netip.Addr, c membership.Claim) membership.Claim {
	if c.To != "" && c.To != s.self && s.clock.Since(s.offered[addr]) >= offerPatience {
		if s.rebalancing.refused != nil {
			s.rebalancing.refused[c.To] = true
		}
		level.Warn(s.logger).Log("msg", "the node that an address was offered to does not take it", "address", addr, "node", c.To)
		c.To = ""
	}
	return c
}

// disputes returns the addresses to announce again: those of this node that
// others have begun or ceased to claim.
func (s *speaker) disputes(p *plan) []netip.Addr {
	var changed []netip.Addr
	for addr := range p.contested {
		if !s.disputed[addr] {
			changed = append(changed, addr)
		}
	}
	for addr := range s.disputed {
		if _, owned := p.desired[addr]; owned && !p.contested[addr] {
			changed = append(changed, addr)
		}
	}
	s.disputed = p.contested
	return changed
}

// returns says whether this speaker, asked to stop, counts on being back soon, and
// which node then stands in for it. Where none can, the others had better take
// over, as they had where the Node was deleted, for then the speaker is not coming
// back.
func (s *speaker) returns() (returns bool, standIn string) {
	ring := s.others.standing().ring(s.self)
	if !s.standIns || len(ring) == 0 || s.world.nodes[s.self] == nil {
		return false, ""
	}
	return true, ring[0]
}

// tellStandIns logs for whom this node begins and ceases to answer.
func (s *speaker) tellStandIns(nodes []string) {
	for _, n := range nodes {
		if !slices.Contains(s.standingInFor, n) {
			level.Info(s.logger).Log("msg", "answering for a node whose speaker is away", "node", n)
		}
	}
	for _, n := range s.standingInFor {
		if !slices.Contains(nodes, n) {
			level.Info(s.logger).Log("msg", "no longer answering for another node", "node", n)
		}
	}
	s.standingInFor = nodes
	s.metrics.standingIn.Set(float64(len(nodes)))
}
