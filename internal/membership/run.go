package membership

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

const (
	// bindRetry is the time between attempts to listen: the former speaker of this node may still hold the port, and at
	// boot the node may not have its address yet.
	bindRetry = time.Second
	// leaveTimeout bounds the wait until the farewell was gossiped.
	leaveTimeout = 500 * time.Millisecond
	// expireInterval is the time between clearings of records that nobody needs.
	expireInterval = time.Minute
)

// Run takes part in the group until ctx ends, and then stops without a word, as a crash would; call Leave before. It
// returns nil.
func (m *Membership) Run(ctx context.Context) error {
	list := m.create(ctx)
	if list == nil {
		return nil
	}
	m.running.Lock()
	m.list = list
	m.running.Unlock()
	m.mu.Lock()
	m.addr = m.alive[m.cfg.Node] // memberlist has announced this node to itself
	level.Info(m.logger).Log("msg", "listening", "addr", m.addr, "encrypted", len(m.cfg.Key) > 0)
	m.publish()
	m.mu.Unlock()
	close(m.started)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.sendLoop(ctx, list) })
	g.Go(func() error { return m.joinLoop(ctx, list) })
	g.Go(func() error { return m.keyLoop(ctx) })
	g.Go(func() error { return m.expireLoop(ctx) })
	err := g.Wait()

	m.running.Lock()
	defer m.running.Unlock()
	m.list = nil
	_ = list.Shutdown() // logs its own failures and returns nil
	return err
}

// create opens the sockets and starts memberlist, trying again until that succeeds. It returns nil if ctx ends before.
func (m *Membership) create(ctx context.Context) *memberlist.Memberlist {
	for reported := false; ; {
		list, err := m.tryCreate(ctx)
		if err == nil {
			return list
		}
		if !reported {
			level.Error(m.logger).Log("msg", "cannot listen yet; trying again every second", "err", err)
			reported = true
		}
		select {
		case <-time.After(bindRetry):
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *Membership) tryCreate(ctx context.Context) (*memberlist.Memberlist, error) {
	transport, port, err := m.listen(ctx, m.listLogger())
	if err != nil {
		return nil, err
	}
	list, err := memberlist.Create(m.listConfig(transport, port))
	if err != nil {
		_ = transport.Shutdown()
		return nil, err
	}
	return list, nil
}

// Leave tells the others that this speaker is about to stop: for good, so that they take over at once, or to return, with
// the node standIn, if that is not empty, answering in its stead until then. It returns when that was sent, after 500 ms
// at most. The view stays what it was. Run goes on answering the others until its context ends.
func (m *Membership) Leave(returns bool, standIn string) {
	_, _ = returns, standIn
	m.running.RLock()
	defer m.running.RUnlock()
	m.mu.Lock()
	if m.leaving || m.list == nil {
		m.leaving = true
		m.mu.Unlock()
		return
	}
	m.leaving = true
	targets, msg := m.others(), leaveMessage(m.cfg.Node, m.store.own().epoch)
	m.mu.Unlock()
	level.Info(m.logger).Log("msg", "leaving", "members", len(targets)+1)
	for node, addr := range targets {
		_ = m.list.SendToAddress(memberlist.Address{Addr: addr.String(), Name: node}, msg)
	}
	if err := m.list.Leave(leaveTimeout); err != nil {
		level.Warn(m.logger).Log("msg", "others may learn late that this speaker left", "err", err)
	}
}

// others returns the living members but this one. The caller holds mu.
func (m *Membership) others() map[string]netip.AddrPort {
	others := make(map[string]netip.AddrPort, len(m.alive))
	for node, addr := range m.alive {
		if node != m.cfg.Node {
			others[node] = addr
		}
	}
	return others
}

// sendLoop delivers this speaker's record to the members that need it: all when it has changed, and each that joins.
func (m *Membership) sendLoop(ctx context.Context, list *memberlist.Memberlist) error {
	retry := time.NewTicker(resendInterval)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.sendKick:
		case <-retry.C:
		}
		m.send(list)
	}
}

func (m *Membership) send(list *memberlist.Memberlist) {
	m.mu.Lock()
	msg, targets, tries := recordMessage(m.store.own()), map[string]netip.AddrPort{}, map[string]int{}
	for node, n := range m.unsent {
		if addr, ok := m.alive[node]; ok {
			targets[node], tries[node] = addr, n
		}
	}
	clear(m.unsent)
	m.mu.Unlock()
	var wg sync.WaitGroup
	workers := make(chan struct{}, joinWorkers)
	for node, addr := range targets {
		if len(msg) <= maxGossip {
			// Gossip and state exchanges stand behind this packet, should it be lost.
			_ = list.SendToAddress(memberlist.Address{Addr: addr.String(), Name: node}, msg)
			continue
		}
		workers <- struct{}{}
		wg.Go(func() {
			defer func() { <-workers }()
			to := &memberlist.Node{Name: node, Addr: net.IP(addr.Addr().AsSlice()), Port: addr.Port()}
			if err := list.SendReliable(to, msg); err != nil {
				m.unsentAgain(node, tries[node]+1, err)
			}
		})
	}
	wg.Wait()
}

func (m *Membership) unsentAgain(node string, tries int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, newer := m.unsent[node]; newer {
		return
	}
	if tries < resendTries {
		m.unsent[node] = tries
		return
	}
	level.Warn(m.logger).Log("msg", "cannot tell a member about this node; it will learn by the next state exchange",
		"node", node, "err", err)
}

func (m *Membership) expireLoop(ctx context.Context) error {
	t := time.NewTicker(expireInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		m.mu.Lock()
		now := m.cfg.Clock.Now()
		m.store.expire(func(node string) bool { _, ok := m.alive[node]; return ok }, now)
		for node, d := range m.left {
			if now.Sub(d.at) > departureHold {
				delete(m.left, node)
			}
		}
		m.mu.Unlock()
	}
}
