package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
)

// testLocal: under externalTrafficPolicy Local, only nodes with a serving
// endpoint ever own the address, the Pods see the client's own address, and the
// address follows the Pods.
func testLocal(e *env) {
	e.usePool(2)
	e.createDeployment(deployment{app: "web", replicas: 1, nodes: []string{"node-2"}})
	e.createService("web", local)
	addresses := e.waitAnnounced("web")
	e.waitOwners(addresses, among("node-2"))
	for _, host := range []string{network.Client, network.WANClient} {
		for _, address := range addresses {
			e.checkSource(host, address)
		}
	}

	e.moveUnderWatch(addresses, "node-2", "node-3")
	e.moveUnderWatch(addresses, "node-3", "node-1")
	for _, address := range addresses {
		e.checkSource(network.Client, address)
		e.checkAnnounced("web", address)
	}

	e.scale("web", 0)
	e.waitSilent(addresses...)
	e.waitCondition("web", v1beta1.ConditionAnnounced, metav1.ConditionFalse, "NoEndpoints", texts(addresses)...)
	e.scale("web", 1)
	e.waitOwners(addresses, among("node-1"))
	for _, address := range addresses {
		e.checkSource(network.Client, address)
	}
}

// moveUnderWatch moves the Pods from one node to another, while nobody else may
// answer for the addresses.
func (e *env) moveUnderWatch(addresses []netip.Addr, from, to string) {
	e.Helper()
	watching := e.watchAnswers(addresses)
	e.movePods("web", to)
	e.waitOwners(addresses, among(to))
	for address, answers := range watching.stop() {
		for _, a := range answers {
			if owner := e.lab.node(a.claimed); owner != from && owner != to {
				e.Errorf("while the Pods moved from %s to %s, %s was answered for by %s", from, to, address, owner)
			}
		}
	}
}

// checkSource makes sure that the Pods see a host's own address.
func (e *env) checkSource(host string, address netip.Addr) {
	e.Helper()
	seen := e.waitServed(host, address, servicePort, "/clientip")
	planned, err := e.lab.Plan().Host(host)
	if err != nil {
		e.Fatal(err)
	}
	source, err := netip.ParseAddrPort(seen)
	if err != nil {
		e.Fatalf("/clientip of %s: %v", address, err)
	}
	for _, ip := range planned.IPs() {
		if ip == source.Addr().Unmap() {
			return
		}
	}
	e.Errorf("through %s the Pod sees %s, not an address of %s: %v", address, source.Addr(), host, planned.IPs())
}

// movePods changes the nodes that a Deployment's Pods may run on and waits until
// they run there.
func (e *env) movePods(app string, nodes ...string) {
	e.Helper()
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":
		[{"matchExpressions":[{"key":%q,"operator":"In","values":["%s"]}]}]}}}}}}}`, corev1.LabelHostname, strings.Join(nodes, `","`))
	_, err := e.lab.kube.AppsV1().Deployments(e.namespace).Patch(e.ctx, app, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		e.Fatal(err)
	}
	e.waitRolledOut(app)
}

// testReadiness: under Local, a node whose Pods stop being ready loses the
// address to one whose Pods are; a Pod that ends but still serves keeps it only
// while there is no better.
func testReadiness(e *env) {
	e.usePool(2)
	// Ready until told otherwise, by a file.
	switchable := &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "test ! -e /tmp/broken"}}},
		PeriodSeconds:    1,
		TimeoutSeconds:   10, // the answer is in the file, not in how long it takes
		FailureThreshold: 1,
	}
	for _, node := range []string{"node-1", "node-2"} {
		d := deployment{app: "web-" + node, replicas: 1, nodes: []string{node}, readiness: switchable, grace: 30, args: []string{"--delay-shutdown=30"}}
		e.createDeploymentOf("web", d)
	}
	e.createService("web", local)
	addresses := e.waitAnnounced("web")
	e.waitOwners(addresses, among("node-1", "node-2"))

	e.switchPod("web-node-1", "touch")
	e.waitOwners(addresses, among("node-2"))
	e.switchPod("web-node-2", "touch")
	e.waitSilent(addresses...)
	e.switchPod("web-node-1", "rm")
	e.waitOwners(addresses, among("node-1"))
	for _, address := range addresses {
		e.checkSource(network.Client, address)
	}

	// The only ready Pod is told to end: it still serves, and nobody else does.
	e.scale("web-node-1", 0)
	e.waitTerminating("web-node-1")
	for address, node := range e.expectOneOwner("a terminating Pod is the last to serve", 2*time.Second, addresses...) {
		if node != "node-1" {
			e.Errorf("%s went to %s from the node whose terminating Pod is the last to serve", address, node)
		}
	}
	for _, address := range addresses {
		e.checkSource(network.Client, address)
	}
	// A ready Pod is better than one that is on its way out.
	e.switchPod("web-node-2", "rm")
	e.waitOwners(addresses, among("node-2"))
	for _, address := range addresses {
		e.checkSource(network.Client, address)
	}
}

// createDeploymentOf makes a Deployment whose Pods also carry app=label, so that
// one Service has the Pods of several.
func (e *env) createDeploymentOf(label string, d deployment) {
	e.Helper()
	object := d.object()
	object.Spec.Selector.MatchLabels = map[string]string{"part": d.app}
	object.Spec.Template.Labels = map[string]string{"part": d.app, "app": label}
	object.Spec.Template.Spec.Affinity.PodAntiAffinity = nil
	if _, err := e.lab.kube.AppsV1().Deployments(e.namespace).Create(e.ctx, object, metav1.CreateOptions{}); err != nil {
		e.Fatal(err)
	}
	e.waitRolledOut(d.app)
}

// switchPod makes a Pod of a Deployment ready (rm) or not ready (touch).
func (e *env) switchPod(part, command string) {
	e.Helper()
	list, err := e.lab.kube.CoreV1().Pods(e.namespace).List(e.ctx, metav1.ListOptions{LabelSelector: "part=" + part})
	if err != nil {
		e.Fatal(err)
	}
	for _, pod := range list.Items {
		if _, err := e.lab.Exec(e.ctx, e.namespace+"/"+pod.Name, command, "/tmp/broken"); err != nil {
			e.Fatal(err)
		}
	}
}

// waitTerminating returns when the endpoints of a Deployment's Pods are known to
// be on their way out.
func (e *env) waitTerminating(part string) {
	e.Helper()
	e.waitFor("the endpoint of "+part+" to be terminating", 20*time.Second, func(ctx context.Context) (bool, string) {
		slices, err := e.lab.kube.DiscoveryV1().EndpointSlices(e.namespace).List(ctx, listAll)
		if err != nil {
			return false, err.Error()
		}
		terminating, seen := 0, ""
		for _, slice := range slices.Items {
			for _, endpoint := range slice.Endpoints {
				if strings.HasPrefix(endpoint.TargetRef.Name, part+"-") && *endpoint.Conditions.Terminating && *endpoint.Conditions.Serving {
					terminating++
				}
				seen += fmt.Sprintf("%s %v; ", endpoint.TargetRef.Name, endpoint.Conditions)
			}
		}
		return terminating == len(e.families()), seen
	})
}
