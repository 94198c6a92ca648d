package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// ASNs of the tests: the routers' and that of all nodes.
const (
	routerASN = 64512
	nodeASN   = 64600
)

// bgpTimeout is enough for sessions to come up, also after BFD and back-off.
const bgpTimeout = 40 * time.Second

// bgpRouter is a real router that peers with the nodes.
type bgpRouter struct {
	*env
	*routers.Router
	host network.Host
}

// startRouter starts a router on a host whose neighbors are all nodes, by their
// first addresses and for both families, unless the changes make it different.
// It is stopped when the test ends.
func (e *env) startRouter(kind routers.Kind, name string, changes ...func(*routers.Config)) *bgpRouter {
	e.Helper()
	host, err := e.lab.Plan().Host(name)
	if err != nil {
		e.Fatal(err)
	}
	config := routers.Config{ASN: routerASN, RouterID: host.IPs()[0], Neighbors: e.nodesAsNeighbors(0)}
	for _, change := range changes {
		change(&config)
	}
	return e.startDaemon(kind, host, config)
}

// nodesAsNeighbors returns a neighbor for the nth address of each node.
func (e *env) nodesAsNeighbors(nth int) []routers.Neighbor {
	var neighbors []routers.Neighbor
	for _, node := range e.lab.Plan().Nodes() {
		neighbors = append(neighbors, routers.Neighbor{
			Name:    fmt.Sprintf("%s_%d", strings.ReplaceAll(node.Name, "-", "_"), nth),
			Address: node.IPs()[nth], ASN: nodeASN,
		})
	}
	return neighbors
}

// eachNeighbor is a change of all neighbors for startRouter.
func eachNeighbor(change func(*routers.Neighbor)) func(*routers.Config) {
	return func(c *routers.Config) {
		for i := range c.Neighbors {
			change(&c.Neighbors[i])
		}
	}
}

// fastBFD is a change of a neighbor for eachNeighbor: failures are found in 300 ms.
func fastBFD(n *routers.Neighbor) {
	const interval = 100 * time.Millisecond
	n.BFD = &routers.BFD{Receive: interval, Transmit: interval, Multiplier: 3}
}

func (e *env) startDaemon(kind routers.Kind, host network.Host, config routers.Config) *bgpRouter {
	e.Helper()
	router, err := e.lab.NewRouter(kind, host.Name)
	if err != nil {
		e.Fatal(err)
	}
	r := &bgpRouter{env: e, Router: router, host: host}
	e.Cleanup(func() {
		if e.Failed() {
			r.describe()
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 10*time.Second)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			e.Error(err)
		}
	})
	r.configure(func(c *routers.Config) { *c = config })
	if err := r.Start(e.ctx); err != nil {
		e.Fatal(err)
	}
	return r
}

// configure changes the router's configuration; sessions that the change does not
// concern stay up.
func (r *bgpRouter) configure(change func(*routers.Config)) {
	r.Helper()
	config := r.Config()
	change(&config)
	if err := r.Configure(r.ctx, config); err != nil {
		r.Fatal(err)
	}
}

// describe logs how the router is, while it still runs.
func (r *bgpRouter) describe() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 10*time.Second)
	defer cancel()
	var text strings.Builder
	statuses, err := r.lab.RouterStatuses(ctx)
	if err == nil {
		err = statuses.WriteText(&text)
	}
	r.Logf("routers (error %v):\n%s", err, text.String())
	for _, daemon := range []string{"bgpd", "bfdd", "bird"} {
		out, err := r.lab.Exec(ctx, r.host.Name, "tail", "-n", "15", r.Log(daemon))
		if err == nil {
			r.Logf("the end of %s on %s:\n%s", daemon, r.host.Name, out)
		}
	}
}

// session returns that with a node, by whichever of its addresses.
func (r *bgpRouter) session(node string) routers.Session {
	r.Helper()
	host, err := r.lab.Plan().Host(node)
	if err != nil {
		r.Fatal(err)
	}
	sessions, err := r.Sessions(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	for _, session := range sessions {
		if slices.Contains(host.IPs(), session.Neighbor) {
			return session
		}
	}
	return routers.Session{State: "Idle", LastError: "the router does not know " + node}
}

// waitSessions returns the sessions with nodes once all are established.
func (r *bgpRouter) waitSessions(nodes ...string) map[string]routers.Session {
	r.Helper()
	found := map[string]routers.Session{}
	r.waitFor(fmt.Sprintf("%s to have sessions with %v", r.host.Name, nodes), bgpTimeout, func(context.Context) (bool, string) {
		for _, node := range nodes {
			found[node] = r.session(node)
			if !found[node].Up() {
				return false, fmt.Sprintf("%s: %+v", node, found[node])
			}
		}
		return true, ""
	})
	return found
}

// waitNoSession returns when the session with a node is not established.
func (r *bgpRouter) waitNoSession(node string, limit time.Duration) routers.Session {
	r.Helper()
	var session routers.Session
	r.waitFor(fmt.Sprintf("%s to lose its session with %s", r.host.Name, node), limit, func(context.Context) (bool, string) {
		session = r.session(node)
		return !session.Up(), fmt.Sprintf("%+v", session)
	})
	return session
}

// expectSameSessions fails the test if a session has been reset since.
func (r *bgpRouter) expectSameSessions(before map[string]routers.Session) {
	r.Helper()
	for node, earlier := range before {
		if now := r.session(node); !now.SameAs(earlier) {
			r.Errorf("the session of %s with %s was %+v, is now %+v", r.host.Name, node, earlier, now)
		}
	}
}

// waitBFD returns when the BFD sessions with nodes are up, or are not.
func (r *bgpRouter) waitBFD(up bool, nodes ...string) {
	r.Helper()
	r.waitFor(fmt.Sprintf("BFD of %s with %v to be up: %t", r.host.Name, nodes, up), bgpTimeout, func(ctx context.Context) (bool, string) {
		sessions, err := r.BFDSessions(ctx)
		if err != nil {
			return false, err.Error()
		}
		for _, node := range nodes {
			host, err := r.lab.Plan().Host(node)
			if err != nil {
				return false, err.Error()
			}
			isUp := slices.ContainsFunc(sessions, func(s routers.BFDSession) bool { return s.Up() && slices.Contains(host.IPs(), s.Neighbor) })
			if isUp != up {
				return false, fmt.Sprintf("%s: %+v", node, sessions)
			}
		}
		return true, ""
	})
}

// told is a route as a node is to have told it. What is nil or empty must not be
// there, except that LocalPref is compared only if it is set: BIRD has one always.
type told struct {
	node string
	// nextHop is by default the node's address of the prefix's family.
	nextHop netip.Addr
	// prepended is how often the node's ASN is there beyond the first time.
	prepended        int
	localPref, med   *uint32
	communities      []routers.Community
	largeCommunities []routers.LargeCommunity
	stale            bool
}

// byNodes returns one route of each node, otherwise like t.
func (t told) byNodes(nodes ...string) []told {
	all := make([]told, len(nodes))
	for i, node := range nodes {
		all[i] = t
		all[i].node = node
	}
	return all
}

// hostPrefix is the route to one address.
func hostPrefix(address netip.Addr) netip.Prefix {
	return netip.PrefixFrom(address, address.BitLen())
}

// waitRoute returns when the router has exactly the wanted routes to a prefix, all
// attributes included; none if none are given.
func (r *bgpRouter) waitRoute(prefix netip.Prefix, want ...told) {
	r.Helper()
	var wanted []told
	for _, w := range want {
		wanted = append(wanted, r.complete(w, prefix))
	}
	slices.SortFunc(wanted, func(a, b told) int { return strings.Compare(a.node, b.node) })
	r.waitFor(fmt.Sprintf("%s to have %s by %+v", r.host.Name, prefix, wanted), bgpTimeout, func(ctx context.Context) (bool, string) {
		paths, err := r.Route(ctx, prefix)
		if err != nil {
			return false, err.Error()
		}
		var got []told
		for _, path := range paths {
			if path.Peer.IsValid() {
				got = append(got, r.toldBy(path))
			}
		}
		slices.SortFunc(got, func(a, b told) int { return strings.Compare(a.node, b.node) })
		return sameRoutes(got, wanted), r.textOf(got)
	})
}

// complete fills in what follows from the node, and brings lists into order.
func (r *bgpRouter) complete(t told, prefix netip.Prefix) told {
	r.Helper()
	node, err := r.lab.Plan().Host(t.node)
	if err != nil {
		r.Fatal(err)
	}
	for _, address := range node.IPs() {
		if !t.nextHop.IsValid() && address.Is4() == prefix.Addr().Is4() {
			t.nextHop = address
		}
	}
	t.communities, t.largeCommunities = sorted(t.communities), slices.Clone(t.largeCommunities)
	slices.SortFunc(t.largeCommunities, compareLarge)
	return t
}

// toldBy puts a path into the words of tests.
func (r *bgpRouter) toldBy(path routers.Path) told {
	t := told{
		node: r.nodeOf(path.Peer), localPref: path.LocalPref, med: path.MED, stale: path.Stale,
		communities: sorted(path.Communities), largeCommunities: slices.Clone(path.LargeCommunities),
	}
	slices.SortFunc(t.largeCommunities, compareLarge)
	if len(path.NextHops) > 0 {
		t.nextHop = path.NextHops[0]
	}
	if len(path.ASPath) > 1 {
		t.prepended = len(path.ASPath) - 1
	}
	return t
}

func sorted(communities []routers.Community) []routers.Community {
	all := slices.Clone(communities)
	slices.Sort(all)
	return all
}

func compareLarge(a, b routers.LargeCommunity) int { return slices.Compare(a[:], b[:]) }

func sameRoutes(got, want []told) bool {
	return slices.EqualFunc(got, want, func(g, w told) bool {
		if w.localPref == nil {
			g.localPref = nil
		}
		return reflect.DeepEqual(g, w)
	})
}

// textOf shows what pointers point at.
func (r *bgpRouter) textOf(routes []told) string {
	texts := make([]string, len(routes))
	for i, t := range routes {
		texts[i] = fmt.Sprintf("%s via %s prepended=%d localPref=%s med=%s communities=%v large=%v stale=%t",
			t.node, t.nextHop, t.prepended, value(t.localPref), value(t.med), t.communities, t.largeCommunities, t.stale)
	}
	return strings.Join(texts, "; ")
}

func value(number *uint32) string {
	if number == nil {
		return "none"
	}
	return fmt.Sprint(*number)
}

// nodeOf returns the node that has an address, a link-local one included, or the
// address itself if none has.
func (e *env) nodeOf(address netip.Addr) string {
	for _, host := range e.lab.Plan().Hosts {
		if slices.Contains(host.IPs(), address.WithZone("")) || address.WithZone("") == linkLocal(host.MAC) {
			return host.Name
		}
	}
	return address.String()
}

// linkLocal is the address that the kernel makes of a MAC (RFC 4291 appendix A).
func linkLocal(mac string) netip.Addr {
	var m [6]byte
	if _, err := fmt.Sscanf(mac, "%x:%x:%x:%x:%x:%x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]); err != nil {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// waitECMP returns when the router's kernel sends packets for an address to
// exactly these nodes.
func (r *bgpRouter) waitECMP(address netip.Addr, nodes ...string) {
	r.Helper()
	want := slices.Sorted(slices.Values(nodes))
	r.waitFor(fmt.Sprintf("%s to forward %s to %v", r.host.Name, address, want), bgpTimeout, func(context.Context) (bool, string) {
		found, err := r.forwards(address)
		return err == nil && slices.Equal(found, want), fmt.Sprintf("%v (error %v)", found, err)
	})
}

// forwards returns the nodes to which the router's kernel sends packets for an
// address.
func (r *bgpRouter) forwards(address netip.Addr) ([]string, error) {
	hops, err := r.KernelRoute(hostPrefix(address))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(hops))
	for i, hop := range hops {
		names[i] = r.nodeOf(hop)
	}
	slices.Sort(names)
	return names, nil
}

// watchStalls measures for how long this process gets no processor. What is returned
// ends that and returns the longest time, by which everything that is measured here
// may be too long.
func (e *env) watchStalls() (end func() time.Duration) {
	e.Helper()
	meter := e.meterStalls()
	return func() time.Duration {
		e.Helper()
		stall := meter.longest()
		meter.stop()
		if stall > 100*time.Millisecond {
			e.Logf("this process got no processor for %s", stall)
		}
		return stall
	}
}

// startWANProbes is startProbes from behind the router.
func (e *env) startWANProbes(options lab.ProbeOptions, addresses ...netip.Addr) probes {
	e.Helper()
	running := probes{}
	options.From = network.WANClient
	for _, address := range addresses {
		options.URL = urlOf(address, servicePort, "/hostname")
		p, err := e.lab.StartProbe(e.ctx, options)
		if err != nil {
			e.Fatal(err)
		}
		running[address] = p
	}
	return running
}

// waitSpread returns when connections from behind the router have been answered by
// all these Pods, and by no other. Single failures do not matter: a route may be
// there before kube-proxy's rules are.
func (e *env) waitSpread(address netip.Addr, pods ...string) {
	e.Helper()
	const batch = 10
	seen := map[string]int{}
	url := urlOf(address, servicePort, "/hostname")
	e.waitFor(fmt.Sprintf("%s to be answered by %v", address, pods), bgpTimeout, func(ctx context.Context) (bool, string) {
		for range batch {
			pod, err := e.lab.get(ctx, network.WANClient, url)
			if err != nil {
				return false, fmt.Sprintf("%v, then %v", seen, err)
			}
			seen[pod]++
		}
		missing := slices.DeleteFunc(slices.Clone(pods), func(pod string) bool { return seen[pod] > 0 })
		return len(missing) == 0, fmt.Sprint(seen)
	})
	if len(seen) != len(pods) {
		e.Errorf("%s was answered by %v, want only %v", address, slices.Sorted(maps.Keys(seen)), pods)
	}
}
