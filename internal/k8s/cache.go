package k8s

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Kind names the kind of an object, as in its apiVersion's documentation.
type Kind string

// The kinds that a Cache can hold.
const (
	KindService         Kind = "Service"
	KindEndpointSlice   Kind = "EndpointSlice"
	KindNode            Kind = "Node"
	KindNamespace       Kind = "Namespace"
	KindPod             Kind = "Pod"
	KindServiceCIDR     Kind = "ServiceCIDR"
	KindIPAddressPool   Kind = "IPAddressPool"
	KindIPReservation   Kind = "IPReservation"
	KindL2Advertisement Kind = "L2Advertisement"

	KindBGPPeer          Kind = "BGPPeer"
	KindBGPAdvertisement Kind = "BGPAdvertisement"
	KindCommunity        Kind = "Community"
	KindBFDProfile       Kind = "BFDProfile"
	KindNodeState        Kind = "NodeState"
	// KindSecret are the Secrets of type kubernetes.io/basic-auth in the
	// namespace of Berth.
	KindSecret Kind = "Secret"
)

// Key names one object.
type Key struct {
	Kind Kind
	// Namespace is empty for cluster-scoped kinds.
	Namespace, Name string
}

// String renders the key as "Kind namespace/name".
func (k Key) String() string {
	if k.Namespace == "" {
		return string(k.Kind) + " " + k.Name
	}
	return string(k.Kind) + " " + k.Namespace + "/" + k.Name
}

// Store reads the objects of one kind that the cache holds. What it returns is
// shared: never write to it. The zero Store is empty.
type Store[T runtime.Object] struct {
	indexer toolscache.Indexer
}

// StoreOf returns a store that holds objects.
func StoreOf[T runtime.Object](objects ...T) (Store[T], error) {
	indexer := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{})
	for _, o := range objects {
		if err := indexer.Add(o); err != nil {
			return Store[T]{}, err
		}
	}
	return Store[T]{indexer: indexer}, nil
}

// Get returns the object of that name; namespace is empty for cluster-scoped
// kinds.
func (s Store[T]) Get(namespace, name string) (T, bool) {
	var none T
	if s.indexer == nil {
		return none, false
	}
	obj, exists, err := s.indexer.GetByKey(toolscache.NewObjectName(namespace, name).String())
	if err != nil || !exists {
		return none, false
	}
	typed, ok := obj.(T)
	return typed, ok
}

// List returns all objects of the kind in no particular order.
func (s Store[T]) List() []T {
	if s.indexer == nil {
		return nil
	}
	objs := s.indexer.List()
	typed := make([]T, 0, len(objs))
	for _, obj := range objs {
		if t, ok := obj.(T); ok {
			typed = append(typed, t)
		}
	}
	return typed
}

// Cache mirrors chosen kinds from the API server and tells of changes by the
// keys of the objects that changed, each key once however often its object
// changed since it was last taken. It holds no more of an object than Berth
// reads, and does not tell of changes to the rest.
type Cache struct {
	Services         Store[*corev1.Service]
	EndpointSlices   Store[*discoveryv1.EndpointSlice]
	Nodes            Store[*corev1.Node]
	Namespaces       Store[*corev1.Namespace]
	Pods             Store[*corev1.Pod]
	ServiceCIDRs     Store[*networkingv1.ServiceCIDR]
	IPAddressPools   Store[*v1beta1.IPAddressPool]
	IPReservations   Store[*v1beta1.IPReservation]
	L2Advertisements Store[*v1beta1.L2Advertisement]

	BGPPeers          Store[*v1beta1.BGPPeer]
	BGPAdvertisements Store[*v1beta1.BGPAdvertisement]
	Communities       Store[*v1beta1.Community]
	BFDProfiles       Store[*v1beta1.BFDProfile]
	NodeStates        Store[*v1beta1.NodeState]
	Secrets           Store[*corev1.Secret]

	informers []toolscache.SharedIndexInformer
	changes   workqueue.TypedInterface[Key]
}

// CacheConfig says what a Cache mirrors.
type CacheConfig struct {
	Clients *Clients
	// Kinds to mirror.
	Kinds []Kind
	// PodNamespace and PodSelector choose the Pods, where KindPod is mirrored.
	PodNamespace string
	PodSelector  labels.Selector
	// SecretNamespace is the one namespace whose Secrets are mirrored, where
	// KindSecret is.
	SecretNamespace string
}

// NewCache returns a cache of the kinds that cfg names. It holds nothing before
// Run.
func NewCache(cfg CacheConfig) (*Cache, error) {
	c := &Cache{changes: workqueue.NewTyped[Key]()}
	for _, kind := range cfg.Kinds {
		if err := c.mirror(kind, cfg); err != nil {
			return nil, fmt.Errorf("mirroring %ss: %w", kind, err)
		}
	}
	return c, nil
}

func (c *Cache) mirror(kind Kind, cfg CacheConfig) error {
	source, err := sourceOf(kind, cfg)
	if err != nil {
		return err
	}
	informer := toolscache.NewSharedIndexInformer(source.listWatch, source.example, 0, toolscache.Indexers{})
	if err := informer.SetTransform(source.strip); err != nil {
		return err
	}
	if _, err := informer.AddEventHandler(c.handler(kind)); err != nil {
		return err
	}
	c.informers = append(c.informers, informer)
	c.keep(kind, informer.GetIndexer())
	return nil
}

// keep makes indexer the store of a kind.
func (c *Cache) keep(kind Kind, indexer toolscache.Indexer) {
	switch kind {
	case KindService:
		c.Services.indexer = indexer
	case KindEndpointSlice:
		c.EndpointSlices.indexer = indexer
	case KindNode:
		c.Nodes.indexer = indexer
	case KindNamespace:
		c.Namespaces.indexer = indexer
	case KindPod:
		c.Pods.indexer = indexer
	case KindServiceCIDR:
		c.ServiceCIDRs.indexer = indexer
	case KindIPAddressPool:
		c.IPAddressPools.indexer = indexer
	case KindIPReservation:
		c.IPReservations.indexer = indexer
	case KindL2Advertisement:
		c.L2Advertisements.indexer = indexer
	case KindBGPPeer:
		c.BGPPeers.indexer = indexer
	case KindBGPAdvertisement:
		c.BGPAdvertisements.indexer = indexer
	case KindCommunity:
		c.Communities.indexer = indexer
	case KindBFDProfile:
		c.BFDProfiles.indexer = indexer
	case KindNodeState:
		c.NodeStates.indexer = indexer
	case KindSecret:
		c.Secrets.indexer = indexer
	}
}

func (c *Cache) handler(kind Kind) toolscache.ResourceEventHandler {
	add := func(obj any) {
		name, err := toolscache.DeletionHandlingObjectToName(obj)
		if err != nil {
			return
		}
		c.changes.Add(Key{Kind: kind, Namespace: name.Namespace, Name: name.Name})
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: add,
		UpdateFunc: func(before, after any) {
			if !sameForUs(before, after) {
				add(after)
			}
		},
		DeleteFunc: add,
	}
}

// Run keeps the cache up to date until ctx is done.
func (c *Cache) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, informer := range c.informers {
		g.Go(func() error {
			informer.RunWithContext(ctx)
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		c.changes.ShutDown()
		return nil
	})
	return g.Wait()
}

// WaitForSync returns once the cache holds every object that existed when Run
// began, or with the error of ctx.
func (c *Cache) WaitForSync(ctx context.Context) error {
	for _, informer := range c.informers {
		if !toolscache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			return fmt.Errorf("waiting for the API server to list its objects: %w", context.Cause(ctx))
		}
	}
	return nil
}

// Next returns the key of the next changed object, waiting for one; false when
// the cache has stopped. Call Done with the key when its change is dealt with:
// a change meanwhile brings the key again.
func (c *Cache) Next() (Key, bool) {
	key, shutdown := c.changes.Get()
	return key, !shutdown
}

// Done tells the cache that the change of key, had from Next, is dealt with.
func (c *Cache) Done(key Key) { c.changes.Done(key) }

// Add makes Next return key as if its object had changed.
func (c *Cache) Add(key Key) { c.changes.Add(key) }

// Pending is the number of keys that wait for Next.
func (c *Cache) Pending() int { return c.changes.Len() }
