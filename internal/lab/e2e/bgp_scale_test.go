package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// How many Services are announced to two routers, always and if asked to measure,
// and what that may cost at the most.
const (
	bgpServicesFew = 300
	bgpServices    = 2000
	fullTableLimit = 10 * time.Second
	bgpMemoryLimit = 200 << 20
)

// bgpScaleVariable is the environment's way to ask for TestBGPScale in full.
const bgpScaleVariable = "BERTH_E2E_BGP_SCALE"

// bgpScale is a lab of one node, FRR and BIRD.
type bgpScale struct {
	scale
	routers []*bgpRouter
}

// TestBGPScale announces many Services to two routers. To make them takes the API
// server most of the time, minutes for all of them, so without being asked to it
// makes fewer.
func TestBGPScale(t *testing.T) {
	n := bgpServicesFew
	if os.Getenv(bgpScaleVariable) != "" {
		n = bgpServices
	}
	options := lab.DefaultOptions()
	options.Name, options.Nodes, options.Routers, options.IPFamily = "bgpscale", 1, 2, network.IPv4
	l := startLabWith(t, options)
	s := bgpScale{scale: scale{env: newEnv(t, l), n: n}}
	s.createPool(s.namespace, []v1beta1.AddressRange{v1beta1.AddressRange(l.Plan().FreeRanges[0].String())}, nil)
	s.createDeployment(deployment{app: "web", replicas: 1})
	arrivals := watchArrivals(s.env)
	began := time.Now()
	s.waitAddresses(arrivals, s.createServed())
	s.waitEndpoints()
	t.Logf("%d Services made in %s", s.n, time.Since(began).Round(time.Millisecond))
	s.routers = []*bgpRouter{s.startRouter(routers.FRR, network.Router), s.startRouter(routers.BIRD, network.Router2)}
	s.createBGP("bgpadvertisements", "BGPAdvertisement", "all", v1beta1.BGPAdvertisementSpec{})
	s.waitIdle()

	before := s.metrics(s.speaker(), 7957)
	began = time.Now()
	for _, router := range s.routers {
		s.createBGP("bgppeers", "BGPPeer", string(router.Kind()), v1beta1.BGPPeerSpec{
			MyASN: nodeASN, PeerASN: routerASN, PeerAddress: v1beta1.PeerAddress(router.host.IPs()[0].String()),
		})
	}
	s.waitTables("from no peer to two full tables", began, s.n)
	s.waitIdle()
	s.expectCost("two full tables", before)
	s.changeOne()
	s.restartSpeaker()
}

// row names a measurement.
func (s bgpScale) row(what string) string { return fmt.Sprintf("BGP, %d Services: %s", s.n, what) }

// createServed makes Services that have a Pod, and no node ports.
func (s bgpScale) createServed() map[string]creation {
	s.Helper()
	created := map[string]creation{}
	g, ctx := errgroup.WithContext(s.ctx)
	g.SetLimit(32)
	for i := range s.n {
		service := s.newService(fmt.Sprintf("s-%d", i), withoutNodePorts)
		created[service.Name] = creation{}
		g.Go(func() error {
			_, err := s.lab.kube.CoreV1().Services(s.namespace).Create(ctx, service, metav1.CreateOptions{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		s.Fatal(err)
	}
	return created
}

func withoutNodePorts(service *corev1.Service) {
	service.Spec.AllocateLoadBalancerNodePorts = ptr.To(false)
}

// standstill is how long nothing may change before what is waited for is given up:
// how much time a busy machine needs for all of it, nobody can tell.
const standstill = 30 * time.Second

// waitProgress returns when count has reached n. It fails the test when count has
// stood still for too long.
func (s bgpScale) waitProgress(what string, n int, count func(context.Context) (int, string)) {
	s.Helper()
	last, since := -1, time.Now()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		now, seen := count(s.ctx)
		if now >= n {
			return
		}
		if now > last {
			last, since = now, time.Now()
		}
		if time.Since(since) > standstill {
			s.Fatalf("%s: %d of %d, and no more for %s; last seen: %s", what, last, n, standstill, seen)
		}
		select {
		case <-s.ctx.Done():
			s.Fatalf("%s: the run ends; %d of %d; last seen: %s", what, last, n, seen)
		case <-ticker.C:
		}
	}
}

// waitAddresses returns when all Services have an address.
func (s bgpScale) waitAddresses(a *arrivals, created map[string]creation) {
	s.Helper()
	s.waitProgress("Services with an address", len(created), func(context.Context) (int, string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.at), ""
	})
}

// waitEndpoints returns when all Services have endpoints, without which nobody
// announces them.
func (s bgpScale) waitEndpoints() {
	s.Helper()
	s.waitProgress("Services with endpoints", s.n, func(ctx context.Context) (int, string) {
		slices, err := s.lab.kube.DiscoveryV1().EndpointSlices(s.namespace).List(ctx, listAll)
		if err != nil {
			return 0, err.Error()
		}
		served := map[string]bool{}
		for i := range slices.Items {
			if len(slices.Items[i].Endpoints) > 0 {
				served[slices.Items[i].Labels[discoveryv1.LabelServiceName]] = true
			}
		}
		return len(served), ""
	})
}

// waitIdle returns when the speaker has nothing to do: it uses hardly any CPU.
func (s bgpScale) waitIdle() {
	s.Helper()
	const quiet, most = 2 * time.Second, 0.5 // seconds of CPU in that time
	last, since := -1.0, time.Now()
	s.waitFor("the speaker to be idle", 5*time.Minute, func(context.Context) (bool, string) {
		if time.Since(since) < quiet && last >= 0 {
			return false, "not looked at yet"
		}
		now := s.metrics(s.speaker(), 7957)["process_cpu_seconds_total"]
		used := now - last
		idle := last >= 0 && used < most
		last, since = now, time.Now()
		return idle, fmt.Sprintf("%.2f s of CPU in %s", used, quiet)
	})
}

// waitTables notes when each router has n routes.
func (s bgpScale) waitTables(what string, began time.Time, n int) {
	s.Helper()
	full := map[routers.Kind]bool{}
	s.waitProgress("routes that the routers have", n*len(s.routers), func(context.Context) (int, string) {
		seen, has := "", 0
		for _, router := range s.routers {
			session := router.session("node-1")
			has += session.Prefixes[routers.IPv4]
			if !full[router.Kind()] && session.Up() && session.Prefixes[routers.IPv4] == n {
				full[router.Kind()] = true
				took := time.Since(began)
				measured.add(s.row(fmt.Sprintf("%s, %s", what, router.Kind())), took)
				if took > fullTableLimit {
					s.Errorf("%s: %s had all routes only after %s", what, router.Kind(), took)
				}
			}
			seen += fmt.Sprintf("%s %+v; ", router.Kind(), session)
		}
		if len(full) < len(s.routers) {
			has = min(has, n*len(s.routers)-1)
		}
		return has, seen
	})
	for _, router := range s.routers {
		s.waitProgress("routes of the kernel behind "+string(router.Kind()), n, func(context.Context) (int, string) {
			routes, err := router.KernelRoutes()
			return routes, fmt.Sprint(err)
		})
	}
}

// expectCost notes what the speaker has used since.
func (s bgpScale) expectCost(what string, before map[string]float64) {
	s.Helper()
	after := s.metrics(s.speaker(), 7957)
	cpu := after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
	memory := int64(after["process_resident_memory_bytes"])
	measured.add(s.row(what+", speaker's CPU"), time.Duration(cpu*float64(time.Second)))
	measured.addBytes(s.row("speaker's memory before"), int64(before["process_resident_memory_bytes"]))
	measured.addBytes(s.row(what+", speaker's memory"), memory)
	if memory > bgpMemoryLimit {
		s.Errorf("the speaker has %d MiB resident, more than %d", memory>>20, bgpMemoryLimit>>20)
	}
	for _, router := range s.routers {
		sent := after[s.updates(router)]
		s.Logf("%s was told in %v messages", router.Kind(), sent)
	}
}

func (s bgpScale) updates(router *bgpRouter) string {
	return fmt.Sprintf("berth_bgp_updates_sent_total{peer=%q}", router.Kind())
}

// changeOne takes one Service away and makes another: that is one message each to
// each router, and the sessions stay.
func (s bgpScale) changeOne() {
	s.Helper()
	address := s.addressesOf("s-7")[0]
	sessions := map[*bgpRouter]map[string]routers.Session{}
	for _, router := range s.routers {
		sessions[router] = router.waitSessions("node-1")
	}
	before := s.metrics(s.speaker(), 7957)
	began := time.Now()
	s.deleteService("s-7")
	s.waitOneGone(address)
	measured.add(s.row("one is deleted, until both routers know"), time.Since(began))
	s.expectMessages("a Service was deleted", before, 1)

	began = time.Now()
	s.createService("s-7", withoutNodePorts, annotated(v1beta1.AnnotationLoadBalancerIPs, address.String()))
	for _, router := range s.routers {
		router.waitRoute(hostPrefix(address), told{node: "node-1"})
	}
	measured.add(s.row("one is created, until both routers know"), time.Since(began))
	s.expectMessages("a Service was made", before, 2)
	for _, router := range s.routers {
		router.expectSameSessions(sessions[router])
	}
}

func (s bgpScale) waitOneGone(address netip.Addr) {
	s.Helper()
	for _, router := range s.routers {
		router.waitRoute(hostPrefix(address))
	}
}

// expectMessages fails the test unless each router was sent n UPDATE messages.
func (s bgpScale) expectMessages(why string, before map[string]float64, n float64) {
	s.Helper()
	after := s.metrics(s.speaker(), 7957)
	for _, router := range s.routers {
		if sent := after[s.updates(router)] - before[s.updates(router)]; sent != n {
			s.Errorf("%s: %s was sent %v UPDATE messages since, want %v", why, router.Kind(), sent, n)
		}
	}
}

// restartSpeaker replaces the speaker and waits for both tables.
func (s bgpScale) restartSpeaker() {
	s.Helper()
	old := s.speaker()
	if err := s.lab.kube.CoreV1().Pods(berthNamespace).Delete(s.ctx, old.Name, metav1.DeleteOptions{}); err != nil {
		s.Fatal(err)
	}
	var began time.Time
	s.waitFor("another speaker", time.Minute, func(context.Context) (bool, string) {
		now := s.speakerOf("node-1")
		began = time.Now()
		return now.UID != old.UID, now.Name
	})
	s.waitTables("speaker ready again, until full tables", began, s.n)
}
