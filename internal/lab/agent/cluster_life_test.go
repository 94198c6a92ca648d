package agent_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/netns"
)

// The tests in this file are about the beginning and end of Pods and of their node.

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
	c.kubectl(t, "delete", "pod", "unwell", "crashes") // not to disturb tests that follow
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
	eventually(t, "end of the node", func(ctx context.Context) string {
		status, err := c.Status(ctx)
		if err != nil {
			return err.Error()
		}
		for _, process := range status.Processes {
			if process.Host == theNode && process.State == lab.Running {
				return process.Name + " still runs"
			}
		}
		return ""
	})
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
	c.kubectl(t, "delete", "deployments,daemonsets,jobs,pods", "--all", "--wait=true", "--timeout="+patience.String())
	eventually(t, "pods' networks", func(context.Context) string { return c.namespaces(t, "pod-") })
}
