package membership

import (
	"context"
	"net/netip"
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
	// tidyInterval is the time between looks at what has been gone for long enough.
	tidyInterval = time.Second
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
	g.Go(func() error { return m.streamLoop(ctx, list) })
	g.Go(func() error { return m.verdictLoop(ctx, list) })
	g.Go(func() error { return m.joinLoop(ctx, list) })
	g.Go(func() error { return m.meetLoop(ctx, list) })
	g.Go(func() error { return m.keyLoop(ctx) })
	g.Go(func() error { return m.tidyLoop(ctx) })
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
	m.running.RLock()
	defer m.running.RUnlock()
	m.mu.Lock()
	if m.leaving || m.list == nil {
		m.leaving = true
		m.mu.Unlock()
		return
	}
	m.leaving = true
	m.farewell = &notice{node: m.cfg.Node, epoch: m.store.own().epoch, left: true, returns: returns, standIn: standIn}
	targets, msg := m.others(), leaveMessage(*m.farewell)
	m.queue.QueueBroadcast(&broadcast{name: "leave " + m.cfg.Node, msg: msg})
	m.mu.Unlock()
	level.Info(m.logger).Log("msg", "leaving", "members", len(targets)+1, "returns", returns, "stand_in", standIn)
	sendPackets(m.list, targets, msg)
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

// tidyLoop forgets what is long gone, and keeps the view in step with the time.
func (m *Membership) tidyLoop(ctx context.Context) error {
	t := time.NewTicker(tidyInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		m.mu.Lock()
		m.tidy()
		if len(m.gone) > 0 {
			m.publish()
		}
		m.mu.Unlock()
	}
}
