package ether

import (
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/bpf"
)

// FakeCables are what the fake wires of tests have in common: links that can be
// broken, and a record of what was sent. The zero value is ready.
type FakeCables struct {
	mu     sync.Mutex
	sent   []string
	broken map[string]error
}

// Break has all uses of an interface fail with err, until it is called with nil.
func (c *FakeCables) Break(ifname string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken == nil {
		c.broken = make(map[string]error)
	}
	c.broken[ifname] = err
}

// Failure returns with what uses of an interface fail, nil if they do not.
func (c *FakeCables) Failure(ifname string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken[ifname]
}

// Record notes a frame that was sent on an interface, as text.
func (c *FakeCables) Record(ifname, frame string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, ifname+" "+frame)
}

// String returns what was sent, a line for each frame, in order.
func (c *FakeCables) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.sent, "\n")
}

// Reset forgets what was sent.
func (c *FakeCables) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = nil
}

// FakeSocket is a socket for the frames of one EtherType that keeps what its filter
// accepts.
type FakeSocket struct {
	etherType uint16

	mu    sync.Mutex
	vm    *bpf.VM
	inbox [][]byte
}

// NewFakeSocket returns a socket with the filter.
func NewFakeSocket(etherType uint16, filter []bpf.Instruction) (*FakeSocket, error) {
	s := &FakeSocket{etherType: etherType}
	return s, s.SetFilter(filter)
}

// SetFilter swaps the filter atomically.
func (s *FakeSocket) SetFilter(filter []bpf.Instruction) error {
	vm, err := bpf.NewVM(filter)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vm = vm
	return nil
}

// Accept has a frame arrive and reports whether the filter let it through.
func (s *FakeSocket) Accept(frame []byte) bool {
	if len(frame) < HeaderLen || uint16(frame[12])<<8|uint16(frame[13]) != s.etherType {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, err := s.vm.Run(frame); err != nil || n == 0 {
		return false
	}
	s.inbox = append(s.inbox, slices.Clone(frame))
	return true
}

// Next puts the next frame into b and returns its length, false if there is none.
func (s *FakeSocket) Next(b []byte) (n int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inbox) == 0 {
		return 0, false
	}
	n = copy(b, s.inbox[0])
	s.inbox = s.inbox[1:]
	return n, true
}

// Drop loses all frames that were not read, and returns how many.
func (s *FakeSocket) Drop() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.inbox)
	s.inbox = nil
	return n
}
