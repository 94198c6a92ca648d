package l2

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/berth-lb/berth/internal/netif"
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
				var desired atomic.Pointer[Desired]
				desired.Store(&d)
				key := portKey{"eth0", proto}
				p := &port{key: key, id: identity{2, ourself()}, desired: &desired, metrics: NewMetrics(nil).forPort(key)}
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
				links := &fakeLinks{links: []netif.Link{testLink(2, "eth0")}}
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
