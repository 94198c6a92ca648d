package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"k8s.io/utils/clock"
)

func TestSpeakerEndsAndReturns(t *testing.T) {
	t.Parallel()
	a, b := start(t, "a", newBind(), 1, nil), start(t, "b", newBind(), 1, nil)
	meet(a, b)
	await(t, "a sees b", func() bool { return a.sees("b", Up, false) && a.connectedTo("b") && b.connectedTo("a") })
	if got := a.Standing().Ring("b"); len(got) != 1 || got[0] != "a" {
		t.Errorf("ring behind b: %q", got)
	}
	ended := time.Now()
	b.stop()
	await(t, "a sees that b's speaker ended", func() bool { return a.sees("b", Up, true) })
	t.Logf("seen after %v", time.Since(ended))

	again := start(t, "b", b.bind, 1, nil) // its membership did not notice
	again.members.set(b.members.View())
	await(t, "a sees b again", func() bool { return a.sees("b", Up, false) })
	again.stop()
	await(t, "a sees the end again", func() bool { return a.sees("b", Up, true) })
	again = start(t, "b", b.bind, 2, nil)
	meet(a, again)
	await(t, "a is connected to the new process", func() bool { return a.sees("b", Up, false) && a.connectedTo("b") })
}

func TestSilentNode(t *testing.T) {
	t.Parallel()
	speakers := []*speaker{start(t, "a", newBind(), 1, nil), start(t, "b", newBind(), 1, nil), start(t, "c", newBind(), 1, nil)}
	a, b, c := speakers[0], speakers[1], speakers[2]
	meet(speakers...)
	await(t, "a sees all", func() bool { return a.sees("b", Up, false) && a.sees("c", Up, false) && a.connectedTo("b") })
	a.prober.silence(b.bind.Addr(), true)
	await(t, "b is down", func() bool { return a.sees("b", Down, false) && a.sees("c", Up, false) })
	if v := <-a.members.sent; v != (Verdict{Node: "b", Epoch: 1, Silent: true, By: "a"}) {
		t.Errorf("verdict %+v", v)
	}
	c.members.verdicts <- Verdict{Node: "b", Epoch: 1, Silent: true, By: "a"}
	await(t, "c has asked b", func() bool { return len(c.members.verdicts) == 0 })
	if !c.sees("b", Up, false) {
		t.Error("c believes what is not so")
	}
	a.prober.silence(b.bind.Addr(), false)
	await(t, "b is up", func() bool { return a.sees("b", Up, false) })
	select {
	case <-a.Changes():
	default:
		t.Error("no change was told")
	}
	if got := strings.Count(a.logs.String(), "node is down"); got != 1 {
		t.Errorf("%d lines that b is down", got)
	}
}

func TestCutOff(t *testing.T) {
	t.Parallel()
	gateway := Target{Interface: "lo", Addr: netip.MustParseAddr("127.33.255.1")}
	a := start(t, "a", newBind(), 1, func(c *Config) { c.Witnesses = witnesses{gateway} })
	b := start(t, "b", newBind(), 1, nil)
	meet(a, b)
	await(t, "the witness is known", func() bool { _, known := a.panel.list([]Target{gateway}); return known == 1 })
	await(t, "a sees b", func() bool { return a.sees("b", Up, false) && a.connectedTo("b") })
	a.prober.silence(gateway.Addr, true)
	a.prober.silence(b.bind.Addr(), true)
	await(t, "a knows that it is cut off", func() bool { return a.Standing().Isolated })
	if !a.sees("b", Up, false) {
		t.Error("a gave up b")
	}
	a.prober.silence(gateway.Addr, false)
	await(t, "a is not cut off, so b is down", func() bool { return !a.Standing().Isolated && a.sees("b", Down, false) })
}

type witnesses []Target

func (w witnesses) Witnesses() []Target { return w }

// dialFrom opens a connection to a speaker from an address.
func dialFrom(t *testing.T, from netip.Addr, to netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := kernel{}.Dial(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func greeted(conn net.Conn) error {
	got := make([]byte, len(greeting))
	_, err := io.ReadFull(conn, got)
	return err
}

// ended waits until the other end closes the connection.
func ended(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection goes on: %d bytes, %v", n, err)
	}
}

func TestListener(t *testing.T) {
	t.Parallel()
	a := start(t, "a", newBind(), 1, nil)
	peer, stranger := newBind().Addr(), newBind().Addr()
	// A member that nobody dials.
	a.members.set(View{Nodes: []Node{{Name: "peer", Addr: peer, Epoch: 1}}})
	await(t, "a knows the peer", func() bool { return a.sees("peer", Up, false) })
	if err := greeted(dialFrom(t, stranger, a.bind)); err == nil {
		t.Error("a stranger is greeted")
	}
	first := dialFrom(t, peer, a.bind)
	if err := greeted(first); err != nil {
		t.Fatal(err)
	}
	second := dialFrom(t, peer, a.bind)
	if err := greeted(second); err != nil {
		t.Fatal(err)
	}
	ended(t, first)
	if _, err := second.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	ended(t, second)
	third := dialFrom(t, peer, a.bind)
	if err := greeted(third); err != nil {
		t.Fatal(err)
	}
	a.members.set(View{})
	ended(t, third)
	await(t, "nothing is left", func() bool {
		a.listener.mu.Lock()
		defer a.listener.mu.Unlock()
		return len(a.listener.conns) == 0
	})
}

// TestNotASpeaker holds that what does not greet does not count as a connection.
func TestNotASpeaker(t *testing.T) {
	t.Parallel()
	for _, says := range []string{"", "SSH-2.0-something"} {
		bind := newBind()
		ln, err := kernel{}.Listen(t.Context(), bind)
		if err != nil {
			t.Fatal(err)
		}
		d := dialer{dial: dial{addr: bind}, from: newBind().Addr(), network: kernel{}, clock: clock.RealClock{}, metrics: NewMetrics(nil)}
		go func() {
			if conn, err := ln.Accept(); err == nil {
				_, _ = io.WriteString(conn, says)
				_ = conn.Close()
			}
		}()
		if conn, err := d.connect(t.Context()); err == nil {
			t.Errorf("%q is taken for a speaker", says)
			_ = conn.Close()
		}
		_ = ln.Close()
	}
}

func TestListensLater(t *testing.T) {
	t.Parallel()
	bind := newBind()
	blocker, err := kernel{}.Listen(t.Context(), bind)
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan struct{})
	l := newListener(bind, kernel{}, log.NewNopLogger(), NewMetrics(nil), opened)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	select {
	case <-opened:
		t.Error("it listens where another does")
	case <-time.After(50 * time.Millisecond):
	}
	_ = blocker.Close()
	select {
	case <-opened:
	case <-time.After(patience):
		t.Error("it does not listen")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKilled holds that the end of a process by SIGKILL is noticed at once.
func TestKilled(t *testing.T) {
	t.Parallel()
	a, bind := start(t, "a", newBind(), 1, nil), newBind()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", childEnv, bind, a.bind.Addr()))
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Wait() }()
	b := &speaker{name: "b", bind: bind, epoch: 1}
	a.members.set(View{Links: []Link{a.link()}, Nodes: []Node{b.node()}})
	await(t, "a is connected to b", func() bool { return a.connectedTo("b") })
	killed := time.Now()
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "a sees that b's speaker ended", func() bool { return a.sees("b", Up, true) })
	t.Logf("seen after %v", time.Since(killed))
}

// childEnv says where a child process is to listen and from where it is connected to.
const childEnv = "BERTH_WATCH_TEST_CHILD"

func child(spec string) {
	var at, from string
	if _, err := fmt.Sscan(spec, &at, &from); err != nil {
		panic(err)
	}
	l := newListener(netip.MustParseAddrPort(at), kernel{}, log.NewNopLogger(), NewMetrics(nil), make(chan struct{}))
	l.admit(map[netip.Addr]bool{netip.MustParseAddr(from): true})
	_ = l.run(context.Background())
}

func TestProxyCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc // nil: nobody listens
		want   proxyState
	}{
		{"healthy", func(http.ResponseWriter, *http.Request) {}, proxyHealthy},
		{"unhealthy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, proxyUnhealthy},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1/", http.StatusFound)
		}, proxyUnhealthy},
		{"nobody", nil, proxyUnhealthy},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, proxySilent},
		{"hangs up", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, proxySilent},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/healthz" {
					t.Errorf("asked for %s", r.URL)
				}
				c.answer(w, r)
			}))
			if c.answer == nil {
				server.Close()
			} else {
				defer server.Close()
			}
			own, err := url.Parse(server.URL + "/healthz")
			if err != nil {
				t.Fatal(err)
			}
			own.Host = "192.0.2.1:" + own.Port()
			began := time.Now()
			p := newProxyChecker(own)
			if got := p.check(t.Context(), netip.MustParseAddr("127.0.0.1")); got != c.want {
				t.Errorf("%v, want %v", proxyResults[got], proxyResults[c.want])
			}
			if took := time.Since(began); (took >= proxyLimit) != (c.want == proxySilent) {
				t.Errorf("it took %v", took)
			}
			cancelled, cancel := context.WithCancel(t.Context())
			cancel()
			if got := p.check(cancelled, netip.MustParseAddr("127.0.0.1")); got != proxyUnknown {
				t.Errorf("%v after the end", proxyResults[got])
			}
		})
	}
	for _, c := range [][3]string{
		{"http://127.0.0.1:10256/healthz", "10.0.0.2", "http://10.0.0.2:10256/healthz"},
		{"http://[::1]:10256/healthz", "2001:db8::2", "http://[2001:db8::2]:10256/healthz"},
		{"http://localhost/livez?x=1", "2001:db8::2", "http://[2001:db8::2]/livez?x=1"},
		{"https://localhost/livez", "10.0.0.2", "https://10.0.0.2/livez"},
	} {
		own, err := url.Parse(c[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := newProxyChecker(own).urlOf(netip.MustParseAddr(c[1])); got != c[2] {
			t.Errorf("%s for %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

func TestOrphan(t *testing.T) {
	t.Parallel()
	var healthy atomic.Bool
	healthy.Store(true)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !healthy.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	b := &speaker{name: "b", bind: newBind(), epoch: 1}
	ln, err := net.Listen("tcp", netip.AddrPortFrom(b.bind.Addr(), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Listener.Close()
	server.Listener = ln
	server.Start()
	defer server.Close()
	a := start(t, "a", newBind(), 1, func(c *Config) {
		c.ProxyURL = "http://127.0.0.1:" + strings.Split(ln.Addr().String(), ":")[1] + "/healthz"
	})
	gone := b.node()
	gone.Gone = true
	a.members.set(View{Links: []Link{a.link()}, Nodes: []Node{gone}})
	await(t, "b is orphaned", func() bool { return a.sees("b", Orphaned, true) })
	healthy.Store(false)
	await(t, "b is down", func() bool { return a.sees("b", Down, true) })
}

func TestAskAny(t *testing.T) {
	t.Parallel()
	at := func(s string) Target { return Target{Addr: netip.MustParseAddr(s)} }
	p := newFakeProber()
	p.silence(at("10.0.0.1").Addr, true)
	p.silence(at("10.0.0.2").Addr, true)
	w := &Watch{cfg: Config{Prober: p}}
	ask := func(targets ...Target) reply { return w.askAny(t.Context(), targets, 2, ms) }
	if got := ask(at("10.0.0.1"), at("10.0.0.3"), at("10.0.0.2")); got != (reply{answered: true, from: at("10.0.0.3")}) {
		t.Errorf("one of three: %+v", got)
	}
	if got := ask(at("10.0.0.1"), at("10.0.0.2")); got != (reply{}) {
		t.Errorf("none of two: %+v", got)
	}
	p.failing = errors.New("no carrier")
	if got := ask(at("10.0.0.1")); got != (reply{failed: true}) {
		t.Errorf("cannot ask: %+v", got)
	}
	if got := ask(); got != (reply{failed: true}) {
		t.Errorf("nobody to ask: %+v", got)
	}
}

func TestPanel(t *testing.T) {
	t.Parallel()
	p := newPanel()
	router, client := Target{Addr: netip.MustParseAddr("10.0.0.1")}, Target{Addr: netip.MustParseAddr("10.0.0.9")}
	all := []Target{router, client}
	want := func(known int) {
		t.Helper()
		if _, got := p.list(all); got != known {
			t.Errorf("%d witnesses count, want %d", got, known)
		}
	}
	want(0)
	p.note(map[Target]bool{router: true, client: false})
	want(1)
	p.note(map[Target]bool{router: true, client: true})
	want(2)
	for range panelPatience {
		p.note(map[Target]bool{router: true, client: false})
		want(2)
	}
	p.note(map[Target]bool{router: true, client: false})
	want(1)
	if asked, _ := p.list(make([]Target, 100)); len(asked) != panelSize {
		t.Errorf("%d are asked", len(asked))
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Config{Node: "a", Bind: newBind(), Members: newFakeMembers(), Prober: newFakeProber()}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"node": func(c *Config) { c.Node = "" }, "bind": func(c *Config) { c.Bind = netip.AddrPort{} },
		"limit": func(c *Config) { c.StandInLimit = -1 }, "members": func(c *Config) { c.Members = nil },
		"prober": func(c *Config) { c.Prober = nil }, "URL": func(c *Config) { c.ProxyURL = "10256" },
	} {
		bad := good
		change(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("a wrong %s is accepted", name)
		}
	}
}
