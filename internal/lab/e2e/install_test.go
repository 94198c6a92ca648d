package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// Files of the source tree, as seen from this folder.
const (
	repository   = "../../.."
	imagesFolder = repository + "/bin/lab-images"
	helmBinary   = repository + "/bin/helm"
)

// installLimit is for what takes seconds on a machine that is not busy.
const installLimit = 2 * time.Minute

// berthReplicas is how many controllers there are by default.
const berthReplicas = 2

// Commands of docs/install.md.
const (
	applyCommand         = "kubectl apply --server-side -f deploy/berth.yaml"
	deleteCommand        = "kubectl delete -f deploy/berth.yaml"
	overlayCommand       = "kubectl apply --server-side -k config/overlays/l2-only"
	controllerRollout    = "kubectl --namespace berth-system rollout status deployment/controller"
	speakerRollout       = "kubectl --namespace berth-system rollout status daemonset/speaker"
	namespaceCommand     = "kubectl create namespace berth-system"
	labelCommand         = "kubectl label namespace berth-system pod-security.kubernetes.io/enforce=privileged"
	installCommand       = "helm install berth deploy/chart --namespace berth-system --wait"
	takeCommand          = "helm install berth deploy/chart --namespace berth-system --take-ownership --wait"
	upgradeCommand       = "helm upgrade berth deploy/chart --namespace berth-system --wait"
	uninstallCommand     = "helm uninstall berth --namespace berth-system --wait"
	dropNamespaceCommand = "kubectl delete namespace berth-system"
	dropCRDsCommand      = `kubectl get customresourcedefinitions -o name | grep '\.berth\.dev$' | xargs kubectl delete`
)

// TestInstall installs Berth, in a cluster that has none, in the ways that
// docs/install.md tells, and takes it away again. Its containers have the file
// systems of the image archives that `make images` writes.
func TestInstall(t *testing.T) {
	if *labFlag != "" {
		t.Skip("needs a lab without Berth of its own")
	}
	options := lab.DefaultOptions()
	options.Name = "e2einstall"
	options.Nodes = nodes
	options.Berth = false
	options.Images = map[string]string{}
	for _, name := range []string{"controller", "speaker"} {
		options.Images[name] = filepath.Join(imagesFolder, name+".tar")
	}
	for _, file := range []string{helmBinary, options.Images["controller"], options.Images["speaker"]} {
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%v: `make test-lab` makes it", err)
		}
	}
	l := startLabWith(t, options)
	for _, c := range []testCase{
		{name: "Manifest", run: testManifest},
		{name: "Defaults", run: testChartDefaults},
		{name: "Limited", run: testChartLimited},
		{name: "OwnNames", run: testChartOwnNames},
		{name: "Upgrade", run: testUpgrade},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(newEnv(t, l)) })
	}
}

// testManifest: an overlay replaces the manifest, and all that both have brought goes.
func testManifest(e *env) {
	r := e.newRelease("berth", berthNamespace)
	r.run(applyCommand)
	r.waitReady(berthReplicas)
	e.waitObjectTaken(bgpPeer)
	r.run(overlayCommand)
	e.waitObjectRefused(bgpPeer, "Berth is installed for layer 2 only")
	r.waitRollout()
	r.waitReady(berthReplicas)
	if _, err := e.lab.Kubectl(e.ctx, nil, "apply", "--server-side", "--dry-run=server", "-k", repository+"/config/overlays/bgp-only"); err != nil {
		e.Error(err)
	}
	e.lab.checkLogsIn(e.T, r.inside)
	r.run(deleteCommand)
	// The manifest does not know what only the overlay has.
	if _, err := r.shell(e.ctx, "kubectl delete --ignore-not-found -k config/overlays/l2-only"); err != nil {
		e.Fatal(err)
	}
	r.expectGone(nothing)
}

// testChartDefaults: what the chart installs serves a Service, runs from nothing but
// the images, and what is left afterwards is what the documentation says. To ask for
// monitoring by an operator that is not there fails before anything is made.
func testChartDefaults(e *env) {
	r := e.newRelease("berth", berthNamespace)
	r.makeNamespace()
	_, err := r.try(installCommand, r.values("podMonitor: {enabled: true}")...)
	if err == nil || !strings.Contains(err.Error(), `no matches for kind "PodMonitor"`) || !strings.Contains(err.Error(), "ensure CRDs are installed first") {
		e.Errorf("helm install says: %v", err)
	}
	r.expectGone(nothing)

	began := time.Now()
	r.run(installCommand)
	r.waitReady(berthReplicas)
	measured.add("helm install until all Pods are ready", time.Since(began))
	e.checkImages(berthReplicas)
	r.checkPodSecurity()
	e.Run("Service", func(t *testing.T) { testService(newEnv(t, e.lab)) })
	r.uninstall()
	r.expectGone(customResources)
	r.run(dropCRDsCommand)
	r.expectGone(nothing)
}

// checkPodSecurity makes sure that the controller would be admitted at the strictest
// level of Pod Security, as only speakers need more.
func (r *release) checkPodSecurity() {
	r.Helper()
	const command = "kubectl label namespace berth-system --overwrite --dry-run=server pod-security.kubernetes.io/enforce=restricted 2>&1"
	out, err := r.shell(r.ctx, command)
	if err != nil {
		r.Fatal(err)
	}
	if !strings.Contains(out, "speaker-") || strings.Contains(out, "controller-") {
		r.Errorf("Pods that violate the level restricted: %s", out)
	}
}

// testChartLimited: a chart with an older schema, for layer 2 only, becomes the
// present one, for BGP only. Each has the API server refuse what it is not for.
func testChartLimited(e *env) {
	r := e.newRelease("berth", berthNamespace)
	r.makeNamespace()
	r.chart = e.olderChart()
	r.run(installCommand, r.values("bgp: {enabled: false}")...)
	r.waitReady(berthReplicas)
	if e.l2Fields()["onConflict"] {
		e.Fatal("the older chart has the newer schema")
	}
	e.waitObjectRefused(bgpPeer, "Berth is installed for layer 2 only")
	e.waitObjectTaken(l2Advertisement)

	r.chart = defaultChart
	r.run(upgradeCommand, r.values("l2: {enabled: false}")...)
	r.waitReady(berthReplicas)
	if !e.l2Fields()["onConflict"] {
		e.Error("helm upgrade has left the older schema in place")
	}
	e.waitObjectRefused(l2Advertisement, "Berth is installed for BGP only")
	e.waitObjectTaken(bgpPeer)
	r.uninstall()
	r.expectGone(customResources)
}

// testChartOwnNames: another release in another namespace takes over the custom
// resource definitions that were kept, serves a class of its own only, and takes
// them along when it goes.
func testChartOwnNames(e *env) {
	const own = `
loadBalancerClass: example.com/edge
defaultLoadBalancer: false
log: {level: debug, format: json}
crds: {keep: false}
networkPolicy: {enabled: false}
podDisruptionBudget: {enabled: false}
controller: {replicas: 1, extraArgs: ["--lease-duration=8s"], priorityClassName: ""}
`
	r := e.newRelease("edge", "edge-lb")
	r.makeNamespace()
	values := r.values(own)
	if _, err := r.try(installCommand, values...); err == nil || !strings.Contains(err.Error(), "cannot be imported into the current release") {
		e.Errorf("helm install of another release says: %v", err)
	}
	r.run(takeCommand, values...)
	r.waitReady(1)
	e.Run("Service", func(t *testing.T) {
		inner := newEnv(t, e.lab)
		inner.usePool(4)
		inner.createDeployment(deployment{app: "web", replicas: 1})
		inner.createService("other")
		inner.createService("web", ofClass("example.com/edge"))
		for _, address := range inner.waitAnnounced("web") {
			inner.waitServed(network.Client, address, servicePort, "/hostname")
		}
		if status := inner.service("other").Status; len(status.Conditions) > 0 || len(status.LoadBalancer.Ingress) > 0 {
			inner.Errorf("a Service without the class has %+v", status)
		}
	})
	r.uninstall()
	r.run(dropNamespaceCommand)
	r.expectGone(nothing)
}
