package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/berth-lb/berth/internal/bfd"
	"github.com/berth-lb/berth/internal/bgp"
)

// fakeSessions is a bgp.Speaker whose sessions are as the test says. It prints
// what it was told.
type fakeSessions struct {
	changes chan struct{}

	mu     sync.Mutex
	peers  map[string]bgp.Peer
	routes map[string][]bgp.Route
	states map[string]bgp.PeerState
	down   map[string]string
	// drained is why it was drained.
	drained string
}

func newFakeSessions() *fakeSessions {
	return &fakeSessions{changes: make(chan struct{}, 1), states: map[string]bgp.PeerState{}, down: map[string]string{}}
}

func (f *fakeSessions) Apply(peers []bgp.Peer, routes map[string][]bgp.Route) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers, f.routes = map[string]bgp.Peer{}, routes
	for _, p := range peers {
		f.peers[p.Name] = p
	}
}

func (f *fakeSessions) States() []bgp.PeerState {
	f.mu.Lock()
	defer f.mu.Unlock()
	var states []bgp.PeerState
	for _, name := range slices.Sorted(maps.Keys(f.peers)) {
		s := f.states[name]
		s.Name = name
		states = append(states, s)
	}
	return states
}

func (f *fakeSessions) Changes() <-chan struct{} { return f.changes }

func (f *fakeSessions) PeerDown(name, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[name] = reason
}

func (f *fakeSessions) PeerUp(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.down, name)
}

func (f *fakeSessions) Drain(reason string) { f.drained = reason }

func (f *fakeSessions) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// String is one line per peer with what it is told.
func (f *fakeSessions) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(f.peers)) {
		line := name + ":"
		if why, down := f.down[name]; down {
			line += fmt.Sprintf(" held down (%s)", why)
		}
		for _, r := range f.routes[name] {
			line += " " + strings.ReplaceAll(r.String(), " ", "_")
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

// fakeBFD sees what the test says.
type fakeBFD struct {
	changes chan struct{}
	configs []bfd.Config
	states  []bfd.Status
}

func newFakeBFD() *fakeBFD { return &fakeBFD{changes: make(chan struct{}, 1)} }

func (f *fakeBFD) Apply(configs []bfd.Config) { f.configs = configs }
func (f *fakeBFD) States() []bfd.Status       { return f.states }
func (f *fakeBFD) Changes() <-chan struct{}   { return f.changes }
