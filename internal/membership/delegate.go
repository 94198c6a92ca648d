package membership

import (
	"net/netip"

	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
)

// delegate receives what memberlist has to say. memberlist calls it from several goroutines and with its locks held, so
// it only notes things down and wakes those who act on them.
type delegate struct{ m *Membership }

var (
	_ memberlist.Delegate         = (*delegate)(nil)
	_ memberlist.EventDelegate    = (*delegate)(nil)
	_ memberlist.ConflictDelegate = (*delegate)(nil)
)

// NodeMeta is not used: it is limited to 512 bytes.
func (d *delegate) NodeMeta(int) []byte { return nil }

func (d *delegate) NotifyMsg(b []byte) { d.m.receive(b) }

func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	out := d.m.queue.GetBroadcasts(overhead, limit)
	for _, msg := range out {
		limit -= overhead + len(msg)
	}
	return append(out, d.m.chunks.GetBroadcasts(overhead, limit)...)
}

func (d *delegate) LocalState(bool) []byte {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	return stateMessage(d.m.state()...)
}

func (d *delegate) MergeRemoteState(b []byte, _ bool) { d.m.receive(b) }

func (d *delegate) NotifyJoin(n *memberlist.Node) {
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	addr := nodeAddr(n)
	m.alive[n.Name] = addr
	m.size.Store(int64(len(m.alive)))
	delete(m.gone, n.Name)
	delete(m.unreached, n.Name)
	delete(m.silent, keyOf(addr.Addr().String()))
	if n.Name != m.cfg.Node {
		m.metrics.transitions.WithLabelValues("joined").Inc()
		level.Info(m.logger).Log("msg", "speaker joined", "node", n.Name, "addr", addr)
		m.joined[n.Name] = struct{}{}
		kick(m.sendKick)
	}
	m.publish()
}

func (d *delegate) NotifyLeave(n *memberlist.Node) {
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.alive, n.Name)
	delete(m.joined, n.Name)
	delete(m.unsent, n.Name)
	m.size.Store(int64(len(m.alive)))
	if n.Name == m.cfg.Node {
		return
	}
	m.unreached[n.Name] = &failure{reported: true} // by what follows
	if m.lost(n.Name, nodeAddr(n)) {
		m.metrics.transitions.WithLabelValues("left").Inc()
		level.Info(m.logger).Log("msg", "speaker left", "node", n.Name, "returns", m.gone[n.Name].returns, "stand_in", m.gone[n.Name].standIn)
	} else {
		m.metrics.transitions.WithLabelValues("failed").Inc()
		level.Warn(m.logger).Log("msg", "speaker failed", "node", n.Name, "addr", nodeAddr(n))
	}
	if len(m.alive) <= 1 && len(m.missing()) > 0 {
		m.settling.doubt(aloneLimit)
		kick(m.joinKick)
	}
	m.publish()
}

func (d *delegate) NotifyUpdate(n *memberlist.Node) {
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alive[n.Name] = nodeAddr(n)
	m.publish()
}

func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if key := "conflict " + other.Address(); !m.silent[key] {
		m.silent[key] = true
		level.Error(m.logger).Log("msg", "two speakers use the same node name", "node", existing.Name,
			"addr", existing.Address(), "other", other.Address())
	}
}

func nodeAddr(n *memberlist.Node) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(addr.Unmap(), n.Port)
}
