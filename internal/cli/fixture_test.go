package cli

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// now is when the tests take place.
var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

// golden compares text with a file of testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s differs (-want +got); run the test with -update if that is meant:\n%s", name, diff)
	}
}

func render(t *testing.T, report Report, format Format) string {
	t.Helper()
	var b strings.Builder
	if err := Write(&b, report, format, false); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func is(status bool) metav1.ConditionStatus {
	if status {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

func set(conditions *[]metav1.Condition, name string, status bool, reason, message string) {
	meta.SetStatusCondition(conditions, metav1.Condition{Type: name, Status: is(status), Reason: reason, Message: message, LastTransitionTime: ago(time.Hour)})
}

func accept(conditions *[]metav1.Condition) {
	set(conditions, v1beta1.ConditionAccepted, true, v1beta1.ReasonAccepted, "the object is in force")
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, CreationTimestamp: ago(24 * time.Hour)}
}

func berthPod(component, name, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: named(name), Spec: corev1.PodSpec{NodeName: node}}
	p.Namespace, p.Labels = "berth-system", map[string]string{componentLabel: component}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	return p
}

func newNode(name, addr string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: named(name)}
	n.Labels = map[string]string{"kubernetes.io/hostname": name}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}
	return n
}

func newPool(name string, ranges ...v1beta1.AddressRange) *v1beta1.IPAddressPool {
	p := &v1beta1.IPAddressPool{ObjectMeta: named(name), Spec: v1beta1.IPAddressPoolSpec{Addresses: ranges}}
	accept(&p.Status.Conditions)
	return p
}

func newService(namespace, name string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: named(name)}
	s.Namespace, s.Annotations, s.Labels = namespace, map[string]string{}, map[string]string{"app": name}
	s.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
	}
	return s
}

// give gives a Service an address that is announced.
func give(s *corev1.Service, addr, pool, announced string) {
	s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr, IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	s.Annotations[v1beta1.AnnotationIPAllocatedFromPool] = pool
	set(&s.Status.Conditions, v1beta1.ConditionAddressAllocated, true, "Allocated", addr+" from pool "+pool)
	set(&s.Status.Conditions, v1beta1.ConditionAnnounced, true, "Announced", announced)
}

// take takes its address away from a Service.
func take(s *corev1.Service, reason, message string) {
	s.Status.LoadBalancer.Ingress = nil
	delete(s.Annotations, v1beta1.AnnotationIPAllocatedFromPool)
	meta.RemoveStatusCondition(&s.Status.Conditions, v1beta1.ConditionAnnounced)
	set(&s.Status.Conditions, v1beta1.ConditionAddressAllocated, false, reason, message)
}

func silence(s *corev1.Service, reason, message string) {
	set(&s.Status.Conditions, v1beta1.ConditionAnnounced, false, reason, message)
}

func newEndpoints(namespace, service string, nodes ...string) *discoveryv1.EndpointSlice {
	e := &discoveryv1.EndpointSlice{ObjectMeta: named(service + "-1"), AddressType: discoveryv1.AddressTypeIPv4}
	e.Namespace, e.Labels = namespace, map[string]string{discoveryv1.LabelServiceName: service}
	for _, node := range nodes {
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{NodeName: ptr.To(node), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	return e
}

func newNodeState(name string, owned int32) *v1beta1.NodeState {
	s := &v1beta1.NodeState{ObjectMeta: named(name)}
	s.Status.L2 = &v1beta1.L2Status{OwnedIPv4: owned}
	s.Status.BGPUp = "1/1"
	s.Status.BGPSessions = []v1beta1.BGPSessionStatus{{
		Name: "tor", Peer: "tor", Address: "10.0.0.1", LocalAddress: "10.0.0.9", State: v1beta1.BGPEstablished, Since: ptr.To(ago(2 * time.Hour)),
		LocalASN: 64500, PeerASN: 64501, HoldTime: "1m30s", Families: []string{"IPv4"}, AnnouncedPrefixes: 1,
		BFD: &v1beta1.BFDSessionStatus{Profile: "fast", State: "Up", DetectionTime: "300ms"},
	}}
	set(&s.Status.Conditions, v1beta1.ConditionBGPReady, true, "Established", "every session is established")
	return s
}

// healthy is a cluster in which everything works: shop/web is announced on layer 2
// and shop/api by BGP.
func healthy() *Cluster {
	c := &Cluster{Now: now, Namespace: "berth-system"}
	c.Lease = &coordinationv1.Lease{ObjectMeta: named(LeaseName), Spec: coordinationv1.LeaseSpec{
		HolderIdentity: ptr.To("controller-a"), LeaseDurationSeconds: ptr.To(int32(6)), RenewTime: &metav1.MicroTime{Time: now.Add(-time.Second)},
	}}
	c.Pods = []*corev1.Pod{berthPod("controller", "controller-a", "node-1"), berthPod("controller", "controller-b", "node-2")}
	for i, name := range []string{"node-1", "node-2", "node-3"} {
		c.Nodes = append(c.Nodes, newNode(name, "10.0.0.1"+string(rune('1'+i))))
		c.Pods = append(c.Pods, berthPod("speaker", "speaker-"+string(rune('1'+i)), name))
		c.NodeStates = append(c.NodeStates, newNodeState(name, 0))
	}
	c.NodeStates[0].Status.L2.OwnedIPv4 = 1
	for _, name := range []string{"shop", "lab"} {
		c.Namespaces = append(c.Namespaces, &corev1.Namespace{ObjectMeta: named(name)})
	}

	gold := newPool("gold", "192.0.2.0/28")
	gold.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{Priority: 10, Namespaces: []v1beta1.ObjectName{"shop"}, ServiceSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"app": "web"}}}}
	gold.Status.IPv4 = &v1beta1.PoolFamilyStatus{Total: 16, Assigned: 1, Available: 15}
	general := newPool("general", "198.51.100.0/24", "2001:db8:1::/64")
	general.Status.IPv4 = &v1beta1.PoolFamilyStatus{Total: 256, Assigned: 1, Reserved: 2, Available: 253}
	general.Status.IPv6 = &v1beta1.PoolFamilyStatus{Total: 9223372036854775807, Available: 9223372036854775807}
	c.Pools = []*v1beta1.IPAddressPool{gold, general}

	adv := &v1beta1.L2Advertisement{ObjectMeta: named("ethernet"), Spec: v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{"gold"}}}
	accept(&adv.Status.Conditions)
	c.L2Advertisements = []*v1beta1.L2Advertisement{adv}
	bgp := &v1beta1.BGPAdvertisement{ObjectMeta: named("fabric"), Spec: v1beta1.BGPAdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{"general"}, MED: ptr.To(int64(10)), Communities: []v1beta1.CommunityRef{"65000:1"}}}
	accept(&bgp.Status.Conditions)
	c.BGPAdvertisements = []*v1beta1.BGPAdvertisement{bgp}
	peer := &v1beta1.BGPPeer{ObjectMeta: named("tor"), Spec: v1beta1.BGPPeerSpec{MyASN: v1beta1.ASN(64500), PeerASN: v1beta1.ASN(64501), PeerAddress: "10.0.0.1", BFDProfile: "fast"}}
	accept(&peer.Status.Conditions)
	c.BGPPeers = []*v1beta1.BGPPeer{peer}
	profile := &v1beta1.BFDProfile{ObjectMeta: named("fast")}
	accept(&profile.Status.Conditions)
	c.BFDProfiles = []*v1beta1.BFDProfile{profile}

	web, api := newService("shop", "web"), newService("shop", "api")
	give(web, "192.0.2.0", "gold", "192.0.2.0 by ARP from node-1 (eth0)")
	give(api, "198.51.100.0", "general", "198.51.100.0 by BGP from 3 nodes to tor")
	c.Services = []*corev1.Service{web, api}
	c.EndpointSlices = []*discoveryv1.EndpointSlice{newEndpoints("shop", "web", "node-1", "node-2"), newEndpoints("shop", "api", "node-2")}
	return c
}

// troubled is a cluster in which much is wrong.
func troubled() *Cluster {
	c := healthy()
	c.Lease.Spec.RenewTime = &metav1.MicroTime{Time: now.Add(-10 * time.Minute)}
	c.Pods[0].Status.Conditions = nil
	c.Pods[4].Status.Conditions = nil // the speaker of node-3
	c.Pods[4].Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
	c.NodeStates[0].Status.L2.StandingInFor = []string{"node-3"}
	c.NodeStates[0].Status.AddressConflicts = []v1beta1.AddressConflict{{Address: "192.0.2.0", MAC: "02:00:00:00:00:99", Interface: "eth0", Since: ago(time.Hour), LastSeen: ago(time.Minute)}}
	down := &c.NodeStates[1].Status
	down.BGPUp, down.BGPDown = "0/1", []string{"tor"}
	down.BGPSessions[0].State, down.BGPSessions[0].AnnouncedPrefixes = v1beta1.BGPActive, 0
	down.BGPSessions[0].LastError = &v1beta1.SessionError{Time: ago(time.Minute), Reason: "SessionLost", Message: "the peer says that its AS number is 64999 and not 64501"}
	down.BGPSessions[0].BFD.State = "Down"
	set(&down.Conditions, v1beta1.ConditionBGPReady, false, "SessionsDown", "not established: tor")
	c.Nodes[2].Labels[corev1.LabelNodeExcludeBalancers] = ""
	c.Nodes[1].Annotations = map[string]string{v1beta1.AnnotationDrain: ""}

	c.Pools[0].Status.IPv4 = &v1beta1.PoolFamilyStatus{Total: 16, Assigned: 14, Quarantined: 1, Available: 1}
	c.Pools[0].Status.QuarantinedCount = 1
	bad := newPool("overlapping", "192.0.2.8/29")
	set(&bad.Status.Conditions, v1beta1.ConditionAccepted, false, v1beta1.ReasonOverlap, "spec.addresses[0]: 192.0.2.8/29 overlaps 192.0.2.0/28 of the older pool gold; remove one of the two")
	c.Pools = append(c.Pools, bad)
	set(&c.BGPPeers[0].Status.Conditions, v1beta1.ConditionAccepted, false, v1beta1.ReasonSecretNotUsable, "spec.passwordSecret: there is no Secret tor")
	extra := &v1beta1.BGPPeer{ObjectMeta: named("spine"), Spec: v1beta1.BGPPeerSpec{MyASN: v1beta1.ASN(64500), PeerASN: v1beta1.ASN(64502), PeerAddress: "10.0.0.2", NodeSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"rack": "b"}}}}}
	set(&extra.Status.Conditions, v1beta1.ConditionAccepted, true, v1beta1.ReasonPartlyAccepted, "the peer is in force, but spec.nodeSelectors match no node")
	c.BGPPeers = append(c.BGPPeers, extra)

	pending, silent, idle := newService("lab", "pending"), newService("lab", "silent"), newService("lab", "idle")
	take(pending, "PoolExhausted", "no address is free in pool general")
	give(silent, "203.0.113.9", "general", "")
	silence(silent, "NoAdvertisement", "203.0.113.9 is not announced: no L2Advertisement selects it, nor does a BGPAdvertisement")
	give(idle, "198.51.100.7", "general", "")
	silence(idle, reasonNoEndpoints, "198.51.100.7 is not announced: none of its Services has an endpoint that serves")
	other := newService("lab", "others")
	other.Spec.LoadBalancerClass = ptr.To("example.com/other")
	c.Services = append(c.Services, pending, silent, idle, other)
	return c
}
