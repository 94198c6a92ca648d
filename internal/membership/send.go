package membership

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
)

const (
	// sendSpacing is how long changes that follow each other fast are gathered.
	sendSpacing = 5 * time.Millisecond
	// maxBurst is how many packets are sent to a member at once; more could overflow its socket's buffer, and go over a
	// stream.
	maxBurst = 64
	// maxGreeting is up to how many packets a new member is told everything by; it has most of it from the state exchange.
	maxGreeting = 8
)

// tellInfo has this speaker's record sent to all members. The caller holds mu.
func (m *Membership) tellInfo() {
	own := m.store.own()
	if msg := recordMessage(own); len(msg) <= maxGossip {
		m.queue.QueueBroadcast(&broadcast{name: own.node, msg: msg})
	}
	m.newsInfo = true
	kick(m.sendKick)
}

// tellParts has the chunks with the indices sent to all members. The caller holds mu.
func (m *Membership) tellParts(indices []int) {
	for _, i := range indices {
		m.chunks.QueueBroadcast(chunkBroadcast(m.store.pack.chunk(i)))
		if !slices.Contains(m.newsParts, i) {
			m.newsParts = append(m.newsParts, i)
		}
	}
	if len(indices) > 0 {
		kick(m.sendKick)
	}
}

// tellAll has everything sent to all members. The caller holds mu.
func (m *Membership) tellAll() {
	m.newsParts = nil
	all := make([]int, m.store.pack.chunks())
	for i := range all {
		all[i] = i
	}
	m.tellParts(all)
	m.tellInfo()
}

// sendLoop tells the members what is new about this speaker, and those that are new everything.
func (m *Membership) sendLoop(ctx context.Context, list *memberlist.Memberlist) error {
	tick := time.NewTicker(lateInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.sendKick:
		case <-tick.C:
			m.mu.Lock()
			m.tellParts(indices(m.store.pack.tick()))
			m.mu.Unlock()
			continue
		}
		m.send(list)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sendSpacing):
		}
	}
}

func (m *Membership) send(list *memberlist.Memberlist) {
	m.mu.Lock()
	others := m.others()
	// What a speaker claims goes before its record: when that no longer abstains, its claims are there.
	news := make([][]byte, 0, len(m.newsParts)+1)
	for _, i := range m.newsParts {
		news = append(news, chunkMessage(m.store.pack.chunk(i)))
	}
	if m.newsInfo {
		news = append(news, recordMessage(m.store.own()))
	}
	greeted := map[string]netip.AddrPort{}
	for node := range m.joined {
		greeted[node] = others[node]
		delete(others, node)
	}
	greeting := m.greeting()
	m.newsParts, m.newsInfo = m.newsParts[:0], false
	clear(m.joined)
	if !packable(news, maxBurst) {
		m.stream(others)
		news = nil
	}
	if !packable(greeting, maxGreeting) {
		m.stream(greeted)
		greeting = nil
	}
	m.mu.Unlock()
	// Gossip and state exchanges stand behind these packets, should one be lost.
	sendPackets(list, others, news...)
	sendPackets(list, greeted, greeting...)
}

// greeting returns all that there is to tell about this speaker, or more than goes into packets. The caller holds mu.
func (m *Membership) greeting() [][]byte {
	if len(m.joined) == 0 {
		return nil
	}
	var msgs [][]byte
	for i := range min(m.store.pack.chunks(), maxGreeting) {
		msgs = append(msgs, chunkMessage(m.store.pack.chunk(i)))
	}
	return append(msgs, recordMessage(m.store.own()))
}

// packable reports whether the messages can be sent as packets, one each.
func packable(msgs [][]byte, limit int) bool {
	return len(msgs) <= limit && !slices.ContainsFunc(msgs, func(msg []byte) bool { return len(msg) > maxGossip })
}

// sendPackets sends the messages to all of the members, one message after the other, which gives each member some time
// between two.
func sendPackets(list *memberlist.Memberlist, to map[string]netip.AddrPort, msgs ...[]byte) {
	for _, msg := range msgs {
		for node, addr := range to {
			_ = list.SendToAddress(memberlist.Address{Addr: addr.String(), Name: node}, msg)
		}
	}
}

// stream has the members told everything over a stream. The caller holds mu.
func (m *Membership) stream(to map[string]netip.AddrPort) {
	for node := range to {
		m.unsent[node] = 0
	}
	kick(m.streamKick)
}

// streamLoop tells the members everything that need it over a stream. It is apart from sendLoop because a member that has
// just died holds it up.
func (m *Membership) streamLoop(ctx context.Context, list *memberlist.Memberlist) error {
	retry := time.NewTicker(resendInterval)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.streamKick:
		case <-retry.C:
		}
		m.sendStreams(list)
	}
}

func (m *Membership) sendStreams(list *memberlist.Memberlist) {
	m.mu.Lock()
	targets, tries := map[string]netip.AddrPort{}, map[string]int{}
	for node, n := range m.unsent {
		if addr, ok := m.alive[node]; ok {
			targets[node], tries[node] = addr, n
		}
	}
	clear(m.unsent)
	var msg []byte
	if len(targets) > 0 {
		msg = stateMessage(m.store.items(m.cfg.Node)...)
	}
	m.mu.Unlock()
	var wg sync.WaitGroup
	workers := make(chan struct{}, joinWorkers)
	for node, addr := range targets {
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
