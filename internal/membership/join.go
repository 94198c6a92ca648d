package membership

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
)

// joinLoop joins known peers: all of them in a round when the view is in doubt, those that are missing when the list of
// peers has changed, and a few of those that are still missing from time to time.
func (m *Membership) joinLoop(ctx context.Context, list *memberlist.Memberlist) error {
	j := joiner{m: m, list: list, workers: make(chan struct{}, joinWorkers)}
	defer j.wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		kicked := false
		select {
		case <-ctx.Done():
			return nil
		case <-m.joinKick:
			kicked = true
		case <-timer.C:
		}
		m.mu.Lock()
		doubt, ready, leaving := !m.settling.settled(), m.hasPeers, m.leaving
		round, limit := m.settling.begin()
		m.mu.Unlock()
		switch {
		case leaving:
			return nil
		case !ready: // nobody said yet whom to look for
		case doubt:
			j.round(ctx, round, limit)
		case kicked:
			j.joinMissing(ctx, startLimit)
		default:
			j.reach(ctx, n%joinEvery == 0)
		}
		// Spread, so that the two sides of a partition do not always try at the same moment.
		timer.Reset(reachInterval + rand.N(reachInterval/4))
	}
}

// missing returns the peers that are known and not members. The caller holds mu.
func (m *Membership) missing() []Peer {
	return slices.DeleteFunc(m.worthJoining(), func(p Peer) bool {
		_, ok := m.alive[p.Node]
		return ok
	})
}

// worthJoining returns the peers that are known and not about to stop. The caller holds mu.
func (m *Membership) worthJoining() []Peer {
	return slices.DeleteFunc(slices.Clone(m.peers), func(p Peer) bool { return m.recentlyLeft(p.Node) })
}

// recentlyLeft reports whether node said that it leaves so short a time ago that it is no use to look for it: it may
// still answer, and is not coming back. One that was restarted meanwhile joins by itself. The caller holds mu.
func (m *Membership) recentlyLeft(node string) bool {
	d, ok := m.gone[node]
	return ok && d.left && m.cfg.Clock.Since(d.at) <= departureHold
}

// joiner runs the joins of one joinLoop.
type joiner struct {
	m       *Membership
	list    *memberlist.Memberlist
	workers chan struct{}
	wg      sync.WaitGroup
}

// round answers a doubt about the view: it is over when state was exchanged with every known peer that answers, and
// every member has said something about itself, or when limit has passed. Members are no exception: they may have given
// this speaker up while it still counts them as members, and what makes its claims safe is that they know of it. A peer
// that is there but has another key is no silent one: it holds addresses, so the doubt stays.
func (j *joiner) round(ctx context.Context, round uint64, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	j.m.mu.Lock()
	peers := j.m.worthJoining()
	j.m.mu.Unlock()
	j.joinAll(ctx, peers, j.introduce)
	for !j.m.allKnown() {
		select {
		case <-ctx.Done():
		case <-time.After(passDelay):
			continue
		}
		break
	}
	m := j.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if refused := m.refusedPeers(); len(refused) > 0 {
		m.reportRefused(refused)
		m.publish()
		return // joinLoop tries again after a pause
	}
	m.settling.finish(round)
	if m.settling.settled() {
		delete(m.silent, refusedByPeers)
		level.Info(m.logger).Log("msg", "membership settled", "members", len(m.alive), "missing", len(m.missing()))
	} else {
		kick(m.joinKick)
	}
	m.publish()
}

// allKnown reports whether every member has said something about itself.
func (m *Membership) allKnown() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for node := range m.alive {
		if _, ok := m.store.info(node); !ok && !m.departed(node) {
			return false
		}
	}
	return true
}

// joinMissing joins the missing peers and returns when each attempt is over, or after limit.
func (j *joiner) joinMissing(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	j.m.mu.Lock()
	missing := j.m.missing()
	j.m.mu.Unlock()
	j.joinAll(ctx, missing, j.join)
}

// joinAll calls join for every peer and returns when all calls have, or when ctx ends.
func (j *joiner) joinAll(ctx context.Context, peers []Peer, join func(context.Context, Peer)) {
	shuffle(peers) // should most of them be dead, let everybody begin with others
	done := make(chan struct{})
	var all sync.WaitGroup
	for _, p := range peers {
		all.Add(1)
		j.wg.Go(func() {
			defer all.Done()
			join(ctx, p)
		})
	}
	j.wg.Go(func() { all.Wait(); close(done) })
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// join exchanges state with the peer until it is a member. It may have become one meanwhile: usually the first peer that
// answers knows all the others.
func (j *joiner) join(ctx context.Context, p Peer) {
	for range joinPasses {
		if j.m.isMember(p.Node) || !j.exchange(ctx, p) || j.m.isMember(p.Node) {
			return
		}
		pause(ctx)
	}
}

// introduce exchanges state with the peer until it is a member and has heard of this speaker: who counted as dead learns
// so by the first exchange, and the second carries the refutation.
func (j *joiner) introduce(ctx context.Context, p Peer) {
	exchanged := 0
	for range joinPasses {
		if j.exchange(ctx, p) {
			exchanged++
		}
		if exchanged > 1 && j.m.isMember(p.Node) || ctx.Err() != nil {
			return
		}
		pause(ctx)
	}
}

// exchange does one full state exchange with the peer and says whether it succeeded.
func (j *joiner) exchange(ctx context.Context, p Peer) bool {
	select {
	case j.workers <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-j.workers }()
	if ctx.Err() != nil {
		return false
	}
	if _, err := j.list.Join([]string{p.Node + "/" + p.Addr.String()}); err != nil {
		j.m.joinFailed(p, err)
		return false
	}
	j.m.metrics.joins.WithLabelValues("ok").Inc()
	j.m.mu.Lock()
	delete(j.m.refused, p.Node)
	j.m.mu.Unlock()
	return true
}

func pause(ctx context.Context) {
	select {
	case <-time.After(passDelay):
	case <-ctx.Done():
	}
}

func (m *Membership) isMember(node string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.alive[node]
	return ok
}

// joinFailed reports that a peer could not be joined for some time, once until it is a member or gone from the list. One
// that has just failed was reported as that.
func (m *Membership) joinFailed(p Peer, err error) {
	m.metrics.joins.WithLabelValues("failed").Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leaving {
		return
	}
	if isKeyError(err.Error()) {
		m.refused[p.Node] = m.cfg.Clock.Now()
		m.reportKey(p.Addr.Addr().String())
		return
	}
	f := m.unreached[p.Node]
	if f == nil {
		f = &failure{since: m.cfg.Clock.Now()}
		m.unreached[p.Node] = f
	}
	if !f.reported && m.cfg.Clock.Since(f.since) > reportAfter {
		f.reported = true
		_, cause, found := strings.Cut(err.Error(), "* ") // behind the headline of a list of errors
		if !found {
			cause = err.Error()
		}
		level.Warn(m.logger).Log("msg", "speaker known from the API cannot be reached; trying again until it can",
			"node", p.Node, "addr", p.Addr, "err", strings.TrimSpace(cause))
	}
}

// failure is since when a peer cannot be joined.
type failure struct {
	since    time.Time
	reported bool
}

// isKeyError recognizes what memberlist says about data that was encrypted with another key, or not at all.
func isKeyError(text string) bool {
	return strings.Contains(text, "no installed keys could decrypt") ||
		strings.Contains(text, "encryption is configured but remote state is not encrypted") ||
		strings.Contains(text, "remote state is encrypted and encryption is not configured")
}

// reach looks for a few of the missing peers: by a ping first, because a packet costs next to nothing and is not held up
// by TCP's retransmission timer when a partition heals, and by joining when that is answered or is due anyway.
func (j *joiner) reach(ctx context.Context, joinAnyway bool) {
	j.m.mu.Lock()
	missing := j.m.missing()
	j.m.mu.Unlock()
	shuffle(missing)
	for _, p := range missing[:min(len(missing), reachPeers)] {
		j.wg.Go(func() {
			_, err := j.list.Ping(p.Node, net.UDPAddrFromAddrPort(p.Addr))
			if (err == nil || joinAnyway) && ctx.Err() == nil {
				j.join(ctx, p)
			}
		})
	}
}

func shuffle(peers []Peer) {
	rand.Shuffle(len(peers), func(a, b int) { peers[a], peers[b] = peers[b], peers[a] })
}
