package membership

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// View is what this speaker sees. It is immutable.
type View struct {
	// Members are the living speakers in the order of their names, this one included.
	Members []Member
	// Settled is false while there may be living speakers that this one has not spoken with yet. A speaker whose view is
	// not settled keeps the addresses that it has and takes no further ones.
	Settled bool
	// Refused names, while the view is not settled, the speakers known from the API that keep it from settling: they have
	// another key, so that it cannot be known what they do.
	Refused []string
	// Gone are the speakers that failed or left and have not come back, in the order of their names. A speaker is forgotten
	// ten minutes later, or when it has left for good and the API does not know of it any more.
	Gone []Gone
	// Former is what the former process on this node claimed, as the others tell. It is empty once this process has said
	// what it claims itself and no longer abstains. It is never nil.
	Former *Claims
	// Known is how many speakers exist: those that the API knows of, the members, and those that are gone, unless the API
	// has dropped them.
	Known int
}

// Member is a living speaker.
type Member struct {
	Node string
	Addr netip.AddrPort
	// Info is what the member said about itself; Known is false as long as nothing was heard.
	Info  Info
	Known bool
	// Epoch tells one process of the speaker from another: a later one has a higher epoch. It is 0 while Known is false.
	Epoch uint64
	// Claims is what the member claims, never nil. As long as it abstains, what its former process claimed is part of it.
	Claims *Claims
}

// Gone is a speaker that failed or left, with what it said last.
type Gone struct {
	Member
	// Since is when it was found to be gone.
	Since time.Time
	// Left says that it said so itself. Returns then says that it means to come back.
	Left, Returns bool
}

// Member returns the living speaker on node, or nil.
func (v *View) Member(node string) *Member {
	i, ok := slices.BinarySearchFunc(v.Members, node, func(m Member, n string) int { return cmp.Compare(m.Node, n) })
	if !ok {
		return nil
	}
	return &v.Members[i]
}

func (v *View) equal(o *View) bool {
	return v.Settled == o.Settled && v.Known == o.Known && v.Former == o.Former && slices.Equal(v.Refused, o.Refused) &&
		slices.EqualFunc(v.Members, o.Members, Member.equal) &&
		slices.EqualFunc(v.Gone, o.Gone, func(a, b Gone) bool {
			return a.Since.Equal(b.Since) && a.Left == b.Left && a.Returns == b.Returns && a.equal(b.Member)
		})
}

func (m Member) equal(o Member) bool {
	return m.Node == o.Node && m.Addr == o.Addr && m.Known == o.Known && m.Epoch == o.Epoch && m.Claims == o.Claims && m.Info.Equal(o.Info)
}

func (m *Membership) snapshot() *View {
	v := &View{Settled: m.settling.settled(), Former: m.store.former.current()}
	if !v.Settled {
		v.Refused = m.refusedPeers()
	}
	for node, addr := range m.alive {
		if node != m.cfg.Node && !m.departed(node) {
			v.Members = append(v.Members, m.member(node, addr))
		}
	}
	v.Members = append(v.Members, m.member(m.cfg.Node, m.addr))
	slices.SortFunc(v.Members, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	now := m.cfg.Clock.Now()
	for node, d := range m.gone {
		if !m.isGone(node, d, now) {
			continue
		}
		v.Gone = append(v.Gone, Gone{
			Member: m.member(node, d.addr), Since: d.at, Left: d.left, Returns: d.returns,
		})
	}
	slices.SortFunc(v.Gone, func(a, b Gone) int { return cmp.Compare(a.Node, b.Node) })
	v.Known = m.countKnown(v)
	return v
}

func (m *Membership) member(node string, addr netip.AddrPort) Member {
	info, known := m.store.info(node)
	return Member{Node: node, Addr: addr, Info: info, Known: known, Epoch: m.store.epoch(node), Claims: m.store.claims(node)}
}

// countKnown returns how many speakers exist. One that is gone counts if the API lists it, or if it was a member and the
// API has not dropped it since; without the API, what others tell has to do. The caller holds mu.
func (m *Membership) countKnown(v *View) int {
	n := len(v.Members)
	for _, g := range v.Gone {
		if (m.gone[g.Node].seen || !m.hasPeers) && !m.removed[g.Node] && !m.listed(g.Node) {
			n++
		}
	}
	for i, p := range m.peers { // ordered by name
		if (i == 0 || m.peers[i-1].Node != p.Node) && v.Member(p.Node) == nil {
			n++
		}
	}
	return n
}

// listed reports whether the API knows of a speaker on node. The caller holds mu.
func (m *Membership) listed(node string) bool {
	_, ok := slices.BinarySearchFunc(m.peers, node, func(p Peer, n string) int { return cmp.Compare(p.Node, n) })
	return ok
}
