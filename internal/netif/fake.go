package netif

import (
	"slices"
	"sync"
)

// Fake stands for a Watcher in tests, which set its links.
type Fake struct {
	mu    sync.Mutex
	links []Link
	subs  []chan struct{}
}

// NewFake returns a Fake with the links; without any they are not listed yet.
func NewFake(links ...Link) *Fake { return &Fake{links: links} }

// Links returns the present links.
func (f *Fake) Links() []Link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links
}

// Subscribe is as a Watcher's, but that the subscription lasts.
func (f *Fake) Subscribe() (changed <-chan struct{}, cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan struct{}, 1)
	f.subs = append(f.subs, ch)
	return ch, func() {}
}

// Set replaces all links and tells of it.
func (f *Fake) Set(links ...Link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links = append([]Link{}, slices.Clone(links)...)
	for _, ch := range f.subs {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
