package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/netns"
)

// The tests in this file run Pods in a real lab, from the binaries in bin/.

// patience bounds how long a test waits for the cluster.
const patience = 40 * time.Second

// cluster is a lab with one node, and a client for it.
type cluster struct {
	*lab.Cluster
	api kubernetes.Interface
}

const theNode = "node-1"

func newCluster(t *testing.T) cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("starting a lab needs root")
	}
	if testing.Short() {
		t.Skip("starting a lab takes seconds")
	}
	options := lab.DefaultOptions()
	options.Name, options.Nodes, options.Berth = "a"+strconv.Itoa(os.Getpid()), 1, false
	t.Cleanup(func() {
		if err := lab.Down(context.WithoutCancel(t.Context()), options.Name); err != nil {
			t.Error(err)
		}
	})
	c, err := lab.Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	config, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return cluster{c, api}
}

// eventually asks until the answer is "", which means that all is well.
func eventually(t *testing.T, what string, ask func(context.Context) string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		answer := ask(ctx)
		if answer == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %s", what, answer)
		case <-tick.C:
		}
	}
}

func (c cluster) apply(t *testing.T, manifest string) {
	t.Helper()
	if _, err := c.Kubectl(t.Context(), strings.NewReader(manifest), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// kubectl runs a command that has to succeed.
func (c cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// until waits for a Pod to be as wanted; check returns "" if it is.
func (c cluster) until(t *testing.T, pod string, check func(*corev1.Pod) string) *corev1.Pod {
	t.Helper()
	var last *corev1.Pod
	eventually(t, "pod "+pod, func(ctx context.Context) string {
		p, err := c.api.CoreV1().Pods("default").Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		last = p
		return check(p)
	})
	return last
}

func isReady(p *corev1.Pod) string {
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return ""
		}
	}
	return fmt.Sprintf("not ready: %s %v", p.Status.Phase, p.Status.ContainerStatuses)
}

func inPhase(phase corev1.PodPhase) func(*corev1.Pod) string {
	return func(p *corev1.Pod) string {
		if p.Status.Phase == phase {
			return ""
		}
		return string(p.Status.Phase)
	}
}

func TestPodsInACluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	t.Run("group", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, cluster){
			"service":                 testService,
			"volumes":                 testVolumes,
			"waits for what it needs": testWaits,
			"problems are named":      testProblems,
			"restarts":                testRestarts,
			"ends gracefully":         testGracefulEnd,
			"init containers":         testInitContainers,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, c)
			})
		}
	})
	t.Run("API out of reach", func(t *testing.T) { testOutage(t, c) })
	t.Run("node restarted", func(t *testing.T) { testNodeRestart(t, c) })
	t.Run("nothing left", func(t *testing.T) { testNothingLeft(t, c) })
}

// testService is about everything that a web server in a Deployment needs.
func testService(t *testing.T, c cluster) {
	c.apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: agnhost
        image: registry.k8s.io/e2e-test-images/agnhost:2.53
        args: [netexec, --http-port=8080]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}], ipFamilyPolicy: PreferDualStack}
`)
	eventually(t, "deployment", func(ctx context.Context) string {
		d, err := c.api.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if available(d) {
			return ""
		}
		return fmt.Sprintf("%d ready", d.Status.ReadyReplicas)
	})
	service, err := c.api.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := c.api.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil || len(pods.Items) != 2 {
		t.Fatalf("%d pods, %v", len(pods.Items), err)
	}
	pod := pods.Items[0]
	if len(pod.Status.PodIPs) != 2 || len(pod.Status.HostIPs) != 2 {
		t.Errorf("addresses %v on %v", pod.Status.PodIPs, pod.Status.HostIPs)
	}
	for _, ip := range service.Spec.ClusterIPs {
		url := "http://" + ip + "/hostname"
		if strings.Contains(ip, ":") {
			url = "http://[" + ip + "]/hostname"
		}
		for _, from := range []string{theNode, pod.Name} {
			// Both backends, one of which may be the asking Pod itself.
			answers := map[string]bool{}
			eventually(t, url+" from "+from, func(ctx context.Context) string {
				out, err := c.Exec(ctx, from, "curl", "-s", "-m", "2", url)
				if err != nil {
					return err.Error()
				}
				answers[string(out)] = true
				if len(answers) == 2 {
					return ""
				}
				return fmt.Sprint(answers)
			})
		}
	}
	testExec(t, c, pod.Name)
}

func available(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Status.AvailableReplicas == *d.Spec.Replicas
}

func testExec(t *testing.T, c cluster, pod string) {
	if out := c.kubectl(t, "exec", pod, "--", "hostname"); out != pod+"\n" {
		t.Errorf("hostname %q", out)
	}
	out, err := c.Kubectl(t.Context(), strings.NewReader("from outside"), "exec", "-i", pod, "--", "cat")
	if err != nil || string(out) != "from outside" {
		t.Errorf("stdin: %q, %v", out, err)
	}
	_, err = c.Kubectl(t.Context(), nil, "exec", pod, "--", "sh", "-c", "exit 7")
	if exit := (&exec.ExitError{}); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit status: %v", err)
	}
	if out := c.kubectl(t, "logs", pod, "--tail=-1"); !strings.Contains(out, "Started HTTP server on port 8080") {
		t.Errorf("log %q", out)
	}
	const script = `curl -s -m 5 --cacert $D/ca.crt -H "Authorization: Bearer $(cat $D/token)" https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/$(cat $D/namespace)/pods`
	out, err = c.Exec(t.Context(), pod, "env", "D=/var/run/secrets/kubernetes.io/serviceaccount", "KUBERNETES_SERVICE_HOST=10.96.0.1",
		"KUBERNETES_SERVICE_PORT=443", "sh", "-c", script)
	// Who asks is known, and not allowed to.
	if err != nil || !strings.Contains(string(out), `User \"system:serviceaccount:default:default\" cannot list resource`) {
		t.Errorf("API server's answer %q, %v", out, err)
	}
}

func testVolumes(t *testing.T, c cluster) {
	c.apply(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {mood: good}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, fsGroup: 2000, runAsNonRoot: true}
  containers:
  - name: c
    image: agnhost
    args: [pause]
    env: [{name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}]
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /fixed, subPath: colour}
    - {name: about, mountPath: /about}
    - {name: data, mountPath: /data}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: data, emptyDir: {}}
`)
	c.until(t, "volumes", isReady)
	show := func() string {
		return c.kubectl(t, "exec", "volumes", "--", "sh", "-c", "id -u; id -G; echo $COLOUR; cat /settings/colour /fixed /about/labels; echo; touch /data/x && echo written")
	}
	if got, want := show(), "1000\n0 2000\ngreen\ngreengreenmood=\"good\"\nwritten\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	c.kubectl(t, "patch", "configmap", "settings", "-p", `{"data":{"colour":"red"}}`)
	c.kubectl(t, "label", "pod", "volumes", "--overwrite", "mood=bad")
	want := "1000\n0 2000\ngreen\nredgreenmood=\"bad\"\nwritten\n"
	eventually(t, "updated volumes", func(context.Context) string {
		if got := show(); got != want {
			return got
		}
		return ""
	})
}

func testWaits(t *testing.T, c cluster) {
	c.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: waits-for-volume}
spec:
  containers: [{name: c, image: agnhost, args: [pause], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, configMap: {name: later}}]
---
apiVersion: v1
kind: Pod
metadata: {name: waits-for-variable}
spec:
  containers: [{name: c, image: agnhost, args: [pause], env: [{name: X, valueFrom: {secretKeyRef: {name: later, key: k}}}]}]
`)
	c.until(t, "waits-for-variable", waitsFor("CreateContainerConfigError"))
	c.hasEvent(t, "waits-for-volume", "FailedMount", `configmap "later" not found`)
	c.kubectl(t, "create", "configmap", "later", "--from-literal=a=b")
	c.kubectl(t, "create", "secret", "generic", "later", "--from-literal=k=v")
	c.until(t, "waits-for-volume", isReady)
	c.until(t, "waits-for-variable", isReady)
}

func waitsFor(reason string) func(*corev1.Pod) string {
	return func(p *corev1.Pod) string {
		for _, status := range p.Status.ContainerStatuses {
			if status.State.Waiting != nil && status.State.Waiting.Reason == reason {
				return ""
			}
		}
		return fmt.Sprint(p.Status.ContainerStatuses)
	}
}

func (c cluster) hasEvent(t *testing.T, pod, reason, text string) {
	t.Helper()
	eventually(t, "event "+reason+" of "+pod, func(ctx context.Context) string {
		events, err := c.api.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return err.Error()
		}
		var seen []string
		for _, event := range events.Items {
			if event.Reason == reason && strings.Contains(event.Message, text) {
				return ""
			}
			seen = append(seen, event.Reason+": "+event.Message)
		}
		return strings.Join(seen, "; ")
	})
}

func testProblems(t *testing.T, c cluster) {
	tests := map[string]struct {
		container    string
		waits        string // reason for which the container waits, or else
		phase        corev1.PodPhase
		event, about string
	}{
		"unknown-image": {"image: nginx", "ErrImagePull", "", "Failed", "known images: agnhost"},
		"root":          {"image: agnhost, securityContext: {runAsNonRoot: true}", "CreateContainerConfigError", "", "Failed", "runAsNonRoot"},
		"no-command":    {"image: agnhost, command: [nonesuch]", "", corev1.PodFailed, "Failed", "execute nonesuch: not found in PATH"},
		"host-port":     {"image: agnhost, ports: [{containerPort: 1, hostPort: 1}]", "", corev1.PodFailed, "HostPortNotSupported", "hostPort 1"},
	}
	for name, test := range tests {
		c.apply(t, fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {restartPolicy: Never, containers: [{name: c, %s}]}}", name, test.container))
	}
	for name, test := range tests {
		if test.waits != "" {
			c.until(t, name, waitsFor(test.waits))
		} else {
			c.until(t, name, inPhase(test.phase))
		}
		c.hasEvent(t, name, test.event, test.about)
	}
}

func testRestarts(t *testing.T, c cluster) {
	c.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: crashes}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: agnhost, command: [sh, -c, "echo run; echo why > /dev/termination-log; exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: unwell}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: agnhost
    command: [sh, -c, "touch /tmp/well; sleep 1; rm /tmp/well; sleep 1000"]
    livenessProbe: {exec: {command: [test, -e, /tmp/well]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec: {template: {spec: {restartPolicy: OnFailure, containers: [{name: c, image: agnhost, command: [sh, -c, "exit 0"]}]}}}
`)
	p := c.until(t, "crashes", waitsFor("CrashLoopBackOff"))
	status := p.Status.ContainerStatuses[0]
	if last := status.LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Message != "why\n" {
		t.Errorf("last end: %+v", last)
	}
	if status.RestartCount < 1 || p.Status.Phase != corev1.PodRunning {
		t.Errorf("%d restarts in phase %s", status.RestartCount, p.Status.Phase)
	}
	if out := c.kubectl(t, "logs", "crashes", "--previous"); out != "run\n" {
		t.Errorf("previous log %q", out)
	}
	c.until(t, "unwell", func(p *corev1.Pod) string {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].RestartCount == 0 {
			return "not restarted"
		}
		return ""
	})
	c.hasEvent(t, "unwell", "Unhealthy", "Liveness probe failed")
	c.hasEvent(t, "unwell", "Killing", "failed liveness probe, will be restarted")
	eventually(t, "job", func(ctx context.Context) string {
		job, err := c.api.BatchV1().Jobs("default").Get(ctx, "job", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if job.Status.Succeeded == 1 {
			return ""
		}
		return fmt.Sprint(job.Status)
	})
}

func testInitContainers(t *testing.T, c cluster) {
	c.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: prepared}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: agnhost, command: [sh, -c, "echo 1 >> /d/f"], volumeMounts: [{name: d, mountPath: /d}]}
  - {name: second, image: agnhost, command: [sh, -c, "echo 2 >> /d/f"], volumeMounts: [{name: d, mountPath: /d}]}
  containers:
  - {name: c, image: agnhost, args: [pause], volumeMounts: [{name: d, mountPath: /d, readOnly: true}]}
  volumes: [{name: d, emptyDir: {}}]
`)
	c.until(t, "prepared", isReady)
	if out := c.kubectl(t, "exec", "prepared", "--", "sh", "-c", "cat /d/f; touch /d/f 2>/dev/null || echo read-only"); out != "1\n2\nread-only\n" {
		t.Errorf("got %q", out)
	}
}

// testGracefulEnd looks at what clients of a Service can know of a Pod that ends.
func testGracefulEnd(t *testing.T, c cluster) {
	c.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: ends, labels: {app: ends}}
spec:
  terminationGracePeriodSeconds: 30
  containers:
  - name: c
    image: agnhost
    args: [netexec, --http-port=8080]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
    lifecycle: {preStop: {exec: {command: [sh, -c, "until test -e /tmp/go; do sleep 0.05; done"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: ends}
spec: {selector: {app: ends}, ports: [{port: 80, targetPort: 8080}]}
`)
	c.until(t, "ends", isReady)
	c.kubectl(t, "delete", "pod", "ends", "--wait=false")
	eventually(t, "endpoint", func(ctx context.Context) string {
		slices, err := c.api.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=ends"})
		if err != nil {
			return err.Error()
		}
		for _, slice := range slices.Items {
			for _, endpoint := range slice.Endpoints {
				if is := endpoint.Conditions; *is.Terminating && *is.Serving && !*is.Ready {
					return ""
				}
			}
		}
		return fmt.Sprint(slices.Items)
	})
	if why := isReady(c.until(t, "ends", func(*corev1.Pod) string { return "" })); why != "" {
		t.Errorf("while it ends: %s", why)
	}
	c.kubectl(t, "exec", "ends", "--", "touch", "/tmp/go")
	c.kubectl(t, "wait", "--for=delete", "pod/ends", "--timeout="+patience.String())
}

func (c cluster) startPod(t *testing.T, name string) {
	t.Helper()
	c.apply(t, fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: agnhost, args: [pause]}]}}", name))
	c.until(t, name, isReady)
}

// testOutage cuts the node off while one Pod disappears from the API and another
// one's status is overwritten.
func testOutage(t *testing.T, c cluster) {
	c.startPod(t, "stays")
	c.startPod(t, "goes")
	if err := c.CutSilently(theNode); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "delete", "pod", "goes", "--force", "--grace-period=0")
	c.kubectl(t, "patch", "pod", "stays", "--subresource=status", "-p",
		`{"status":{"conditions":[{"type":"Ready","status":"False","reason":"NodeNotReady"}]}}`)
	if err := c.Heal(theNode); err != nil {
		t.Fatal(err)
	}
	p := c.until(t, "stays", isReady)
	if count := p.Status.ContainerStatuses[0].RestartCount; count != 0 {
		t.Errorf("restarted %d times", count)
	}
	eventually(t, "network of a deleted pod", func(context.Context) string { return c.namespaces(t, "pod-goes-") })
}

// namespaces lists network namespaces of the lab's Pods.
func (c cluster) namespaces(t *testing.T, start string) string {
	t.Helper()
	names, err := netns.List("berth-" + c.Name() + "-" + theNode + "-" + start)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// testNodeRestart kills everything on the node and starts it again.
func testNodeRestart(t *testing.T, c cluster) {
	c.until(t, "prepared", isReady)
	if err := c.Crash(theNode); err != nil {
		t.Fatal(err)
	}
	if err := c.Boot(theNode); err != nil {
		t.Fatal(err)
	}
	restarted := func(p *corev1.Pod) string {
		if p.Status.ContainerStatuses[0].RestartCount == 0 {
			return "not yet started again"
		}
		return isReady(p)
	}
	p := c.until(t, "stays", restarted)
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 255 {
		t.Errorf("last end: %+v", last)
	}
	c.until(t, "prepared", restarted)
	if out := c.kubectl(t, "exec", "prepared", "--", "cat", "/d/f"); out != "1\n2\n" {
		t.Errorf("what init containers prepared: %q", out)
	}
	if err := c.Kill(theNode, "agnhost", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.until(t, "stays", func(p *corev1.Pod) string {
		if count := p.Status.ContainerStatuses[0].RestartCount; count != 2 {
			return fmt.Sprintf("%d restarts", count)
		}
		return isReady(p)
	})
}

func testNothingLeft(t *testing.T, c cluster) {
	c.kubectl(t, "delete", "deployments,jobs,pods", "--all", "--wait=true", "--timeout="+patience.String())
	eventually(t, "pods' networks", func(context.Context) string { return c.namespaces(t, "pod-") })
}
