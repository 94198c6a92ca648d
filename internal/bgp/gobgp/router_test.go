package gobgp

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bgppacket "github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/transport"
	"github.com/berth-lb/berth/internal/bgp/wire"
	"github.com/berth-lb/berth/internal/netnstest"
)

// A network is a node and a router, joined by an Ethernet.
type network struct {
	node, router *netnstest.NS
}

const (
	node4, router4 = "192.0.2.1", "192.0.2.99"
	node6, router6 = "2001:db8::1", "2001:db8::99"
)

func newNetwork(t testing.TB) *network {
	n := &network{node: netnstest.New(t), router: netnstest.New(t)}
	netnstest.Connect(n.node, "eth0", n.router, "eth0")
	n.node.AddAddress("eth0", node4+"/24")
	n.node.AddAddress("eth0", node6+"/64")
	n.router.AddAddress("eth0", router4+"/24")
	n.router.AddAddress("eth0", router6+"/64")
	// A route whose next hop is on no link yet is dropped for good by BIRD.
	netnstest.Eventually(t, "addresses to be usable", func() bool { return usable(t, n.node) && usable(t, n.router) })
	return n
}

func usable(t testing.TB, ns *netnstest.NS) bool {
	addrs, err := ns.Netlink().AddrList(ns.Link("eth0"), netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	return !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
}

// A router is a scripted one that keeps what it is told.
type router struct {
	t      testing.TB
	open   wire.Open
	listen net.Listener
	tasks  sync.WaitGroup

	mu       sync.Mutex
	conn     net.Conn
	sessions int
	opens    []wire.Open
	updates  int
	order    []string          // prefixes as they came, or went with a minus sign
	routes   map[string]string // attributes by prefix
	stale    map[string]bool   // prefixes that the session before knew
	ended    []bgp.Family      // End-of-RIB markers, in order
	atEnd    int               // how many routes there were at the last of them
	notices  []string          // NOTIFICATION messages
}

// newRouter returns a router of AS asn that listens on an address and port, or
// nowhere if it is empty.
func (n *network) newRouter(t testing.TB, asn uint32, address string, change ...func(*wire.Open)) *router {
	r := &router{t: t, routes: make(map[string]string), open: wire.Open{
		ASN: asn, HoldTime: 90, RouterID: netip.MustParseAddr("203.0.113.1"),
		Capabilities: wire.Capabilities{
			Families: []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast}, RouteRefresh: true, FourOctetASN: true,
			GracefulRestart: &wire.GracefulRestart{Time: 120},
		},
	}}
	for _, f := range change {
		f(&r.open)
	}
	if address != "" {
		n.router.MustDo(func() (err error) {
			r.listen, err = net.Listen("tcp", address)
			return err
		})
		r.tasks.Go(r.accept)
	}
	t.Cleanup(r.close)
	return r
}

func (r *router) close() {
	if r.listen != nil {
		_ = r.listen.Close()
	}
	r.hangUp()
	r.tasks.Wait()
}

// hangUp closes the connection without a word.
func (r *router) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		_ = r.conn.Close()
	}
}

func (r *router) accept() {
	for {
		conn, err := r.listen.Accept()
		if err != nil {
			return
		}
		r.tasks.Go(func() { r.serve(conn) })
	}
}

// serve runs a session on a connection.
func (r *router) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	r.mu.Lock()
	r.conn = conn
	r.sessions++
	r.stale = make(map[string]bool)
	for prefix := range r.routes {
		r.stale[prefix] = true
	}
	open := r.open.Clone()
	r.mu.Unlock()
	b, err := open.Append(nil)
	if err != nil {
		r.t.Error(err)
		return
	}
	if _, err := conn.Write(b); err != nil {
		return
	}
	for {
		msg, err := readMessage(conn)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
				r.t.Error(err)
			}
			return
		}
		r.take(msg)
		if header, _ := wire.ParseHeader(msg); header.Type == wire.TypeOpen {
			_, _ = conn.Write(wire.AppendKeepalive(nil)) // that it fails is seen by the next read
		}
	}
}

func readMessage(conn io.Reader) ([]byte, error) {
	msg := make([]byte, wire.HeaderLen)
	if _, err := io.ReadFull(conn, msg); err != nil {
		return nil, err
	}
	header, err := wire.ParseHeader(msg)
	if err != nil {
		return nil, err
	}
	msg = append(msg, make([]byte, header.Len-wire.HeaderLen)...)
	_, err = io.ReadFull(conn, msg[wire.HeaderLen:])
	return msg, err
}

// take takes up a message.
func (r *router) take(msg []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	header, _ := wire.ParseHeader(msg)
	switch header.Type {
	case wire.TypeOpen:
		open, err := wire.ParseOpen(msg)
		if err != nil {
			r.t.Error(err)
		}
		r.opens = append(r.opens, open)
		r.ended = nil
	case wire.TypeNotification:
		n, err := wire.ParseNotification(msg)
		if err != nil {
			r.t.Error(err)
		}
		r.notices = append(r.notices, n.String())
	case wire.TypeUpdate:
		r.update(msg)
	}
}

func (r *router) update(msg []byte) {
	m, err := bgppacket.ParseBGPMessage(msg)
	if err != nil {
		r.t.Error(err)
		return
	}
	r.updates++
	u := m.Body.(*bgppacket.BGPUpdate)
	if family, ok := wire.EndOfRIB(msg); ok {
		r.ended = append(r.ended, families([]wire.Family{family})...)
		r.atEnd = len(r.routes)
		for prefix := range r.stale {
			delete(r.routes, prefix)
		}
		return
	}
	var prefixes []string
	for _, w := range u.WithdrawnRoutes {
		r.order = append(r.order, "-"+w.String())
		delete(r.routes, w.String())
	}
	for _, n := range u.NLRI {
		prefixes = append(prefixes, n.String())
	}
	slices.SortFunc(u.PathAttributes, func(a, b bgppacket.PathAttributeInterface) int { return int(a.GetType()) - int(b.GetType()) })
	var attributes []string
	for _, a := range u.PathAttributes {
		switch a := a.(type) {
		case *bgppacket.PathAttributeMpReachNLRI:
			attributes = append(attributes, fmt.Sprintf("{Nexthop: %s}", a.Nexthop))
			for _, n := range a.Value {
				prefixes = append(prefixes, n.String())
			}
		case *bgppacket.PathAttributeMpUnreachNLRI:
			for _, n := range a.Value {
				delete(r.routes, n.String())
			}
		default:
			attributes = append(attributes, a.String())
		}
	}
	for _, prefix := range prefixes {
		r.order = append(r.order, prefix)
		delete(r.stale, prefix)
		r.routes[prefix] = strings.Join(attributes, " ")
	}
}

// send writes something to the node.
func (r *router) send(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.conn.Write(b); err != nil {
		r.t.Error(err)
	}
}

// call connects to the node as a router that a passive peer waits for.
func (n *network) call(r *router, from, to string) {
	var conn net.Conn
	netnstest.Eventually(r.t, "the node to listen", func() bool {
		return n.router.Do(func() (err error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			conn, err = d.Dial("tcp", to)
			return err
		}) == nil
	})
	r.tasks.Go(func() { r.serve(conn) })
}

// table returns the routes, one per line.
func (r *router) table() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for _, prefix := range slices.Sorted(maps.Keys(r.routes)) {
		lines = append(lines, prefix+" "+r.routes[prefix])
	}
	return strings.Join(lines, "\n")
}

// count returns something of the router under its lock.
func count[T any](r *router, f func(*router) T) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f(r)
}

// callWithPassword connects to the node with a TCP MD5 key.
func (n *network) callWithPassword(r *router, password string) error {
	var conn *net.TCPConn
	err := n.router.Do(func() (err error) {
		conn, err = transport.Dial(r.t.Context(), transport.Options{
			Remote: netip.MustParseAddrPort(node4 + ":179"), Password: password, ConnectTimeout: 500 * time.Millisecond,
		})
		return err
	})
	if err == nil {
		r.tasks.Go(func() { r.serve(conn) })
	}
	return err
}
