package neighbor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// FakeWire is a Wire in memory, for tests. It runs the filters it is given and
// prints as text what was sent.
type FakeWire struct {
	ether.FakeCables
	// OnSend, if set before the first Open, is called with each frame that is
	// sent. It may call Deliver.
	OnSend func(ifname string, frame []byte)
	// Deaf, if set before the first Open, has no Wait ever return for a frame:
	// frames are read only when the Prober looks for them itself.
	Deaf bool

	mu        sync.Mutex
	conns     []*fakeConn
	unplugged map[string]bool
}

var _ Wire = (*FakeWire)(nil)

// Open implements Wire.
func (w *FakeWire) Open(link netif.Link, etherType uint16, filter []bpf.Instruction) (Conn, error) {
	if err := w.Failure(link.Name); err != nil {
		return nil, fmt.Errorf("opening %#x on %s: %w", etherType, link.Name, err)
	}
	socket, err := ether.NewFakeSocket(etherType, filter)
	if err != nil {
		return nil, err
	}
	c := &fakeConn{
		FakeSocket: socket, wire: w, link: link,
		readable: make(chan struct{}, 1), interrupted: make(chan struct{}), groups: make(map[netip.Addr]bool),
	}
	w.mu.Lock()
	w.conns = append(w.conns, c)
	w.mu.Unlock()
	return c, nil
}

// Deliver has a frame arrive at an interface and reports whether a filter let it
// through.
func (w *FakeWire) Deliver(ifname string, frame []byte) (accepted bool) {
	for _, c := range w.on(ifname) {
		if c.deliver(frame) {
			accepted = true
		}
	}
	return accepted
}

// Break has the open sockets of an interface fail with err, and new ones too,
// until it is called with nil.
func (w *FakeWire) Break(ifname string, err error) {
	w.FakeCables.Break(ifname, err)
	for _, c := range w.on(ifname) {
		notify(c.readable)
	}
}

// Unplug takes the carrier from an interface, or gives it back. What is sent
// without is lost without an error.
func (w *FakeWire) Unplug(ifname string, unplugged bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unplugged == nil {
		w.unplugged = make(map[string]bool)
	}
	w.unplugged[ifname] = unplugged
}

// Overrun has each open socket of an interface lose all unread frames and n more.
func (w *FakeWire) Overrun(ifname string, n int) {
	for _, c := range w.on(ifname) {
		c.mu.Lock()
		c.lost += uint32(c.Drop() + n)
		c.mu.Unlock()
	}
}

// Groups returns the multicast groups joined on an interface, in ascending order.
func (w *FakeWire) Groups(ifname string) (out []netip.Addr) {
	for _, c := range w.on(ifname) {
		c.mu.Lock()
		for g := range c.groups {
			out = append(out, g)
		}
		c.mu.Unlock()
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// Open sockets of an interface.
func (w *FakeWire) on(ifname string) (out []*fakeConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		if c.link.Name == ifname {
			out = append(out, c)
		}
	}
	return out
}

// fakeConn is a Conn of a FakeWire.
type fakeConn struct {
	*ether.FakeSocket
	wire        *FakeWire
	link        netif.Link
	readable    chan struct{}
	interrupted chan struct{}

	mu     sync.Mutex
	lost   uint32
	groups map[netip.Addr]bool
}

var errInterrupted = errors.New("interrupted")

func (c *fakeConn) deliver(frame []byte) bool {
	accepted := c.Accept(frame)
	if accepted && !c.wire.Deaf {
		notify(c.readable)
	}
	return accepted
}

func (c *fakeConn) Wait() error {
	select {
	case <-c.readable:
		return nil
	case <-c.interrupted:
		return errInterrupted
	}
}

func (c *fakeConn) Interrupt() { close(c.interrupted) }

func (c *fakeConn) ReadFrame(b []byte) (int, error) {
	if err := c.wire.Failure(c.link.Name); err != nil {
		return 0, err
	}
	n, ok := c.Next(b)
	if !ok {
		return 0, ErrNoFrame
	}
	return n, nil
}

func (c *fakeConn) WriteFrame(frame []byte) error {
	if err := c.wire.Failure(c.link.Name); err != nil {
		return err
	}
	if carrier, _ := c.Carrier(); !carrier {
		return nil
	}
	c.wire.Record(c.link.Name, describe(frame))
	if c.wire.OnSend != nil {
		c.wire.OnSend(c.link.Name, slices.Clone(frame))
	}
	return nil
}

func (c *fakeConn) Join(group netip.Addr) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.groups[group] {
		return fmt.Errorf("joining %s twice", group)
	}
	c.groups[group] = true
	return nil
}

func (c *fakeConn) Leave(group netip.Addr) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.groups[group] {
		return fmt.Errorf("leaving %s, which is not joined", group)
	}
	delete(c.groups, group)
	return nil
}

func (c *fakeConn) Lost() (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.lost
	c.lost = 0
	return n, nil
}

func (c *fakeConn) Carrier() (bool, error) {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return !c.wire.unplugged[c.link.Name], nil
}

func (c *fakeConn) Close() error {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.wire.conns = slices.DeleteFunc(c.wire.conns, func(o *fakeConn) bool { return o == c })
	return nil
}

// describe returns a question as a line of text.
func describe(frame []byte) string {
	if len(frame) < ether.HeaderLen {
		return fmt.Sprintf("short frame %x", frame)
	}
	head := fmt.Sprintf("%s > %s ", ether.MAC(frame[6:12]), ether.MAC(frame[0:6]))
	var p arp.Packet
	if frame[12] == 8 && frame[13] == 6 && p.UnmarshalBinary(frame[ether.HeaderLen:]) == nil {
		return head + fmt.Sprintf("arp %s who has %s tell %s at %s",
			strings.ToLower(p.Operation.String()), p.TargetIP, p.SenderIP, p.SenderHardwareAddr)
	}
	src, dst, icmp, err := ether.ParseIPv6(frame[ether.HeaderLen:])
	if err != nil {
		return head + "not ARP or ICMPv6"
	}
	m, err := ndp.ParseMessage(icmp)
	ns, ok := m.(*ndp.NeighborSolicitation)
	if err != nil || !ok {
		return head + "not a neighbour solicitation"
	}
	text := head + fmt.Sprintf("ns %s > %s who has %s", src, dst, ns.TargetAddress)
	for _, o := range ns.Options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == ndp.Source {
			text += " tell " + lla.Addr.String()
		}
	}
	return text
}
