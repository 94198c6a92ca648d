package ownership

import (
	"net/netip"

	"github.com/berth-lb/berth/internal/election"
)

// Claim is what a speaker says about an address that it owns.
type Claim struct {
	// Term counts how often the address has changed hands: who takes it over adds one to the highest known. The first
	// owner has term 1.
	Term uint64
	// Provisional says that the node sees but a minority of the speakers: on the other side of a partition there may be
	// an owner for more.
	Provisional bool
	// To names the node that the address is offered to, as in a rebalance; "" if to nobody. An owner that does not answer,
	// because a foreign host has the address, offers it to itself.
	To string
}

// beats reports whether claim c by node a wins over claim o by node b: a majority's over a minority's, then the later
// term, then the node that addr elects.
func (c Claim) beats(o Claim, addr netip.Addr, a, b election.Node) bool {
	switch {
	case c.Provisional != o.Provisional:
		return o.Provisional
	case c.Term != o.Term:
		return c.Term > o.Term
	}
	return election.Outranks(addr, a, b)
}

// State is what a speaker thinks of a node.
type State uint8

// The states.
const (
	// Up: its speaker lives.
	Up State = iota
	// Orphaned: its speaker is gone but its kernel is there and forwards, so it goes on owning what it owns.
	Orphaned
	// Down: it owns nothing any more.
	Down
)

// String returns the name used in logs.
func (s State) String() string { return [...]string{"up", "orphaned", "down"}[s] }

// Node is a node as one speaker judges it.
type Node struct {
	Key   election.Node
	Zone  string
	State State
	// Joining says that its speaker does not take addresses yet: it has just started, or its link came back.
	Joining bool
}

func (n *Node) takes() bool { return n.State == Up && !n.Joining }

// A Book knows all claims and how many addresses each node holds. The order in which claims are added makes no
// difference.
type Book struct {
	nodes   []Node
	entries map[netip.Addr]entry
	loads   []int
	closed  bool
}

// entry is what is known about an address.
type entry struct {
	best   candidacy // of nodes that are up and have joined
	absent candidacy // of nodes whose speaker is gone, or not quite back
	term   uint64    // the highest known, be it of a node that is down
	claims int       // by nodes that are not down
}

type candidacy struct {
	node int // or -1
	Claim
}

// NewBook returns a Book about nodes, without claims.
func NewBook(nodes []Node) *Book {
	return &Book{nodes: nodes, entries: map[netip.Addr]entry{}, loads: make([]int, len(nodes))}
}

// unknown is the entry of an address that nobody has claimed.
var unknown = entry{best: candidacy{node: -1}, absent: candidacy{node: -1}}

// Add notes that the node with the given index claims addr. Each node claims an address at most once. Nothing can be
// added any more once the Book has been asked.
func (b *Book) Add(node int, addr netip.Addr, c Claim) {
	e, known := b.entries[addr]
	if !known {
		e = unknown
	}
	e.term = max(e.term, c.Term)
	into := &e.best
	switch n := &b.nodes[node]; {
	case n.State == Down:
		b.entries[addr] = e
		return
	case n.State == Orphaned || n.Joining:
		into = &e.absent
		c.Provisional = false // what it says of that is out of date
	}
	e.claims++
	if into.node < 0 || c.beats(into.Claim, addr, b.nodes[node].Key, b.nodes[into.node].Key) {
		*into = candidacy{node, c}
	}
	b.entries[addr] = e
}

// Recall notes that somebody has claimed addr with the term and does not any more.
func (b *Book) Recall(addr netip.Addr, term uint64) {
	e, known := b.entries[addr]
	if !known {
		e = unknown
	}
	e.term = max(e.term, term)
	b.entries[addr] = e
}

// holder returns the best claim. A speaker that is away cannot give up what another has taken from it meanwhile, so its
// claim counts only where no term as late is known.
func (e *entry) holder() candidacy {
	if e.absent.node >= 0 && e.absent.Term == e.term && (e.best.node < 0 || e.absent.Term > e.best.Term) {
		return e.absent
	}
	return e.best
}

// close counts what each node holds.
func (b *Book) close() {
	if b.closed {
		return
	}
	b.closed = true
	for _, e := range b.entries {
		if h := e.holder(); h.node >= 0 {
			b.loads[h.node]++
		}
	}
}

// look returns what is known about an address, and its holder.
func (b *Book) look(addr netip.Addr) (entry, candidacy) {
	b.close()
	e, known := b.entries[addr]
	if !known {
		e = unknown
	}
	return e, e.holder()
}

// Empty reports whether nobody is known to have claimed anything.
func (b *Book) Empty() bool { return len(b.entries) == 0 }

// Known reports whether anybody is known to have claimed addr.
func (b *Book) Known(addr netip.Addr) bool { return b.entries[addr].term > 0 }

// Silent reports whether the holder of addr says that it does not answer for it.
func (b *Book) Silent(addr netip.Addr) bool {
	_, h := b.look(addr)
	return h.node >= 0 && h.To == b.nodes[h.node].Key.Name()
}

// Holder returns the index of the node whose claim of addr is the best, or -1, and whether others claim it too.
func (b *Book) Holder(addr netip.Addr) (node int, contested bool) {
	e, h := b.look(addr)
	return h.node, e.claims > 1
}
