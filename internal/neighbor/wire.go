package neighbor

import (
	"errors"
	"net/netip"

	"golang.org/x/net/bpf"

	"github.com/berth-lb/berth/internal/netif"
)

// A Wire opens the sockets of a Prober. PacketWire is the kernel's, FakeWire
// lives in memory.
type Wire interface {
	// Open returns a Conn that receives from the link the frames of an
	// EtherType that filter accepts, from its first frame on.
	Open(link netif.Link, etherType uint16, filter []bpf.Instruction) (Conn, error)
}

// A Conn receives and sends whole Ethernet frames of one EtherType on one link.
// Wait and Interrupt may be called beside everything, the other methods only one
// at a time. None but Wait ever blocks.
type Conn interface {
	// Wait blocks until a frame can be read or the socket has failed, which
	// ReadFrame then tells. It fails after Interrupt.
	Wait() error
	// Interrupt ends Wait for good.
	Interrupt()
	// ReadFrame puts the next frame into b and returns its length. It fails
	// with ErrNoFrame when all that has arrived so far is read.
	ReadFrame(b []byte) (int, error)
	// WriteFrame sends a frame. The frame may be reused when it returns.
	WriteFrame(frame []byte) error
	// SetFilter swaps the filter atomically.
	SetFilter(filter []bpf.Instruction) error
	// Join and Leave change the memberships of IPv6 multicast groups, so that
	// the network card and the switches deliver what is sent to them.
	Join(group netip.Addr) error
	Leave(group netip.Addr) error
	// Lost returns how many accepted frames found no room since the last call.
	Lost() (uint32, error)
	// Carrier reports whether the link has a carrier at this moment, which
	// events may not have told yet. It fails if the kernel cannot say.
	Carrier() (bool, error)
	// Close releases the socket.
	Close() error
}

// ErrNoFrame means that nothing is left to read.
var ErrNoFrame = errors.New("no frame")
