package cli

import (
	"path"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/api/v1beta1"
)

// masked stands for what is left out.
const masked = "(left out)"

// addObjects adds what the API server has.
func (b *Bundle) addObjects(c *Cluster, extras Extras) error {
	m := masker{named: c.namedAnnotations()}
	berth := v1beta1.GroupVersion().String()
	services := c.ours()
	var leases []*coordinationv1.Lease
	if c.Lease != nil {
		leases = append(leases, c.Lease)
	}
	return firstError(
		addList(b, m, berth, "IPAddressPool", "ipaddresspools", c.Pools),
		addList(b, m, berth, "IPReservation", "ipreservations", c.Reservations),
		addList(b, m, berth, "L2Advertisement", "l2advertisements", c.L2Advertisements),
		addList(b, m, berth, "BGPPeer", "bgppeers", c.BGPPeers),
		addList(b, m, berth, "BGPAdvertisement", "bgpadvertisements", c.BGPAdvertisements),
		addList(b, m, berth, "Community", "communities", c.Communities),
		addList(b, m, berth, "BFDProfile", "bfdprofiles", c.BFDProfiles),
		addList(b, m, berth, "NodeState", "nodestates", c.NodeStates),
		addList(b, m, "v1", "Service", "services", services),
		addList(b, m, "v1", "Namespace", "namespaces", c.namespacesOf(services)),
		addList(b, m, "discovery.k8s.io/v1", "EndpointSlice", "endpointslices", c.slicesOf(services)),
		addList(b, m, "v1", "Node", "nodes", c.Nodes),
		addList(b, m, "v1", "Pod", "pods", c.Pods),
		addList(b, m, "apps/v1", "Deployment", "deployments", extras.Deployments),
		addList(b, m, "apps/v1", "DaemonSet", "daemonsets", extras.DaemonSets),
		addList(b, m, "coordination.k8s.io/v1", "Lease", "leases", leases),
		addList(b, m, "v1", "Event", "events", c.eventsAbout(services, extras.Events)),
	)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// namedAnnotations are the annotations of Nodes that BGPPeers read.
func (c *Cluster) namedAnnotations() []string {
	var names []string
	for _, p := range c.BGPPeers {
		for _, from := range []*v1beta1.NodeValue{p.Spec.MyASNFrom, p.Spec.PeerASNFrom} {
			if from != nil {
				names = append(names, string(from.NodeAnnotation))
			}
		}
		if from := p.Spec.PeerAddressFrom; from != nil {
			names = append(names, string(from.NodeAnnotation))
		}
	}
	return names
}

// namespacesOf returns the Namespaces of Services, and Berth's.
func (c *Cluster) namespacesOf(services []*corev1.Service) []*corev1.Namespace {
	return slices.DeleteFunc(slices.Clone(c.Namespaces), func(ns *corev1.Namespace) bool {
		return ns.Name != c.Namespace && !slices.ContainsFunc(services, func(s *corev1.Service) bool { return s.Namespace == ns.Name })
	})
}

func (c *Cluster) slicesOf(services []*corev1.Service) []*discoveryv1.EndpointSlice {
	return slices.DeleteFunc(slices.Clone(c.EndpointSlices), func(e *discoveryv1.EndpointSlice) bool {
		return find(services, e.Namespace, e.Labels[discoveryv1.LabelServiceName]) == nil
	})
}

// eventsAbout picks the events of Berth's namespace, and those about its Services,
// its objects and Nodes.
func (c *Cluster) eventsAbout(services []*corev1.Service, events []*corev1.Event) []*corev1.Event {
	return slices.DeleteFunc(slices.Clone(events), func(e *corev1.Event) bool {
		about := e.InvolvedObject
		switch {
		case e.Namespace == c.Namespace, about.Kind == "Node", strings.HasPrefix(about.APIVersion, v1beta1.GroupName+"/"):
			return false
		case about.Kind == "Service":
			return find(services, about.Namespace, about.Name) == nil
		}
		return true
	})
}

// addList adds a file with objects of one kind, in the order of their names.
func addList[T interface {
	metav1.Object
	runtime.Object
}](b *Bundle, m masker, apiVersion, kind, name string, objects []T) error {
	items := []any{}
	for _, object := range byName(objects) {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return err
		}
		content["apiVersion"], content["kind"] = apiVersion, kind
		m.mask(content)
		items = append(items, content)
	}
	text, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		return err
	}
	b.Add(path.Join("objects", name+".yaml"), text)
	return nil
}

// masker takes out of objects what may be secret, or is of no use.
type masker struct {
	// named are annotations whose values are needed.
	named []string
}

func (m masker) mask(object map[string]any) {
	m.maskMetadata(object)
	if object["kind"] == "BGPPeer" {
		if _, has, _ := unstructured.NestedString(object, "spec", "password"); has {
			_ = unstructured.SetNestedField(object, masked, "spec", "password")
		}
	}
	maskPod(object)
	template, has, _ := unstructured.NestedMap(object, "spec", "template")
	if has && object["kind"] != "Pod" {
		m.maskMetadata(template)
		maskPod(template)
		_ = unstructured.SetNestedMap(object, template, "spec", "template")
	}
}

func (m masker) maskMetadata(object map[string]any) {
	unstructured.RemoveNestedField(object, "metadata", "managedFields")
	annotations, _, _ := unstructured.NestedMap(object, "metadata", "annotations")
	for name := range annotations {
		if !m.open(name) {
			annotations[name] = masked
		}
	}
	if len(annotations) > 0 {
		_ = unstructured.SetNestedMap(object, annotations, "metadata", "annotations")
	}
}

// open says whether the value of an annotation may be told.
func (m masker) open(annotation string) bool {
	prefix, _, _ := strings.Cut(annotation, "/")
	switch {
	case annotation == corev1.LastAppliedConfigAnnotation:
		return false
	case slices.Contains(m.named, annotation):
		return true
	case prefix == v1beta1.GroupName, prefix == "metallb.io", prefix == "metallb.universe.tf":
		return true
	}
	return prefix == "kubernetes.io" || strings.HasSuffix(prefix, ".kubernetes.io")
}

// maskPod masks the values of environment variables.
func maskPod(object map[string]any) {
	for _, kind := range []string{"containers", "initContainers", "ephemeralContainers"} {
		containers, has, _ := unstructured.NestedSlice(object, "spec", kind)
		if !has {
			continue
		}
		for _, c := range containers {
			container, _ := c.(map[string]any)
			variables, _ := container["env"].([]any)
			for _, v := range variables {
				if variable, is := v.(map[string]any); is && variable["value"] != nil {
					variable["value"] = masked
				}
			}
		}
		_ = unstructured.SetNestedSlice(object, containers, "spec", kind)
	}
}
