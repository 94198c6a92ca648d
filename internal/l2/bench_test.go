package l2

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/netnstest"
)

// many returns a Desired of n addresses on eth0.
func many(proto Protocol, n int) (Desired, []netip.Addr) {
	d, addrs := make(Desired, n), scattered(proto, n)
	for _, a := range addrs {
		d[a] = Announcement{Interfaces: []string{"eth0"}}
	}
	return d, addrs
}

// BenchmarkRespond is what a request that passed the filter costs, less the two
// system calls.
func BenchmarkRespond(b *testing.B) {
	for _, proto := range []Protocol{ARP, NDP} {
		for _, n := range []int{1, 10000} {
			b.Run(fmt.Sprintf("%s/%d", proto, n), func(b *testing.B) {
				d, addrs := many(proto, n)
				a, err := New(Config{Links: netif.NewFake()})
				if err != nil {
					b.Fatal(err)
				}
				a.desired.Store(&d)
				p := a.newPort(portKey{"eth0", proto}, identity{2, ourself()})
				var frame []byte
				if proto == ARP {
					frame = arpFrame{target: addrs[0]}.bytes(b)
				} else {
					frame = nsFrame{target: addrs[0]}.bytes(b)
				}
				out := make([]byte, 0, 128)
				b.ReportAllocs()
				for b.Loop() {
					if p.respond(out, frame) == nil {
						b.Fatal("no answer")
					}
				}
			})
		}
	}
}

// BenchmarkConverge is what it costs to add or remove one address beside others.
func BenchmarkConverge(b *testing.B) {
	for _, proto := range []Protocol{ARP, NDP} {
		for _, n := range []int{1, 10000} {
			b.Run(fmt.Sprintf("%s/%d", proto, n), func(b *testing.B) {
				links := netif.NewFake(testLink(2, "eth0"))
				a, err := New(Config{Links: links, Wire: &FakeWire{}})
				if err != nil {
					b.Fatal(err)
				}
				l := newLoop(a)
				all, _ := many(proto, n)
				one, _ := many(proto, n)
				extra := ip("2001:db8::1")
				if proto == ARP {
					extra = ip("10.0.0.1")
				}
				one[extra] = Announcement{Interfaces: []string{"eth0"}}
				a.Apply(all)
				l.converge()
				for b.Loop() {
					a.Apply(one)
					l.converge()
					a.Apply(all)
					l.converge()
				}
				for _, p := range l.ports {
					l.close(p)
				}
				l.serving.Wait()
			})
		}
	}
}

// BenchmarkActivate is how long it takes, from Apply on, until a remembered query
// is answered, beside 10,000 owned addresses and 20,000 of two owners that this
// node is armed for, of which one fails.
func BenchmarkActivate(b *testing.B) {
	var answered time.Time
	wire := &FakeWire{OnSend: func(string, []byte) { answered = time.Now() }}
	a, err := New(Config{Links: netif.NewFake(testLink(2, "eth0")), Wire: wire})
	if err != nil {
		b.Fatal(err)
	}
	l := newLoop(a)
	desired := func(active bool) Desired {
		d := make(Desired)
		interfaces := []string{"eth0"}
		first, second := map[string]MAC{"eth0": MAC(ownerMAC)}, map[string]MAC{"eth0": MAC(peerMAC)}
		for i := range uint32(10000) {
			d[addr4(0x0a000000+3*i)] = Announcement{Interfaces: interfaces}
			d[addr4(0x0a000001+3*i)] = Announcement{Interfaces: interfaces, StandIn: first, Armed: !active}
			d[addr4(0x0a000002+3*i)] = Announcement{Interfaces: interfaces, StandIn: second, Armed: true}
		}
		return d
	}
	armed, active := desired(false), desired(true)
	frame := arpFrame{target: addr4(0x0a000001)}.bytes(b)
	a.Apply(armed)
	l.converge()
	var until, round time.Duration
	rounds := 0
	for b.Loop() {
		l.ports[portKey{"eth0", ARP}].respond(nil, frame)
		start := time.Now()
		a.Apply(active)
		until += answered.Sub(start)
		start = time.Now()
		l.converge()
		round += time.Since(start)
		rounds++
		wire.Reset()
		a.Apply(armed)
		l.converge()
	}
	b.ReportMetric(float64(until.Microseconds())/float64(rounds), "µs/answer")
	b.ReportMetric(float64(round.Microseconds())/float64(rounds), "µs/round")
	for _, p := range l.ports {
		l.close(p)
	}
	l.serving.Wait()
}

// BenchmarkWire is one question and its answer over a veth pair, beside 10,000
// owned addresses.
func BenchmarkWire(b *testing.B) {
	node, peer := netnstest.New(b), netnstest.New(b)
	netnstest.Connect(node, "eth0", peer, "eth0")
	node.AddAddress("eth0", "192.0.2.1/24")
	watcher := netif.New(netif.Config{})
	node.Run(watcher.Run)
	<-watcher.Synced()
	a, err := New(Config{Links: watcher})
	if err != nil {
		b.Fatal(err)
	}
	node.Run(a.Run)
	d := make(Desired)
	for i := range uint32(10000) {
		d[addr4(0x0a000000+2*i)] = Announcement{Interfaces: []string{"eth0"}}
	}
	a.Apply(d)
	eventually(b, "addresses to be applied", func() bool { return len(a.Applied().Addresses) == len(d) })

	link := peer.Link("eth0").Attrs()
	var conn *packet.Conn
	peer.MustDo(func() error {
		conn, err = packet.Listen(&net.Interface{Index: link.Index}, packet.Raw, unix.ETH_P_ARP, nil)
		return err
	})
	b.Cleanup(func() { _ = conn.Close() })
	frame := arpFrame{src: link.HardwareAddr, senderMAC: link.HardwareAddr, target: ip("10.0.0.2")}.bytes(b)
	to := &packet.Addr{HardwareAddr: ethernet.Broadcast}
	for buf := make([]byte, frameSize); b.Loop(); {
		if _, err := conn.WriteTo(frame, to); err != nil {
			b.Fatal(err)
		}
		// Gratuitous announcements are broadcast; the answer is for the peer.
		for answered := false; !answered; answered = MAC(buf[:6]) == MAC(link.HardwareAddr) {
			if _, _, err := conn.ReadFrom(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
}
