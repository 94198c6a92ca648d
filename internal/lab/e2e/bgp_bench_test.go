package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// A bench is a router for tests of single sessions. Each has a node and a family
// for itself, as a router tells its neighbors apart by their addresses.
type bench struct {
	router *bgpRouter
	// mu is held while the router's configuration changes.
	mu sync.Mutex
	// free are the nodes that no test uses, by the family of the session.
	free [2]chan string
	// pool and addresses are what all benches are told of.
	pool      v1beta1.ObjectName
	addresses []netip.Addr
}

// otherPort is one at which benches can be reached, beside that of BGP.
const otherPort = 1179

// startBenches starts FRR and BIRD beside the nodes, and a Service for them.
func startBenches(e *env) []*bench {
	e.Helper()
	addresses := e.serve(deployment{replicas: 1})
	var all []*bench
	for kind, host := range map[routers.Kind]string{routers.FRR: network.Client, routers.BIRD: network.ControlPlane} {
		b := &bench{
			router: e.startRouter(kind, host, func(c *routers.Config) { c.Neighbors = nil }),
			pool:   v1beta1.ObjectName(e.namespace), addresses: addresses,
		}
		e.run(host, "sysctl", "--write", "net.ipv4.ip_forward=1") // a router passes echo packets of BFD on
		// BGP is at another port, too.
		e.run(host, "nft", fmt.Sprintf("add table inet bgp; add chain inet bgp in { type nat hook prerouting priority -100; }; flush chain inet bgp in; add rule inet bgp in tcp dport %d redirect to :179", otherPort))
		for i := range b.free {
			b.free[i] = make(chan string, nodes)
			for _, node := range e.lab.otherNodes() {
				b.free[i] <- node
			}
		}
		all = append(all, b)
	}
	return all
}

// bench returns the one with a kind of router.
func (f *fabric) bench(kind routers.Kind) *bench {
	return f.benches[slices.IndexFunc(f.benches, func(b *bench) bool { return b.router.Kind() == kind })]
}

// A link is a node and a bench's router, and how they are to speak.
type link struct {
	*env
	bench  *bench
	router *bgpRouter
	node   string
	// nth is the family: 0 for IPv4, 1 for IPv6.
	nth int
	// local is the node's address and remote the router's.
	local, remote netip.Addr
	// peer is the name of the BGPPeer and its advertisement, and called that of the
	// session.
	peer, called string
}

// link reserves a node for a test that has a session of a family with the bench.
func (b *bench) link(e *env, nth int) *link {
	e.Helper()
	var node string
	select {
	case node = <-b.free[nth]:
	case <-e.ctx.Done():
		e.Fatal("no node is free")
	}
	e.Cleanup(func() {
		e.removeCreated() // the next test's BGPPeer is not to find this one's
		b.free[nth] <- node
	})
	return b.linkTo(e, nth, node)
}

// linkTo is link for tests that share the bench's nodes out among themselves.
func (b *bench) linkTo(e *env, nth int, node string) *link {
	e.Helper()
	host, err := e.lab.Plan().Host(node)
	if err != nil {
		e.Fatal(err)
	}
	return &link{
		env: e, bench: b, router: b.router.forTest(e), node: node, nth: nth,
		local: host.IPs()[nth], remote: b.router.host.IPs()[nth], peer: e.namespace, called: e.namespace,
	}
}

// family of the session.
func (l *link) family() v1beta1.IPFamily {
	return []v1beta1.IPFamily{v1beta1.FamilyIPv4, v1beta1.FamilyIPv6}[l.nth]
}

// neighbor tells the router of the node, under a name of the test's, until the
// test ends. Called again it changes what the router was told.
func (l *link) neighbor(change func(*routers.Neighbor)) {
	l.Helper()
	n := routers.Neighbor{Name: l.neighborName(), Address: l.local, ASN: nodeASN}
	if change != nil {
		change(&n)
	}
	l.configure(func(c *routers.Config) {
		c.Neighbors = append(withoutNeighbor(c.Neighbors, n.Name), n)
	})
	l.Cleanup(func() {
		// The test's own context may have ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), 10*time.Second)
		defer cancel()
		l.bench.mu.Lock()
		defer l.bench.mu.Unlock()
		config := l.router.Config()
		config.Neighbors = withoutNeighbor(config.Neighbors, n.Name)
		if err := l.router.Configure(ctx, config); err != nil {
			l.Error(err)
		}
	})
}

func withoutNeighbor(all []routers.Neighbor, name string) []routers.Neighbor {
	return slices.DeleteFunc(slices.Clone(all), func(n routers.Neighbor) bool { return n.Name == name })
}

func (l *link) configure(change func(*routers.Config)) {
	l.Helper()
	l.bench.mu.Lock()
	defer l.bench.mu.Unlock()
	l.router.configure(change)
}

// onNode selects one node.
func onNode(name string) []v1beta1.LabelSelector { return selector(corev1.LabelHostname, name) }

// spec is that of a BGPPeer for the node to speak to the router.
func (l *link) spec(change func(*v1beta1.BGPPeerSpec)) v1beta1.BGPPeerSpec {
	spec := v1beta1.BGPPeerSpec{
		MyASN: nodeASN, PeerASN: routerASN, PeerAddress: v1beta1.PeerAddress(l.remote.String()), NodeSelectors: onNode(l.node),
	}
	if change != nil {
		change(&spec)
	}
	return spec
}

// connect makes the BGPPeer and an advertisement to it.
func (l *link) connect(change func(*v1beta1.BGPPeerSpec)) {
	l.Helper()
	l.createBGPPeer(l.peer, l.spec(change))
	l.tell(v1beta1.BGPAdvertisementSpec{})
}

// tell advertises the Service of the benches to the router.
func (l *link) tell(spec v1beta1.BGPAdvertisementSpec) {
	l.Helper()
	spec.IPAddressPools, spec.Peers = []v1beta1.ObjectName{l.bench.pool}, []v1beta1.ObjectName{v1beta1.ObjectName(l.peer)}
	l.advertise(l.peer, spec)
}

// session is the router's with the node.
func (l *link) session() routers.Session {
	l.Helper()
	all, err := l.router.Sessions(l.ctx)
	if err != nil {
		l.Fatal(err)
	}
	for _, s := range all {
		if s.Neighbor == l.local {
			return s
		}
	}
	return routers.Session{LastError: "the router does not know " + l.local.String()}
}

// waitUp returns both sides of the session once they agree that it is up.
func (l *link) waitUp() (routers.Session, v1beta1.BGPSessionStatus) {
	l.Helper()
	reported := l.waitEstablished(l.node, l.called)
	var session routers.Session
	l.waitFor("the router to have the session", bgpTimeout, func(context.Context) (bool, string) {
		session = l.session()
		return session.Up(), fmt.Sprintf("%+v", session)
	})
	return session, reported
}

// waitRoutes returns when the router has what this node has told of the Service
// of the benches, in the families.
func (l *link) waitRoutes(want told, families ...int) {
	l.Helper()
	for i, address := range l.bench.addresses {
		if slices.Contains(families, i) {
			if i == l.nth { // RFC 4271 section 5.1.3
				want.nextHop = l.local
			} else {
				want.nextHop = netip.Addr{}
			}
			l.waitPath(hostPrefix(address), want)
		} else {
			l.waitPath(hostPrefix(address))
		}
	}
}

// waitPath is waitRoute that looks only at what the node has told.
func (l *link) waitPath(prefix netip.Prefix, want ...told) {
	l.Helper()
	wanted := make([]told, len(want))
	for i, t := range want {
		t.node = l.node
		wanted[i] = l.router.complete(t, prefix)
	}
	what := fmt.Sprintf("%s to have %s by %s (%s)", l.router.host.Name, prefix, l.local, l.router.textOf(wanted))
	l.waitFor(what, bgpTimeout, func(ctx context.Context) (bool, string) {
		paths, err := l.router.Route(ctx, prefix)
		if err != nil {
			return false, err.Error()
		}
		var got []told
		for _, path := range paths {
			if path.Peer.WithZone("") == l.local.WithZone("") {
				t := l.router.toldBy(path)
				t.node = l.node
				got = append(got, t)
			}
		}
		return sameRoutes(got, wanted), l.router.textOf(got)
	})
}

// run runs a command on a host of the lab.
func (e *env) run(host string, args ...string) string {
	e.Helper()
	out, err := e.lab.Exec(e.ctx, host, args...)
	if err != nil {
		e.Fatalf("%s: %s: %v\n%s", host, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// changeNode applies a merge patch to the node. What it sets stays.
func (l *link) changeNode(patch string) {
	l.Helper()
	_, err := l.lab.kube.CoreV1().Nodes().Patch(l.ctx, l.node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		l.Fatal(err)
	}
}

// neighborName is what the router calls the node. It may not be long, and what
// tells tests apart is at the end.
func (l *link) neighborName() string {
	name := strings.ReplaceAll(l.peer, "-", "_")
	return "t_" + name[max(0, len(name)-20):]
}
