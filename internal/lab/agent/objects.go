package agent

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
)

// objectKey names a ConfigMap or a Secret.
type objectKey struct{ resource, namespace, name string }

// Resources that Pods refer to.
const (
	configMaps = "configmaps"
	secrets    = "secrets"
)

// objects watches the ConfigMaps and Secrets that Pods of this node refer to, each
// by itself as a kubelet does: watching all would hand a node's agent every Secret
// of the cluster.
type objects struct {
	client kubernetes.Interface

	mu      sync.Mutex
	entries map[objectKey]*objectEntry
}

// objectEntry is one watched object.
type objectEntry struct {
	stop   context.CancelFunc
	synced chan struct{} // closed when it is known whether the object exists

	mu      sync.Mutex
	object  runtime.Object // nil if it does not exist
	known   bool
	next    int
	waiters map[int]func() // to be called on changes
}

func newObjects(client kubernetes.Interface) *objects {
	return &objects{client: client, entries: map[objectKey]*objectEntry{}}
}

// acquire starts watching, for ctx's life or until release is called. changed is
// called, with no lock held, whenever the object is different from before.
func (o *objects) acquire(ctx context.Context, key objectKey, changed func()) (release func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	entry, found := o.entries[key]
	if !found {
		entry = o.watch(ctx, key)
		o.entries[key] = entry
	}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	id := entry.next
	entry.next++
	entry.waiters[id] = changed
	return func() { o.release(key, entry, id) }
}

func (o *objects) release(key objectKey, entry *objectEntry, id int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	entry.mu.Lock()
	defer entry.mu.Unlock()
	delete(entry.waiters, id)
	if len(entry.waiters) == 0 && o.entries[key] == entry {
		entry.stop()
		delete(o.entries, key)
	}
}

func (o *objects) watch(ctx context.Context, key objectKey) *objectEntry {
	ctx, cancel := context.WithCancel(ctx)
	entry := &objectEntry{stop: cancel, synced: make(chan struct{}), waiters: map[int]func(){}}
	var kind runtime.Object = &corev1.ConfigMap{}
	if key.resource == secrets {
		kind = &corev1.Secret{}
	}
	reflector := newReflector(o.client, one(key.resource, key.namespace, key.name, kind), sink{
		set:   func(object any) { entry.set(object.(runtime.Object)) },
		unset: func(any) { entry.set(nil) },
		replace: func(all []any) {
			if len(all) == 0 {
				entry.set(nil)
			}
			for _, object := range all {
				entry.set(object.(runtime.Object))
			}
		},
	})
	go reflector.RunWithContext(ctx)
	return entry
}

func (e *objectEntry) set(object runtime.Object) {
	e.mu.Lock()
	e.object = object
	if !e.known {
		e.known = true
		close(e.synced)
	}
	var notify []func()
	for _, changed := range e.waiters {
		notify = append(notify, changed)
	}
	e.mu.Unlock()
	for _, changed := range notify {
		changed()
	}
}

// get returns an acquired object, or nil if it does not exist.
func (o *objects) get(ctx context.Context, key objectKey) (runtime.Object, error) {
	o.mu.Lock()
	entry, found := o.entries[key]
	o.mu.Unlock()
	if !found {
		return nil, fmt.Errorf("%s %s/%s is not watched", key.resource, key.namespace, key.name)
	}
	select {
	case <-entry.synced:
	case <-ctx.Done():
		return nil, fmt.Errorf("not yet known: %w", ctx.Err())
	}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	return entry.object, nil
}

// ConfigMap implements volume.Source.
func (o *objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	object, err := o.get(ctx, objectKey{configMaps, namespace, name})
	found, _ := object.(*corev1.ConfigMap)
	return found, err
}

// Secret implements volume.Source.
func (o *objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	object, err := o.get(ctx, objectKey{secrets, namespace, name})
	found, _ := object.(*corev1.Secret)
	return found, err
}
