package bfd

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/netnstest"
)

// BenchmarkSession is what a packet in and a packet out cost the state machine.
func BenchmarkSession(b *testing.B) {
	c := Config{Peer: ip("192.0.2.2")}.normalise()
	s := newSession(c, 1, func() float64 { return 0.5 })
	now := epoch
	heard := Packet{State: Up, DetectMultiplier: 3, MyDiscriminator: 2, YourDiscriminator: 1, DesiredMinTx: 300 * ms, RequiredMinRx: 300 * ms}
	wire := heard.AppendTo(nil)
	var in, out Packet
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(300 * ms)
		if err := in.Parse(wire); err != nil {
			b.Fatal(err)
		}
		s.receive(now, &in)
		for s.transmit(now, &out) {
			buf = out.AppendTo(buf[:0])
		}
	}
}

// BenchmarkReceive is what a packet costs from the socket through the state
// machine, with the reader's lock and all system calls.
func BenchmarkReceive(b *testing.B) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		b.Run(address, func(b *testing.B) {
			ns := netnstest.New(b)
			m := New(Options{})
			peer := netip.MustParseAddr(address)
			ns.MustDo(func() error {
				now := m.clock.Now()
				c := Config{Name: "s", Peer: peer}.normalise()
				m.keep(now, keyOf(c), &want{cfg: c})
				l := m.links[keyOf(c)]
				r, err := openReceiver(b.Context(), l.port.key)
				if err != nil {
					return err
				}
				defer r.close()
				s, err := openSender(l.key, 0, 0)
				if err != nil {
					return err
				}
				defer s.close()
				l.session.receive(now, &Packet{State: Down, DetectMultiplier: 3, MyDiscriminator: 2, RequiredMinRx: time.Hour})
				up := Packet{State: Up, DetectMultiplier: 3, MyDiscriminator: 2, YourDiscriminator: l.session.local, DesiredMinTx: 300 * ms, RequiredMinRx: time.Hour}
				wire := up.AppendTo(nil)
				var d datagram
				b.ReportAllocs()
				for b.Loop() {
					if err := s.send(wire); err != nil {
						return err
					}
					if err := r.read(&d, true); err != nil {
						return err
					}
					m.receive(l.port, &d)
				}
				if l.session.state != Up {
					return fmt.Errorf("the session is %v", l.session.state)
				}
				return nil
			})
		})
	}
}

// BenchmarkMonitors runs 200 sessions between two Monitors at 10 ms each, 40,000
// packets a second in and out, and reports what that costs: allocations and
// processor time per packet, and whether any session failed.
func BenchmarkMonitors(b *testing.B) {
	const sessions = 200
	p := newKernelPair(b)
	var configs [2][]Config
	for i := range sessions {
		for side := range 2 {
			local, peer := netip.AddrFrom4([4]byte{10, byte(side), 0, byte(i)}), netip.AddrFrom4([4]byte{10, byte(1 - side), 0, byte(i)})
			p.ns[side].AddAddress("eth0", netip.PrefixFrom(local, 8).String())
			configs[side] = append(configs[side], Config{
				Name: fmt.Sprint(i), Peer: peer, Local: local, Receive: 10 * ms, Transmit: 10 * ms, DetectMultiplier: 10,
			})
		}
	}
	for side, m := range p.monitors {
		m.Apply(configs[side])
	}
	up := func() (n int) {
		for _, m := range p.monitors {
			for _, s := range m.States() {
				if s.State == Up && s.TransmitInterval == 10*ms {
					n++
				}
			}
		}
		return n
	}
	netnstest.Eventually(b, "all sessions to be up", func() bool { return up() == 2*sessions })
	packets := func() float64 {
		return p.counter(0, "berth_bfd_control_packets_sent_total") + p.counter(1, "berth_bfd_control_packets_sent_total")
	}
	b.ResetTimer()
	before, mallocs, used, start := packets(), allocations(), processorTime(b), time.Now()
	for range b.N {
		time.Sleep(time.Second)
	}
	mallocs, used = allocations()-mallocs, processorTime(b)-used
	elapsed, sent := time.Since(start), packets()-before
	var failures uint64
	for _, s := range p.monitors[0].States() {
		failures += s.Failures
	}
	b.ReportMetric(sent/elapsed.Seconds(), "packets/s")
	b.ReportMetric(float64(mallocs)/sent, "allocs/packet")
	b.ReportMetric(used.Seconds()*1e6/sent, "cpu-µs/packet")
	b.ReportMetric(float64(failures), "failures")
}

func allocations() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.Mallocs
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(os.NewSyscallError("getrusage", err))
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
