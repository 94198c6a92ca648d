package l2

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

// modelNetwork is a network in memory. Its peer keeps a neighbour table for each
// interface by the rules that hosts follow.
type modelNetwork struct {
	t     *testing.T
	fake  *FakeWire
	links *netif.Fake

	mu    sync.Mutex
	eth   map[string]netif.Link
	next  int
	table map[string]map[netip.Addr]net.HardwareAddr
	told  map[netip.Addr]bool // that a probed address is taken
	heard chan struct{}
}

func newModelNetwork(t *testing.T) network {
	n := &modelNetwork{
		t: t, fake: &FakeWire{}, links: netif.NewFake(), next: 2,
		eth:   make(map[string]netif.Link),
		table: map[string]map[netip.Addr]net.HardwareAddr{"eth0": {}, "eth1": {}},
		told:  make(map[netip.Addr]bool),
		heard: make(chan struct{}, 1),
	}
	n.fake.OnSend = n.receive
	n.add("eth0")
	n.add("eth1")
	return n
}

// add makes an interface of the node.
func (n *modelNetwork) add(name string) {
	n.mu.Lock()
	link := testLink(n.next, name)
	link.MAC = net.HardwareAddr{0x02, 0, 0, 0, 1, byte(n.next)}
	n.next++
	n.eth[name] = link
	n.mu.Unlock()
	n.publish()
}

// publish tells the node of its interfaces.
func (n *modelNetwork) publish() {
	n.mu.Lock()
	var links []netif.Link
	for _, l := range n.eth {
		links = append(links, l)
	}
	n.mu.Unlock()
	n.links.Set(links...)
}

func (n *modelNetwork) run(w Wire) *Announcer {
	return runOn(n.t, Config{Links: n.links, Wire: w}, func(task func(context.Context) error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = task(ctx) }()
		n.t.Cleanup(func() { cancel(); <-done })
	})
}

func (n *modelNetwork) wire() Wire { return n.fake }

func (n *modelNetwork) mac(ifname string) net.HardwareAddr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.eth[ifname].MAC
}

// receive is the peer's ear.
func (n *modelNetwork) receive(ifname string, frame []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer notify(n.heard)
	if dst := MAC(frame[:6]); !dst.IsGroup() && dst != MAC(peerMAC) {
		n.t.Errorf("a frame is sent to a stranger: %s", describe(frame))
		return
	}
	if frame[12] == 8 {
		n.receiveARP(ifname, frame)
		return
	}
	n.receiveNDP(ifname, frame)
}

// receiveARP follows RFC 826: an entry is updated by any packet, and made only
// by an answer to a question.
func (n *modelNetwork) receiveARP(ifname string, frame []byte) {
	var p arp.Packet
	if err := p.UnmarshalBinary(frame[etherLen:]); err != nil {
		n.t.Errorf("malformed ARP packet sent: %v", err)
		return
	}
	if p.TargetIP == ip("0.0.0.0") && p.Operation == arp.OperationReply {
		n.told[p.SenderIP] = true
		return
	}
	if _, known := n.table[ifname][p.SenderIP]; known {
		n.table[ifname][p.SenderIP] = p.SenderHardwareAddr
	}
}

// receiveNDP follows RFC 4861 section 7.2.5.
func (n *modelNetwork) receiveNDP(ifname string, frame []byte) {
	_, dst, icmp, err := ether.ParseIPv6(frame[etherLen:])
	if err != nil {
		n.t.Errorf("malformed IPv6 packet sent: %v", err)
		return
	}
	m, err := ndp.ParseMessage(icmp)
	na, ok := m.(*ndp.NeighborAdvertisement)
	if err != nil || !ok || dst.IsMulticast() && na.Solicited {
		n.t.Errorf("wrong message sent: %s", describe(frame))
		return
	}
	if dst.IsMulticast() && !na.Solicited {
		n.told[na.TargetAddress] = true
	}
	old, known := n.table[ifname][na.TargetAddress]
	if known && (old == nil || na.Override) {
		n.table[ifname][na.TargetAddress] = na.Options[0].(*ndp.LinkLayerAddress).Addr
	}
}

// await sends a request and waits until cond holds, or not.
func (n *modelNetwork) await(ifname string, frame []byte, cond func() bool) bool {
	n.t.Helper()
	woke := n.fake.Deliver(ifname, frame)
	for end := time.After(silence); ; {
		n.mu.Lock()
		ok := cond()
		n.mu.Unlock()
		if ok || !woke { // what the filter drops is never answered
			return ok
		}
		select {
		case <-n.heard:
		case <-end:
			return false
		}
	}
}

func (n *modelNetwork) resolve(ifname string, addr netip.Addr) net.HardwareAddr {
	n.t.Helper()
	n.mu.Lock()
	n.table[ifname][addr] = nil
	n.mu.Unlock()
	frame := arpFrame{target: addr}
	solicitation := nsFrame{target: addr}
	n.await(ifname, n.choose(addr, frame, solicitation), func() bool { return n.table[ifname][addr] != nil })
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.table[ifname][addr]
}

// choose builds the frame of the address's family.
func (n *modelNetwork) choose(addr netip.Addr, a arpFrame, ns nsFrame) []byte {
	if addr.Is4() {
		return a.bytes(n.t)
	}
	return ns.bytes(n.t)
}

func (n *modelNetwork) reprobe(addr netip.Addr) bool {
	n.t.Helper()
	n.mu.Lock()
	n.table["eth0"][addr] = nil
	n.mu.Unlock()
	m := n.mac("eth0")
	return n.await("eth0", n.choose(addr, arpFrame{target: addr, dst: m}, nsFrame{target: addr, dst: m, ipDst: addr}),
		func() bool { return n.table["eth0"][addr] != nil })
}

func (n *modelNetwork) claim(addr netip.Addr) bool {
	n.t.Helper()
	n.mu.Lock()
	delete(n.told, addr)
	n.mu.Unlock()
	frame := n.choose(addr, arpFrame{target: addr, sender: ip("0.0.0.0")}, nsFrame{target: addr, ipSrc: ip("::"), noOption: true})
	return n.await("eth0", frame, func() bool { return n.told[addr] })
}

func (n *modelNetwork) peerMAC() net.HardwareAddr { return peerMAC }

func (n *modelNetwork) ask(addr netip.Addr) {
	n.plant(addr, nil)
	n.fake.Deliver("eth0", n.choose(addr, arpFrame{target: addr}, nsFrame{target: addr}))
}

// usurp: with IPv4 some host is asked for, with IPv6 for duplicates first.
func (n *modelNetwork) usurp(addr netip.Addr) {
	frame := n.choose(addr, arpFrame{sender: addr, target: ip("192.0.2.1")}, nsFrame{target: addr, ipSrc: ip("::"), noOption: true})
	n.fake.Deliver("eth0", frame)
}

func (n *modelNetwork) plant(addr netip.Addr, m net.HardwareAddr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.table["eth0"][addr] = m
}

func (n *modelNetwork) cached(addr netip.Addr) net.HardwareAddr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.table["eth0"][addr]
}

func (n *modelNetwork) groups() []netip.Addr {
	n.mu.Lock()
	index := n.eth["eth0"].Index
	n.mu.Unlock()
	return n.fake.Groups(index)
}

func (n *modelNetwork) setUp(up bool) {
	n.mu.Lock()
	link := n.eth["eth0"]
	link.Up, link.Carrier = up, up
	link.CarrierChanges++
	n.eth["eth0"] = link
	n.mu.Unlock()
	n.publish()
}

func (n *modelNetwork) recreate() {
	n.mu.Lock()
	delete(n.eth, "eth0")
	n.mu.Unlock()
	n.publish()
	n.add("eth0")
}
