package neighbor

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/netnstest"
)

// A kernelNetwork is hosts on a switch, each in a network namespace: eth0 is a
// veth pair to a bridge, so that a cable can be cut that is not our own.
type kernelNetwork struct {
	t      testing.TB
	swtch  *netnstest.NS
	node   *netnstest.NS
	peer   *netnstest.NS
	reg    *prometheus.Registry
	prober *Prober
}

func newKernelNetwork(t testing.TB, cfg Config) *kernelNetwork {
	n := &kernelNetwork{t: t, swtch: netnstest.New(t), reg: prometheus.NewRegistry()}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	snooping := false // it would learn our groups only from a querier
	if err := n.swtch.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		t.Fatal(err)
	}
	n.swtch.SetUp("br0", true)
	n.node = n.add("node", "192.0.2.1/24", "2001:db8::1/64")
	n.peer = n.add("peer", "192.0.2.99/24", "2001:db8::99/64")
	cfg.Metrics = NewMetrics(n.reg)
	n.prober = n.run(n.node, cfg)
	return n
}

// add adds a host.
func (n *kernelNetwork) add(name string, addrs ...string) *netnstest.NS {
	n.t.Helper()
	ns := netnstest.New(n.t)
	netnstest.Connect(n.swtch, name, ns, "eth0")
	if err := n.swtch.Netlink().LinkSetMaster(n.swtch.Link(name), n.swtch.Link("br0")); err != nil {
		n.t.Fatal(err)
	}
	for _, a := range addrs {
		ns.AddAddress("eth0", a)
	}
	return ns
}

// run runs a Prober on a host.
func (n *kernelNetwork) run(ns *netnstest.NS, cfg Config) *Prober {
	n.t.Helper()
	watcher := netif.New(netif.Config{})
	ns.Run(watcher.Run)
	<-watcher.Synced()
	cfg.Links = watcher
	p, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	ns.Run(p.Run)
	usable := func() bool {
		for _, l := range watcher.Links() {
			if l.Name == "eth0" && l.CanARP() == nil && l.CanNDP() == nil {
				return true
			}
		}
		return false
	}
	netnstest.Eventually(n.t, "eth0", usable)
	return p
}

func mac(ns *netnstest.NS) ether.MAC { return ether.MAC(ns.MAC("eth0")) }

// targets are the addresses of the peer.
func (n *kernelNetwork) targets() []Target {
	return []Target{
		{Interface: "eth0", Addr: ip("192.0.2.99"), MAC: mac(n.peer)},
		{Interface: "eth0", Addr: ip("2001:db8::99"), MAC: mac(n.peer)},
	}
}

// await waits until cond holds for the health of all targets.
func (n *kernelNetwork) await(what string, targets []Target, cond func(Health) bool) {
	n.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		heard, all := n.prober.Heard(), true
		for _, target := range targets {
			all = all && cond(heard[target])
		}
		if all {
			return
		}
		select {
		case <-n.prober.Changes():
		case <-time.After(50 * time.Millisecond): // a later Answered is no change
		case <-limit:
			n.t.Fatalf("waited in vain for %s: %+v", what, heard)
		}
	}
}

// since returns a condition: answered after now.
func since() func(Health) bool {
	now := time.Now()
	return func(h Health) bool { return h.Answered.After(now) && h.Missed == 0 && h.Err == nil }
}

func TestKernelWatch(t *testing.T) {
	t.Parallel()
	n := newKernelNetwork(t, Config{})
	targets := n.targets()
	n.prober.Watch(targets)
	n.await("answers", targets, since())
	for target, h := range n.prober.Heard() {
		if h.MAC != mac(n.peer) {
			t.Errorf("%s is answered by %s", target, h.MAC)
		}
	}

	// Behind the switch: our own link has a carrier, and nobody answers.
	start := time.Now()
	n.swtch.SetUp("peer", false)
	n.await("three misses", targets, func(h Health) bool { return h.Missed >= 3 && h.Err == nil })
	t.Logf("three misses %v after the cable was cut", time.Since(start))
	n.swtch.SetUp("peer", true)
	n.await("answers after the cut", targets, since())

	// Our own cable: that is not the targets' fault.
	before := n.missed()
	n.swtch.SetUp("node", false)
	n.await("the loss of our carrier", targets, func(h Health) bool { return errors.Is(h.Err, netif.ErrNoCarrier) })
	if m := n.missed(); m != before {
		t.Errorf("%v misses when our own cable was cut", m-before)
	}
	n.swtch.SetUp("node", true)
	n.await("answers with our cable back", targets, since())

	// The target is another machine now.
	n.swtch.Delete("peer")
	n.peer = n.add("peer2", "192.0.2.99/24", "2001:db8::99/64")
	n.await("the old machine's silence", targets, func(h Health) bool { return h.Missed > 0 })
	targets = n.targets()
	n.prober.Watch(targets)
	n.await("answers of the new machine", targets, since())
}

func (n *kernelNetwork) missed() float64 { return counter(n.t, n.reg, "missed_total") }

// TestKernelSilentDrop: the peer's kernel drops the questions.
func TestKernelSilentDrop(t *testing.T) {
	t.Parallel()
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("nft is not installed")
	}
	n := newKernelNetwork(t, Config{})
	targets := n.targets()
	n.prober.Watch(targets)
	n.await("answers", targets, since())
	n.peer.MustDo(func() error {
		out, err := exec.CommandContext(t.Context(), nft, `add table netdev silent
			add chain netdev silent in { type filter hook ingress device eth0 priority 0; policy drop; }`).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	n.await("three misses", targets, func(h Health) bool { return h.Missed >= 3 && h.Err == nil })
	for _, target := range targets {
		start := time.Now()
		if _, err := n.prober.Ask(t.Context(), target, 3, 40*time.Millisecond); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("asking %s gave %v", target, err)
		}
		t.Logf("%s: no answer to three questions in %v", target, time.Since(start))
	}
	n.peer.MustDo(func() error { return exec.CommandContext(t.Context(), nft, "delete table netdev silent").Run() })
	n.await("answers", targets, since())
}

func TestKernelAsk(t *testing.T) {
	t.Parallel()
	n := newKernelNetwork(t, Config{})
	for _, target := range append(n.targets(), Target{Interface: "eth0", Addr: ip("192.0.2.99")}, Target{Interface: "eth0", Addr: ip("2001:db8::99")}) {
		start := time.Now()
		if got, err := n.prober.Ask(t.Context(), target, 3, time.Second); got != mac(n.peer) || err != nil {
			t.Errorf("asking %s gave %s, %v", target, got, err)
		}
		t.Logf("%s: answered in %v", target, time.Since(start))
	}
	for _, target := range []Target{
		{Interface: "eth0", Addr: ip("192.0.2.98")},
		{Interface: "eth0", Addr: ip("2001:db8::98")},
		{Interface: "eth0", Addr: ip("192.0.2.99"), MAC: ether.MAC{2, 3, 4, 5, 6, 7}},
	} {
		if got, err := n.prober.Ask(t.Context(), target, 2, 40*time.Millisecond); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("asking %s gave %s, %v", target, got, err)
		}
	}
	// The peer's cache learns who we are and nothing else.
	list, err := n.peer.Netlink().NeighList(n.peer.Link("eth0").Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		a, _ := netip.AddrFromSlice(e.IP)
		if a.IsUnspecified() || len(e.HardwareAddr) == 6 && !a.IsMulticast() && ether.MAC(e.HardwareAddr) != mac(n.node) {
			t.Errorf("the peer has learned %s at %s", a, e.HardwareAddr)
		}
	}
}

func TestKernelDetect(t *testing.T) {
	t.Parallel()
	n := newKernelNetwork(t, Config{})
	other := n.run(n.peer, Config{})
	for _, addr := range []struct{ taken, free string }{{"192.0.2.99", "192.0.2.200"}, {"2001:db8::99", "2001:db8::200"}} {
		start := time.Now()
		rival, found, err := n.prober.Detect(t.Context(), "eth0", ip(addr.taken))
		if rival != mac(n.peer) || !found || err != nil {
			t.Errorf("%s: got %s, %t, %v", addr.taken, rival, found, err)
		}
		t.Logf("%s: found in %v", addr.taken, time.Since(start))
		if _, found, err := n.prober.Detect(t.Context(), "eth0", ip(addr.taken), mac(n.peer)); found || err != nil {
			t.Errorf("%s, disregarding its owner: got %t, %v", addr.taken, found, err)
		}
		start = time.Now()
		if rival, found, err := n.prober.Detect(t.Context(), "eth0", ip(addr.free)); found || err != nil {
			t.Errorf("%s: got %s, %t, %v", addr.free, rival, found, err)
		}
		t.Logf("%s: found free in %v", addr.free, time.Since(start))

		// Both at once: at least one of them is to notice, unless they know each other.
		both := func(disregard bool) (sum int32) {
			var done sync.WaitGroup
			var count atomic.Int32
			for p, foe := range map[*Prober]ether.MAC{n.prober: mac(n.peer), other: mac(n.node)} {
				done.Go(func() {
					var known []ether.MAC
					if disregard {
						known = append(known, foe)
					}
					_, found, err := p.Detect(t.Context(), "eth0", ip(addr.free), known...)
					if err != nil {
						t.Error(err)
					}
					if found {
						count.Add(1)
					}
				})
			}
			done.Wait()
			return count.Load()
		}
		if both(false) == 0 {
			t.Errorf("%s: two that probe at once do not notice each other", addr.free)
		}
		if both(true) != 0 {
			t.Errorf("%s: two that know each other are rivals", addr.free)
		}
	}
}

// TestKernelStall: the Prober gets no CPU for a while; the answers wait in its
// socket.
func TestKernelStall(t *testing.T) {
	t.Parallel()
	n := newKernelNetwork(t, Config{})
	targets := n.targets()
	n.prober.Watch(targets)
	n.await("answers", targets, since())
	for _, stall := range []time.Duration{30, 70, 150, 400, 1000} {
		n.prober.mu.Lock()
		time.Sleep(stall * time.Millisecond)
		n.prober.mu.Unlock()
		n.await("answers", targets, since())
	}
	if m := n.missed(); m != 0 {
		t.Errorf("stalls made %v misses", m)
	}
}

// TestKernelPressure watches living hosts while every CPU is wanted by eight
// others, and a dead one, which must be found out all the same.
func TestKernelPressure(t *testing.T) {
	n := newKernelNetwork(t, Config{})
	targets := n.targets()
	for i := range 20 {
		addr := fmt.Sprintf("192.0.2.%d", 100+i)
		n.peer.AddAddress("eth0", addr+"/24")
		targets = append(targets, Target{Interface: "eth0", Addr: ip(addr), MAC: mac(n.peer)})
	}
	dead := Target{Interface: "eth0", Addr: ip("192.0.2.50"), MAC: mac(n.peer)}
	n.prober.Watch(targets)
	n.await("answers", targets, since())
	var stop atomic.Bool
	var busy sync.WaitGroup
	for range 8 * runtime.NumCPU() {
		busy.Go(func() {
			for x := 0; !stop.Load(); x++ {
				_ = x
			}
		})
	}
	before := counter(t, n.reg, "probes_total")
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		for target, h := range n.prober.Heard() {
			if h.Missed > 0 {
				t.Fatalf("%s is said to have missed %d", target, h.Missed)
			}
		}
	}
	probes := counter(t, n.reg, "probes_total") - before
	n.prober.Watch(append(targets, dead))
	start := time.Now()
	n.await("the dead one", []Target{dead}, func(h Health) bool { return h.Missed >= 3 })
	t.Logf("%v probes in 3 s of pressure, none missed; the dead one missed three in %v", probes, time.Since(start))
	stop.Store(true)
	busy.Wait()
}

// TestKernelConn holds the seam to what it promises.
func TestKernelConn(t *testing.T) {
	t.Parallel()
	n := newKernelNetwork(t, Config{})
	link := netif.Link{Index: n.node.Link("eth0").Attrs().Index, Name: "eth0"}
	var c Conn
	n.node.MustDo(func() (err error) {
		c, err = PacketWire{}.Open(link, unix.ETH_P_ARP, filterFor(protoARP, mac(n.node), nil))
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	if up, err := c.Carrier(); !up || err != nil {
		t.Errorf("carrier %t, %v", up, err)
	}
	buf := make([]byte, frameSize)
	if _, err := c.ReadFrame(buf); !errors.Is(err, ErrNoFrame) {
		t.Errorf("reading nothing gave %v", err)
	}
	ask := question{self: mac(n.node), source: ip("192.0.2.1"), target: ip("192.0.2.99")}.appendARP(nil)
	if err := c.WriteFrame(ask); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if k, err := c.ReadFrame(buf); err != nil || k < 42 {
		t.Errorf("read %d bytes, %v", k, err)
	}
	for range 20000 { // nobody reads
		if err := c.WriteFrame(ask); err != nil {
			t.Fatal(err)
		}
	}
	netnstest.Eventually(t, "frames to be lost", func() bool {
		k, err := c.Lost()
		return err == nil && k > 0
	})
	if err := c.SetFilter(filterFor(protoARP, mac(n.node), []netip.Addr{ip("192.0.2.7")})); err != nil {
		t.Error(err)
	}
	n.swtch.SetUp("node", false)
	if up, err := c.Carrier(); up || err != nil {
		t.Errorf("carrier %t, %v right after it was lost", up, err)
	}
	done := make(chan error)
	go func() {
		for {
			if err := c.Wait(); err != nil {
				done <- err
				return
			}
			for {
				if _, err := c.ReadFrame(buf); err != nil {
					break
				}
			}
		}
	}()
	c.Interrupt()
	if err := <-done; err == nil {
		t.Error("Wait was not interrupted")
	}
}
