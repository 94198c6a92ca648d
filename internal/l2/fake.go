package l2

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// FakeWire is a Wire in memory, for tests. It runs the filters it is given,
// refuses what the kernel would refuse, and prints as text what was sent.
type FakeWire struct {
	ether.FakeCables
	// FilterLimit is the longest filter that is accepted; 0 means the kernel's
	// 4096 instructions.
	FilterLimit int
	// GroupLimit is how many groups a socket can join; 0 means no limit, -1
	// that there is no room for any.
	GroupLimit int
	// OnSend, if set before the first Open, is called with each frame that is
	// sent. It may call Deliver.
	OnSend func(ifname string, frame []byte)
	// OnCorrect, if set before the first Open, is called when the kernel is corrected.
	OnCorrect func(ifname string, target netip.Addr, is MAC)

	mu      sync.Mutex
	conns   []*fakeConn
	refused map[string]error
	groups  map[int]map[netip.Addr]int // memberships by interface index
}

var _ Wire = (*FakeWire)(nil)

// Open implements Wire.
func (w *FakeWire) Open(link netif.Link, proto Protocol, filter []bpf.Instruction) (Conn, error) {
	if err := w.Failure(link.Name); err != nil {
		return nil, fmt.Errorf("opening %s on %s: %w", proto, link.Name, err)
	}
	if err := w.admit(filter); err != nil {
		return nil, err
	}
	etherType := uint16(unix.ETH_P_ARP)
	if proto == NDP {
		etherType = unix.ETH_P_IPV6
	}
	socket, err := ether.NewFakeSocket(etherType, filter)
	if err != nil {
		return nil, err
	}
	c := &fakeConn{socket: socket, wire: w, link: link, wake: make(chan struct{}, 1)}
	w.mu.Lock()
	w.conns = append(w.conns, c)
	w.mu.Unlock()
	return c, nil
}

// Deliver has a frame arrive at an interface and reports whether a filter let it
// through, that is, whether it woke the reader.
func (w *FakeWire) Deliver(ifname string, frame []byte) (woke bool) {
	for _, c := range w.on(ifname) {
		if c.deliver(frame) {
			woke = true
		}
	}
	return woke
}

// Break has the open sockets of an interface fail with err, and new ones too,
// until it is called with nil.
func (w *FakeWire) Break(ifname string, err error) {
	w.FakeCables.Break(ifname, err)
	for _, c := range w.on(ifname) {
		notify(c.wake)
	}
}

// Groups returns the groups joined on an interface, in ascending order.
func (w *FakeWire) Groups(ifindex int) []netip.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []netip.Addr
	for g := range w.groups[ifindex] {
		out = append(out, g)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// on returns the open conns of an interface.
func (w *FakeWire) on(ifname string) []*fakeConn {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*fakeConn
	for _, c := range w.conns {
		if c.link.Name == ifname {
			out = append(out, c)
		}
	}
	return out
}

// admit refuses filters that are too long.
func (w *FakeWire) admit(filter []bpf.Instruction) error {
	limit := w.FilterLimit
	if limit == 0 {
		limit = maxProgram
	}
	if len(filter) > limit {
		return fmt.Errorf("%w: %d instructions", ErrFilterSize, len(filter))
	}
	return nil
}

// fakeConn is a Conn of a FakeWire.
type fakeConn struct {
	socket *ether.FakeSocket
	wire   *FakeWire
	link   netif.Link
	wake   chan struct{}

	mu       sync.Mutex
	deadline time.Time
}

func (c *fakeConn) deliver(frame []byte) bool {
	accepted := c.socket.Accept(frame)
	if accepted {
		notify(c.wake)
	}
	return accepted
}

// ReadFrame implements Conn.
func (c *fakeConn) ReadFrame(b []byte) (int, error) {
	for {
		if err := c.wire.Failure(c.link.Name); err != nil {
			return 0, err
		}
		c.mu.Lock()
		ended := !c.deadline.IsZero() && !time.Now().Before(c.deadline)
		c.mu.Unlock()
		if ended {
			return 0, os.ErrDeadlineExceeded
		}
		if n, ok := c.socket.Next(b); ok {
			return n, nil
		}
		<-c.wake
	}
}

// Refuse has an interface take no frame, for err, until it is called with nil.
func (w *FakeWire) Refuse(ifname string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refused == nil {
		w.refused = make(map[string]error)
	}
	w.refused[ifname] = err
}

// WriteFrame implements Conn.
func (c *fakeConn) WriteFrame(frame []byte) error {
	if err := c.wire.Failure(c.link.Name); err != nil {
		return err
	}
	c.wire.mu.Lock()
	err := c.wire.refused[c.link.Name]
	c.wire.mu.Unlock()
	if err != nil {
		return err
	}
	c.wire.Record(c.link.Name, describe(frame))
	if c.wire.OnSend != nil {
		c.wire.OnSend(c.link.Name, slices.Clone(frame))
	}
	return nil
}

// Correct implements Conn.
func (c *fakeConn) Correct(target netip.Addr, is MAC) error {
	if c.wire.OnCorrect != nil {
		c.wire.OnCorrect(c.link.Name, target, is)
	}
	return nil
}

// SetFilter implements Conn.
func (c *fakeConn) SetFilter(filter []bpf.Instruction) error {
	if err := c.wire.admit(filter); err != nil {
		return err
	}
	return c.socket.SetFilter(filter)
}

// SetReadDeadline implements Conn. Only deadlines in the past are of use here.
func (c *fakeConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	notify(c.wake)
	return nil
}

// Close implements Conn.
func (c *fakeConn) Close() error {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.wire.conns = slices.DeleteFunc(c.wire.conns, func(o *fakeConn) bool { return o == c })
	return nil
}

// OpenGroups implements Wire.
func (w *FakeWire) OpenGroups() (GroupSocket, error) {
	return &fakeGroups{wire: w, joined: make(map[fakeMembership]struct{})}, nil
}

type fakeMembership struct {
	ifindex int
	group   netip.Addr
}

// fakeGroups is a GroupSocket of a FakeWire.
type fakeGroups struct {
	wire   *FakeWire
	joined map[fakeMembership]struct{}
}

func (s *fakeGroups) Join(ifindex int, group netip.Addr) error {
	if s.wire.GroupLimit != 0 && len(s.joined) >= s.wire.GroupLimit {
		return fmt.Errorf("joining %s: %w", group, ErrGroupsFull)
	}
	m := fakeMembership{ifindex, group}
	if _, ok := s.joined[m]; ok {
		return fmt.Errorf("joining %s: %w", group, unix.EADDRINUSE)
	}
	s.joined[m] = struct{}{}
	s.wire.member(m, 1)
	return nil
}

func (s *fakeGroups) Leave(ifindex int, group netip.Addr) error {
	m := fakeMembership{ifindex, group}
	if _, ok := s.joined[m]; !ok {
		return fmt.Errorf("leaving %s: %w", group, unix.EADDRNOTAVAIL)
	}
	delete(s.joined, m)
	s.wire.member(m, -1)
	return nil
}

func (s *fakeGroups) Close() error {
	for m := range s.joined {
		s.wire.member(m, -1)
	}
	s.joined = nil
	return nil
}

func (w *FakeWire) member(m fakeMembership, by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups == nil {
		w.groups = make(map[int]map[netip.Addr]int)
	}
	if w.groups[m.ifindex] == nil {
		w.groups[m.ifindex] = make(map[netip.Addr]int)
	}
	if w.groups[m.ifindex][m.group] += by; w.groups[m.ifindex][m.group] == 0 {
		delete(w.groups[m.ifindex], m.group)
	}
}

// describe returns a frame as a line of text.
func describe(frame []byte) string {
	if len(frame) < etherLen {
		return fmt.Sprintf("short frame %x", frame)
	}
	head := fmt.Sprintf("%s > %s ", hw(frame[6:12]), hw(frame[0:6]))
	var p arp.Packet
	if frame[12] == 8 && frame[13] == 6 && p.UnmarshalBinary(frame[etherLen:]) == nil {
		return head + fmt.Sprintf("arp %s %s is-at %s to %s at %s",
			strings.ToLower(p.Operation.String()), p.SenderIP, p.SenderHardwareAddr, p.TargetIP, p.TargetHardwareAddr)
	}
	src, dst, icmp, err := ether.ParseIPv6(frame[etherLen:])
	if err != nil {
		return head + "not ARP or ICMPv6"
	}
	m, err := ndp.ParseMessage(icmp)
	na, ok := m.(*ndp.NeighborAdvertisement)
	if err != nil || !ok {
		return head + "not a neighbour advertisement"
	}
	text := head + fmt.Sprintf("na %s > %s target %s", src, dst, na.TargetAddress)
	for _, o := range na.Options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok {
			text += " is-at " + lla.Addr.String()
		}
	}
	for _, f := range []struct {
		set  bool
		name string
	}{{na.Router, "router"}, {na.Solicited, "solicited"}, {na.Override, "override"}} {
		if f.set {
			text += " " + f.name
		}
	}
	return text
}

func hw(b []byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}
