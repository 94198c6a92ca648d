package membership

// Verdict is what one speaker has found out about another.
type Verdict struct {
	// Node is whom it is about, and Epoch which process of its speaker.
	Node  string
	Epoch uint64
	// Silent says that the node does not answer; otherwise its speaker alone is gone.
	Silent bool
	// By is the node of who says so.
	By string
}

// Broadcast tells all members, also the one that it is about, at once and only once: packets may be lost.
func (m *Membership) Broadcast(v Verdict) { _ = v }

// Verdicts receives what others broadcast. If nobody reads it the oldest are dropped.
func (m *Membership) Verdicts() <-chan Verdict { return nil }

// Meet exchanges the full state with the speaker on node now, for instance because it was seen to answer for an address
// of this node.
func (m *Membership) Meet(node string) { _ = node }
