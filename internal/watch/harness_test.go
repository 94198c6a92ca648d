package watch

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
)

// patience is how long a condition is waited for.
const patience = 20 * time.Second

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// nextHost gives every speaker of every test an address in 127.0.0.0/8 of its own.
var nextHost atomic.Uint32

func newBind() netip.AddrPort {
	n := nextHost.Add(1)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 33, byte(n >> 8), byte(n)}), 7955)
}

// fakeMembers is a membership whose view the test sets.
type fakeMembers struct {
	mu       sync.Mutex
	view     View
	changes  chan struct{}
	verdicts chan Verdict
	sent     chan Verdict
}

func newFakeMembers() *fakeMembers {
	return &fakeMembers{changes: make(chan struct{}, 1), verdicts: make(chan Verdict, 16), sent: make(chan Verdict, 1024)}
}

func (f *fakeMembers) View() View {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view
}
func (f *fakeMembers) Changes() <-chan struct{} { return f.changes }
func (f *fakeMembers) Broadcast(v Verdict)      { f.sent <- v }
func (f *fakeMembers) Verdicts() <-chan Verdict { return f.verdicts }

func (f *fakeMembers) set(v View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.view = v
	select {
	case f.changes <- struct{}{}:
	default:
	}
}

// fakeProber answers for the addresses that answer, at once.
type fakeProber struct {
	mu      sync.Mutex
	silent  map[netip.Addr]bool
	failing error
	targets map[Target]Health
	changes chan struct{}
}

func newFakeProber() *fakeProber {
	return &fakeProber{silent: map[netip.Addr]bool{}, targets: map[Target]Health{}, changes: make(chan struct{}, 1)}
}

func (f *fakeProber) Watch(targets []Target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	former := f.targets
	f.targets = map[Target]Health{}
	for _, t := range targets {
		f.targets[t] = former[t]
	}
}

func (f *fakeProber) Heard() map[Target]Health {
	f.mu.Lock()
	defer f.mu.Unlock()
	heard := map[Target]Health{}
	for t, h := range f.targets {
		if f.silent[t.Addr] {
			h.Missed = suspectAfter
		} else {
			h = Health{Answered: time.Now()}
		}
		f.targets[t] = h
		heard[t] = h
	}
	return heard
}

func (f *fakeProber) Changes() <-chan struct{} { return f.changes }

func (f *fakeProber) Ask(ctx context.Context, t Target, tries int, every time.Duration) (bool, error) {
	f.mu.Lock()
	silent, failing := f.silent[t.Addr], f.failing
	f.mu.Unlock()
	if failing != nil || !silent {
		return failing == nil, failing
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(time.Duration(tries) * every):
		return false, nil
	}
}

func (f *fakeProber) silence(addr netip.Addr, silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent[addr] = silent
}

// speaker is a Watch of a test.
type speaker struct {
	*Watch
	name    string
	bind    netip.AddrPort
	epoch   uint64
	members *fakeMembers
	prober  *fakeProber
	logs    *safeBuffer
	stop    func()
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs a Watch until the test ends or it is stopped.
func start(t *testing.T, name string, bind netip.AddrPort, epoch uint64, change func(*Config)) *speaker {
	t.Helper()
	s := &speaker{name: name, bind: bind, epoch: epoch, members: newFakeMembers(), prober: newFakeProber(), logs: &safeBuffer{}}
	cfg := Config{
		Node: name, Bind: bind, StandInLimit: DefaultStandInLimit, Members: s.members, Prober: s.prober,
		Logger: log.NewLogfmtLogger(s.logs),
	}
	if change != nil {
		change(&cfg)
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Watch = w
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, s.logs)
		}
	})
	await(t, name+" listens", func() bool {
		select {
		case <-w.Listening():
			return true
		default:
			return false
		}
	})
	return s
}

func (s *speaker) node() Node {
	return Node{Name: s.name, Addr: s.bind.Addr(), WatchPort: s.bind.Port(), Epoch: s.epoch, Links: []Link{s.link()}}
}

func (s *speaker) link() Link {
	return Link{Name: "lo", Addr4: s.bind.Addr(), MAC: [6]byte{2, byte(s.epoch), 2: s.bind.Addr().As4()[2], 3: s.bind.Addr().As4()[3]},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("127.33.0.0/16")}}
}

// meet shows speakers each other.
func meet(speakers ...*speaker) {
	for _, s := range speakers {
		v := View{Links: []Link{s.link()}}
		for _, o := range speakers {
			v.Nodes = append(v.Nodes, o.node())
		}
		s.members.set(v)
	}
}

func (s *speaker) sees(name string, state State, gone bool) bool {
	standing, ok := s.Standing().Nodes[name]
	return ok && standing.State == state && standing.SpeakerGone == gone
}

// connectedTo reports whether the machine knows of a connection, asked of its loop.
func (s *speaker) connectedTo(name string) bool {
	answer := make(chan bool, 1)
	s.events <- func(time.Time) { n := s.machine.nodes[name]; answer <- n != nil && n.connected }
	return <-answer
}
