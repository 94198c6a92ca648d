package membership

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

const (
	// RememberGone is how long a speaker that failed or left is remembered as such, or longer if the API knows of it. It is
	// forgotten everywhere at about the same moment, since how long ago it was is told along.
	RememberGone = 10 * time.Minute
	// keepForgotten is how long one that was forgotten is not taken for another when an echo of it is heard.
	keepForgotten = 10 * time.Minute
)

// departure is what is known about a speaker that failed or left.
type departure struct {
	epoch uint64 // of the process that did
	at    time.Time
	// left is whether it said so itself, returns whether it means to come back, and standIn who stands in for it.
	left, returns bool
	standIn       string
	seen          bool           // whether it was a member here
	addr          netip.AddrPort // where it was, if that is known
}

// notice is what speakers tell each other about a departure.
type notice struct {
	node          string
	epoch         uint64
	left, returns bool
	standIn       string
	age           time.Duration
}

// departed reports whether node said a moment ago that it leaves and has not come back since. The caller holds mu.
func (m *Membership) departed(node string) bool {
	return m.recentlyLeft(node) && m.store.epoch(node) <= m.gone[node].epoch
}

// isGone reports whether node failed or left and neither came back nor is to be forgotten. The caller holds mu.
func (m *Membership) isGone(node string, d *departure, now time.Time) bool {
	if _, alive := m.alive[node]; alive && !m.departed(node) {
		return false
	}
	if now.Sub(d.at) > RememberGone && !m.listed(node) {
		return false // one that has a Pod may be there and not be heard
	}
	// For a moment also one that the API has dropped already is remembered, or nobody would know what it leaves behind.
	dropped := m.hasPeers && !m.listed(node) && d.left && !d.returns
	return !dropped || now.Sub(d.at) <= departureHold
}

// lost notes that memberlist counts node as a member no more, and reports whether it left on purpose. The caller holds mu.
func (m *Membership) lost(node string, addr netip.AddrPort) (left bool) {
	if d, ok := m.gone[node]; ok && m.departed(node) {
		d.seen, d.addr = true, addr
		return true
	}
	m.gone[node] = &departure{epoch: m.store.epoch(node), at: m.cfg.Clock.Now(), seen: true, addr: addr}
	return false
}

// heardOf notes, when there is news from the process of node that began at epoch, that it is not a member: it failed or
// left before this speaker came, or is about to become one. The caller holds mu.
func (m *Membership) heardOf(node string, epoch uint64) {
	if _, alive := m.alive[node]; alive {
		return
	}
	now := m.cfg.Clock.Now()
	if d, ok := m.gone[node]; ok && (epoch <= d.epoch || now.Sub(d.at) <= RememberGone) {
		return
	}
	m.gone[node] = &departure{epoch: epoch, at: now}
}

// receiveLeave notes that a speaker leaves, and reports whether that is news. The caller holds mu.
func (m *Membership) receiveLeave(n notice) bool {
	if n.node == m.cfg.Node || m.store.epoch(n.node) > n.epoch {
		return false
	}
	d := m.gone[n.node]
	if d != nil && d.left && d.epoch >= n.epoch {
		return false
	}
	addr, alive := m.alive[n.node]
	if d == nil {
		if len(m.gone) >= maxRecords {
			return false
		}
		d = &departure{}
		m.gone[n.node] = d
	}
	if alive {
		d.seen, d.addr = true, addr
	}
	d.epoch, d.at = n.epoch, m.cfg.Clock.Now().Add(-n.age)
	d.left, d.returns, d.standIn = true, n.returns, n.standIn
	return true
}

// receiveDeparture takes in what another speaker knows about one that is gone: whoever comes later learns so how long it
// has been, and whether it means to return. The caller holds mu.
func (m *Membership) receiveDeparture(n notice) bool {
	if n.node == m.cfg.Node || n.age > RememberGone || m.store.epoch(n.node) > n.epoch {
		return false
	}
	_, alive := m.alive[n.node]
	if n.left {
		return (!alive || n.age <= departureHold) && m.receiveLeave(n)
	}
	d := m.gone[n.node]
	at := m.cfg.Clock.Now().Add(-n.age)
	if alive || d == nil || d.seen || d.left || !at.Before(d.at) {
		return false // who has never said anything, nothing is known about
	}
	d.at = at
	return true
}

// state returns what is told in a state exchange: about this speaker, the members and those that are gone, but not about
// those that are forgotten. The caller holds mu.
func (m *Membership) state() [][]byte {
	items := m.store.items(m.cfg.Node)
	if m.farewell != nil {
		items = append(items, departureItem(*m.farewell))
	}
	now := m.cfg.Clock.Now()
	for _, node := range m.store.nodes() {
		d, ok := m.gone[node]
		gone := ok && m.isGone(node, d, now)
		if _, alive := m.alive[node]; alive || gone {
			items = append(items, m.store.items(node)...)
		}
		if gone {
			items = append(items, departureItem(notice{
				node: node, epoch: d.epoch, left: d.left, returns: d.returns, standIn: d.standIn, age: max(0, now.Sub(d.at)),
			}))
		}
	}
	return items
}

// tidy forgets what is long gone. The caller holds mu.
func (m *Membership) tidy() {
	now := m.cfg.Clock.Now()
	for node, d := range m.gone {
		if now.Sub(d.at) > RememberGone+keepForgotten && !m.listed(node) {
			delete(m.gone, node)
		}
	}
	exists := func(node string) bool {
		_, alive := m.alive[node]
		_, gone := m.gone[node]
		return alive || gone
	}
	for node := range m.removed {
		if !exists(node) {
			delete(m.removed, node)
		}
	}
	m.store.expire(exists, now)
}

func leaveMessage(n notice) []byte { return appendNotice([]byte{kindLeave}, n) }

// departureItem encodes the notice for a state exchange.
func departureItem(n notice) []byte {
	return binary.AppendUvarint(appendNotice([]byte{departureVersion}, n), uint64(n.age.Milliseconds()))
}

func appendNotice(b []byte, n notice) []byte {
	b = binary.AppendUvarint(appendString(b, n.node), n.epoch)
	var flags byte
	if n.left {
		flags |= flagLeft
	}
	if n.returns {
		flags |= flagReturns
	}
	return appendString(append(b, flags), n.standIn)
}

func decodeLeave(b []byte) (*notice, error) {
	d := decoder{b: b}
	n := &notice{node: d.string(maxNodeName), epoch: d.uint()}
	if d.err == nil && len(d.b) > 0 {
		n.decodeRest(&d)
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding leave: %w", d.err)
	}
	n.left = true
	return n, nil
}

func (n *notice) decodeRest(d *decoder) {
	flags := d.uint()
	n.left, n.returns = flags&flagLeft != 0, flags&flagReturns != 0
	n.standIn = d.string(maxNodeName)
}

// decodeDeparture reads a departure, whose first byte is known.
func decodeDeparture(b []byte) (*notice, error) {
	d := decoder{b: b[1:]}
	n := &notice{node: d.string(maxNodeName), epoch: d.uint()}
	n.decodeRest(&d)
	age := d.uint()
	if d.err == nil && age > uint64((RememberGone+keepForgotten).Milliseconds()) {
		age = uint64((RememberGone + keepForgotten).Milliseconds())
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding departure: %w", d.err)
	}
	n.age = time.Duration(age) * time.Millisecond
	return n, nil
}
