package l2

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/berth-lb/berth/internal/ether"
)

// groups are the solicited-node groups that one interface is a member of. A
// group serves all addresses that share their last 24 bits. The kernel limits
// the memberships of a socket, so there are as many sockets as it takes.
// It belongs to one goroutine.
type groups struct {
	wire    Wire
	ifindex int
	members map[netip.Addr]*membership
	sockets []*groupHolder
}

// A membership is one group, the socket that joined it, and for how many
// addresses.
type membership struct {
	addrs  int
	holder *groupHolder
}

// groupHolder is a socket and whether it refused a group for want of room.
type groupHolder struct {
	GroupSocket
	full bool
}

func newGroups(wire Wire, ifindex int) *groups {
	return &groups{wire: wire, ifindex: ifindex, members: make(map[netip.Addr]*membership)}
}

// add joins the group of addr unless another address did. When it fails it has
// done nothing.
func (g *groups) add(addr netip.Addr) error {
	group := ether.SolicitedNode(addr)
	if m := g.members[group]; m != nil {
		m.addrs++
		return nil
	}
	for _, h := range g.sockets {
		if h.full {
			continue
		}
		err := h.Join(g.ifindex, group)
		if err == nil {
			g.members[group] = &membership{addrs: 1, holder: h}
			return nil
		}
		if !errors.Is(err, ErrGroupsFull) {
			return err
		}
		h.full = true
	}
	s, err := g.wire.OpenGroups()
	if err != nil {
		return err
	}
	// A fresh socket that has no room means that the host has none.
	if err := s.Join(g.ifindex, group); err != nil {
		return errors.Join(err, s.Close())
	}
	h := &groupHolder{GroupSocket: s}
	g.sockets = append(g.sockets, h)
	g.members[group] = &membership{addrs: 1, holder: h}
	return nil
}

// remove leaves the group of addr unless another address needs it.
func (g *groups) remove(addr netip.Addr) error {
	group := ether.SolicitedNode(addr)
	m := g.members[group]
	if m == nil {
		return nil
	}
	if m.addrs--; m.addrs > 0 {
		return nil
	}
	delete(g.members, group)
	m.holder.full = false
	if err := m.holder.Leave(g.ifindex, group); err != nil {
		return fmt.Errorf("group of %s: %w", addr, err)
	}
	return nil
}

// close leaves all groups.
func (g *groups) close() {
	for _, h := range g.sockets {
		_ = h.Close()
	}
	g.sockets, g.members = nil, nil
}
