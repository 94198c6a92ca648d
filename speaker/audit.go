package main

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/neighbor"
)

// Whether a speaker is heard on the network cannot be seen from inside it: its
// socket may receive nothing, or its packets may not leave. So those that stand in
// for a node ask it now and then for an address that it owns, as a client would.
// A speaker that has answered and does not any more is told by the gossip, and
// calls itself unhealthy, so that it is restarted while others stand in.
const (
	auditInterval = 5 * time.Second
	// auditFailures is how often in a row there may be no answer.
	auditFailures = 3
	// auditTries and auditWait are how each question is put.
	auditTries = 3
	auditWait  = 200 * time.Millisecond
	// accusedFor is how long a speaker is called mute before it believes it.
	accusedFor = 10 * time.Second
)

// asker asks for an address on a link; *neighbor.Prober is one.
type asker interface {
	Ask(ctx context.Context, t neighbor.Target, tries int, every time.Duration) (ether.MAC, error)
}

// audits asks the nodes that this one stands in for.
type audits struct {
	asker   asker
	logger  log.Logger
	failed  func() // called for each question without an answer
	changed chan struct{}

	mu       sync.Mutex
	targets  map[string][]neighbor.Target // by node: what it should answer
	answered map[string]bool              // by node: whether it ever has
	failures map[string]int
	mute     []string
}

func newAudits(a asker, logger log.Logger, failed func()) *audits {
	return &audits{
		asker: a, logger: logger, failed: failed, changed: make(chan struct{}, 1),
		targets: map[string][]neighbor.Target{}, answered: map[string]bool{}, failures: map[string]int{},
	}
}

// set says what to ask: of nodes that are up and whose speakers are there.
func (a *audits) set(targets map[string][]neighbor.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.targets = targets
	maps.DeleteFunc(a.answered, func(node string, _ bool) bool { return targets[node] == nil })
	maps.DeleteFunc(a.failures, func(node string, _ int) bool { return targets[node] == nil })
	a.conclude()
}

// found returns the nodes that do not answer.
func (a *audits) found() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mute
}

func (a *audits) run(ctx context.Context) error {
	for sleep(ctx, auditInterval) {
		a.mu.Lock()
		ask := map[string]neighbor.Target{}
		for node, targets := range a.targets {
			ask[node] = targets[rand.IntN(len(targets))]
		}
		a.mu.Unlock()
		var asking sync.WaitGroup
		for node, target := range ask {
			asking.Go(func() {
				_, err := a.asker.Ask(ctx, target, auditTries, auditWait)
				a.note(node, err)
			})
		}
		asking.Wait()
	}
	return nil
}

// note takes in what came of a question.
func (a *audits) note(node string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.targets[node] == nil:
		return // it does not have to answer any more
	case err == nil:
		a.answered[node], a.failures[node] = true, 0
	case errors.Is(err, neighbor.ErrNoAnswer):
		a.failed()
		a.failures[node]++
	}
	a.conclude()
}

// conclude works out who is mute. The caller holds mu.
func (a *audits) conclude() {
	var mute []string
	for node, n := range a.failures {
		if n >= auditFailures && a.answered[node] {
			mute = append(mute, node)
		}
	}
	slices.Sort(mute)
	if slices.Equal(mute, a.mute) {
		return
	}
	for _, node := range mute {
		if !slices.Contains(a.mute, node) {
			level.Warn(a.logger).Log("msg", "the speaker of a node is not heard on the network any more, though it lives", "node", node)
		}
	}
	a.mute = mute
	signal(a.changed)
}

// auditTargets says what the nodes that this one stands in for should answer.
func (s *speaker) auditTargets(p *plan) map[string][]neighbor.Target {
	targets := map[string][]neighbor.Target{}
	for addr, announcement := range p.standIns {
		node := p.ownerOf(p.placements[addr])
		if !announcement.Armed || p.pending[addr] {
			continue
		}
		for _, name := range announcement.Interfaces {
			targets[node] = append(targets[node], neighbor.Target{Interface: name, Addr: addr, MAC: announcement.StandIn[name]})
		}
	}
	return targets
}

// checkAccusations calls this speaker unhealthy when others have not heard it for
// long. It returns whether that is so.
func (s *speaker) checkAccusations() bool {
	accused := false
	view := s.members.View()
	for i := range view.Members {
		accused = accused || slices.Contains(view.Members[i].Info.Mute, s.self)
	}
	now := s.clock.Now()
	switch {
	case !accused:
		s.accusedSince = time.Time{}
	case s.accusedSince.IsZero():
		s.accusedSince = now
		level.Warn(s.logger).Log("msg", "other speakers do not hear this one on the network")
	}
	return accused && now.Sub(s.accusedSince) >= accusedFor
}
