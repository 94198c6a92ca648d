package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

// Patches of MetalLB's DaemonSet, as docs/migrate-from-metallb.md has them: whoever
// has the label loses MetalLB's speaker, and nobody else's starts anew.
const (
	takeOverLabel   = "berth"
	updateOnDelete  = `{"spec":{"updateStrategy":{"type":"OnDelete"}}}`
	whereNotLabeled = `{"spec":{"template":{"spec":{"affinity":{"nodeAffinity":
  {"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"berth","operator":"DoesNotExist"}]}]}}}}}}}`
	whereLabeled = "spec:\n  nodeSelectors:\n  - matchExpressions:\n    - {key: berth, operator: Exists}\n"
)

// leaveRoutes has a router behind which clients reach a Service by the routes of
// all nodes, which another daemon on each tells it.
func (m *migration) leaveRoutes() {
	m.Helper()
	m.routed = m.other.address(2)[:1] // one family is enough
	m.other.createService("routed", withPolicy(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol),
		annotated("metallb.io/ip-allocated-from-pool", "routed"))
	m.give(m.other, "routed", m.routed)
	m.router = m.startRouter(routers.FRR, network.Router)
	m.daemons = map[string]*bgpRouter{}
	for _, node := range m.lab.Plan().Nodes() {
		m.daemons[node.Name] = m.startDaemon(routers.BIRD, node, routers.Config{
			ASN: nodeASN, RouterID: node.IPs()[0],
			Neighbors: []routers.Neighbor{{Name: "router", Address: m.router.host.IPs()[0], ASN: routerASN}},
			Announce:  []routers.Announcement{{Prefix: hostPrefix(m.routed[0])}},
		})
	}
	m.router.waitECMP(m.routed[0], m.lab.otherNodes()...)
	m.waitServed(network.WANClient, m.routed[0], servicePort, "/hostname")
}

// handOverRoutes moves one node's session after the other from MetalLB to Berth.
func (m *migration) handOverRoutes(folder string) {
	m.Helper()
	for _, patch := range []string{updateOnDelete, whereNotLabeled} {
		_, err := m.lab.kube.AppsV1().DaemonSets(metalLBNamespace).Patch(m.ctx, "speaker", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			m.Fatal(err)
		}
	}
	m.applyText(strings.Replace(m.read(filepath.Join(folder, "bgppeers.yaml")), "spec:\n", whereLabeled, 1))
	m.apply(filepath.Join(folder, "bgpadvertisements.yaml"))
	started := m.speakersOfMetalLB()
	running := m.startWANProbes(lab.ProbeOptions{Every: 20 * time.Millisecond}, m.routed...)
	m.meter = m.meterStalls()
	for _, node := range m.lab.otherNodes() {
		m.patchNode(node, `{"metadata":{"labels":{"`+takeOverLabel+`":""}}}`)
		delete(started, node)
		m.waitFor("MetalLB's speaker on "+node+", and no other, to end", 20*time.Second, func(context.Context) (bool, string) {
			left := m.speakersOfMetalLB()
			return fmt.Sprint(left) == fmt.Sprint(started), fmt.Sprint(left)
		})
		former := m.router.session(node)
		if err := m.daemons[node].Stop(m.ctx); err != nil {
			m.Fatal(err)
		}
		m.waitFor("a session with "+node+" that is not "+fmt.Sprint(former), bgpTimeout, func(context.Context) (bool, string) {
			now := m.router.session(node)
			return now.Up() && !now.SameAs(former), fmt.Sprintf("%+v", now)
		})
		m.router.waitECMP(m.routed[0], m.lab.otherNodes()...)
	}
	m.expectBriefly("BGP", running)
	m.other.waitCondition("routed", v1beta1.ConditionAnnounced, metav1.ConditionTrue, "Announced")
}

// speakersOfMetalLB are its Pods by their nodes.
func (m *migration) speakersOfMetalLB() map[string]string {
	m.Helper()
	list, err := m.lab.kube.CoreV1().Pods(metalLBNamespace).List(m.ctx, listAll)
	if err != nil {
		m.Fatal(err)
	}
	found := map[string]string{}
	for _, pod := range list.Items {
		found[pod.Spec.NodeName] = pod.Name
	}
	return found
}
