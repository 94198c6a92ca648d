package cli

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// situation is something that is wrong with shop/web, or shop/api, of the cluster
// in which all is well.
type situation struct {
	name    string
	service string // web unless given
	change  func(c *Cluster, svc *corev1.Service)
	// cause and fix have these texts; no cause is meant where it is "".
	cause, fix string
	state      State
}

const notEligible = "192.0.2.0 is not announced: none of 3 nodes is eligible: "

func situations() []situation {
	everyNode := func(c *Cluster, change func(*corev1.Node)) {
		for _, n := range c.Nodes {
			change(n)
		}
	}
	refused := func(reason, message string) func(*Cluster, *corev1.Service) {
		return func(_ *Cluster, s *corev1.Service) { take(s, reason, message) }
	}
	sessionDown := func(message string) func(*Cluster, *corev1.Service) {
		return func(c *Cluster, s *corev1.Service) {
			for _, state := range c.NodeStates {
				session := &state.Status.BGPSessions[0]
				session.State, session.BFD = v1beta1.BGPActive, nil
				session.LastError = &v1beta1.SessionError{Time: ago(0), Reason: "SessionLost", Message: message}
			}
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 3 have no established session with a BGPPeer that is to be told of it, and 0 are excluded, drained or without an endpoint")
		}
	}
	return []situation{
		{name: "healthy", change: func(*Cluster, *corev1.Service) {}},
		{name: "healthy-bgp", service: "api", change: func(*Cluster, *corev1.Service) {}},
		{name: "wrong-type", change: func(_ *Cluster, s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }, cause: "not of type LoadBalancer", fix: "spec.type"},
		{name: "wrong-class", change: func(_ *Cluster, s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/lb") }, cause: "example.com/lb", fix: "berth.dev/berth"},
		{name: "not-default-class", change: func(c *Cluster, _ *corev1.Service) {
			c.Pods[0].Spec.Containers = []corev1.Container{{Args: []string{"--default-load-balancer=false"}}}
		}, cause: "not Berth's", fix: "berth.dev/berth"},
		{name: "no-controller", change: func(c *Cluster, s *corev1.Service) {
			c.Lease, s.Status = nil, corev1.ServiceStatus{}
		}, cause: "no controller leads", fix: "get pods"},
		{name: "not-looked-at", change: func(_ *Cluster, s *corev1.Service) { s.Status = corev1.ServiceStatus{} }, cause: "said nothing", fix: "Wait"},
		{name: "no-pool", change: func(c *Cluster, s *corev1.Service) {
			c.Pools = nil
			take(s, "NoPool", "there is no IPAddressPool; create one")
		}, cause: "NoPool", fix: "Create an IPAddressPool"},
		{name: "pool-for-others", change: func(c *Cluster, s *corev1.Service) {
			c.Pools = c.Pools[:1]
			c.Pools[0].Spec.ServiceAllocation.Namespaces = []v1beta1.ObjectName{"lab"}
			take(s, "NoPool", "no pool is for this Service; not tried: pool gold (it is for other namespaces than shop)")
		}, cause: "other namespaces", fix: "make one of those above"},
		{name: "pool-overlaps", change: func(c *Cluster, s *corev1.Service) {
			younger := newPool("gold-2", "192.0.2.8/29")
			younger.CreationTimestamp = ago(0)
			s.Annotations[v1beta1.AnnotationAddressPool] = "gold-2"
			c.Pools = append(c.Pools, younger)
			take(s, "UnknownPool", "it asks for pool gold-2, which is not in force: spec.addresses[0]: 192.0.2.8/29 overlaps 192.0.2.0/28 of the older pool gold; remove one of the two")
		}, cause: "overlaps", fix: "put it in force"},
		{name: "pool-full", change: func(c *Cluster, s *corev1.Service) {
			for _, p := range c.Pools {
				p.Status.IPv4.Available = 0
			}
			take(s, "PoolExhausted", "no address is free in pools gold, general")
		}, cause: "PoolExhausted", fix: "Add addresses"},
		{name: "pool-disabled", change: func(c *Cluster, s *corev1.Service) {
			c.Pools[0].Spec.Disabled, c.Pools[1].Spec.Disabled = true, true
			take(s, "PoolDisabled", "pools gold, general are disabled")
		}, cause: "PoolDisabled", fix: "disabled: false"},
		{name: "unknown-pool", change: func(_ *Cluster, s *corev1.Service) {
			s.Annotations[v1beta1.AnnotationAddressPool] = "silver"
			take(s, "UnknownPool", "it asks for pool silver, and there is no IPAddressPool of that name")
		}, cause: "silver", fix: "Create the pool"},
		{name: "pool-not-allowed", service: "api", change: func(_ *Cluster, s *corev1.Service) {
			s.Annotations[v1beta1.AnnotationAddressPool] = "gold"
			take(s, "PoolNotAllowed", "it asks for pool gold, which it may not use: none of its serviceSelectors matches the labels of the Service")
		}, cause: "may not use", fix: "another pool"},
		{name: "address-not-in-pool", change: func(_ *Cluster, s *corev1.Service) {
			s.Annotations[v1beta1.AnnotationLoadBalancerIPs] = "203.0.113.1"
			take(s, "AddressNotInPool", "203.0.113.1 is in no pool")
		}, cause: "203.0.113.1", fix: "in a pool"},
		{name: "address-in-use", change: refused("AddressInUse", "192.0.2.3 is Service lab/x's"), cause: "lab/x", fix: "share"},
		{name: "address-reserved", change: refused("AddressReserved", "192.0.2.3 is reserved by vip"), cause: "vip", fix: "IPReservation"},
		{name: "family", change: refused("FamilyMismatch", "2001:db8::1 is not IPv4"), cause: "FamilyMismatch", fix: "IPv4"},
		{name: "quota", change: refused("QuotaExceeded", "namespace shop has 5 of 5"), cause: "QuotaExceeded", fix: "quota"},
		{name: "bad-request", change: func(_ *Cluster, s *corev1.Service) {
			s.Annotations[v1beta1.AnnotationLoadBalancerIPs] = "192.0.2.300"
			take(s, "InvalidRequest", "berth.dev/load-balancer-ips: 192.0.2.300 is no address")
		}, cause: "192.0.2.300", fix: "Correct"},
		{name: "contested", change: func(_ *Cluster, s *corev1.Service) {
			set(&s.Status.Conditions, v1beta1.ConditionAddressAllocated, false, "Contested", "keeps 192.0.2.0 from pool gold; something else writes the status")
		}, cause: "something else", fix: "other controller"},
		{name: "misspelt", change: func(_ *Cluster, s *corev1.Service) { s.Annotations["berth.dev/address-pools"] = "gold" }, cause: "berth.dev/address-pools", fix: "Correct its name", state: StateWarning},
		{name: "out-of-pool", change: func(_ *Cluster, s *corev1.Service) {
			set(&s.Status.Conditions, v1beta1.ConditionAddressAllocated, true, "OutOfPool", "192.0.2.0 of pool gold, which has it no more")
		}, cause: "OutOfPool", fix: "berth.dev/renew", state: StateWarning},
		{name: "no-advertisement", change: func(c *Cluster, s *corev1.Service) {
			c.L2Advertisements = nil
			silence(s, "NoAdvertisement", "192.0.2.0 is not announced: no L2Advertisement selects it, nor does a BGPAdvertisement")
		}, cause: "no advertisement", fix: "pool gold"},
		{name: "advertisement-for-other-pools", change: func(c *Cluster, s *corev1.Service) {
			c.L2Advertisements[0].Spec.IPAddressPools = []v1beta1.ObjectName{"silver"}
			silence(s, "NoAdvertisement", "192.0.2.0 is not announced: no L2Advertisement selects it, nor does a BGPAdvertisement")
		}, cause: "no advertisement", fix: "match pool"},
		{name: "advertisement-for-other-services", change: func(c *Cluster, s *corev1.Service) {
			c.L2Advertisements[0].Spec.ServiceSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"app": "x"}}}
			silence(s, "NoAdvertisement", "192.0.2.0 is not announced: no L2Advertisement selects it, nor does a BGPAdvertisement")
		}, cause: "serviceSelectors of L2Advertisement ethernet", fix: "Label the Service"},
		{name: "no-node-selected", change: func(c *Cluster, s *corev1.Service) {
			c.L2Advertisements[0].Spec.NodeSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"rack": "z"}}}
			silence(s, "NoEligibleNode", notEligible+"3 not selected by an L2Advertisement")
		}, cause: "not selected", fix: "nodeSelectors of L2Advertisement ethernet"},
		{name: "excluded-nodes", change: func(c *Cluster, s *corev1.Service) {
			everyNode(c, func(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" })
			silence(s, "NoEligibleNode", notEligible+"3 excluded by the label "+corev1.LabelNodeExcludeBalancers)
		}, cause: "excluded by the label", fix: "Remove the label"},
		{name: "network-unavailable", change: func(c *Cluster, s *corev1.Service) {
			everyNode(c, func(n *corev1.Node) {
				n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}}
			})
			silence(s, "NoEligibleNode", notEligible+"3 NetworkUnavailable")
		}, cause: "NetworkUnavailable", fix: "CNI"},
		{name: "no-interface", change: func(c *Cluster, s *corev1.Service) {
			c.L2Advertisements[0].Spec.Interfaces = []v1beta1.InterfaceName{"eth7"}
			silence(s, "NoEligibleNode", notEligible+"3 without a usable interface")
		}, cause: "usable interface", fix: "eth7"},
		{name: "no-subnet", change: func(_ *Cluster, s *corev1.Service) {
			silence(s, "NoEligibleNode", notEligible+"3 without a usable interface")
		}, cause: "usable interface", fix: "subnet of 192.0.2.0"},
		{name: "no-speakers", change: func(c *Cluster, s *corev1.Service) {
			c.Pods = c.Pods[:2]
			meta.RemoveStatusCondition(&s.Status.Conditions, v1beta1.ConditionAnnounced)
		}, cause: "without a ready speaker", fix: "Get the speakers to run"},
		{name: "local-elsewhere", change: func(c *Cluster, s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			c.Nodes[0].Labels[corev1.LabelNodeExcludeBalancers] = ""
			c.EndpointSlices[0] = newEndpoints("shop", "web", "node-1")
			silence(s, "NoEligibleNode", notEligible+"1 excluded by the label "+corev1.LabelNodeExcludeBalancers+", 2 without an endpoint of their own, which externalTrafficPolicy Local needs")
		}, cause: "without a serving endpoint", fix: "Run a ready Pod"},
		{name: "no-pods", change: func(c *Cluster, s *corev1.Service) {
			c.EndpointSlices = nil
			s.Spec.Selector = map[string]string{"app": "web"}
			silence(s, "NoEndpoints", "192.0.2.0 is not announced: none of its Services has an endpoint that serves")
		}, cause: "no endpoint", fix: "No Pod matches spec.selector app=web"},
		{name: "pods-not-ready", change: func(c *Cluster, s *corev1.Service) {
			for i := range c.EndpointSlices[0].Endpoints {
				c.EndpointSlices[0].Endpoints[i].Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(false)}
			}
			silence(s, "NoEndpoints", "192.0.2.0 is not announced: none of its Services has an endpoint that serves")
		}, cause: "2 not ready", fix: "Pod of the Service ready"},
		{name: "conflict", change: func(c *Cluster, s *corev1.Service) {
			c.NodeStates[0].Status.AddressConflicts = []v1beta1.AddressConflict{{Address: "192.0.2.0", MAC: "02:00:00:00:00:99", Interface: "eth0"}}
			set(&s.Status.Conditions, v1beta1.ConditionAnnounced, true, "Announced", "192.0.2.0 by ARP from node-1 (eth0), though another host, 02:00:00:00:00:99, speaks for it too")
		}, cause: "02:00:00:00:00:99", fix: "other host by its MAC"},
		{name: "conflict-yielded", change: func(_ *Cluster, s *corev1.Service) {
			silence(s, v1beta1.ReasonAddressConflict, "192.0.2.0 is not announced: another host has it (02:00:00:00:00:99 on eth0 of node node-1)")
		}, cause: "another host has it", fix: "other host by its MAC"},
		{name: "preparing", change: func(_ *Cluster, s *corev1.Service) {
			silence(s, reasonPreparing, "192.0.2.0 is not announced: it is about to be announced for the first time")
		}, cause: "about to be", fix: "Wait", state: StateWarning},
		{name: "failing", change: func(_ *Cluster, s *corev1.Service) {
			silence(s, "AnnouncementFailing", "192.0.2.0 is not announced: its owner node-1 cannot answer: eth0: operation not permitted")
		}, cause: "operation not permitted", fix: "log of the speaker"},
		{name: "dead-peer", service: "api", change: sessionDown("no connection to 10.0.0.1:179: connection timed out"), cause: "timed out", fix: "BGPPeer tor"},
		{name: "wrong-asn", service: "api", change: sessionDown("router's OPEN is refused: its AS number is 64999, want 64501"), cause: "64999", fix: "spec.peerASN of BGPPeer tor"},
		{name: "wrong-password", service: "api", change: sessionDown("no connection to 10.0.0.1:179: timed out; is the password right?"), cause: "password", fix: "password"},
		{name: "no-peer", service: "api", change: func(c *Cluster, s *corev1.Service) {
			c.BGPPeers = nil
			for _, state := range c.NodeStates {
				state.Status.BGPSessions = nil
			}
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 3 have no established session")
		}, cause: "no node has a session", fix: "Create a BGPPeer"},
		{name: "peer-refused", service: "api", change: func(c *Cluster, s *corev1.Service) {
			set(&c.BGPPeers[0].Status.Conditions, v1beta1.ConditionAccepted, false, v1beta1.ReasonSecretNotUsable, "spec.passwordSecret: there is no Secret tor")
			for _, state := range c.NodeStates {
				state.Status.BGPSessions = nil
			}
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 3 have no established session")
		}, cause: "no Secret tor", fix: "BGPPeer tor"},
		{name: "kube-proxy-dead", service: "api", change: func(c *Cluster, s *corev1.Service) {
			for _, state := range c.NodeStates {
				set(&state.Status.Conditions, v1beta1.ConditionBGPReady, false, reasonWaitingForKubeProxy, "kube-proxy is not ready on this node, so routers are told nothing yet")
			}
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 3 have no established session")
		}, cause: "kube-proxy is not ready", fix: "Get kube-proxy to run"},
		{name: "all-drained", service: "api", change: func(c *Cluster, s *corev1.Service) {
			everyNode(c, func(n *corev1.Node) { n.Annotations = map[string]string{v1beta1.AnnotationDrain: ""} })
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 0 have no established session, and 3 are excluded, drained or without an endpoint")
		}, cause: "is drained: node-1", fix: "kubectl berth undrain node-1"},
		{name: "one-session-down", service: "api", change: func(c *Cluster, _ *corev1.Service) {
			c.NodeStates[2].Status.BGPSessions[0].State = v1beta1.BGPIdle
		}, cause: "session tor of node-3 is Idle", fix: "BGPPeer tor", state: StateWarning},
		{name: "external-name", change: func(_ *Cluster, s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, cause: "not of type LoadBalancer", fix: "spec.selector"},
		{name: "no-pool-by-labels", change: func(c *Cluster, s *corev1.Service) {
			c.Pools = c.Pools[:1]
			c.Pools[0].Spec.ServiceAllocation = &v1beta1.ServiceAllocation{ServiceSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"app": "x"}}}}
			take(s, "NoPool", "no pool is for this Service; not tried: pool gold (none of its serviceSelectors matches the labels of the Service)")
		}, cause: "serviceSelectors of pool gold", fix: "Label the Service"},
		{name: "no-pool-by-request", change: func(c *Cluster, s *corev1.Service) {
			c.Pools = c.Pools[:1]
			c.Pools[0].Spec.AutoAssign, c.Pools[0].Spec.ServiceAllocation = ptr.To(false), nil
			take(s, "NoPool", "no pool is for this Service; not tried: pool gold (autoAssign is false)")
		}, cause: "autoAssign of pool gold is false", fix: "berth.dev/address-pool: gold"},
		{name: "no-pool-in-force", change: func(c *Cluster, s *corev1.Service) {
			younger := newPool("gold-2", "192.0.2.8/29")
			younger.CreationTimestamp = ago(0)
			c.Pools = append(c.Pools[:1], younger)
			c.Pools[0].Spec.ServiceAllocation.Namespaces = []v1beta1.ObjectName{"lab"}
			take(s, "NoPool", "no pool is for this Service; not tried: pool gold (it is for other namespaces than shop), pool gold-2 (not in force: ...)")
		}, cause: "pool gold-2 is not in force", fix: "Mend IPAddressPool gold-2"},
		{name: "pool-without-family", change: refused("PoolExhausted", "no IPv4 address left: pool gold (has no IPv4 addresses)"), cause: "no IPv4 addresses", fix: "of the Service's families [IPv4]"},
		{name: "advertisement-refused", service: "api", change: func(c *Cluster, s *corev1.Service) {
			c.BGPAdvertisements[0].Spec.Communities = []v1beta1.CommunityRef{"nowhere"}
			silence(s, "NoAdvertisement", "198.51.100.0 is not announced: no L2Advertisement selects it, nor does a BGPAdvertisement")
		}, cause: "BGPAdvertisement fabric is not in force", fix: "Mend BGPAdvertisement fabric"},
		{name: "speaker-crashes", change: func(c *Cluster, s *corev1.Service) {
			for _, pod := range c.component(componentSpeaker) {
				pod.Status = corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}}
			}
			silence(s, "NoEligibleNode", notEligible+"3 waiting for their speaker to return")
		}, cause: "CrashLoopBackOff", fix: "Get the speakers to run"},
		{name: "kube-proxy-unwell", change: func(c *Cluster, _ *corev1.Service) { unwell(c.NodeStates[0]) }, cause: "kube-proxy is not well on node-1, which owns", fix: "Get kube-proxy to run on node-1"},
		{name: "kube-proxy-unwell-routed", service: "api", change: func(c *Cluster, _ *corev1.Service) { unwell(c.NodeStates[1]) }, cause: "kube-proxy is not well on node-2", fix: "Get kube-proxy to run on node-2", state: StateWarning},
		{name: "refused-connection", service: "api", change: sessionDown("connecting to 10.0.0.1:179: connect: connection refused"), cause: "refused", fix: "Start BGP on the router"},
		{name: "wrong-asn-of-ours", service: "api", change: sessionDown("router sent notification: OPEN message error: bad peer AS"), cause: "bad peer AS", fix: "spec.myASN of BGPPeer tor"},
		{name: "bfd-lost", service: "api", change: sessionDown("BFD has lost the peer: control detection time expired"), cause: "BFD", fix: "bfdProfile out of BGPPeer tor"},
		{name: "bfd-not-up", service: "api", change: func(c *Cluster, _ *corev1.Service) {
			c.NodeStates[0].Status.BGPSessions[0].BFD = &v1beta1.BFDSessionStatus{State: "Down"}
		}, cause: "session tor of node-1 is not watched: BFD is Down", fix: "spec.bfdProfile", state: StateWarning},
		{name: "peer-partly-in-force", service: "api", change: func(c *Cluster, _ *corev1.Service) {
			set(&c.BGPPeers[0].Status.Conditions, v1beta1.ConditionAccepted, false, v1beta1.ReasonUnknownBFDProfile, "spec.bfdProfile: no BFDProfile nowhere is in force")
		}, cause: "no BFDProfile nowhere", fix: "Mend BGPPeer tor", state: StateWarning},
		{name: "family-not-spoken", service: "api", change: func(c *Cluster, s *corev1.Service) {
			for _, state := range c.NodeStates {
				state.Status.BGPSessions[0].Families = []string{"IPv6"}
			}
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 3 have no established session")
		}, cause: "established for IPv6 only, and not for IPv4", fix: "spec.families of BGPPeer tor"},
		{name: "routers-not-selected", service: "api", change: func(c *Cluster, s *corev1.Service) {
			c.BGPAdvertisements[0].Spec.NodeSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"rack": "z"}}}
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 3 have no established session")
		}, cause: "no node is selected by spec.nodeSelectors of BGPAdvertisement fabric", fix: "match nodes"},
		{name: "routers-excluded", service: "api", change: func(c *Cluster, s *corev1.Service) {
			everyNode(c, func(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" })
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 0 have no established session, and 3 are excluded, drained or without an endpoint")
		}, cause: "is excluded by the label", fix: "Remove the label"},
		{name: "peers-unknown", service: "api", change: func(c *Cluster, s *corev1.Service) {
			c.BGPAdvertisements[0].Spec.Peers = []v1beta1.ObjectName{"nowhere"}
			silence(s, "NoBGPSession", "198.51.100.0 is not announced: of 3 nodes 3 have no established session")
		}, cause: "there is no BGPPeer nowhere", fix: "Mend BGPAdvertisement fabric"},
		{name: "controller-gone-later", change: func(c *Cluster, s *corev1.Service) {
			c.Lease = nil
			c.EndpointSlices = nil
			silence(s, "NoEndpoints", "192.0.2.0 is not announced: none of its Services has an endpoint that serves")
		}, cause: "no endpoint", fix: "selector"},
	}
}

// unwell has a node's speaker report that kube-proxy is not well.
func unwell(state *v1beta1.NodeState) {
	set(&state.Status.Conditions, v1beta1.ConditionKubeProxyReady, false, "NotReady", "kube-proxy does not say that its rules are up to date")
}

func TestExplain(t *testing.T) {
	for _, s := range situations() {
		t.Run(s.name, func(t *testing.T) {
			c := healthy()
			name := "web"
			if s.service != "" {
				name = s.service
			}
			s.change(c, c.service("shop", name))
			e, err := ExplainService(c, "shop", name)
			if err != nil {
				t.Fatal(err)
			}
			want := s.state
			switch {
			case s.cause == "":
				want = StateOK
			case want == "":
				want = StateError
			}
			if e.State != want || (e.Cause == "") != (s.cause == "") || !strings.Contains(e.Cause, s.cause) || !strings.Contains(e.Fix, s.fix) {
				t.Errorf("%s, cause %q, fix %q", e.State, e.Cause, e.Fix)
			}
			golden(t, "explain/"+s.name+".table", render(t, e, FormatTable))
		})
	}
}

func TestExplainFormats(t *testing.T) {
	e, err := ExplainService(healthy(), "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []Format{FormatJSON, FormatYAML, FormatWide} {
		golden(t, "explain/healthy."+string(format), render(t, e, format))
	}
	if _, err := ExplainService(healthy(), "shop", "nobody"); err == nil {
		t.Error("a Service that is not there was explained")
	}
}

func TestExplainAddress(t *testing.T) {
	c := healthy()
	c.Reservations = []*v1beta1.IPReservation{{ObjectMeta: named("vip"), Spec: v1beta1.IPReservationSpec{
		Addresses: []v1beta1.AddressRange{"198.51.100.20"}, For: v1beta1.ReservationTarget{Namespace: "lab", Service: "vip"},
	}}}
	c.Pools[1].Status.Resting = []v1beta1.RestingAddress{{Address: "198.51.100.21", Service: "lab/old", Since: ago(0)}}
	c.NodeStates[1].Status.AddressConflicts = []v1beta1.AddressConflict{{Address: "198.51.100.22", MAC: "02::1", Interface: "eth0", BeforeUse: true}}
	for _, test := range []struct{ name, addr, says string }{
		{"service", "192.0.2.0", "shop/web"},
		{"free", "198.51.100.30", "free"},
		{"reserved", "198.51.100.20", "IPReservation vip"},
		{"resting", "198.51.100.21", "lab/old"},
		{"foreign", "198.51.100.22", "02::1"},
		{"node", "10.0.0.11", "node node-1"},
		{"unknown", "203.0.113.1", "no pool in force"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, err := ExplainAddress(c, test.addr)
			if err != nil {
				t.Fatal(err)
			}
			text := render(t, e, FormatTable)
			if !strings.Contains(text, test.says) {
				t.Errorf("it does not say %q", test.says)
			}
			golden(t, "explain-ip/"+test.name+".table", text)
		})
	}
	if _, err := ExplainAddress(c, "nonsense"); err == nil {
		t.Error("nonsense was explained")
	}
}
