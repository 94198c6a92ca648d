package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/lab"
)

// Files of the source tree, as seen from this folder.
const (
	repository    = "../../.."
	chartFolder   = repository + "/deploy/chart"
	manifestFile  = repository + "/deploy/berth.yaml"
	imagesFolder  = repository + "/bin/images"
	installLimit  = 2 * time.Minute
	berthReplicas = 2 // of the controller
)

// TestInstall installs Berth, in a cluster that has none, in the ways that
// docs/install.md tells, and takes it away again. Its containers have the file
// systems of the image archives that `make images` writes.
func TestInstall(t *testing.T) {
	options := lab.DefaultOptions()
	options.Name = "e2einstall"
	options.Nodes = nodes
	options.Berth = false
	options.Images = map[string]string{}
	for _, name := range []string{"controller", "speaker"} {
		options.Images[name] = filepath.Join(imagesFolder, name+".tar")
	}
	l := startLabWith(t, options)
	for _, c := range []testCase{
		{name: "WithoutOperator", run: testWithoutOperator},
		{name: "Defaults", run: testChartDefaults},
		{name: "Limited", run: testChartLimited},
		{name: "OwnNames", run: testChartOwnNames},
		{name: "Upgrade", run: testUpgrade},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(newEnv(t, l)) })
	}
}

// testWithoutOperator: monitoring by an operator that is not there fails before
// anything is made, and the message says what is missing.
func testWithoutOperator(e *env) {
	r := e.newRelease("berth", berthNamespace)
	_, err := r.install(chartFolder, "podMonitor: {enabled: true}")
	if err == nil || !strings.Contains(err.Error(), `no matches for kind "PodMonitor"`) || !strings.Contains(err.Error(), "ensure CRDs are installed first") {
		e.Errorf("helm install says: %v", err)
	}
	r.expectGone(nothing)
}

// testChartDefaults: what the chart installs serves a Service, runs from nothing but
// the images, and what is left afterwards is what the documentation says.
func testChartDefaults(e *env) {
	r := e.newRelease("berth", berthNamespace)
	r.mustInstall(chartFolder, "")
	r.waitReady(berthReplicas)
	e.checkImages(berthReplicas)
	e.Run("Service", func(t *testing.T) { testService(newEnv(t, e.lab)) })
	r.uninstall()
	r.expectGone(customResources)
}

// testChartLimited: a chart with an older schema, for layer 2 only, becomes the
// present one, for BGP only. Each has the API server refuse what it is not for.
func testChartLimited(e *env) {
	r := e.newRelease("berth", berthNamespace)
	r.mustInstall(e.olderChart(), "bgp: {enabled: false}")
	r.waitReady(berthReplicas)
	if e.l2Fields()["onConflict"] {
		e.Fatal("the older chart has the newer schema")
	}
	e.waitObjectRefused(bgpPeer, "Berth is installed for layer 2 only")
	e.waitObjectTaken(l2Advertisement)

	r.mustUpgrade(chartFolder, "l2: {enabled: false}")
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
	const values = `
loadBalancerClass: example.com/edge
defaultLoadBalancer: false
log: {level: debug, format: json}
crds: {keep: false}
networkPolicy: {enabled: false}
podDisruptionBudget: {enabled: false}
controller: {replicas: 1, extraArgs: ["--lease-duration=8s"], priorityClassName: ""}
`
	r := e.newRelease("edge", "edge-lb")
	if _, err := r.install(chartFolder, values); err == nil || !strings.Contains(err.Error(), "cannot be imported into the current release") {
		e.Errorf("helm install of another release says: %v", err)
	}
	r.mustInstall(chartFolder, values, "--take-ownership")
	r.waitReady(1)
	e.Run("Service", func(t *testing.T) {
		inner := newEnv(t, e.lab)
		inner.usePool(4)
		inner.createDeployment(deployment{app: "web", replicas: 1})
		inner.createService("other")
		inner.createService("web", ofClass("example.com/edge"))
		for _, address := range inner.waitAnnounced("web") {
			inner.waitServed("client", address, servicePort, "/hostname")
		}
		if status := inner.service("other").Status; len(status.Conditions) > 0 || len(status.LoadBalancer.Ingress) > 0 {
			inner.Errorf("a Service without the class has %+v", status)
		}
	})
	r.uninstall()
	r.expectGone(nothing)
}

// release is one of the chart's.
type release struct {
	*env
	name, inside string
	// before are the objects that there were before it.
	before map[string]bool
}

// newRelease makes the namespace of a release, as the documentation says.
func (e *env) newRelease(name, namespace string) *release {
	e.Helper()
	e.waitNamespacesCalm()
	for _, args := range [][]string{
		{"create", "namespace", namespace},
		{"label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged"},
	} {
		if _, err := e.lab.Kubectl(e.ctx, nil, args...); err != nil {
			e.Fatal(err)
		}
	}
	r := &release{env: e, name: name, inside: namespace, before: e.objects()}
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 20*time.Second)
		defer cancel()
		if e.Failed() { // before it was uninstalled: the next test begins without
			if _, err := r.helmUntil(ctx, "uninstall", r.name, "--ignore-not-found"); err != nil {
				e.Log(err)
			}
		}
		if err := e.lab.kube.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
			e.Error(err)
		}
	})
	return r
}

// helm runs the command that users do.
func (r *release) helm(args ...string) (string, error) { return r.helmUntil(r.ctx, args...) }

func (r *release) helmUntil(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(repository, "bin", "helm"), append(args, "--namespace", r.inside)...)
	folder := filepath.Join(os.TempDir(), "berth-helm") // nothing is ever written there
	cmd.Env = append(r.lab.KubectlEnv(), "HELM_CACHE_HOME="+folder, "HELM_CONFIG_HOME="+folder, "HELM_DATA_HOME="+folder)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// withValues runs helm on a chart with values.
func (r *release) withValues(command, chart, values string, more []string) (string, error) {
	r.Helper()
	file := filepath.Join(r.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		r.Fatal(err)
	}
	args := []string{command, r.name, chart, "--values", file, "--wait", "--timeout", installLimit.String()}
	return r.helm(append(args, more...)...)
}

func (r *release) install(chart, values string, more ...string) (string, error) {
	r.Helper()
	return r.withValues("install", chart, values, more)
}

func (r *release) mustInstall(chart, values string, more ...string) {
	r.Helper()
	began := time.Now()
	if out, err := r.install(chart, values, more...); err != nil {
		r.Fatal(err, out)
	}
	measured.add("helm install until ready", time.Since(began))
}

func (r *release) mustUpgrade(chart, values string) {
	r.Helper()
	if out, err := r.withValues("upgrade", chart, values, nil); err != nil {
		r.Fatal(err, out)
	}
}

func (r *release) uninstall() {
	r.Helper()
	r.lab.checkLogsIn(r.T, r.inside)
	if out, err := r.helm("uninstall", r.name, "--wait"); err != nil {
		r.Fatal(err, out)
	}
}

// waitReady returns when as many controllers and all speakers are ready and nothing
// else is there: helm is content when one speaker is still missing.
func (r *release) waitReady(controllers int) {
	r.Helper()
	want := controllers + nodesOf(r.lab)
	r.waitFor(fmt.Sprintf("%d Pods in %s to be ready", want, r.inside), installLimit, func(ctx context.Context) (bool, string) {
		pods, err := r.lab.kube.CoreV1().Pods(r.inside).List(ctx, listAll)
		if err != nil {
			return false, err.Error()
		}
		var missing []string
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil || !podReady(&pod) {
				missing = append(missing, pod.Name)
			}
		}
		return len(missing) == 0 && len(pods.Items) == want, fmt.Sprintf("%d Pods, not ready %v", len(pods.Items), missing)
	})
}
