package neighbor

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// echoWire answers every question, without allocating.
type echoWire struct{ conn *echoConn }

func (w *echoWire) Open(_ netif.Link, etherType uint16, _ []bpf.Instruction) (Conn, error) {
	w.conn = &echoConn{ndp: etherType == unix.ETH_P_IPV6, quit: make(chan struct{})}
	return w.conn, nil
}

type echoConn struct {
	ndp   bool
	inbox [][frameSize]byte
	sizes []int
	next  int
	quit  chan struct{}
}

func (c *echoConn) Wait() error                       { <-c.quit; return errInterrupted }
func (c *echoConn) Interrupt()                        { close(c.quit) }
func (c *echoConn) SetFilter([]bpf.Instruction) error { return nil }
func (c *echoConn) Join(netip.Addr) error             { return nil }
func (c *echoConn) Leave(netip.Addr) error            { return nil }
func (c *echoConn) Lost() (uint32, error)             { return 0, nil }
func (c *echoConn) Carrier() (bool, error)            { return true, nil }
func (c *echoConn) Close() error                      { return nil }

func (c *echoConn) ReadFrame(b []byte) (int, error) {
	if c.next == len(c.sizes) {
		c.next, c.sizes = 0, c.sizes[:0]
		return 0, ErrNoFrame
	}
	n := copy(b, c.inbox[c.next][:c.sizes[c.next]])
	c.next++
	return n, nil
}

func (c *echoConn) WriteFrame(frame []byte) error {
	i := len(c.sizes)
	if i == len(c.inbox) {
		c.inbox = append(c.inbox, [frameSize]byte{})
	}
	b := c.inbox[i][:len(frame)]
	copy(b, frame)
	copy(b[0:6], frame[6:12])
	copy(b[6:12], frame[0:6])
	if c.ndp {
		b[54], b[58] = typeNA, naSolicited
		copy(b[22:38], frame[38:54])
		copy(b[38:54], frame[22:38])
		b[78] = optionTarget
		copy(b[80:86], frame[0:6])
		fix(b)
	} else {
		b[21] = 2
		copy(b[22:28], frame[0:6])
		copy(b[28:32], frame[38:42])
		copy(b[32:42], frame[22:32])
	}
	c.sizes = append(c.sizes, len(frame))
	return nil
}

// BenchmarkProbe is one probe of one of a hundred targets and its answer, less the
// system calls.
func BenchmarkProbe(b *testing.B) {
	for _, base := range []string{"192.0.2.100", "2001:db8::100"} {
		b.Run(protocolOf(ip(base)).String(), func(b *testing.B) {
			links := netif.NewFake()
			links.Set(testLink(2, "eth0"))
			clk := clocktesting.NewFakeClock(time.Unix(1000, 0))
			wire := &echoWire{}
			p, err := New(Config{Links: links, Wire: wire, Clock: clk})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(p.shut)
			var targets []Target
			for addr := ip(base); len(targets) < 100; addr = addr.Next() {
				targets = append(targets, Target{Interface: "eth0", Addr: addr, MAC: peerMAC})
			}
			p.Watch(targets)
			p.converge()
			l := p.lanes[laneKey{"eth0", protocolOf(ip(base))}]
			now := clk.Now()
			tick := func() {
				now = now.Add(DefaultInterval / slotCount)
				clk.SetTime(now)
				p.step()
				p.mu.Lock()
				l.drain()
				p.mu.Unlock()
			}
			for range 2 * slotCount {
				tick()
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%(100/slotCount) == 0 {
					tick()
				}
			}
			if h := p.Heard()[targets[99]]; h.Missed > 0 || h.Answered.IsZero() {
				b.Fatalf("health %+v", h)
			}
		})
	}
}

// BenchmarkHundredTargets is what it costs to watch a hundred kernels on a veth
// pair for a second, system calls and all. The peer's share of the CPU is in it.
func BenchmarkHundredTargets(b *testing.B) {
	for _, family := range []string{"arp", "ndp"} {
		b.Run(family, func(b *testing.B) {
			n := newKernelNetwork(b, Config{})
			var targets []Target
			for i := range 100 {
				addr := fmt.Sprintf("192.0.2.%d", 100+i)
				if family == "ndp" {
					addr = fmt.Sprintf("2001:db8::1:%x", i)
				}
				a := ip(addr)
				n.peer.AddAddress("eth0", netip.PrefixFrom(a, map[string]int{"arp": 24, "ndp": 64}[family]).String())
				targets = append(targets, Target{Interface: "eth0", Addr: a, MAC: ether.MAC(n.peer.MAC("eth0"))})
			}
			n.prober.Watch(targets)
			n.await("answers", targets, since())
			var before, after unix.Rusage
			var memBefore, memAfter runtime.MemStats
			runtime.ReadMemStats(&memBefore)
			_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
			probes := counter(b, n.reg, "probes_total")
			start := time.Now()
			for b.Loop() {
				time.Sleep(time.Second)
			}
			took := time.Since(start).Seconds()
			_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
			runtime.ReadMemStats(&memAfter)
			probes = counter(b, n.reg, "probes_total") - probes
			cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
			b.ReportMetric(float64(cpu.Milliseconds())/took, "cpu-ms/s")
			b.ReportMetric(probes/took, "probes/s")
			b.ReportMetric(float64(memAfter.Mallocs-memBefore.Mallocs)/probes, "allocs/probe")
			b.ReportMetric(n.missed(), "missed")
		})
	}
}
