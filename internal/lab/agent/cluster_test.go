package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/internal/lab"
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
			"node network":            testNodeNetwork,
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

// testNodeNetwork runs a DaemonSet like that of a network program.
func testNodeNetwork(t *testing.T, c cluster) {
	c.apply(t, `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agents}
spec:
  selector: {matchLabels: {app: agents}}
  template:
    metadata: {labels: {app: agents}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: c
        image: agnhost
        args: [netexec, --http-port=9123, --udp-port=9123]
        ports: [{name: health, containerPort: 9123}]
        readinessProbe: {httpGet: {path: /healthz, port: health}}
        securityContext:
          runAsUser: 0
          readOnlyRootFilesystem: true
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL], add: [NET_RAW]}
`)
	var pod string
	eventually(t, "daemon", func(ctx context.Context) string {
		pods, err := c.api.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=agents"})
		if err != nil || len(pods.Items) != 1 {
			return fmt.Sprintf("%d pods, %v", len(pods.Items), err)
		}
		pod = pods.Items[0].Name
		if status := pods.Items[0].Status; status.PodIP == "" || status.PodIP != status.HostIP {
			return fmt.Sprintf("pod %s on %s", status.PodIP, status.HostIP)
		}
		return isReady(&pods.Items[0])
	})
	const script = "hostname; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; touch /x 2>/dev/null || echo read-only; test -e /sys/class/net/pods0 && echo bridge"
	want := theNode + "\nCapEff:\t0000000000002000\nCapBnd:\t0000000000002000\nNoNewPrivs:\t1\nread-only\nbridge\n"
	if got := c.kubectl(t, "exec", pod, "--", "sh", "-c", script); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if out, err := c.Exec(t.Context(), "client", "curl", "-s", "-m", "2", "http://"+c.nodeIP(t)+":9123/hostname"); err != nil || string(out) != theNode {
		t.Errorf("from the client: %q, %v", out, err)
	}
}

func (c cluster) nodeIP(t *testing.T) string {
	t.Helper()
	node, err := c.api.CoreV1().Nodes().Get(t.Context(), theNode, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			addresses = append(addresses, a.Address)
		}
	}
	if len(addresses) != 2 {
		t.Fatalf("addresses of the node: %v", node.Status.Addresses)
	}
	return addresses[0]
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
