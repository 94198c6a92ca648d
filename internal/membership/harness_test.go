package membership

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
)

// patience is how long a condition is waited for. What is asserted about times is asserted explicitly.
const patience = 30 * time.Second

// network connects the speakers of one test, each on a loopback address of its own, and can be cut.
type network struct {
	mu    sync.Mutex
	side  map[netip.Addr]int // speakers on different sides cannot reach each other
	healC chan struct{}
}

func newNetwork() *network {
	return &network{side: map[netip.Addr]int{}, healC: make(chan struct{})}
}

// split puts the given speakers on the given side.
func (n *network) split(side int, speakers ...*speaker) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range speakers {
		n.side[s.bind.Addr()] = side
	}
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.side)
	close(n.healC)
	n.healC = make(chan struct{})
}

func (n *network) blocked(from netip.Addr, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	ap, err := netip.ParseAddrPort(to)
	return err == nil && n.side[from] != n.side[ap.Addr()]
}

// cuttable is a transport whose packets are lost and whose connections time out across a cut, silently as on a wire.
type cuttable struct {
	memberlist.NodeAwareTransport
	net  *network
	self netip.Addr
}

func (c *cuttable) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if c.net.blocked(c.self, a.Addr) {
		return time.Now(), nil
	}
	return c.NodeAwareTransport.WriteToAddress(b, a)
}

func (c *cuttable) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if c.net.blocked(c.self, a.Addr) {
		<-time.After(timeout)
		return nil, fmt.Errorf("dial %s: i/o timeout", a.Addr)
	}
	return c.NodeAwareTransport.DialAddressTimeout(a, timeout)
}

// nextHost gives every speaker of every test an address in 127.0.0.0/8 of its own, so that tests run in parallel and a
// restarted speaker finds its port free.
var nextHost atomic.Uint32

func newBind() netip.AddrPort {
	n := nextHost.Add(1)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 31, byte(n >> 8), byte(n)}), 7956)
}

type speaker struct {
	*Membership
	name string
	bind netip.AddrPort
	logs *safeBuffer
	reg  *prometheus.Registry
	stop context.CancelFunc // hard, as a crash
	done chan struct{}
}

type option func(*Config)

func withKey(key []byte) option { return func(c *Config) { c.Key = key } }

func testKey(fill byte) []byte { return bytes.Repeat([]byte{fill}, 32) }

// start runs a speaker until the test ends or it is stopped.
func (n *network) start(t testing.TB, name string, bind netip.AddrPort, opts ...option) *speaker {
	t.Helper()
	s := &speaker{name: name, bind: bind, logs: &safeBuffer{}, reg: prometheus.NewRegistry(), done: make(chan struct{})}
	cfg := Config{
		Node:    name,
		Bind:    bind,
		Key:     testKey(7),
		Logger:  level.NewFilter(log.NewLogfmtLogger(s.logs), level.AllowInfo()),
		Metrics: NewMetrics(s.reg),
		wrap: func(t memberlist.NodeAwareTransport) memberlist.NodeAwareTransport {
			return &cuttable{NodeAwareTransport: t, net: n, self: bind.Addr()}
		},
	}
	for _, o := range opts {
		o(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Membership = m
	ctx, cancel := context.WithCancel(t.Context())
	s.stop = func() { cancel(); <-s.done }
	go func() {
		defer close(s.done)
		if err := m.Run(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, s.logs)
		}
	})
	await(t, name+" listens", func() bool {
		select {
		case <-m.Started():
			return true
		default:
			return false
		}
	})
	return s
}

// startAll runs n speakers that know each other and waits until they see each other.
func (n *network) startAll(t testing.TB, count int, opts ...option) []*speaker {
	t.Helper()
	speakers := make([]*speaker, count)
	for i := range speakers {
		speakers[i] = n.start(t, fmt.Sprintf("node-%d", i+1), newBind(), opts...)
	}
	for _, s := range speakers {
		s.SetPeers(peersOf(speakers))
	}
	awaitMutual(t, speakers...)
	return speakers
}

func peersOf(speakers []*speaker) []Peer {
	var peers []Peer
	for _, s := range speakers {
		peers = append(peers, Peer{Node: s.name, Addr: s.bind})
	}
	return peers
}

// awaitMutual waits until the given speakers see each other and nobody else, and have settled.
func awaitMutual(t testing.TB, speakers ...*speaker) {
	t.Helper()
	var want []string
	for _, s := range speakers {
		want = append(want, s.name)
	}
	for _, s := range speakers {
		await(t, fmt.Sprintf("%s sees %q and is settled", s.name, want), func() bool {
			v := s.View()
			return v.Settled && sameNames(v, want)
		})
	}
}

func sameNames(v *View, want []string) bool {
	if len(v.Members) != len(want) {
		return false
	}
	for _, name := range want {
		if v.Member(name) == nil {
			return false
		}
	}
	return true
}

// await waits for a condition; it looks often, because what follows may be measured.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// value returns the value of a counter or gauge, by its name and the value of its only label, if it has one.
func (s *speaker) value(t testing.TB, name, label string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s{%s}", name, label)
	return 0
}

func (s *speaker) logged(text string) int { return strings.Count(s.logs.String(), text) }

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

func links(names ...string) Info {
	var info Info
	for i, n := range names {
		info.Links = append(info.Links, Link{
			Name: n, ARP: true, NDP: i%2 == 0,
			Prefixes: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)),
				netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::/64", i)),
			},
		})
	}
	return info.normalized()
}

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, cancel
}
