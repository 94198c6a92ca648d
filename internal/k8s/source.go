package k8s

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/api/v1beta1"
)

// source is where the objects of one kind come from and what is kept of them.
type source struct {
	listWatch toolscache.ListerWatcher
	example   runtime.Object
	strip     toolscache.TransformFunc
}

// typedClient is the part of a typed client that a source needs.
type typedClient[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

func sourceOf(kind Kind, cfg CacheConfig) (source, error) {
	kube := cfg.Clients.Kube
	switch kind {
	case KindService:
		return newSource(cfg.Clients, kube.CoreV1().Services(""), &corev1.Service{}, nil), nil
	case KindEndpointSlice:
		return newSource(cfg.Clients, kube.DiscoveryV1().EndpointSlices(""), &discoveryv1.EndpointSlice{}, nil), nil
	case KindNode:
		return newSource(cfg.Clients, kube.CoreV1().Nodes(), &corev1.Node{}, nil), nil
	case KindNamespace:
		return newSource(cfg.Clients, kube.CoreV1().Namespaces(), &corev1.Namespace{}, nil), nil
	case KindPod:
		return newSource(cfg.Clients, kube.CoreV1().Pods(cfg.PodNamespace), &corev1.Pod{}, func(o *metav1.ListOptions) {
			if cfg.PodSelector != nil {
				o.LabelSelector = cfg.PodSelector.String()
			}
		}), nil
	case KindServiceCIDR:
		return newSource(cfg.Clients, kube.NetworkingV1().ServiceCIDRs(), &networkingv1.ServiceCIDR{}, nil), nil
	case KindSecret:
		if cfg.SecretNamespace == "" {
			return source{}, errors.New("no namespace is given; those of the whole cluster are not for us")
		}
		return newSource(cfg.Clients, kube.CoreV1().Secrets(cfg.SecretNamespace), &corev1.Secret{}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeBasicAuth)).String()
		}), nil
	}
	return ownSourceOf(kind, cfg.Clients)
}

// ownSourceOf is sourceOf for Berth's own kinds.
func ownSourceOf(kind Kind, clients *Clients) (source, error) {
	switch kind {
	case KindIPReservation:
		return newSource(clients, clients.IPReservations, &v1beta1.IPReservation{}, nil), nil
	case KindIPAddressPool:
		return newSource(clients, clients.IPAddressPools, &v1beta1.IPAddressPool{}, nil), nil
	case KindL2Advertisement:
		return newSource(clients, clients.L2Advertisements, &v1beta1.L2Advertisement{}, nil), nil
	case KindBGPPeer:
		return newSource(clients, clients.BGPPeers, &v1beta1.BGPPeer{}, nil), nil
	case KindBGPAdvertisement:
		return newSource(clients, clients.BGPAdvertisements, &v1beta1.BGPAdvertisement{}, nil), nil
	case KindCommunity:
		return newSource(clients, clients.Communities, &v1beta1.Community{}, nil), nil
	case KindBFDProfile:
		return newSource(clients, clients.BFDProfiles, &v1beta1.BFDProfile{}, nil), nil
	case KindNodeState:
		return newSource(clients, clients.NodeStates, &v1beta1.NodeState{}, nil), nil
	}
	return source{}, fmt.Errorf("unknown kind %q", kind)
}

func newSource[L runtime.Object](clients *Clients, client typedClient[L], example runtime.Object, narrow func(*metav1.ListOptions)) source {
	tune := func(o metav1.ListOptions) metav1.ListOptions {
		if narrow != nil {
			narrow(&o)
		}
		// The watch cache of an API server may lag. A controller that has just
		// become leader must see all that its predecessor wrote, so its first
		// list is a consistent read.
		if o.ResourceVersion == "0" && !o.Watch {
			o.ResourceVersion = ""
		}
		return o
	}
	return source{
		listWatch: toolscache.ToListWatcherWithWatchListSemantics(&toolscache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return client.List(ctx, tune(o))
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return client.Watch(ctx, tune(o))
			},
		}, clients.Kube),
		example: example,
		strip:   strip,
	}
}

// strip drops what Berth never reads from an object that has just arrived.
func strip(obj any) (any, error) {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return obj, nil // a tombstone: its object was stripped when it came
	}
	if object, ok := obj.(runtime.Object); ok {
		object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // lists and watches differ in it
	}
	accessor.SetManagedFields(nil)
	accessor.SetOwnerReferences(nil)
	accessor.SetFinalizers(nil)
	annotations := accessor.GetAnnotations()
	accessor.SetAnnotations(ourAnnotations(annotations))
	switch o := obj.(type) {
	case *corev1.Node:
		o.Annotations = shortAnnotations(annotations)
		stripNode(o)
	case *corev1.Secret:
		o.Data = map[string][]byte{corev1.BasicAuthPasswordKey: o.Data[corev1.BasicAuthPasswordKey]}
	case *corev1.Pod:
		o.Spec = corev1.PodSpec{NodeName: o.Spec.NodeName}
		o.Status = corev1.PodStatus{PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs, HostIP: o.Status.HostIP, Phase: o.Status.Phase}
	case *corev1.Namespace:
		o.Spec, o.Status = corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	case *discoveryv1.EndpointSlice:
		stripEndpointSlice(o)
	case *v1beta1.NodeState:
		stripNodeState(o)
	}
	return obj, nil
}

func ourAnnotations(all map[string]string) map[string]string {
	var ours map[string]string
	for key, value := range all {
		prefix, _, _ := strings.Cut(key, "/")
		switch prefix {
		case v1beta1.GroupName, "metallb.io", "metallb.universe.tf":
			if ours == nil {
				ours = map[string]string{}
			}
			ours[key] = value
		}
	}
	return ours
}

// shortAnnotations keeps what may name a peer or an AS number of a node: whoever
// runs the cluster chooses under which names.
func shortAnnotations(all map[string]string) map[string]string {
	const longest = 1024 // 16 IPv6 addresses with room to spare
	var kept map[string]string
	for key, value := range all {
		if len(value) <= longest {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[key] = value
		}
	}
	return kept
}

// stripNode keeps a node's addresses, its networks and the one condition that
// matters to announcements; its heartbeat, which changes every few seconds, is
// gone.
func stripNode(n *corev1.Node) {
	var kept []corev1.NodeCondition
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			kept = append(kept, corev1.NodeCondition{Type: c.Type, Status: c.Status})
		}
	}
	n.Spec = corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs}
	n.Status = corev1.NodeStatus{Addresses: n.Status.Addresses, Conditions: kept}
}

// stripNodeState keeps which hosts a node has heard, and not when last: that they
// are still there is no news. Of the BGP sessions it keeps which are established.
func stripNodeState(s *v1beta1.NodeState) {
	s.Status = v1beta1.NodeStateStatus{AddressConflicts: s.Status.AddressConflicts, BGPSessions: s.Status.BGPSessions}
	for i, session := range s.Status.BGPSessions {
		kept := v1beta1.BGPSessionStatus{Name: session.Name, Peer: session.Peer}
		if session.State == v1beta1.BGPEstablished {
			kept.State = session.State
		}
		s.Status.BGPSessions[i] = kept
	}
	for i := range s.Status.AddressConflicts {
		s.Status.AddressConflicts[i].LastSeen = metav1.Time{}
	}
}

// stripEndpointSlice keeps where the endpoints are and whether they serve.
func stripEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		s.Endpoints[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions, NodeName: e.NodeName}
	}
	s.Ports = nil
}

// sameForUs says that an update changed nothing that the cache keeps.
func sameForUs(before, after any) bool {
	a, okA := before.(runtime.Object)
	b, okB := after.(runtime.Object)
	if !okA || !okB {
		return false
	}
	metaA, errA := meta.Accessor(a)
	metaB, errB := meta.Accessor(b)
	if errA != nil || errB != nil {
		return false
	}
	if metaA.GetResourceVersion() == metaB.GetResourceVersion() {
		return true
	}
	copied := a.DeepCopyObject()
	metaCopied, err := meta.Accessor(copied)
	if err != nil {
		return false
	}
	metaCopied.SetResourceVersion(metaB.GetResourceVersion())
	return equality.Semantic.DeepEqual(copied, b)
}
