package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// The situations below break what others need, and so come one after the other.

// sick is the node that has something.
const sick = "node-3"

// alone runs a situation with nothing beside it.
func (x *explained) alone(t *testing.T, s situation) {
	t.Run(s.name, func(t *testing.T) {
		e := newEnv(t, x.testLab)
		s.arrange(e)
		x.expectExplained(e, s)
	})
}

// noPool: there is no pool at all.
func (x *explained) noPool() situation {
	return situation{
		name: "no-pool", arrange: func(e *env) { x.web(e) },
		cause: "there is no IPAddressPool", fix: "Create an IPAddressPool", status: "NAMESPACE/web: NoPool",
	}
}

// excludedNodes: no node may announce anything.
func (x *explained) excludedNodes(t *testing.T) {
	t.Run("excluded", func(t *testing.T) {
		e := newEnv(t, x.testLab)
		for _, node := range x.otherNodes() {
			e.exclude(node, true)
		}
		x.layer2(e, nil)
		x.web(e)
		x.expectExplained(e, situation{
			name: "excluded-nodes", cause: "3 are excluded by the label " + corev1.LabelNodeExcludeBalancers, fix: "Remove the label", status: "NAMESPACE/web: NoEligibleNode",
		})
		for _, node := range x.otherNodes() {
			e.exclude(node, false)
		}
		x.expectHealthy(e)
	})
}

// drainedNode: the one node with a session is drained.
func (x *explained) drainedNode(t *testing.T) {
	t.Run("drained", func(t *testing.T) {
		e := newEnv(t, x.testLab)
		l := x.linked(e, routers.FRR, "node-1", nil, nil)
		x.routed(e, func(s *v1beta1.BGPAdvertisementSpec) { s.NodeSelectors = onNode(l.node) })
		e.waitAnnounced("web")
		defer e.undrain(l.node) // whatever becomes of the test
		e.patchNode(l.node, fmt.Sprintf(`{"metadata":{"annotations":{%q:""}}}`, v1beta1.AnnotationDrain))
		const fix = "kubectl berth undrain node-1"
		x.expectExplained(e, situation{
			name: "drained-nodes", cause: "is drained", fix: fix, status: "NAMESPACE/web: NoBGPSession",
		})
		e.expectSaid(strings.Fields(fix)[2:], "in service again")
		x.expectHealthy(e)
	})
}

// sickNode: first the speaker of the only node that is selected cannot run, then its
// kube-proxy does not.
func (x *explained) sickNode(t *testing.T) {
	t.Run("sick", func(t *testing.T) {
		e := newEnv(t, x.testLab)
		mend := x.breakSpeaker(e)
		x.layer2(e, func(s *v1beta1.L2AdvertisementSpec) { s.NodeSelectors = onNode(sick) })
		x.web(e)
		x.expectExplained(e, situation{
			name: "speaker-crashes", cause: "CrashLoopBackOff", fix: "logs", status: "Node " + sick + ": speaker SPEAKER: CrashLoopBackOff",
		})

		x.breakProxy(e)
		mend()
		x.expectExplained(e, situation{
			name: "kube-proxy-dead", cause: "kube-proxy is not well on " + sick, fix: "Get kube-proxy to run on " + sick, status: "Node " + sick + ": kube-proxy",
		})
		r := newEnv(t, x.testLab)
		x.routed(r, func(s *v1beta1.BGPAdvertisementSpec) { s.NodeSelectors = onNode(sick) })
		x.linked(r, routers.FRR, sick, nil, nil)
		x.expectExplained(r, situation{
			name: "kube-proxy-dead-routed", cause: "kube-proxy is not ready on " + sick, fix: "Get kube-proxy to run on " + sick, status: "Node " + sick + ": kube-proxy",
		})
	})
}

// breakSpeaker has the speaker of the sick node crash each time that it is started,
// until mended.
func (x *explained) breakSpeaker(e *env) (mend func()) {
	e.Helper()
	set := func(args string) {
		e.Helper()
		// Only the sick node's is to go by it.
		patch := `{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null},"template":{"spec":{"containers":[{"name":"speaker","args":` + args + `}]}}}}`
		daemonSets := x.kube.AppsV1().DaemonSets(berthNamespace)
		patched, err := daemonSets.Patch(e.ctx, "speaker", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			e.Fatal(err)
		}
		// Else the next Pod may be made by what was there before.
		e.waitFor("the change of the speakers to be taken up", time.Minute, func(ctx context.Context) (bool, string) {
			now, err := daemonSets.Get(ctx, "speaker", metav1.GetOptions{})
			if err != nil {
				return false, err.Error()
			}
			return now.Status.ObservedGeneration >= patched.Generation, fmt.Sprintf("%+v", now.Status)
		})
		if err := x.kube.CoreV1().Pods(berthNamespace).DeleteCollection(e.ctx, metav1.DeleteOptions{}, speakers(sick)); err != nil {
			e.Fatal(err)
		}
	}
	set(`["--no-such-flag"]`)
	return func() {
		e.Helper()
		set("null")
		e.waitFor("the speaker on "+sick+" to run", time.Minute, func(ctx context.Context) (bool, string) {
			pods, err := x.kube.CoreV1().Pods(berthNamespace).List(ctx, speakers(sick))
			if err != nil || len(pods.Items) != 1 {
				return false, fmt.Sprintf("%d Pods (error %v)", len(pods.Items), err)
			}
			pod := &pods.Items[0]
			return podReady(pod) && pod.DeletionTimestamp == nil && len(pod.Spec.Containers[0].Args) == 0, fmt.Sprintf("%+v", pod.Status)
		})
	}
}

// breakProxy kills kube-proxy on the sick node until the test ends.
func (x *explained) breakProxy(e *env) {
	e.Helper()
	e.Cleanup(func() {
		if err := x.Boot(sick); err != nil && !errors.Is(err, lab.ErrRuns) {
			e.Error(err)
		}
	})
	if err := x.Kill(sick, "kube-proxy", syscall.SIGKILL); err != nil {
		e.Fatal(err)
	}
}

// noController: none runs, and a new Service gets no address.
func (x *explained) noController() situation {
	return situation{
		name: "no-controller", arrange: func(e *env) {
			e.createPool(e.namespace, e.ranges(0, 4), nil)
			scale := func(n int) {
				patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
				if _, err := x.kube.AppsV1().Deployments(berthNamespace).Patch(context.WithoutCancel(e.ctx), "controller", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
					e.Error(err)
				}
			}
			e.Cleanup(func() { scale(2) })
			scale(0)
			e.waitFor("no controller to be left", time.Minute, func(ctx context.Context) (bool, string) {
				pods, err := x.kube.CoreV1().Pods(berthNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"})
				return err == nil && len(pods.Items) == 0, fmt.Sprint(err)
			})
			x.web(e)
		},
		cause: "no controller leads", fix: "Get a controller to run", status: "no controller leads",
	}
}
