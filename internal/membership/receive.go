package membership

import (
	"strconv"

	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
)

// relayChunks is up to how many new chunks of one message are passed on by gossip. More come with the full state of another
// speaker, from which everybody else gets them too.
const relayChunks = 16

// receive takes in a message of another speaker. News are passed on by gossip if they fit in a packet; larger ones are
// delivered to everybody by the speaker that they are about.
func (m *Membership) receive(b []byte) {
	msg, err := decodeMessage(b, m.knows)
	if err != nil {
		m.metrics.decodeErrors.Inc()
		level.Debug(m.logger).Log("msg", "cannot read a message of another speaker, or part of it", "err", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if msg.verdict != nil {
		m.hear(*msg.verdict)
		return
	}
	changed := m.receiveRecords(msg.records)
	changed = m.receiveChunks(msg.chunks) || changed
	for _, n := range msg.departures {
		changed = m.receiveDeparture(n) || changed
	}
	if msg.leave != nil && m.receiveLeave(*msg.leave) {
		m.queue.QueueBroadcast(&broadcast{name: "leave " + msg.leave.node, msg: leaveMessage(*msg.leave)})
		changed = true
	}
	if changed {
		m.publish()
	}
}

// knows reports whether a chunk with this head is no news.
func (m *Membership) knows(head *chunk) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store.knows(head)
}

func (m *Membership) receiveRecords(records []*record) (changed bool) {
	now := m.cfg.Clock.Now()
	for _, r := range records {
		if !m.store.merge(r, now) {
			continue
		}
		changed = true
		if r.node == m.cfg.Node {
			m.tellAll()
			continue
		}
		m.heardOf(r.node, r.epoch)
		if relay := recordMessage(r); len(relay) <= maxGossip {
			m.queue.QueueBroadcast(&broadcast{name: r.node, msg: relay})
		}
	}
	return changed
}

// tooManyHeard is the key in silent of the report that claims of others find no room.
const tooManyHeard = "too many claims heard"

func (m *Membership) receiveChunks(chunks []*chunk) (changed bool) {
	var relay []*chunk
	for _, c := range chunks {
		switch m.store.mergeChunk(c) {
		case wasKnown:
			// What this speaker's former processes claimed is passed on, but is no news to the others.
			changed = changed || c.node == m.cfg.Node
		case isNews:
			changed = true
			m.heardOf(c.node, c.epoch)
			relay = append(relay, c)
		case isAhead:
			changed = true
			m.tellAll()
		case noRoom:
			if !m.silent[tooManyHeard] {
				m.silent[tooManyHeard] = true
				level.Error(m.logger).Log("msg", "the other speakers claim more addresses than this one can keep; "+
					"it may take some of the rest for free", "first", c.node)
			}
		}
	}
	if len(relay) > relayChunks {
		return changed
	}
	for _, c := range relay {
		m.chunks.QueueBroadcast(chunkBroadcast(c))
	}
	return changed
}

// broadcast is something on its way by gossip. Something newer with the same name takes its place.
type broadcast struct {
	name string
	msg  []byte
}

var _ memberlist.NamedBroadcast = (*broadcast)(nil)

func (b *broadcast) Name() string    { return b.name }
func (b *broadcast) Message() []byte { return b.msg }
func (b *broadcast) Finished()       {}

func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.name == b.name
}

func chunkBroadcast(c *chunk) *broadcast {
	return &broadcast{name: c.node + " " + strconv.Itoa(c.index), msg: chunkMessage(c)}
}
