package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// What a lost node may cost: with BFD at three times 100 ms, and with a hold time of
// three seconds.
const (
	bfdBound  = 500 * time.Millisecond
	shortHold = 3 * time.Second
	holdBound = shortHold + 1500*time.Millisecond
)

// faultVictim is the node that things happen to.
const faultVictim = "node-1"

// bgpFaults are Services that all nodes announce to one router, over a session of
// IPv4 and one of IPv6 each. Their Pods are on the nodes that stay.
type bgpFaults struct {
	*env
	kind      routers.Kind
	router    *bgpRouter
	addresses []netip.Addr
}

// bgpFault is one of the tests. Where the router makes no difference, it is with
// only one of them.
type bgpFault struct {
	name string
	run  func(bgpFaults)
	only routers.Kind
}

func bgpFaultCases() []bgpFault {
	return []bgpFault{
		{name: "SpeakerKilled", run: testBGPSpeakerKilled},
		{name: "SpeakerKilledBFD", run: testBGPSpeakerKilledBFD},
		{name: "SpeakerKilledPatientBFD", run: testBGPSpeakerKilledPatientBFD},
		{name: "NodeCutBFD", run: testBGPNodeCutBFD},
		{name: "NodeCutHold", run: testBGPNodeCutHold},
		{name: "Drain", run: testBGPDrain},
		{name: "SpeakerStopped", run: testBGPSpeakerStopped},
		{name: "DrainedForGood", run: testBGPDrainedForGood},
		{name: "RouterRestart", run: testBGPRouterRestart},
		{name: "BFDFlaps", run: testBGPBFDFlaps},
		{name: "RollingRestart", run: testBGPRollingRestart},
		{name: "FullTable", run: testBGPFullTable},
		{name: "Malformed", run: testBGPMalformed, only: routers.FRR},
		{name: "HoldDown", run: testBGPHoldDown, only: routers.FRR},
		{name: "KubeProxy", run: testBGPKubeProxy, only: routers.FRR},
	}
}

// TestBGPFaults measures what users behind a router notice when something on the
// way to a Service fails.
func TestBGPFaults(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name = "bgpfaults"
	options.Nodes = nodes
	l := startLabWith(t, options)
	for _, kind := range routers.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			f := newBGPFaults(newEnv(t, l), kind)
			for _, c := range bgpFaultCases() {
				if c.only != "" && c.only != kind {
					continue
				}
				t.Run(c.name, func(t *testing.T) { c.run(f.inside(t)) })
			}
		})
	}
}

func newBGPFaults(e *env, kind routers.Kind) bgpFaults {
	e.Helper()
	e.createPool(e.namespace, e.ranges(0, 8), nil)
	e.createDeployment(deployment{app: "web", replicas: nodes - 1, nodes: e.lab.otherNodes(faultVictim)})
	e.createService("web")
	return bgpFaults{env: e, kind: kind, addresses: e.waitAllocated("web")}
}

// inside returns the same for a test within the test, which has a router and peers
// of its own.
func (f bgpFaults) inside(t *testing.T) bgpFaults {
	inner := *f.env
	inner.T, inner.created = t, nil
	f.env = &inner
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), 20*time.Second)
		defer cancel()
		for _, object := range inner.created {
			plural, name, _ := strings.Cut(object, "/")
			if err := inner.lab.berth.Delete().Resource(plural).Name(name).Do(ctx).Error(); err != nil {
				t.Error(err)
			}
		}
	})
	return f
}

// createBGP makes an object of BGP that goes when the test ends.
func (e *env) createBGP(plural, kind, name string, spec any) {
	e.Helper()
	meta, types := metav1.ObjectMeta{Name: name}, metav1.TypeMeta{APIVersion: v1beta1.GroupVersion().String(), Kind: kind}
	switch spec := spec.(type) {
	case v1beta1.BGPPeerSpec:
		e.create(plural, &v1beta1.BGPPeer{TypeMeta: types, ObjectMeta: meta, Spec: spec})
	case v1beta1.BGPAdvertisementSpec:
		e.create(plural, &v1beta1.BGPAdvertisement{TypeMeta: types, ObjectMeta: meta, Spec: spec})
	case v1beta1.BFDProfileSpec:
		e.create(plural, &v1beta1.BFDProfile{TypeMeta: types, ObjectMeta: meta, Spec: spec})
	default:
		e.Fatalf("%T is no spec of BGP", spec)
	}
}

// connect starts the router and has all nodes peer with it. It returns when there
// are sessions and routes to all of them.
func (f *bgpFaults) connect(change func(*v1beta1.BGPPeerSpec)) {
	f.Helper()
	f.createBGP("bgpadvertisements", "BGPAdvertisement", "all", v1beta1.BGPAdvertisementSpec{})
	f.connectOnly(change)
	for _, address := range f.addresses {
		f.router.waitECMP(address, f.lab.otherNodes()...)
	}
	f.waitProbing()
}

// connectToVictim is connect, but the router prefers the victim. So a fault of the
// victim concerns every connection.
func (f *bgpFaults) connectToVictim(change func(*v1beta1.BGPPeerSpec)) {
	f.Helper()
	name := []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{corev1.LabelHostname: faultVictim}}}
	f.createBGP("bgpadvertisements", "BGPAdvertisement", "all", v1beta1.BGPAdvertisementSpec{MED: ptr.To(int64(100))})
	f.createBGP("bgpadvertisements", "BGPAdvertisement", "victim", v1beta1.BGPAdvertisementSpec{NodeSelectors: name, MED: ptr.To(int64(0))})
	f.connectOnly(change)
	for _, address := range f.addresses {
		f.router.waitRoutes(address, nodes)
		f.router.waitECMP(address, faultVictim)
	}
	f.waitProbing()
}

func (f *bgpFaults) connectOnly(change func(*v1beta1.BGPPeerSpec)) {
	f.Helper()
	spec := v1beta1.BGPPeerSpec{}
	if change != nil {
		change(&spec)
	}
	bfd, watched := bfdProfiles()[spec.BFDProfile]
	host, err := f.lab.Plan().Host(network.Router)
	if err != nil {
		f.Fatal(err)
	}
	f.router = f.startRouter(f.kind, network.Router, func(c *routers.Config) {
		c.Neighbors = nil
		for nth, family := range routers.Families() {
			for _, neighbor := range f.nodesAsNeighbors(nth) {
				neighbor.Families = []routers.Family{family}
				c.Neighbors = append(c.Neighbors, neighbor)
			}
		}
		if watched {
			eachNeighbor(func(n *routers.Neighbor) { n.BFD = &bfd })(c)
		}
	})
	if watched {
		interval := ptr.To(int32(bfd.Transmit.Milliseconds()))
		f.createBGP("bfdprofiles", "BFDProfile", string(spec.BFDProfile), v1beta1.BFDProfileSpec{
			ReceiveInterval: interval, TransmitInterval: interval, DetectMultiplier: ptr.To(int32(bfd.Multiplier)),
		})
	}
	for i, address := range host.IPs()[:2] {
		peer := spec
		peer.MyASN, peer.PeerASN, peer.PeerAddress = nodeASN, routerASN, v1beta1.PeerAddress(address.String())
		f.createBGP("bgppeers", "BGPPeer", fmt.Sprintf("ipv%d", 4+2*i), peer)
	}
	f.router.waitAllUp()
}

// Changes of peers for connect.

func graceful(p *v1beta1.BGPPeerSpec) { p.EnableGracefulRestart = true }

func gracefulWatched(profile v1beta1.ObjectName) func(*v1beta1.BGPPeerSpec) {
	return func(p *v1beta1.BGPPeerSpec) { p.EnableGracefulRestart, p.BFDProfile = true, profile }
}

// Names of BFDProfiles, by which both sides find failures in 300 ms, 900 ms, 3 s or
// 6 s. A process that gets no processor for as long has failed.
const (
	fastProfile    = "fast"
	usualProfile   = "usual"
	slowProfile    = "slow"
	patientProfile = "patient"
)

func bfdProfiles() map[v1beta1.ObjectName]routers.BFD {
	of := func(multiplier uint8, interval time.Duration) routers.BFD {
		return routers.BFD{Receive: interval, Transmit: interval, Multiplier: multiplier}
	}
	return map[v1beta1.ObjectName]routers.BFD{
		fastProfile:    of(3, 100*time.Millisecond),
		usualProfile:   of(3, 300*time.Millisecond),
		slowProfile:    of(10, 300*time.Millisecond),
		patientProfile: of(20, 300*time.Millisecond),
	}
}

func briefHold(p *v1beta1.BGPPeerSpec) {
	p.HoldTime = v1beta1.Duration(shortHold.String())
}

// waitAllUp returns all sessions, by neighbor, once each is up and, if BFD watches
// it, that as well.
func (r *bgpRouter) waitAllUp() map[netip.Addr]routers.Session {
	r.Helper()
	up := map[netip.Addr]routers.Session{}
	neighbors := r.Config().Neighbors
	r.waitFor("all sessions of "+r.host.Name+" to be up", bgpTimeout, func(ctx context.Context) (bool, string) {
		clear(up)
		sessions, err := r.Sessions(ctx)
		if err != nil {
			return false, err.Error()
		}
		for _, s := range sessions {
			if s.Up() {
				up[s.Neighbor] = s
			}
		}
		watched := 0
		if bfd, err := r.BFDSessions(ctx); err == nil {
			for _, s := range bfd {
				if s.Up() {
					watched++
				}
			}
		}
		done := len(up) == len(neighbors) && (neighbors[0].BFD == nil || watched == len(neighbors))
		return done, fmt.Sprintf("%d of %d are, BFD of %d: %+v", len(up), len(neighbors), watched, sessions)
	})
	return up
}

// waitRoutes returns when the router knows n paths to an address.
func (r *bgpRouter) waitRoutes(address netip.Addr, n int) {
	r.Helper()
	r.waitFor(fmt.Sprintf("%s to have %d paths to %s", r.host.Name, n, address), bgpTimeout, func(ctx context.Context) (bool, string) {
		paths, err := r.Route(ctx, hostPrefix(address))
		return err == nil && len(paths) == n, fmt.Sprintf("%+v (error %v)", paths, err)
	})
}

// waitProbing returns when connections to the addresses have succeeded for a
// moment, so that what fails later has a beginning.
func (f bgpFaults) waitProbing() {
	f.Helper()
	const inARow = 20
	for _, address := range f.addresses {
		f.waitFor(fmt.Sprintf("%d fetches from %s in a row", inARow, address), 30*time.Second, func(ctx context.Context) (bool, string) {
			for n := range inARow {
				if _, err := f.lab.get(ctx, network.WANClient, urlOf(address, servicePort, "/hostname")); err != nil {
					return false, fmt.Sprintf("the %dth: %v", n+1, err)
				}
			}
			return true, ""
		})
	}
}

// row names a measurement.
func (f bgpFaults) row(what string) string { return fmt.Sprintf("BGP, %s: %s", f.kind, what) }

// noFailure runs a fault, in whose course no connection may fail. There is one
// exception, which no speaker can avoid: when the router changes the set of nodes
// that it spreads connections over, it sends some of those that are under way to
// another node, which does not know them and resets them. It returns where the
// router's kernel sent packets meanwhile.
func (f bgpFaults) noFailure(what string, fault func()) map[netip.Addr][]hopChange {
	f.Helper()
	seen := map[netip.Addr][]hopChange{}
	const often, perChange = 20 * time.Millisecond, 3
	watching := map[netip.Addr]hopWatch{}
	for _, address := range f.addresses {
		watching[address] = f.watchHops(address)
	}
	running := f.startWANProbes(lab.ProbeOptions{Every: often, Timeout: 3 * time.Second}, f.addresses...)
	f.waitProbing()
	fault()
	f.waitProbing()
	for address, r := range running.stop() {
		changes := watching[address].stop()
		seen[address] = changes
		moved := r.Errors["connection reset by peer"]
		f.Logf("%s: %d of %d connections to %s failed: %v; the router's nodes: %v", what, r.Failed, r.Sent, address, r.Errors, changes)
		if r.OK == 0 || r.Failed > moved || moved > perChange*(len(changes)-1) {
			f.Errorf("%s: %d of %d connections to %s failed: %v; longest gap %s, from %s on; the router's nodes: %v",
				what, r.Failed, r.Sent, address, r.Errors, r.LongestGap, r.GapBegan.Format("15:04:05.000"), changes)
		}
		row := f.row(what + ", failed connections")
		if len(changes) > 1 {
			row = f.row(what + ", connections under way that the router moved")
		}
		measured.note(row, int64(r.Failed), func(n int64) string { return fmt.Sprint(n) })
	}
	return seen
}

// noChange is noFailure of a fault that the router has no reason to do anything
// about: its kernel's routes stay as they are.
func (f bgpFaults) noChange(what string, fault func()) {
	f.Helper()
	for address, changes := range f.noFailure(what, fault) {
		if len(changes) != 1 {
			f.Errorf("%s: the router has changed its routes to %s: %v", what, address, changes)
		}
	}
}

// gap runs a fault and notes for how long the addresses were away. It returns for how
// long this process got no processor, by which they may be away longer.
func (f bgpFaults) gap(what string, bound time.Duration, fault func()) (stall time.Duration) {
	f.Helper()
	endStalls := f.watchStalls()
	running := f.startWANProbes(measureGap(), f.addresses...)
	f.waitProbing()
	fault()
	f.waitProbing()
	reports := running.stop()
	stall = endStalls()
	for address, report := range reports {
		gap := time.Duration(report.LongestGap)
		f.Logf("%s: %s: longest gap %s from %s on, %d of %d connections failed: %v",
			what, address, gap, report.GapBegan.Format("15:04:05.000"), report.Failed, report.Sent, report.Errors)
		measured.add(f.row(what+", "+familyName(address)), gap)
		if gap > bound+stall {
			f.Errorf("%s: %s was away for %s, more than %s", what, address, gap, bound+stall)
		}
	}
	return stall
}

// hopWatch notes where the router's kernel sends packets for an address, at every
// change.
type hopWatch struct {
	stop func() []hopChange
}

type hopChange struct {
	at   time.Time
	hops []string
}

func (c hopChange) String() string {
	return c.at.Format("15:04:05.000") + " " + strings.Join(c.hops, "+")
}

func (f bgpFaults) watchHops(address netip.Addr) hopWatch {
	f.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	f.Cleanup(cancel)
	var changes []hopChange
	var lastErr error
	var looking sync.WaitGroup
	looking.Go(func() {
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			// The kernel gives no answer while its routes change, but does at the next look.
			names, err := f.router.forwards(address)
			if err != nil {
				lastErr = err
			} else if len(changes) == 0 || !slices.Equal(changes[len(changes)-1].hops, names) {
				changes = append(changes, hopChange{time.Now(), names})
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	})
	return hopWatch{stop: func() []hopChange {
		cancel()
		looking.Wait()
		if len(changes) == 0 {
			f.Fatalf("the router's kernel has never said where it sends packets for %s: %v", address, lastErr)
		}
		return changes
	}}
}

// speakerOf returns the speaker's Pod on a node once there is one that is ready.
func (e *env) speakerOf(node string) *corev1.Pod {
	e.Helper()
	var found *corev1.Pod
	e.waitFor("the speaker on "+node, time.Minute, func(ctx context.Context) (bool, string) {
		pods, err := e.lab.kube.CoreV1().Pods(berthNamespace).List(ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/component=speaker", FieldSelector: "spec.nodeName=" + node,
		})
		if err != nil || len(pods.Items) != 1 {
			return false, fmt.Sprintf("%d Pods (error %v)", len(pods.Items), err)
		}
		found = &pods.Items[0]
		return found.DeletionTimestamp == nil && podReady(found), found.Name
	})
	return found
}

// freshSpeaker has the victim run a speaker that has never crashed: Kubernetes
// starts one again at once only the first time.
func (f bgpFaults) freshSpeaker() {
	f.Helper()
	old := f.speakerOf(faultVictim)
	if old.Status.ContainerStatuses[0].RestartCount == 0 {
		return
	}
	if err := f.lab.kube.CoreV1().Pods(berthNamespace).Delete(f.ctx, old.Name, metav1.DeleteOptions{}); err != nil {
		f.Fatal(err)
	}
	f.waitFor("another speaker", time.Minute, func(context.Context) (bool, string) {
		now := f.speakerOf(faultVictim)
		return now.UID != old.UID, now.Name
	})
}

// processStarts are when the speakers' processes began, by node.
func (f bgpFaults) processStarts() map[string]float64 {
	f.Helper()
	starts := map[string]float64{}
	for _, node := range f.lab.otherNodes() {
		starts[node] = f.metrics(f.speakerOf(node), 7957)["process_start_time_seconds"]
	}
	return starts
}

// expectSameProcesses fails the test if a speaker has been restarted since.
func (f bgpFaults) expectSameProcesses(before map[string]float64) {
	f.Helper()
	for node, now := range f.processStarts() {
		if now != before[node] || now == 0 {
			f.Errorf("the speaker on %s has run since %v, not since %v", node, now, before[node])
		}
	}
}

// victimSessions returns the router's sessions with the victim.
func (f bgpFaults) victimSessions() []routers.Session {
	f.Helper()
	host, err := f.lab.Plan().Host(faultVictim)
	if err != nil {
		f.Fatal(err)
	}
	all, err := f.router.Sessions(f.ctx)
	if err != nil {
		f.Fatal(err)
	}
	return slices.DeleteFunc(all, func(s routers.Session) bool { return !slices.Contains(host.IPs(), s.Neighbor) })
}

// waitNewSessions returns when the sessions with the victim are other ones than
// before.
func (f bgpFaults) waitNewSessions(before map[netip.Addr]routers.Session) {
	f.Helper()
	f.waitFor("new sessions with "+faultVictim, bgpTimeout, func(context.Context) (bool, string) {
		sessions := f.victimSessions()
		for _, s := range sessions {
			if old := before[s.Neighbor]; !s.Up() || s.Times == old.Times && s.Since.Equal(old.Since) {
				return false, fmt.Sprintf("%+v", s)
			}
		}
		return len(sessions) == 2, fmt.Sprintf("%+v", sessions)
	})
}

func (f bgpFaults) killVictim() {
	f.Helper()
	if err := f.lab.Kill(faultVictim, "speaker", syscall.SIGKILL); err != nil {
		f.Fatal(err)
	}
}
