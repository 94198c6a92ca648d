package l2

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
	"github.com/berth-lb/berth/internal/netnstest"
)

// kernelNetwork is two network namespaces joined by two veth pairs.
type kernelNetwork struct {
	t          *testing.T
	node, peer *netnstest.NS
}

func newKernelNetwork(t *testing.T) network {
	n := &kernelNetwork{t: t, node: netnstest.New(t), peer: netnstest.New(t)}
	for _, eth := range []struct{ name, node4, peer4, node6, peer6 string }{
		{"eth0", "192.0.2.1/24", "192.0.2.99/24", "2001:db8::1/64", "2001:db8::99/64"},
		{"eth1", "198.51.100.1/24", "198.51.100.99/24", "2001:db8:2::1/64", "2001:db8:2::99/64"},
	} {
		netnstest.Connect(n.node, eth.name, n.peer, eth.name)
		n.node.AddAddress(eth.name, eth.node4)
		n.node.AddAddress(eth.name, eth.node6)
		n.peer.AddAddress(eth.name, eth.peer4)
		n.peer.AddAddress(eth.name, eth.peer6)
	}
	n.quicken()
	return n
}

// quicken has the peer give up after one question, sent 200 ms after the first,
// and take answers in at once.
func (n *kernelNetwork) quicken() {
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, eth := range []string{"eth0", "eth1"} {
			dir := "net/" + family + "/neigh/" + eth + "/"
			n.peer.SetSysctl(dir+"retrans_time_ms", "100")
			n.peer.SetSysctl(dir+"delay_first_probe_time", "0")
			n.peer.SetSysctl(dir+"mcast_solicit", "2")
			n.peer.SetSysctl(dir+"ucast_solicit", "2")
			n.peer.SetSysctl(dir+"locktime", "0")
		}
	}
}

func (n *kernelNetwork) run(w Wire) *Announcer {
	watcher := netif.New(netif.Config{})
	n.node.Run(watcher.Run)
	<-watcher.Synced()
	return runOn(n.t, Config{Links: watcher, Wire: w}, func(task func(context.Context) error) { n.node.Run(task) })
}

func (n *kernelNetwork) wire() Wire { return PacketWire{} }

func (n *kernelNetwork) mac(ifname string) net.HardwareAddr { return n.node.MAC(ifname) }

// neighbour returns the peer's entry for addr, nil if there is none.
func (n *kernelNetwork) neighbour(ifname string, addr netip.Addr) *netlink.Neigh {
	n.t.Helper()
	list, err := n.peer.Netlink().NeighList(n.peer.Link(ifname).Attrs().Index, family(addr))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, e := range list {
		if a, _ := netip.AddrFromSlice(e.IP); a.Unmap() == addr {
			return &e
		}
	}
	return nil
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// send has the peer send a UDP packet to addr, which makes it resolve it.
func (n *kernelNetwork) send(ifname string, addr netip.Addr) {
	n.t.Helper()
	n.peer.MustDo(func() error {
		lc := net.ListenConfig{Control: bindTo(ifname)}
		c, err := lc.ListenPacket(n.t.Context(), "udp", ":0")
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
		return err
	})
}

func (n *kernelNetwork) resolve(ifname string, addr netip.Addr) net.HardwareAddr {
	n.t.Helper()
	link := n.peer.Link(ifname)
	if n.neighbour(ifname, addr) != nil {
		if err := n.peer.Netlink().NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: addr.AsSlice(), Family: family(addr)}); err != nil {
			n.t.Fatal(err)
		}
	}
	// The address may be foreign to the interface's subnets: a route to it makes
	// the peer ask there all the same.
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
	if err := n.peer.Netlink().RouteReplace(route); err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = n.peer.Netlink().RouteDel(route) }()
	n.send(ifname, addr)
	var got net.HardwareAddr
	eventually(n.t, "the peer to come to a conclusion about "+addr.String(), func() bool {
		e := n.neighbour(ifname, addr)
		if e == nil || e.State&(netlink.NUD_FAILED) != 0 {
			return true
		}
		if e.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE) != 0 {
			got = e.HardwareAddr
		}
		return got != nil
	})
	return got
}

func (n *kernelNetwork) reprobe(addr netip.Addr) bool {
	n.t.Helper()
	n.set(addr, n.mac("eth0"), netlink.NUD_STALE)
	n.send("eth0", addr) // STALE, DELAY for no time, PROBE: unicast
	reachable := false
	eventually(n.t, "the peer to come to a conclusion about "+addr.String(), func() bool {
		e := n.neighbour("eth0", addr)
		reachable = e != nil && e.State&netlink.NUD_REACHABLE != 0
		return reachable || e == nil || e.State&netlink.NUD_FAILED != 0
	})
	return reachable
}

// claim: the kernel itself probes for IPv6 only; for IPv4 the probe of RFC 5227
// is sent from here.
func (n *kernelNetwork) claim(addr netip.Addr) bool {
	n.t.Helper()
	if addr.Is4() {
		return n.probeARP(addr)
	}
	n.peer.SetSysctl("net/ipv6/conf/eth0/accept_dad", "1")
	n.peer.AddAddress("eth0", netip.PrefixFrom(addr, 64).String())
	var flags int
	eventually(n.t, "duplicate address detection", func() bool {
		list, err := n.peer.Netlink().AddrList(n.peer.Link("eth0"), netlink.FAMILY_V6)
		if err != nil {
			n.t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(a netlink.Addr) bool { return a.IP.Equal(addr.AsSlice()) })
		flags = list[i].Flags
		return flags&unix.IFA_F_TENTATIVE == 0 || flags&unix.IFA_F_DADFAILED != 0
	})
	return flags&unix.IFA_F_DADFAILED != 0
}

func (n *kernelNetwork) probeARP(addr netip.Addr) (answered bool) {
	link := n.peer.Link("eth0").Attrs()
	n.peer.MustDo(func() error {
		c, err := packet.Listen(&net.Interface{Index: link.Index}, packet.Raw, unix.ETH_P_ARP, nil)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		frame := arpFrame{src: link.HardwareAddr, senderMAC: link.HardwareAddr, sender: ip("0.0.0.0"), target: addr}.bytes(n.t)
		if _, err := c.WriteTo(frame, &packet.Addr{HardwareAddr: ethernet.Broadcast}); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		for buf := make([]byte, 100); !answered; {
			size, _, err := c.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			if err != nil {
				return err
			}
			var p arp.Packet
			answered = p.UnmarshalBinary(buf[etherLen:size]) == nil && p.Operation == arp.OperationReply &&
				p.SenderIP == addr && MAC(p.TargetHardwareAddr) == MAC(link.HardwareAddr)
		}
		return nil
	})
	return answered
}

func (n *kernelNetwork) peerMAC() net.HardwareAddr { return n.peer.MAC("eth0") }

func (n *kernelNetwork) ask(addr netip.Addr) {
	for _, family := range []string{"ipv4", "ipv6"} {
		n.peer.SetSysctl("net/"+family+"/neigh/eth0/retrans_time_ms", "30000")
		n.peer.SetSysctl("net/"+family+"/neigh/eth0/mcast_solicit", "1")
	}
	n.send("eth0", addr)
}

// usurp has the peer's kernel ask for the node's address from addr, or for
// duplicates of addr, which is the first that it does with an IPv6 address.
func (n *kernelNetwork) usurp(addr netip.Addr) {
	if addr.Is6() {
		n.peer.SetSysctl("net/ipv6/conf/eth0/accept_dad", "1")
		// At once: while it waits, for this long at most, an announcement ends it before it has asked.
		n.peer.SetSysctl("net/ipv6/conf/eth0/router_solicitation_delay", "0")
		n.peer.AddAddress("eth0", netip.PrefixFrom(addr, 64).String())
		return
	}
	n.peer.AddAddress("eth0", netip.PrefixFrom(addr, 24).String())
	n.peer.MustDo(func() error {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: addr.AsSlice()}, &net.UDPAddr{IP: net.IP{192, 0, 2, 1}, Port: 9})
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Write([]byte("!"))
		return err
	})
}

func (n *kernelNetwork) plant(addr netip.Addr, m net.HardwareAddr) { n.set(addr, m, netlink.NUD_STALE) }

func (n *kernelNetwork) set(addr netip.Addr, m net.HardwareAddr, state int) {
	n.t.Helper()
	if err := n.peer.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: n.peer.Link("eth0").Attrs().Index, Family: family(addr), State: state, IP: addr.AsSlice(), HardwareAddr: m,
	}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *kernelNetwork) cached(addr netip.Addr) net.HardwareAddr {
	n.t.Helper()
	if e := n.neighbour("eth0", addr); e != nil {
		return e.HardwareAddr
	}
	return nil
}

// groups reads what the kernel tells switches, less the groups of the node's own
// addresses.
func (n *kernelNetwork) groups() (out []netip.Addr) {
	n.t.Helper()
	own := make(map[netip.Addr]bool)
	list, err := n.node.Netlink().AddrList(n.node.Link("eth0"), netlink.FAMILY_V6)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, a := range list {
		addr, _ := netip.AddrFromSlice(a.IP)
		own[ether.SolicitedNode(addr)] = true
	}
	n.node.MustDo(func() error {
		f, err := os.Open("/proc/thread-self/net/igmp6")
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			b, err := hex.DecodeString(fields[2])
			if err != nil {
				return err
			}
			group := netip.AddrFrom16([16]byte(b))
			if fields[1] == "eth0" && ether.IsSolicitedNode(group) && !own[group] {
				out = append(out, group)
			}
		}
		return nil
	})
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func (n *kernelNetwork) setUp(up bool) { n.node.SetUp("eth0", up) }

func (n *kernelNetwork) recreate() {
	n.node.Delete("eth0") // and with it the peer's end
	netnstest.Connect(n.node, "eth0", n.peer, "eth0")
	n.node.AddAddress("eth0", "192.0.2.1/24")
	n.node.AddAddress("eth0", "2001:db8::1/64")
	n.peer.AddAddress("eth0", "192.0.2.99/24")
	n.peer.AddAddress("eth0", "2001:db8::99/64")
	n.quicken()
}

// TestKernelFarmsOutGroups joins more groups than the kernel grants one socket.
func TestKernelFarmsOutGroups(t *testing.T) {
	t.Parallel()
	n := newKernelNetwork(t).(*kernelNetwork)
	counter := &countingWire{Wire: PacketWire{}}
	a := n.run(counter)
	const many = 5000
	d := make(Desired)
	for i := range uint32(many) {
		d[addr6(1, 0x00100000+i)] = Announcement{Interfaces: []string{"eth0"}}
	}
	start := time.Now()
	a.Apply(d)
	eventually(t, "all groups to be joined", func() bool { return len(n.groups()) == many && a.Lag() == 0 })
	t.Logf("%d groups on %d sockets in %v", many, counter.groupSockets.Load(), time.Since(start))
	if counter.groupSockets.Load() < 2 {
		t.Errorf("one socket took %d groups: the test has to ask for more", many)
	}
	if s := a.Applied().Interfaces; len(s) != 1 || s[0].Err != nil {
		t.Errorf("unexpected state %+v", s)
	}
	a.Apply(Desired{})
	eventually(t, "all groups to be left", func() bool { return len(n.groups()) == 0 })
}

// TestKernelForgetsFormerOwner: the node's own kernel, which no announcement of the
// node reaches, takes an address to be at the node once that has taken it over, and
// so redirects nobody to the former owner.
func TestKernelForgetsFormerOwner(t *testing.T) {
	t.Parallel()
	n := newKernelNetwork(t).(*kernelNetwork)
	const held = "2001:db8::10"
	former := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x77}
	entry := &netlink.Neigh{LinkIndex: n.node.Link("eth0").Attrs().Index, IP: net.ParseIP(held), HardwareAddr: former, State: netlink.NUD_STALE}
	if err := n.node.Netlink().NeighAdd(entry); err != nil {
		t.Fatal(err)
	}
	a := n.run(PacketWire{})
	a.Apply(Desired{ip(held): {Interfaces: []string{"eth0"}}})
	eventually(t, "the kernel to take the address to be at its own node", func() bool {
		list, err := n.node.Netlink().NeighList(entry.LinkIndex, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list, func(e netlink.Neigh) bool {
			return e.IP.Equal(entry.IP) && slices.Equal(e.HardwareAddr, n.mac("eth0"))
		})
	})
}

// TestKernelFilterKnowsItsInterface: a program made for another interface, such
// as that of a VLAN on top, lets nothing in.
func TestKernelFilterKnowsItsInterface(t *testing.T) {
	t.Parallel()
	n := newKernelNetwork(t).(*kernelNetwork)
	link := netif.Link{Index: n.node.Link("eth0").Attrs().Index, Name: "eth0"}
	addrs := []netip.Addr{ip("192.0.2.10")}
	var conn Conn
	n.node.MustDo(func() (err error) {
		conn, err = PacketWire{}.Open(link, ARP, FilterARP(addrs, addrs, maxProgram))
		return err
	})
	t.Cleanup(func() { _ = conn.Close() })
	read := func() error {
		if err := conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
			t.Fatal(err)
		}
		_, err := conn.ReadFrame(make([]byte, frameSize))
		return err
	}
	n.send("eth0", addrs[0])
	if err := read(); err != nil {
		t.Fatalf("a request on the interface was not seen: %v", err)
	}
	conn.(*packetConn).ifindex++
	if err := conn.SetFilter(FilterARP(addrs, addrs, maxProgram)); err != nil {
		t.Fatal(err)
	}
	for read() == nil { // what was queued before
	}
	n.resolve("eth0", addrs[0])
	if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a request on another interface was seen: %v", err)
	}
}

// bindTo binds a socket to an interface.
func bindTo(ifname string) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), ifname) }); cerr != nil {
			return cerr
		}
		return err
	}
}
