package l2

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"

	"github.com/berth-lb/berth/internal/netif"
)

// A Wire opens the sockets of an Announcer. PacketWire is the kernel's,
// FakeWire lives in memory.
type Wire interface {
	// Open returns a Conn that receives from the link the frames of proto that
	// filter accepts, from its first frame on.
	Open(link netif.Link, proto Protocol, filter []bpf.Instruction) (Conn, error)
	// OpenGroups returns a socket that can join multicast groups.
	OpenGroups() (GroupSocket, error)
}

// A Conn receives and sends whole Ethernet frames of one protocol on one link.
// Reading, writing and SetFilter may go on at the same time.
type Conn interface {
	// ReadFrame puts the next frame into b and returns its length. It fails
	// with os.ErrDeadlineExceeded once the read deadline has passed.
	ReadFrame(b []byte) (int, error)
	// WriteFrame sends a frame. The frame may be reused when it returns.
	WriteFrame(frame []byte) error
	// SetFilter swaps the filter atomically. ErrFilterSize means that a smaller
	// program may be accepted; the present one stays.
	SetFilter(filter []bpf.Instruction) error
	// Correct has the kernel of this node take target to be at is, should it remember
	// it as a neighbour on the link. It is for NDP only.
	Correct(target netip.Addr, is MAC) error
	// SetReadDeadline ends reads at t, as net.Conn's does.
	SetReadDeadline(t time.Time) error
	// Close releases the socket.
	Close() error
}

// A GroupSocket holds memberships of IPv6 multicast groups, so that the network
// card and the switches deliver what is sent to them.
type GroupSocket interface {
	// Join joins group on the interface with the given index. ErrGroupsFull
	// means that another socket may still be able to.
	Join(ifindex int, group netip.Addr) error
	// Leave leaves a group that was joined.
	Leave(ifindex int, group netip.Addr) error
	// Close leaves all groups.
	Close() error
}

// Limits of the kernel that an Announcer works around.
var (
	// ErrFilterSize: the program exceeds what the kernel grants a socket
	// (net.core.optmem_max).
	ErrFilterSize = errors.New("filter program too large for the socket")
	// ErrGroupsFull: the socket has as many memberships as the kernel grants
	// it (net.core.optmem_max).
	ErrGroupsFull = errors.New("no room for another multicast group on the socket")
)
