package cli

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
)

// Labels of Berth's own Pods.
const (
	nameLabel           = "app.kubernetes.io/name"
	nameOfBerth         = "berth"
	componentLabel      = "app.kubernetes.io/component"
	componentController = "controller"
	componentSpeaker    = "speaker"
)

// LeaseName is the name of the controller's Lease.
const LeaseName = "berth-controller"

// Cluster is a copy of what the API server has of interest, in any order.
type Cluster struct {
	// Now is the time of the copy.
	Now time.Time
	// Namespace is Berth's own; Pods and Lease are those in it. Lease is nil if
	// there is none.
	Namespace string
	Pods      []*corev1.Pod
	Lease     *coordinationv1.Lease

	Services       []*corev1.Service
	Namespaces     []*corev1.Namespace
	Nodes          []*corev1.Node
	EndpointSlices []*discoveryv1.EndpointSlice
	// ServiceCIDRs are read for plans only.
	ServiceCIDRs []*networkingv1.ServiceCIDR

	Pools             []*v1beta1.IPAddressPool
	Reservations      []*v1beta1.IPReservation
	L2Advertisements  []*v1beta1.L2Advertisement
	BGPPeers          []*v1beta1.BGPPeer
	BGPAdvertisements []*v1beta1.BGPAdvertisement
	Communities       []*v1beta1.Community
	BFDProfiles       []*v1beta1.BFDProfile
	NodeStates        []*v1beta1.NodeState

	// Unread are the kinds of objects that could not be read, with the reason.
	Unread []Unread

	// snapshot is what is in force, where that does not follow from the objects
	// alone.
	snapshot *config.Snapshot
}

// Unread is a kind of objects that could not be read.
type Unread struct {
	// Kind is the plural, in small letters.
	Kind string `json:"kind"`
	// Why it could not.
	Why string `json:"why"`
}

// isUnread says whether objects of that kind could not be read, so that there
// being none means nothing.
func (c *Cluster) isUnread(kind string) bool {
	return slices.ContainsFunc(c.Unread, func(u Unread) bool { return u.Kind == kind })
}

// class is the rule that tells which Services are Berth's: the flags of its
// controller, or what these are by default where no controller is to be seen.
type class struct {
	name      string
	isDefault bool
}

func (c *Cluster) class() class {
	found := class{name: v1beta1.LoadBalancerClass, isDefault: true}
	for _, pod := range c.component(componentController) {
		for _, container := range pod.Spec.Containers {
			for _, arg := range slices.Concat(container.Command, container.Args) {
				name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
				switch name {
				case "load-balancer-class":
					found.name = value
				case "default-load-balancer":
					found.isDefault, _ = strconv.ParseBool(cmp.Or(value, "true"))
				}
			}
		}
	}
	return found
}

func (k class) owns(svc *corev1.Service) bool {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false
	}
	if svc.Spec.LoadBalancerClass == nil {
		return k.isDefault
	}
	return *svc.Spec.LoadBalancerClass == k.name
}

// component returns the Pods of one part of Berth, in the order of their names.
func (c *Cluster) component(name string) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, pod := range c.Pods {
		if pod.Labels[componentLabel] == name && pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	return byName(pods)
}

// speakerOf returns the speaker's Pod on a node, nil if there is none.
func (c *Cluster) speakerOf(node string) *corev1.Pod {
	var found *corev1.Pod
	for _, pod := range c.component(componentSpeaker) {
		if pod.Spec.NodeName == node && (found == nil || podReady(pod)) {
			found = pod
		}
	}
	return found
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podTrouble says why a Pod is not ready, in the words of its first container
// that is waiting, or of its phase.
func podTrouble(pod *corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "":
			return s.State.Waiting.Reason
		case s.State.Terminated != nil && s.State.Terminated.Reason != "":
			return s.State.Terminated.Reason
		}
	}
	if pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == "" {
		return "not ready"
	}
	return string(pod.Status.Phase)
}

// ours returns Berth's Services in the order of their names.
func (c *Cluster) ours() []*corev1.Service {
	k := c.class()
	var services []*corev1.Service
	for _, svc := range c.Services {
		if k.owns(svc) {
			services = append(services, svc)
		}
	}
	return byName(services)
}

func (c *Cluster) nodeState(name string) *v1beta1.NodeState { return find(c.NodeStates, "", name) }

func find[T metav1.Object](objects []T, namespace, name string) T {
	for _, o := range objects {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o
		}
	}
	var none T
	return none
}

// byName returns objects in the order of their names.
func byName[T metav1.Object](objects []T) []T {
	return slices.SortedFunc(slices.Values(objects), func(a, b T) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	})
}

// build makes the configuration that is in force of the objects, as the
// controller and the speakers do, but for what was in force before.
func (c *Cluster) build() (*config.Snapshot, config.Verdicts) {
	objects := config.Objects{
		IPAddressPools: c.Pools, IPReservations: c.Reservations, L2Advertisements: c.L2Advertisements,
		BGPPeers: c.BGPPeers, BGPAdvertisements: c.BGPAdvertisements, Communities: c.Communities, BFDProfiles: c.BFDProfiles,
		Now: c.Now,
	}
	for _, p := range c.BGPPeers {
		// Nobody reads Secrets here. Whether a peer's is good its condition says.
		if ref := p.Spec.PasswordSecret; ref != nil {
			objects.Secrets = append(objects.Secrets, config.Secret{Name: string(ref.Name), Password: unknownPassword(string(ref.Name))})
		}
	}
	for _, n := range c.Nodes {
		objects.Nodes = append(objects.Nodes, config.NewNode(n))
	}
	return config.Build(objects)
}

// unknownPassword stands for the password in a Secret, another for each.
func unknownPassword(secret string) bgp.Password { return bgp.Password("that of Secret " + secret) }

// inForce returns the configuration that is in force.
func (c *Cluster) inForce() *config.Snapshot {
	if c.snapshot != nil {
		return c.snapshot
	}
	snapshot, _ := c.build()
	return snapshot
}

// addressesOf returns the addresses in a Service's status.
func addressesOf(svc *corev1.Service) []netip.Addr {
	var addrs []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if addr, err := ipam.ParseAddr(ingress.IP); err == nil && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// announcedOf describes a Service to the configuration.
func announcedOf(svc *corev1.Service) config.Announced {
	a := config.Announced{Name: nameOf(svc), Labels: svc.Labels, Addresses: addressesOf(svc)}
	for name := range strings.SplitSeq(svc.Annotations[v1beta1.AnnotationIPAllocatedFromPool], ",") {
		if name = strings.TrimSpace(name); name != "" {
			a.Pools = append(a.Pools, name)
		}
	}
	return a
}

func nameOf(o metav1.Object) string {
	if o.GetNamespace() == "" {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

func condition(conditions []metav1.Condition, name string) *metav1.Condition {
	return meta.FindStatusCondition(conditions, name)
}

func isTrue(c *metav1.Condition) bool { return c != nil && c.Status == metav1.ConditionTrue }

func excludedNode(n *corev1.Node) bool {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	return excluded
}

func networkUnavailable(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionTrue
	})
}

func drained(n *corev1.Node) bool {
	_, drained := n.Annotations[v1beta1.AnnotationDrain]
	return drained
}

func (c *Cluster) service(namespace, name string) *corev1.Service {
	return find(c.Services, namespace, name)
}
