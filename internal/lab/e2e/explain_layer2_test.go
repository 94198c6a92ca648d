package e2e

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// layer2Situations are about addresses that nobody answers for.
func (x *explained) layer2Situations() []situation {
	// spoilt is a Service whose advertisement is not as it should be.
	spoilt := func(change func(*v1beta1.L2AdvertisementSpec)) func(*env) {
		return func(e *env) {
			x.layer2(e, change)
			x.web(e)
		}
	}
	return []situation{
		{
			name: "no-advertisement", arrange: func(e *env) {
				e.createPool(e.namespace, e.ranges(0, 4), nil)
				x.web(e)
			},
			cause: "no advertisement is for IPV4-0", fix: "Create an L2Advertisement or BGPAdvertisement for pool NAMESPACE", status: "NAMESPACE/web: NoAdvertisement",
		},
		{
			name: "advertisement-for-other-pools", arrange: func(e *env) {
				e.createPool(e.namespace+"-other", e.ranges(4, 4), nil)
				x.layer2(e, func(s *v1beta1.L2AdvertisementSpec) {
					s.IPAddressPools = []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace + "-other")}
				})
				x.web(e, annotated(v1beta1.AnnotationAddressPool, e.namespace))
			},
			cause: "no advertisement is for IPV4-0", fix: "pool NAMESPACE",
		},
		{
			name: "advertisement-for-unknown-pool", arrange: spoilt(func(s *v1beta1.L2AdvertisementSpec) { s.IPAddressPools = []v1beta1.ObjectName{"nowhere"} }),
			cause: "no advertisement is for IPV4-0", fix: "pool NAMESPACE",
		},
		{
			name:    "advertisement-for-other-services",
			arrange: spoilt(func(s *v1beta1.L2AdvertisementSpec) { s.ServiceSelectors = selector("app", "mail") }),
			cause:   "serviceSelectors of L2Advertisement NAMESPACE", fix: "Label the Service",
			mend: edited(`{"metadata":{"labels":{"app":"mail"}}}`),
		},
		{
			name: "no-node-selected", arrange: spoilt(func(s *v1beta1.L2AdvertisementSpec) { s.NodeSelectors = onNode("node-9") }),
			cause: "3 are not selected", fix: "spec.nodeSelectors of L2Advertisement NAMESPACE", status: "NAMESPACE/web: NoEligibleNode",
			mend: patched("l2advertisements", map[string]any{"nodeSelectors": nil}),
		},
		{
			name: "no-such-interface", arrange: spoilt(func(s *v1beta1.L2AdvertisementSpec) { s.Interfaces = []v1beta1.InterfaceName{"eth7"} }),
			cause: "without a usable interface", fix: "eth7",
			mend: patched("l2advertisements", map[string]any{"interfaces": []string{"eth0"}}),
		},
		{
			name: "in-no-subnet", arrange: func(e *env) {
				e.createPool(e.namespace, []v1beta1.AddressRange{"203.0.113.7"}, nil)
				e.createAdvertisement(e.namespace, v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(e.namespace)}})
				x.web(e)
			},
			cause: "without a usable interface", fix: "No interface of the nodes has the subnet of 203.0.113.7",
		},
		{
			name: "local-elsewhere", arrange: func(e *env) {
				x.layer2(e, func(s *v1beta1.L2AdvertisementSpec) { s.NodeSelectors = onNode("node-2") })
				x.web(e, local)
			},
			cause: "without a serving endpoint there", fix: "externalTrafficPolicy: Cluster", mend: edited(`{"spec":{"externalTrafficPolicy":"Cluster"}}`),
		},
	}
}

// endpointSituations are about Services behind which there is nothing.
func (x *explained) endpointSituations() []situation {
	return []situation{
		{
			name: "no-pods", arrange: func(e *env) {
				x.layer2(e, nil)
				e.createService("web", single, forPods("nobody"))
			},
			cause: "no endpoint of the Service serves", fix: "No Pod matches spec.selector app=nobody",
		},
		{
			name: "no-selector", arrange: func(e *env) {
				x.layer2(e, nil)
				e.createService("web", single)
			},
			cause: "no endpoint of the Service serves", fix: "create EndpointSlices",
		},
		{
			name: "pods-not-ready", arrange: func(e *env) {
				x.layer2(e, nil)
				never := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(podPort + 1)}}, PeriodSeconds: 1}
				d := deployment{app: "web", replicas: 1, nodes: []string{"node-1"}, readiness: never}
				if _, err := e.lab.kube.AppsV1().Deployments(e.namespace).Create(e.ctx, d.object(), metav1.CreateOptions{}); err != nil {
					e.Fatal(err)
				}
				e.createService("web", single, forPods("web"))
			},
			cause: "1 not ready", fix: "Get a Pod of the Service ready",
		},
	}
}

// squatterSituations are about another host that has the address.
func (x *explained) squatterSituations() []situation {
	selected := func(s *v1beta1.L2AdvertisementSpec) { s.NodeSelectors = onNode("node-1") }
	return []situation{
		{
			name: "squatter-first", arrange: func(e *env) {
				x.squat(e, false)
				x.layer2(e, selected)
				x.web(e, annotated(v1beta1.AnnotationLoadBalancerIPs, e.address(0)[0].String()))
			},
			cause: x.macOfStranger(), fix: "other host by its MAC", status: "NAMESPACE/web: AddressConflict",
		},
		{
			name: "squatter-later", arrange: func(e *env) {
				x.layer2(e, selected)
				x.web(e)
				e.waitAnnounced("web")
				x.squat(e, true)
			},
			cause: x.macOfStranger(), fix: "other host by its MAC", status: "speaks for it as well",
		},
		{
			name: "squatter-yielded", arrange: func(e *env) {
				x.layer2(e, func(s *v1beta1.L2AdvertisementSpec) {
					selected(s)
					s.OnConflict = v1beta1.ConflictYield
				})
				x.web(e)
				e.waitAnnounced("web")
				x.squat(e, true)
			},
			cause: "another host", fix: "other host by its MAC",
		},
		{
			name: "ip-of-stranger", arrange: func(e *env) {
				x.squat(e, false)
				x.layer2(e, selected)
				x.web(e)
				e.waitAnnounced("web")
			},
			subject: ipOf(0), cause: x.macOfStranger(), fix: "other host by its MAC",
		},
	}
}

// squat has the stranger take the first address of the slot, for as long as the test
// runs.
func (x *explained) squat(e *env, announce bool) {
	e.Helper()
	address := e.address(0)[0]
	if err := e.lab.Squat(address, lab.SquatOptions{Announce: announce}); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { e.vacate(address) })
}

func (x *explained) macOfStranger() string {
	host, err := x.Plan().Host(network.Stranger)
	if err != nil {
		panic(err) // every plan has it
	}
	return host.MAC
}
