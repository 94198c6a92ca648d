package l2

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"github.com/berth-lb/berth/internal/netif"
)

// A network is this node and a peer, on two Ethernets: eth0 and eth1. There is
// one in memory, whose peer is a model, and one of the kernel's, whose peer is
// the kernel's own network stack.
type network interface {
	// run runs an Announcer on the node until the test ends.
	run(w Wire) *Announcer
	// wire is the Wire for the node.
	wire() Wire

	// resolve has the peer, which knows nothing yet, look up addr on an
	// interface. It returns nil if nobody answers.
	resolve(ifname string, addr netip.Addr) net.HardwareAddr
	// reprobe has the peer, which knows that the node has addr, check that by
	// unicast, and reports whether it got an answer.
	reprobe(addr netip.Addr) bool
	// claim has the peer on eth0 check if addr is free, as it must before it
	// uses it, and reports whether it heard that it is not.
	claim(addr netip.Addr) (taken bool)
	// ask has the peer on eth0 ask once for addr and wait long for an answer.
	ask(addr netip.Addr)
	// usurp has the peer on eth0 use addr as its own.
	usurp(addr netip.Addr)
	// plant makes the peer believe that m has addr.
	plant(addr netip.Addr, m net.HardwareAddr)
	// cached is what the peer believes about addr.
	cached(addr netip.Addr) net.HardwareAddr

	// groups are the solicited-node groups that the node is a member of on
	// eth0 for the sake of the addresses in the documentation range.
	groups() []netip.Addr
	// setUp sets the node's eth0 up or down.
	setUp(up bool)
	// recreate deletes the node's eth0 and makes another of that name.
	recreate()
	// mac is the hardware address of the node's interface, peerMAC that of the
	// peer's eth0.
	mac(ifname string) net.HardwareAddr
	peerMAC() net.HardwareAddr
}

// onNetworks runs a test on each kind of network, for each address family.
func onNetworks(t *testing.T, test func(*testing.T, *bench)) {
	t.Parallel()
	for _, kind := range []struct {
		name string
		make func(*testing.T) network
	}{{"model", newModelNetwork}, {"kernel", newKernelNetwork}} {
		for _, family := range []struct {
			name           string
			owned, foreign netip.Addr
		}{
			{"IPv4", ip("192.0.2.10"), ip("192.0.2.77")},
			{"IPv6", ip("2001:db8::10:10"), ip("2001:db8::10:77")},
		} {
			t.Run(kind.name+"/"+family.name, func(t *testing.T) {
				t.Parallel()
				n := kind.make(t)
				b := &bench{network: n, t: t, owned: family.owned, foreign: family.foreign}
				b.counter = &countingWire{Wire: n.wire(), owned: family.owned}
				b.Announcer = n.run(b.counter)
				test(t, b)
			})
		}
	}
}

// bench is an Announcer on a network, with an address to own and one not to.
type bench struct {
	network
	*Announcer
	t              *testing.T
	counter        *countingWire
	owned, foreign netip.Addr
}

// own makes the node answer for addrs on eth0 and waits until it does.
func (b *bench) own(addrs ...netip.Addr) {
	b.t.Helper()
	d := make(Desired)
	for _, a := range addrs {
		d[a] = Announcement{Interfaces: []string{"eth0"}}
	}
	b.Apply(d)
	b.await(d)
}

// await waits until d is applied in full.
func (b *bench) await(d Desired) {
	b.t.Helper()
	eventually(b.t, "addresses to be applied", func() bool {
		s := b.Applied()
		for a, ann := range d {
			if !slices.Equal(s.Addresses[a], ann.Interfaces) {
				return false
			}
		}
		return len(s.Addresses) == len(d) && b.Lag() == 0
	})
}

func (b *bench) wantMAC(what string, got, want net.HardwareAddr) {
	b.t.Helper()
	if got.String() != want.String() {
		b.t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

func TestPeerResolves(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.own(b.owned)
		b.wantMAC("owned", b.resolve("eth0", b.owned), b.mac("eth0"))
		b.wantMAC("foreign", b.resolve("eth0", b.foreign), nil)
		b.wantMAC("owned, on an interface where it is not", b.resolve("eth1", b.owned), nil)
		b.own()
		b.wantMAC("withdrawn", b.resolve("eth0", b.owned), nil)
		b.own(b.owned)
		b.wantMAC("owned again", b.resolve("eth0", b.owned), b.mac("eth0"))
	})
}

func TestPeerChecksByUnicast(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.own(b.owned)
		b.wantMAC("owned", b.resolve("eth0", b.owned), b.mac("eth0"))
		if !b.reprobe(b.owned) {
			t.Fatal("no answer to a unicast request")
		}
		b.own(b.foreign)
		if b.reprobe(b.owned) {
			t.Fatal("a withdrawn address is answered for")
		}
	})
}

func TestPeerDetectsDuplicate(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.own(b.owned)
		if !b.claim(b.owned) {
			t.Error("the peer was not told that the address is taken")
		}
		if b.claim(b.foreign) {
			t.Error("the peer was told that a free address is taken")
		}
	})
}

func TestAnnouncementUpdatesPeer(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		previous := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x55}
		b.plant(b.owned, previous)
		b.wantMAC("planted", b.cached(b.owned), previous)
		b.own(b.owned)
		eventually(t, "the peer to learn of the takeover", func() bool {
			return b.cached(b.owned).String() == b.mac("eth0").String()
		})
		b.plant(b.owned, previous)
		b.Announce(b.owned)
		eventually(t, "the peer to learn again", func() bool {
			return b.cached(b.owned).String() == b.mac("eth0").String()
		})
	})
}

func TestGroupMembership(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		if b.owned.Is4() {
			b.own(b.owned)
			if g := b.groups(); len(g) != 0 {
				t.Fatalf("groups %v are joined for an IPv4 address", g)
			}
			return
		}
		b.own(b.owned, ip("2001:db8:1::10:10"), b.foreign)
		want := []netip.Addr{ip("ff02::1:ff10:10"), ip("ff02::1:ff10:77")}
		eventually(t, "groups to be joined", func() bool { return slices.Equal(b.groups(), want) })
		b.own(b.owned)
		eventually(t, "a group to be left", func() bool { return slices.Equal(b.groups(), want[:1]) })
		b.own()
		eventually(t, "all groups to be left", func() bool { return len(b.groups()) == 0 })
	})
}

func TestLinkDownAndUp(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.own(b.owned)
		d := Desired{b.owned: {Interfaces: []string{"eth0"}}}
		b.setUp(false)
		eventually(t, "the loss of the link to show", func() bool {
			s := b.Applied()
			return len(s.Addresses) == 0 && len(s.Interfaces) == 1 && s.Interfaces[0].Err != nil
		})
		b.plant(b.owned, net.HardwareAddr{0x02, 0, 0, 0, 0, 0x55})
		b.setUp(true)
		b.await(d)
		eventually(t, "the peer to learn of the return", func() bool {
			return b.cached(b.owned).String() == b.mac("eth0").String()
		})
		b.wantMAC("after link up", b.resolve("eth0", b.owned), b.mac("eth0"))
	})
}

func TestLinkRecreated(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.own(b.owned)
		d := Desired{b.owned: {Interfaces: []string{"eth0"}}}
		old := b.mac("eth0").String()
		b.recreate()
		b.await(d)
		if b.mac("eth0").String() == old {
			t.Fatal("the new interface has the old one's address, which proves nothing")
		}
		eventually(t, "the new interface to answer", func() bool {
			return b.resolve("eth0", b.owned).String() == b.mac("eth0").String()
		})
	})
}

func TestSecondInterface(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		d := Desired{b.owned: {Interfaces: []string{"eth0", "eth1"}}}
		b.Apply(d)
		b.await(d)
		for _, name := range d[b.owned].Interfaces {
			b.wantMAC(name, b.resolve(name, b.owned), b.mac(name))
		}
		d = Desired{b.owned: {Interfaces: []string{"eth1"}}}
		b.Apply(d)
		b.await(d)
		b.wantMAC("eth0 after it was left", b.resolve("eth0", b.owned), nil)
		b.wantMAC("eth1", b.resolve("eth1", b.owned), b.mac("eth1"))
	})
}

func TestForeignAddressesDoNotWakeTheReader(t *testing.T) {
	onNetworks(t, func(t *testing.T, b *bench) {
		b.own(b.owned)
		b.resolve("eth0", b.owned)
		eventually(t, "something to be read for an owned address", func() bool { return b.counter.reads.Load() > 0 })
		addr := b.foreign
		for range 20 {
			addr = addr.Next()
			b.resolve("eth0", addr)
		}
		if n := b.counter.foreign.Load(); n != 0 {
			t.Errorf("20 requests for foreign addresses woke the reader %d times", n)
		}
	})
}

// countingWire counts the frames that reach user space, and the group sockets.
type countingWire struct {
	Wire
	owned        netip.Addr
	reads        atomic.Int64
	foreign      atomic.Int64 // reads of frames that do not mention owned
	groupSockets atomic.Int64
}

func (w *countingWire) OpenGroups() (GroupSocket, error) {
	w.groupSockets.Add(1)
	return w.Wire.OpenGroups()
}

func (w *countingWire) Open(link netif.Link, proto Protocol, filter []bpf.Instruction) (Conn, error) {
	c, err := w.Wire.Open(link, proto, filter)
	if err != nil {
		return nil, err
	}
	return &countingConn{c, w}, nil
}

type countingConn struct {
	Conn
	wire *countingWire
}

func (c *countingConn) ReadFrame(b []byte) (int, error) {
	n, err := c.Conn.ReadFrame(b)
	if err == nil {
		c.wire.reads.Add(1)
		if !bytes.Contains(b[:n], c.wire.owned.AsSlice()) {
			c.wire.foreign.Add(1)
		}
	}
	return n, err
}

// runOn runs an Announcer with f until the test ends.
func runOn(t *testing.T, cfg Config, run func(func(context.Context) error)) *Announcer {
	t.Helper()
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(a.Run)
	return a
}

// silence is how long a question is left open before it counts as unanswered.
const silence = 300 * time.Millisecond
