package agent

import (
	"math"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Pauses between attempts to reach the API server.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Second
)

// selection says which objects to watch.
type selection struct {
	resource  string
	namespace string
	selector  fields.Selector
	kind      runtime.Object
}

// newReflector keeps sink up to date with the selected objects of the core API. It
// retries sooner than client-go's informers, which wait for up to a minute.
func newReflector(client kubernetes.Interface, s selection, sink cache.ReflectorStore) *cache.Reflector {
	source := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), s.resource, s.namespace, s.selector)
	return cache.NewReflectorWithOptions(source, s.kind, sink, cache.ReflectorOptions{
		Name:    s.resource,
		Backoff: &wait.Backoff{Duration: firstRetry, Cap: lastRetry, Factor: 2, Jitter: 0.2, Steps: math.MaxInt32},
	})
}

// one is the selection of a single object.
func one(resource, namespace, name string, kind runtime.Object) selection {
	return selection{resource, namespace, fields.OneTermEqualSelector("metadata.name", name), kind}
}

// sink adapts two functions to a reflector's store. set is called with every
// object, unset with those that are gone.
type sink struct {
	set, unset func(object any)
	// replace is called with all objects after a new start of the watch.
	replace func(objects []any)
}

func (s sink) Add(object any) error    { s.set(object); return nil }
func (s sink) Update(object any) error { s.set(object); return nil }
func (s sink) Delete(object any) error { s.unset(object); return nil }
func (s sink) Resync() error           { return nil }

func (s sink) Replace(objects []any, _ string) error {
	s.replace(objects)
	return nil
}
