package watch

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/membership"
)

// State is what a node is good for, as this speaker judges it.
type State uint8

// The states, from good to bad.
const (
	// Up is a node that serves its addresses.
	Up State = iota
	// Orphaned is a node without a speaker that still forwards: nothing moves, others answer for it with its MAC.
	Orphaned
	// Down is a node whose addresses are to be taken over.
	Down
)

// String returns the state as logs and metrics have it.
func (s State) String() string {
	if s > Down {
		return fmt.Sprintf("State(%d)", uint8(s))
	}
	return [...]string{"up", "orphaned", "down"}[s]
}

// Standing is the judgement on one node.
type Standing struct {
	State State
	// SpeakerGone says that nobody answers on the node at present, whatever its State: its speaker ended, failed, left, or
	// has started anew and still abstains. Its stand-ins answer.
	SpeakerGone bool
	// Since is when State was entered.
	Since time.Time
}

// Snapshot is the judgement on all other nodes. It is immutable.
type Snapshot struct {
	// Nodes has the members of the view and the speakers that have gone, but not this node.
	Nodes map[string]Standing
	// Isolated says that this node seems to be the one that is cut off. It must take nothing over then; states only get
	// better while it lasts.
	Isolated bool

	ring ring
}

// Ring returns the up to three living speakers that watch node and stand in for it, in that order.
func (s *Snapshot) Ring(node string) []string { return s.ring.behind(node) }

func (s *Snapshot) equal(o *Snapshot) bool {
	if s.Isolated != o.Isolated || len(s.Nodes) != len(o.Nodes) {
		return false
	}
	for name, standing := range s.Nodes {
		if other, ok := o.Nodes[name]; !ok || other != standing {
			return false
		}
	}
	return true
}

// View is what the membership says, in this package's words.
type View struct {
	// Nodes are the living speakers and those that have gone. This node may be among them.
	Nodes []Node
	// Links are this node's own: up, with carrier, and fit for ARP or NDP.
	Links []Link
}

// Node is another node as the membership knows it.
type Node struct {
	Name string
	// Addr is where its speaker is reached, and its kube-proxy.
	Addr netip.Addr
	// WatchPort is where its speaker accepts watch connections, 0 if it does not.
	WatchPort uint16
	// Epoch tells its speaker's processes apart; later ones are greater.
	Epoch uint64
	// Abstains says that the speaker lives but holds no address yet.
	Abstains bool
	Links    []Link
	// Gone speakers have failed, or Left, and then may have said that they return. Since is when.
	Gone, Left, Returns bool
	Since               time.Time
}

// Link is an interface of a node.
type Link struct {
	Name string
	MAC  [6]byte
	// Prefixes are the subnets of its addresses, without host bits.
	Prefixes []netip.Prefix
	// Addr4 and Addr6 are own addresses at which the node's kernel can be asked for, if valid. Addr6 may be link-local,
	// without a zone.
	Addr4, Addr6 netip.Addr
}

func (l Link) equal(o Link) bool {
	return l.Name == o.Name && l.MAC == o.MAC && l.Addr4 == o.Addr4 && l.Addr6 == o.Addr6 && slices.Equal(l.Prefixes, o.Prefixes)
}

// Verdict is what one speaker tells all others about a node: that its kernel is Silent, or that it answers again.
type Verdict = membership.Verdict

// Target is a kernel that can be asked.
type Target struct {
	// Interface is the link of this node to ask on.
	Interface string
	Addr      netip.Addr
	// MAC is zero if it is not known; then all on the link are asked.
	MAC [6]byte
}

// Health is how a target that is asked all the time has answered.
type Health struct {
	// Answered is when it last did.
	Answered time.Time
	// Missed counts the questions since then that were not answered in time, though this node was listening.
	Missed int
	// Err says why it cannot be asked at present, by no fault of its own.
	Err error
}

// Members is what Watch needs of the membership. Changes has a value after View has changed.
type Members interface {
	View() View
	Changes() <-chan struct{}
	Broadcast(Verdict)
	Verdicts() <-chan Verdict
}

// Prober asks kernels.
type Prober interface {
	// Watch replaces the set of targets that are asked all the time.
	Watch([]Target)
	Heard() map[Target]Health
	// Changes has a value after what Heard returns has changed; several changes may make one value.
	Changes() <-chan struct{}
	// Ask asks up to tries times, every so often, and returns whether there was an answer: at once if there was, after
	// tries times every if not. An error means that it could not ask, which says nothing about the target.
	Ask(ctx context.Context, target Target, tries int, every time.Duration) (bool, error)
}

// Witnesses are neighbours other than speakers, such as routers and hosts that asked for an address of late. If none of
// them answers either, this node is cut off.
type Witnesses interface {
	Witnesses() []Target
}

func (t Target) compare(o Target) int {
	return cmp.Or(cmp.Compare(t.Interface, o.Interface), t.Addr.Compare(o.Addr), bytes.Compare(t.MAC[:], o.MAC[:]))
}
