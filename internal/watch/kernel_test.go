package watch

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/internal/neighbor"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/netnstest"
)

// inside opens connections in a namespace.
type inside struct{ ns *netnstest.NS }

func (i inside) Listen(ctx context.Context, at netip.AddrPort) (ln *net.TCPListener, err error) {
	err = i.ns.Do(func() error { ln, err = kernel{}.Listen(ctx, at); return err })
	return ln, err
}

func (i inside) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (conn net.Conn, err error) {
	err = i.ns.Do(func() error { conn, err = kernel{}.Dial(ctx, from, to); return err })
	return conn, err
}

// ethernet is a bridge with a namespace at each port.
type ethernet struct {
	hub   *netnstest.NS
	nodes []*ethernetNode
}

type ethernetNode struct {
	*Watch
	name    string
	ns      *netnstest.NS
	port    string
	members *fakeMembers
	logs    *safeBuffer
	stop    func()
}

// newEthernet runs a Watch and a prober in each of count namespaces. Verdicts reach all, cut off or not.
func newEthernet(t *testing.T, count int, ipv6 bool) *ethernet {
	e := &ethernet{hub: netnstest.New(t)}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	if err := e.hub.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	e.hub.SetUp("br0", true)
	view := View{}
	for i := range count {
		n := &ethernetNode{name: fmt.Sprint("node-", i+1), ns: netnstest.New(t), port: fmt.Sprint("port", i+1), members: newFakeMembers(), logs: &safeBuffer{}}
		addr, length := netip.AddrFrom4([4]byte{10, 9, 0, byte(i + 1)}), 24
		link := Link{Name: "eth0", Addr4: addr}
		if ipv6 {
			addr, length = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1)), 64
			link = Link{Name: "eth0", Addr6: addr}
		}
		netnstest.Connect(n.ns, "eth0", e.hub, n.port)
		e.connect(t, n)
		prefix := netip.PrefixFrom(addr, length)
		n.ns.AddAddress("eth0", prefix.String())
		link.Prefixes = []netip.Prefix{prefix.Masked()}
		link.MAC = [6]byte(n.ns.MAC("eth0"))
		view.Nodes = append(view.Nodes, Node{Name: n.name, Addr: addr, WatchPort: 7955, Epoch: 1, Links: []Link{link}})
		e.nodes = append(e.nodes, n)
	}
	for i, n := range e.nodes {
		v := view
		v.Links = view.Nodes[i].Links
		n.members.set(v)
		n.run(t, netip.AddrPortFrom(view.Nodes[i].Addr, 7955))
	}
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	for _, n := range e.nodes {
		go func() {
			for {
				select {
				case v := <-n.members.sent:
					for _, o := range e.nodes {
						if o != n {
							o.members.verdicts <- v
						}
					}
				case <-done:
					return
				}
			}
		}()
	}
	return e
}

func (n *ethernetNode) run(t *testing.T, bind netip.AddrPort) {
	links := netif.New(netif.Config{Logger: log.NewNopLogger()})
	asker, err := neighbor.New(neighbor.Config{Links: links})
	if err != nil {
		t.Fatal(err)
	}
	n.Watch, err = New(Config{
		Node: n.name, Bind: bind, StandInLimit: DefaultStandInLimit, Members: n.members, Prober: FromProber(asker),
		Logger: log.NewLogfmtLogger(n.logs), network: inside{n.ns},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", n.name, n.logs)
		}
	})
	n.ns.Run(links.Run)
	n.ns.Run(asker.Run)
	n.stop = n.ns.Run(n.Run)
}

func (e *ethernet) connect(t *testing.T, n *ethernetNode) {
	t.Helper()
	if err := e.hub.Netlink().LinkSetMaster(e.hub.Link(n.port), e.hub.Link("br0")); err != nil {
		t.Fatal(err)
	}
}

// cut takes a node's port out of the bridge: the node keeps its carrier and reaches nobody.
func (e *ethernet) cut(t *testing.T, n *ethernetNode) {
	t.Helper()
	if err := e.hub.Netlink().LinkSetNoMaster(e.hub.Link(n.port)); err != nil {
		t.Fatal(err)
	}
}

// all reports whether all nodes but n see n so.
func (e *ethernet) all(n *ethernetNode, state State, gone bool) bool {
	for _, o := range e.nodes {
		if s, ok := o.Standing().Nodes[n.name]; o != n && (!ok || s.State != state || s.SpeakerGone != gone) {
			return false
		}
	}
	return true
}

// settled reports whether all nodes have heard and connected to all that they watch.
func (e *ethernet) settled() bool {
	for _, n := range e.nodes {
		answer := make(chan bool, 1)
		n.events <- func(now time.Time) {
			ok := len(n.machine.list) == len(e.nodes)-1
			for _, o := range n.machine.list {
				ok = ok && o.verifiable() && o.connected && now.Sub(o.watched) > settleAfter
			}
			answer <- ok
		}
		if !<-answer {
			return false
		}
	}
	return true
}

// TestEthernet takes real nodes through being cut off, returning, and the end of a speaker.
func TestEthernet(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[ipv6], func(t *testing.T) {
			e := newEthernet(t, 4, ipv6)
			await(t, "all watch all", e.settled)
			victim := e.nodes[3]
			began := time.Now()
			e.cut(t, victim)
			await(t, "the one that is cut off is down", func() bool { return e.all(victim, Down, false) })
			t.Logf("down for all %v after it was cut off", time.Since(began))
			for _, n := range e.nodes[:3] {
				if n.Standing().Isolated {
					t.Errorf("%s takes itself for cut off", n.name)
				}
			}
			began = time.Now()
			e.connect(t, victim)
			await(t, "it is up again", func() bool { return e.all(victim, Up, false) })
			t.Logf("up for all %v after it was connected", time.Since(began))
			await(t, "all watch all again", e.settled)
			began = time.Now()
			e.nodes[0].stop()
			await(t, "its speaker is gone", func() bool { return e.all(e.nodes[0], Up, true) })
			t.Logf("its speaker is seen to end after %v", time.Since(began))
		})
	}
}
