package l2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/netnstest"
)

// generatorEnv makes the test binary a generator of ARP requests instead, in the
// network namespace in which it is started. It is a process of its own, so that
// what it costs, and what the kernel does in its name, is not counted.
const generatorEnv = "BERTH_L2_GENERATE"

// A workload is what a generator sends: each of Targets in turn, Rate of them a
// second, until there were Count. It is passed through the environment but for
// the targets, which come on standard input.
type workload struct {
	Interface   string
	Rate, Count int
	Targets     []netip.Addr
}

// An outcome is what a generator saw.
type outcome struct {
	Sent, Answered int
	Took           time.Duration
}

// generate is the generator's main function.
func generate() error {
	var w workload
	if err := json.NewDecoder(os.Stdin).Decode(&w); err != nil {
		return err
	}
	ifi, err := net.InterfaceByName(w.Interface)
	if err != nil {
		return err
	}
	c, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return err
	}
	answered, counted := 0, make(chan struct{})
	go func() {
		defer close(counted)
		for buf := make([]byte, frameSize); ; {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n >= etherLen+ether.ARPLen && bytes.Equal(buf[:6], ifi.HardwareAddr) && buf[21] == byte(arp.OperationReply) {
				answered++
			}
		}
	}()
	out := outcome{}
	start := time.Now()
	sender, to := ether.ARPSide{MAC: MAC(ifi.HardwareAddr), IP: ip("192.0.2.99")}, &packet.Addr{HardwareAddr: ethernet.Broadcast}
	for out.Sent < w.Count {
		// What it was kept from sending it makes up for, but at no more than about
		// four times the rate.
		due := min(int(time.Since(start).Seconds()*float64(w.Rate)), w.Count, out.Sent+w.Rate/500+1)
		for ; out.Sent < due; out.Sent++ {
			frame := ether.AppendHeader(nil, ether.Broadcast, sender.MAC, uint16(ethernet.EtherTypeARP))
			frame = ether.AppendARP(frame, arp.OperationRequest, sender, ether.ARPSide{IP: w.Targets[out.Sent%len(w.Targets)]})
			if _, err := c.WriteTo(frame, to); err != nil {
				return err
			}
		}
		time.Sleep(500 * time.Microsecond)
	}
	out.Took = time.Since(start)
	// The last answers come within this, or are lost.
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	<-counted
	out.Answered = answered
	return errors.Join(json.NewEncoder(os.Stdout).Encode(out), c.Close())
}

// run has a generator in ns do w and returns what it saw.
func (w workload) run(b *testing.B, ns *netnstest.NS) (out outcome) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	in, err := json.Marshal(w)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), self)
	cmd.Env = append(os.Environ(), generatorEnv+"=1")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	ns.MustDo(cmd.Start)
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
		b.Fatal(err)
	}
	return out
}

// cpuTime is what this process has used, in user space and in the kernel.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkLoad is the share of a core that the responder takes beside 10,000
// owned addresses while requests come in over a veth pair: 50,000 a second for
// addresses of others, in the same pool of which a third is owned, or scattered
// like the owned ones, which no filter can tell apart in full; or 5,000 a second
// for owned ones, every one of which has to be answered.
func BenchmarkLoad(b *testing.B) {
	const owned = 10000
	var shareOwned, shareForeign []netip.Addr
	r := rand.New(rand.NewPCG(1, 2))
	for i := range uint32(3 * owned) {
		if a := addr4(0x0a000010 + i); r.IntN(3) == 0 && len(shareOwned) < owned {
			shareOwned = append(shareOwned, a)
		} else {
			shareForeign = append(shareForeign, a)
		}
	}
	var all []netip.Addr
	for seen := make(map[netip.Addr]bool); len(all) < 2*owned; {
		if a := addr4(0x0a000000 | r.Uint32()>>8); !seen[a] {
			seen[a] = true
			all = append(all, a)
		}
	}
	for _, tc := range []struct {
		name           string
		owned, targets []netip.Addr
		rate, seconds  int
		answered       bool
	}{
		{"idle", shareOwned, shareForeign, 1, 2, false},
		{"foreign/pool", shareOwned, shareForeign, 50000, 2, false},
		{"foreign/scattered", all[:owned], all[owned:], 50000, 2, false},
		{"owned", shareOwned, shareOwned, 5000, 2, true},
	} {
		b.Run(tc.name, func(b *testing.B) {
			node, peer := netnstest.New(b), netnstest.New(b)
			netnstest.Connect(node, "eth0", peer, "eth0")
			node.AddAddress("eth0", "192.0.2.1/24")
			watcher := netif.New(netif.Config{})
			node.Run(watcher.Run)
			<-watcher.Synced()
			// With the clock standing still the addresses are not announced all
			// the while.
			clock := clocktesting.NewFakeClock(time.Now())
			a, err := New(Config{Links: watcher, Clock: clock})
			if err != nil {
				b.Fatal(err)
			}
			node.Run(a.Run)
			d := make(Desired)
			for _, addr := range tc.owned {
				d[addr] = Announcement{Interfaces: []string{"eth0"}}
			}
			a.Apply(d)
			eventually(b, "addresses to be applied", func() bool {
				clock.Step(time.Millisecond)
				return len(a.Applied().Addresses) == len(d)
			})
			var used, took time.Duration
			sent, lost := 0, 0
			before := a.Applied().Interfaces[0].Queries
			for b.Loop() {
				start := cpuTime(b)
				out := workload{"eth0", tc.rate, tc.rate * tc.seconds, tc.targets}.run(b, peer)
				used += cpuTime(b) - start
				took += out.Took
				sent += out.Sent
				if tc.answered {
					lost += out.Sent - out.Answered
				} else if out.Answered > 0 {
					b.Fatalf("%d requests for foreign addresses are answered", out.Answered)
				}
			}
			b.ReportMetric(100*used.Seconds()/took.Seconds(), "%core")
			b.ReportMetric(float64(sent)/took.Seconds(), "requests/s")
			if tc.answered {
				b.ReportMetric(float64(lost), "lost")
				if seen := a.Applied().Interfaces[0].Queries - before; lost > 0 || seen != uint64(sent) {
					b.Errorf("of %d requests %d were seen and %d not answered", sent, seen, lost)
				}
			}
		})
	}
}

// generateIfAsked ends the process if it was started as a generator.
func generateIfAsked() {
	if os.Getenv(generatorEnv) == "" {
		return
	}
	if err := generate(); err != nil {
		fmt.Fprintln(os.Stderr, "generator:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
