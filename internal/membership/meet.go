package membership

import (
	"context"
	"slices"

	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
)

// maxMeets bounds the speakers that wait to be met.
const maxMeets = 64

// Meet exchanges the full state with the speaker on node now, for instance because it was seen to answer for an address
// of this node. It does not wait for that. A speaker of which nobody knows where it is cannot be met.
func (m *Membership) Meet(node string) {
	select {
	case m.meets <- node:
	default: // more than enough is under way
	}
}

// meetLoop meets who is to be met, each at most once at a time.
func (m *Membership) meetLoop(ctx context.Context, list *memberlist.Memberlist) error {
	j := joiner{m: m, list: list, workers: make(chan struct{}, joinWorkers)}
	defer j.wg.Wait()
	met, meeting := make(chan string), map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case node := <-met:
			delete(meeting, node)
		case node := <-m.meets:
			p, ok := m.whereIs(node)
			if !ok || meeting[node] {
				continue
			}
			meeting[node] = true
			level.Debug(m.logger).Log("msg", "exchanging state with a speaker", "node", node, "addr", p.Addr)
			j.wg.Go(func() {
				limited, cancel := context.WithTimeout(ctx, startLimit)
				defer cancel()
				j.introduce(limited, p)
				select {
				case met <- node:
				case <-ctx.Done():
				}
			})
		}
	}
}

// whereIs returns where the speaker on node is or was last.
func (m *Membership) whereIs(node string) (Peer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if node == m.cfg.Node || m.leaving {
		return Peer{}, false
	}
	if addr, ok := m.alive[node]; ok {
		return Peer{Node: node, Addr: addr}, true
	}
	if i := slices.IndexFunc(m.peers, func(p Peer) bool { return p.Node == node }); i >= 0 {
		return m.peers[i], true
	}
	if d, ok := m.gone[node]; ok && d.addr.IsValid() {
		return Peer{Node: node, Addr: d.addr}, true
	}
	return Peer{}, false
}
