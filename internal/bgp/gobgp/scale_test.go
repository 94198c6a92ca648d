package gobgp

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/wire"
	"github.com/berth-lb/berth/internal/netnstest"
)

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFullTable announces 2,000 routes to two peers over a new session each.
func BenchmarkFullTable(b *testing.B) {
	for range b.N {
		b.StopTimer()
		n := newNetwork(b)
		routers := []*router{n.newRouter(b, 64501, router4+":179"), n.newRouter(b, 64501, router4+":1179")}
		s, stop := n.startSpeaker(b)
		routes := testRoutes(2000)
		var peers []bgp.Peer
		all := make(map[string][]bgp.Route)
		for i := range routers {
			p := testPeer(64501, func(p *bgp.Peer) { p.Name, p.Port = fmt.Sprint(i), []uint16{179, 1179}[i] })
			peers = append(peers, p)
			all[p.Name] = routes
		}
		before := cpu()
		b.StartTimer()
		s.Apply(peers, all)
		for _, r := range routers {
			netnstest.Eventually(b, "all routes", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == len(routes) })
		}
		b.StopTimer()
		b.ReportMetric(float64((cpu() - before).Milliseconds()), "cpu-ms/op")
		stop()
		for _, r := range routers {
			r.close()
		}
		b.StartTimer()
	}
}

// BenchmarkIdlePeer reports the memory of sessions that announce nothing.
func BenchmarkIdlePeer(b *testing.B) {
	n := newNetwork(b)
	const peers = 50
	var set []bgp.Peer
	for i := range peers {
		port := uint16(2000 + i)
		silent(b, n, port)
		set = append(set, testPeer(64501, func(p *bgp.Peer) { p.Name, p.Port = fmt.Sprint(i), port }))
	}
	s, _ := n.startSpeaker(b)
	before := heap()
	goroutines := runtime.NumGoroutine()
	s.Apply(set, nil)
	netnstest.Eventually(b, "all sessions", func() bool {
		up := 0
		for _, st := range s.States() {
			if st.State == bgp.Established {
				up++
			}
		}
		return up == peers
	})
	b.ReportMetric(float64(heap()-before)/peers/1024, "KiB/peer")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/peers, "goroutines/peer")
	for range b.N {
	}
}

// silent is a router that costs next to nothing.
func silent(t testing.TB, n *network, port uint16) {
	var listener net.Listener
	n.router.MustDo(func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf("%s:%d", router4, port))
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		open := wire.Open{ASN: 64501, HoldTime: 90, RouterID: netip.MustParseAddr("203.0.113.1"), Capabilities: wire.Capabilities{
			Families: []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast}, FourOctetASN: true}}
		b, _ := open.Append(nil)
		_, _ = conn.Write(wire.AppendKeepalive(b))
		for {
			if _, err := readMessage(conn); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
}

// What a router tells costs nothing to keep, because it is not kept.
func TestFullTableFromRouter(t *testing.T) {
	n := newNetwork(t)
	r := n.newRouter(t, 64501, router4+":179")
	s, _ := n.startSpeaker(t)
	apply(s, testPeer(64501), testRoutes(1)...)
	netnstest.Eventually(t, "a route", func() bool { return r.table() != "" })
	before := heap()
	const prefixes, each = 200_000, 4
	for i := 0; i < prefixes; i += each {
		r.send(updateOf(i, each))
	}
	netnstest.Eventually(t, "all updates", func() bool { return state(t, s, "tor").Received.Update == prefixes/each })
	after := heap()
	t.Logf("memory before %d KiB, after %d KiB", before/1024, after/1024)
	if after > before+5<<20 {
		t.Errorf("memory grew from %d to %d bytes", before, after)
	}
	if st := state(t, s, "tor"); st.State != bgp.Established || st.Flaps != 0 {
		t.Errorf("state is %+v", st)
	}
	apply(s, testPeer(64501), testRoutes(2)...)
	netnstest.Eventually(t, "another route", func() bool { return count(r, func(r *router) int { return len(r.routes) }) == 2 })
}

// updateOf returns an UPDATE with some prefixes.
func updateOf(first, n int) []byte {
	attributes := []byte{
		0x40, 1, 1, 0, // origin
		0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf5, // AS path: 64501
		0x40, 3, 4, 192, 0, 2, 99, // next hop
	}
	var prefixes []byte
	for i := first; i < first+n; i++ {
		prefixes = append(prefixes, 24, 32+byte(i>>16), byte(i>>8), byte(i))
	}
	msg := wire.AppendKeepalive(nil)
	msg[18] = byte(wire.TypeUpdate)
	msg = append(msg, 0, 0, 0, byte(len(attributes)))
	msg = append(append(msg, attributes...), prefixes...)
	msg[16], msg[17] = byte(len(msg)>>8), byte(len(msg))
	return msg
}
