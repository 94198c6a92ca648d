package netif

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"golang.org/x/sys/unix"
)

// Events come in bursts: one Pod that starts makes about ten. A burst is over
// after quietPeriod without an event, and is cut at maxDelay so that a network
// that never rests is still followed. Both are short beside the failover goal.
const (
	quietPeriod = 5 * time.Millisecond
	maxDelay    = 50 * time.Millisecond
)

// Config configures a Watcher.
type Config struct {
	// Logger defaults to a no-op.
	Logger log.Logger
}

// A Watcher follows the links of the network namespace in which the goroutine
// of Run lives. Its methods may be called from any goroutine.
type Watcher struct {
	logger log.Logger
	links  atomic.Pointer[[]Link]
	synced chan struct{}
	once   sync.Once

	mu   sync.Mutex
	subs map[chan struct{}]struct{}
}

// New returns a Watcher, which knows nothing until Run has listed the links.
func New(cfg Config) *Watcher {
	if cfg.Logger == nil {
		cfg.Logger = log.NewNopLogger()
	}
	return &Watcher{
		logger: cfg.Logger,
		synced: make(chan struct{}),
		subs:   make(map[chan struct{}]struct{}),
	}
}

// Links returns the present snapshot, ordered by index. It is shared and must
// not be modified. It is nil until the first list is complete (see Synced), and
// leaves out the host side of Pods' links: veth, netkit and tun links that are
// enslaved or have no subnet.
func (w *Watcher) Links() []Link {
	if p := w.links.Load(); p != nil {
		return *p
	}
	return nil
}

// Synced is closed once the first snapshot is there.
func (w *Watcher) Synced() <-chan struct{} { return w.synced }

// Subscribe returns a channel that gets a value after each change of Links.
// Changes coalesce: a reader that is late finds one value and the newest
// snapshot. The channel is never closed; cancel ends the subscription.
func (w *Watcher) Subscribe() (changed <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	w.subs[ch] = struct{}{}
	w.mu.Unlock()
	return ch, func() {
		w.mu.Lock()
		delete(w.subs, ch)
		w.mu.Unlock()
	}
}

// Run follows the links until ctx is done and then returns nil. A lost event or
// a broken socket leads to a fresh list, never to an error; only a first
// subscription that fails is returned.
func (w *Watcher) Run(ctx context.Context) error {
	sock, err := subscribe()
	if err != nil {
		return fmt.Errorf("subscribing to link and address events: %w", err)
	}
	for {
		err := w.follow(ctx, sock)
		sock.close()
		if ctx.Err() != nil {
			return nil
		}
		level.Warn(w.logger).Log("msg", "netlink socket failed, opening another", "err", err)
		if sock, err = resubscribe(ctx); err != nil {
			return nil
		}
	}
}

// resubscribe opens a socket, trying until it succeeds or ctx is done.
func resubscribe(ctx context.Context) (*socket, error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if sock, err := subscribe(); err == nil {
			return sock, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// follow lists, then applies events until the socket fails or ctx is done.
func (w *Watcher) follow(ctx context.Context, sock *socket) error {
	// A deadline in the past is what ends a blocked read.
	stop := context.AfterFunc(ctx, func() { sock.setDeadline(time.Unix(1, 0)) })
	defer stop()

	st, err := list(ctx)
	if err != nil {
		return err
	}
	w.publish(st)
	for ctx.Err() == nil {
		err := w.burst(ctx, sock, st)
		switch {
		case err == nil:
			w.publish(st)
		case errors.Is(err, unix.ENOBUFS):
			level.Info(w.logger).Log("msg", "netlink events were lost, listing links again")
			if err := sock.drain(); err != nil {
				return err
			}
			if st, err = list(ctx); err != nil {
				return err
			}
			w.publish(st)
		default:
			return err
		}
	}
	return ctx.Err()
}

// burst waits for the first event that changes st in a way that readers can see
// and applies what follows it closely.
func (w *Watcher) burst(ctx context.Context, sock *socket, st *state) error {
	var first time.Time
	for {
		deadline := time.Time{}
		if !first.IsZero() {
			now := time.Now()
			if deadline = first.Add(maxDelay); deadline.Before(now) {
				return nil
			}
			if quiet := now.Add(quietPeriod); quiet.Before(deadline) {
				deadline = quiet
			}
		}
		sock.setDeadline(deadline)
		if ctx.Err() != nil { // checked after the deadline is set: the one that ends the read must win
			return ctx.Err()
		}
		changed, err := sock.receive(st)
		if errors.Is(err, os.ErrDeadlineExceeded) && !first.IsZero() && ctx.Err() == nil {
			return nil
		}
		if err != nil {
			return err
		}
		if changed && first.IsZero() {
			first = time.Now()
		}
	}
}

// publish makes st the snapshot and tells subscribers if that changed anything.
func (w *Watcher) publish(st *state) {
	next := st.snapshot()
	if prev := w.links.Load(); prev != nil &&
		slices.EqualFunc(*prev, next, func(a, b Link) bool { return a.Equal(&b) }) {
		return
	}
	w.links.Store(&next)
	w.once.Do(func() { close(w.synced) })

	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.subs {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
