package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// metalLBNamespace is where MetalLB's configuration is.
const metalLBNamespace = "metallb-system"

// takeOverGap is for how long clients may be without service while Berth takes
// over.
const takeOverGap = 1500 * time.Millisecond

// migration is a cluster that MetalLB has served so far. Its speakers are played by
// the kernels of nodes, which answer for the addresses with their own MACs, as
// MetalLB's speakers do.
type migration struct {
	*env
	// other is a second namespace.
	other *env
	// left are the Services by namespace/name, with the addresses that MetalLB gave
	// them, and speaks who answers for these.
	left   map[string][]netip.Addr
	speaks map[netip.Addr]string
	// routed are addresses that routers are told, by one of them, and daemons play
	// MetalLB's speakers towards it.
	routed  []netip.Addr
	router  *bgpRouter
	daemons map[string]*bgpRouter
	meter   *stallMeter // since the probes began
}

// TestTakeOverFromMetalLB imports a live cluster's configuration and has Berth take
// over from MetalLB, step by step as docs/migrate-from-metallb.md says.
func TestTakeOverFromMetalLB(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name, options.Nodes, options.Berth = "e2emetallb", nodes, false
	l := startLabWith(t, options)
	m := &migration{env: newEnv(t, l), other: newEnv(t, l), left: map[string][]netip.Addr{}, speaks: map[netip.Addr]string{}}
	m.apply("testdata/metallb/crds.yaml")
	m.leaveConfiguration()
	m.leaveServices()
	m.leaveRoutes()
	folder := m.importAll()
	m.acceptExamples()
	m.apply(filepath.Join(folder, "ipaddresspools.yaml"))
	m.apply("../../../deploy/berth.yaml")
	l.waitUntilCalm(m.env)
	m.expectAdopted()
	running := m.probe()
	m.meter = m.meterStalls()
	m.handOver(folder)
	m.expectNothingLost(running)
	m.handOverRoutes(folder)
	m.expectAdopted()
	m.waitFor("Berth to be healthy", 20*time.Second, func(context.Context) (bool, string) { // nodes report once a second
		out, status := m.plugin("status")
		return status == 0, out
	})
}

func (e *env) read(path string) string {
	e.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		e.Fatal(err)
	}
	return string(text)
}

// readAll joins manifests.
func (e *env) readAll(paths []string) string {
	e.Helper()
	var texts []string
	for _, path := range paths {
		texts = append(texts, e.read(path))
	}
	return strings.Join(texts, "\n---\n")
}

func (e *env) apply(path string) {
	e.Helper()
	e.applyText(e.read(path))
}

// applyText applies a manifest, whose kinds may have been made an instant ago.
func (e *env) applyText(text string, flags ...string) {
	e.Helper()
	e.waitFor("a manifest to be applied", time.Minute, func(ctx context.Context) (bool, string) {
		_, err := e.lab.Kubectl(ctx, strings.NewReader(text), append([]string{"apply", "--server-side", "-f", "-"}, flags...)...)
		return err == nil, fmt.Sprint(err)
	})
}

// leaveConfiguration makes what an administrator had told MetalLB.
func (m *migration) leaveConfiguration() {
	m.Helper()
	if _, err := m.lab.kube.CoreV1().Namespaces().Create(m.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metalLBNamespace}}, metav1.CreateOptions{}); err != nil {
		m.Fatal(err)
	}
	list := func(ranges []v1beta1.AddressRange) string {
		return strings.ReplaceAll(fmt.Sprintf("%q", ranges), " ", ", ")
	}
	router, err := m.lab.Plan().Host(network.Router)
	if err != nil {
		m.Fatal(err)
	}
	m.applyText(strings.NewReplacer(
		"MAIN", list(m.ranges(0, 12)), "ASKED", list(m.ranges(12, 4)), "ROUTED", list(m.other.ranges(0, 4)), "ROUTER", router.IPs()[0].String(),
	).Replace(m.read("testdata/metallb/config.yaml")))
	// A status that nobody is to take for configuration.
	m.applyText(`{"apiVersion":"metallb.io/v1beta1","kind":"ServiceL2Status","metadata":{"name":"l2-1","namespace":"` + metalLBNamespace + `"}}`)
}

// leaveServices makes Services as MetalLB leaves them, with Pods behind them. None
// has the address that it would be given now.
func (m *migration) leaveServices() {
	m.Helper()
	m.createDeployment(deployment{app: "web", replicas: 2, nodes: []string{"node-2", "node-3"}})
	m.other.createDeployment(deployment{app: "web", replicas: 1})
	const marked, sharing = "metallb.io/ip-allocated-from-pool", "metallb.universe.tf/allow-shared-ip"
	m.leave(m.env, "web", 5, "node-1", annotated(marked, "main"))
	m.leave(m.env, "local", 3, "node-2", annotated(marked, "main"), local)
	m.leave(m.env, "unmarked", 10, "node-3")
	m.leave(m.env, "asked", 14, "node-1", annotated("metallb.universe.tf/ip-allocated-from-pool", "asked"),
		annotated("metallb.universe.tf/loadBalancerIPs", join(m.address(14))))
	m.leave(m.env, "shared", 7, "node-2", annotated(marked, "main"), annotated(sharing, "key"))
	m.leave(m.other, "shared", 7, "node-2", annotated(marked, "main"), annotated(sharing, "key"), onPort(81))
	for address, node := range m.speaks {
		if err := m.lab.Squat(address, lab.SquatOptions{Host: node, Announce: true}); err != nil {
			m.Fatal(err)
		}
		m.waitServed(network.Client, address, servicePort, "/hostname")
	}
}

func (m *migration) leave(e *env, name string, nth int, node string, changes ...func(*corev1.Service)) {
	m.Helper()
	e.createService(name, changes...)
	m.give(e, name, m.address(nth))
	for _, address := range m.address(nth) {
		m.speaks[address] = node
	}
}

// give writes addresses into the status of a Service, as MetalLB's controller does.
func (m *migration) give(e *env, name string, addresses []netip.Addr) {
	m.Helper()
	service := e.service(name)
	for _, address := range addresses {
		service.Status.LoadBalancer.Ingress = append(service.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: address.String()})
	}
	if _, err := e.lab.kube.CoreV1().Services(e.namespace).UpdateStatus(e.ctx, service, metav1.UpdateOptions{}); err != nil {
		e.Fatal(err)
	}
	m.left[e.namespace+"/"+name] = addresses
}

// importAll imports the configuration into a folder.
func (m *migration) importAll() (folder string) {
	m.Helper()
	folder = filepath.Join(m.TempDir(), "berth")
	out, status := m.plugin("import", "metallb", "--output-dir", folder)
	if status != 0 || !strings.Contains(out, "ipaddresspools.yaml: 3") || !strings.Contains(out, "bgppeers.yaml: 1") {
		m.Fatalf("kubectl berth import metallb ends with %d and says %s", status, out)
	}
	if text := m.read(filepath.Join(folder, "ipaddresspools.yaml")); !strings.Contains(text, "shareAcrossNamespaces: true") {
		m.Errorf("Services of two namespaces share an address, but the pools are\n%s", text)
	}
	crds, err := filepath.Glob("../../../config/crd/berth.dev_*.yaml")
	if err != nil || len(crds) == 0 {
		m.Fatal("no custom resource definitions", err)
	}
	m.applyText(m.readAll(crds))
	return folder
}

// acceptExamples has the API server judge what becomes of each example of the
// converter's own tests.
func (m *migration) acceptExamples() {
	m.Helper()
	examples, err := filepath.Glob("../../metallb/testdata/*.yaml")
	if err != nil || len(examples) == 0 {
		m.Fatal("no examples", err)
	}
	var all []string
	for _, example := range examples {
		out, status := m.plugin("import", "metallb", "--partial", "-f", example)
		if status != 0 || !strings.Contains(out, "apiVersion: berth.dev/v1beta1") {
			m.Errorf("the import of %s ends with %d and says %s", example, status, out)
		}
		all = append(all, out)
	}
	m.applyText(strings.Join(all, "---\n"), "--dry-run=server")
}

// probe opens connections to every address, not so often that the rest slows down.
func (m *migration) probe() probes {
	m.Helper()
	var addresses []netip.Addr
	for address := range m.speaks {
		addresses = append(addresses, address)
	}
	return m.startProbes(lab.ProbeOptions{Every: 50 * time.Millisecond}, addresses...)
}

// expectAdopted waits until the controller has said of each Service that it has the
// addresses that MetalLB gave it.
func (m *migration) expectAdopted() {
	m.Helper()
	for _, e := range []*env{m.env, m.other} {
		for name, want := range m.left {
			namespace, name, _ := strings.Cut(name, "/")
			if namespace != e.namespace {
				continue
			}
			if got := e.waitAllocated(name); !slices.Equal(got, want) {
				m.Errorf("Service %s/%s has %s, and had %s", namespace, name, join(got), join(want))
			}
		}
	}
}

// handOver has Berth announce the addresses and then silences MetalLB. For a moment
// two nodes answer for an address, and either serves.
func (m *migration) handOver(folder string) {
	m.Helper()
	m.apply(filepath.Join(folder, "l2advertisements.yaml"))
	for _, e := range []*env{m.env, m.other} {
		for name := range m.left {
			if namespace, name, _ := strings.Cut(name, "/"); namespace == e.namespace && name != "routed" {
				e.waitCondition(name, v1beta1.ConditionAnnounced, metav1.ConditionTrue, "Announced")
			}
		}
	}
	for address, node := range m.speaks {
		if err := m.lab.Vacate(node, address); err != nil {
			m.Fatal(err)
		}
	}
	var addresses []netip.Addr
	for address := range m.speaks {
		addresses = append(addresses, address)
	}
	m.waitOwners(addresses, nil)
	m.pause(time.Second, "what goes wrong now would be seen by the probes")
}

// expectNothingLost ends the probes of the hand-over of layer 2.
func (m *migration) expectNothingLost(running probes) {
	m.Helper()
	m.expectBriefly("layer 2", running)
	for _, node := range m.lab.otherNodes() {
		if state, err := m.nodeState(m.ctx, node); err != nil || len(state.AddressConflicts) > 0 {
			m.Errorf("%s has seen conflicts: %+v (%v)", node, state, err)
		}
	}
}

// expectBriefly fails the test if an address was away for longer than a hand-over
// may take.
func (m *migration) expectBriefly(what string, running probes) {
	m.Helper()
	limit := m.bound(takeOverGap, m.meter)
	for address, report := range running.stop() {
		gap := time.Duration(report.LongestGap)
		measured.add("take-over from MetalLB, "+what+": longest gap", gap)
		if gap > limit || report.OK == 0 {
			m.Errorf("%s was away for %s (%d of %d failed: %v)", address, gap, report.Failed, report.Sent, report.Errors)
		}
		if report.Failed > 0 {
			m.Logf("%s: %d of %d failed: %v", address, report.Failed, report.Sent, report.Errors)
		}
	}
}
