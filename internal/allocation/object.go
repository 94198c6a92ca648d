package allocation

import (
	"encoding/json"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// Object is an object of the API.
type Object interface {
	metav1.Object
	runtime.Object
}

// keyFor returns the key of an object; false if a controller reads none of its
// kind.
func keyFor(o Object) (k8s.Key, bool) {
	key := k8s.Key{Namespace: o.GetNamespace(), Name: o.GetName()}
	switch o.(type) {
	case *corev1.Service:
		key.Kind = k8s.KindService
	case *corev1.Namespace:
		key.Kind = k8s.KindNamespace
	case *corev1.Node:
		key.Kind = k8s.KindNode
	case *corev1.Secret:
		key.Kind = k8s.KindSecret
	case *networkingv1.ServiceCIDR:
		key.Kind = k8s.KindServiceCIDR
	case *v1beta1.IPAddressPool:
		key.Kind = k8s.KindIPAddressPool
	case *v1beta1.IPReservation:
		key.Kind = k8s.KindIPReservation
	case *v1beta1.L2Advertisement:
		key.Kind = k8s.KindL2Advertisement
	case *v1beta1.BGPPeer:
		key.Kind = k8s.KindBGPPeer
	case *v1beta1.BGPAdvertisement:
		key.Kind = k8s.KindBGPAdvertisement
	case *v1beta1.Community:
		key.Kind = k8s.KindCommunity
	case *v1beta1.BFDProfile:
		key.Kind = k8s.KindBFDProfile
	case *v1beta1.NodeState:
		key.Kind = k8s.KindNodeState
	default:
		return k8s.Key{}, false
	}
	return key, true
}

// show makes the objects of a kind be what a cache holds of it.
func show(cache *k8s.Cache, kind k8s.Kind, objects map[k8s.Key]Object) (err error) {
	switch kind {
	case k8s.KindService:
		cache.Services, err = storeOf[*corev1.Service](kind, objects)
	case k8s.KindNamespace:
		cache.Namespaces, err = storeOf[*corev1.Namespace](kind, objects)
	case k8s.KindNode:
		cache.Nodes, err = storeOf[*corev1.Node](kind, objects)
	case k8s.KindSecret:
		cache.Secrets, err = storeOf[*corev1.Secret](kind, objects)
	case k8s.KindServiceCIDR:
		cache.ServiceCIDRs, err = storeOf[*networkingv1.ServiceCIDR](kind, objects)
	case k8s.KindIPAddressPool:
		cache.IPAddressPools, err = storeOf[*v1beta1.IPAddressPool](kind, objects)
	case k8s.KindIPReservation:
		cache.IPReservations, err = storeOf[*v1beta1.IPReservation](kind, objects)
	case k8s.KindL2Advertisement:
		cache.L2Advertisements, err = storeOf[*v1beta1.L2Advertisement](kind, objects)
	case k8s.KindBGPPeer:
		cache.BGPPeers, err = storeOf[*v1beta1.BGPPeer](kind, objects)
	case k8s.KindBGPAdvertisement:
		cache.BGPAdvertisements, err = storeOf[*v1beta1.BGPAdvertisement](kind, objects)
	case k8s.KindCommunity:
		cache.Communities, err = storeOf[*v1beta1.Community](kind, objects)
	case k8s.KindBFDProfile:
		cache.BFDProfiles, err = storeOf[*v1beta1.BFDProfile](kind, objects)
	case k8s.KindNodeState:
		cache.NodeStates, err = storeOf[*v1beta1.NodeState](kind, objects)
	}
	return err
}

func storeOf[T runtime.Object](kind k8s.Kind, objects map[k8s.Key]Object) (k8s.Store[T], error) {
	var all []T
	for key, o := range objects {
		if typed, ok := o.(T); ok && key.Kind == kind {
			all = append(all, typed)
		}
	}
	return k8s.StoreOf(all...)
}

// patchedService applies a strategic merge patch of a Service's status.
func patchedService(svc *corev1.Service, patch []byte) (Object, error) {
	var meta struct{ Metadata struct{ UID types.UID } }
	if err := json.Unmarshal(patch, &meta); err != nil {
		return nil, err
	}
	if meta.Metadata.UID != "" && meta.Metadata.UID != svc.UID {
		return nil, errRefused // a conflict
	}
	original, err := json.Marshal(svc)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, corev1.Service{})
	if err != nil {
		return nil, err
	}
	after := &corev1.Service{}
	if err := json.Unmarshal(merged, after); err != nil {
		return nil, err
	}
	if len(after.Status.LoadBalancer.Ingress) > 0 && after.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil, errRefused // invalid
	}
	return after, nil
}

func documentOf(o Object) (map[string]any, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return asDocument(text)
}

// asDocument reads JSON without loss: whole numbers stay whole.
func asDocument(text []byte) (map[string]any, error) {
	var doc map[string]any
	err := utiljson.Unmarshal(text, &doc)
	return doc, err
}

// decoded returns what a document says, as an object of the type of like.
func decoded(doc any, like Object) (Object, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	into := emptyLike(like)
	return into, json.Unmarshal(text, into)
}

// emptyLike returns a new object of the same type.
func emptyLike(o Object) Object { return reflect.New(reflect.TypeOf(o).Elem()).Interface().(Object) }

// mergePatch is RFC 7386: what the patch does not name stays as it is.
func mergePatch(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged, ok := target.(map[string]any)
	if !ok {
		merged = map[string]any{}
	}
	for key, value := range changes {
		if value == nil {
			delete(merged, key)
		} else {
			merged[key] = mergePatch(merged[key], value)
		}
	}
	return merged
}
