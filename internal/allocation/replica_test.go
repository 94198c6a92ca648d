package allocation

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/k8s"
)

// replica is one run of the controller against a lagging API server: what it
// sees of it, and what it has written and told.
type replica struct {
	api        *lagging
	controller *Controller
	seen       map[k8s.Key]object
	// status, reservations are the two writers.
	status, reservations *lateWriter
	// inOrder has rest deal with keys in the order in which they came.
	inOrder bool
	writes  []string
	events  []string
	onEvent func(svc *corev1.Service, reason, message string)
}

var ours = k8s.Class{Name: v1beta1.LoadBalancerClass, Default: true}

func newReplica(api *lagging, clock *clocktesting.FakePassiveClock) *replica {
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		api.fatalf("making a cache: %v", err)
	}
	r := &replica{api: api, seen: map[k8s.Key]object{}}
	r.status = newLateWriter(r.counted(api.patch))
	r.reservations = newLateWriter(r.counted(api.apply))
	r.controller = New(Config{
		Cache: cache, Writer: r.status, Reservations: r.reservations, Events: r, Clock: clock, Logger: log.NewNopLogger(),
		Class:  ours,
		Health: daemon.NewHealth(clock, time.Minute), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	return r
}

func (r *replica) counted(arrives func(k8s.Key, []byte) bool) func(k8s.Key, []byte) bool {
	return func(key k8s.Key, patch []byte) bool {
		r.writes = append(r.writes, fmt.Sprintf("%s: %s", key, patch))
		return arrives(key, patch)
	}
}

func (r *replica) Normal(svc *corev1.Service, reason, message string) {
	r.event(svc, reason, message)
}

func (r *replica) Warning(svc *corev1.Service, reason, message string) {
	r.event(svc, reason, message)
}

func (r *replica) event(svc *corev1.Service, reason, message string) {
	r.events = append(r.events, fmt.Sprintf("%s of %s/%s: %s", reason, svc.Namespace, svc.Name, message))
	if r.onEvent != nil {
		r.onEvent(svc, reason, message)
	}
}

// list shows the replica all objects of a kind as they are now, and begins the
// watch that tells of changes.
func (r *replica) list(kind k8s.Kind) {
	r.api.news[kind] = nil
	for _, key := range keysOf(r.api.objects) {
		if key.Kind == kind {
			r.seen[key] = r.api.objects[key]
			r.controller.cache.Add(key)
		}
	}
	r.show(kind)
}

// deliver lets the watch of a kind tell of its next change.
func (r *replica) deliver(kind k8s.Kind) {
	c := r.api.news[kind][0]
	r.api.news[kind] = r.api.news[kind][1:]
	before := r.seen[c.key]
	if c.object == nil {
		delete(r.seen, c.key)
	} else {
		r.seen[c.key] = c.object
	}
	r.show(kind)
	if before == nil || c.object == nil || !equality.Semantic.DeepEqual(unversioned(before), unversioned(c.object)) {
		r.controller.cache.Add(c.key)
	}
}

func unversioned(o object) object {
	out := o.DeepCopyObject().(object)
	out.SetResourceVersion("")
	return out
}

// show fills the store of a kind.
func (r *replica) show(kind k8s.Kind) {
	if err := show(r.controller.cache, kind, r.seen); err != nil {
		r.api.fatalf("filling the cache with %ss: %v", kind, err)
	}
}

func ofKind[T object](objects map[k8s.Key]object) []T {
	var out []T
	for _, key := range keysOf(objects) {
		if o, ok := objects[key].(T); ok {
			out = append(out, o)
		}
	}
	return out
}

func (r *replica) restore() {
	if err := r.controller.restore(); err != nil {
		r.api.fatalf("restoring: %v", err)
	}
}

// handle lets the loop deal with the n-th of the pending keys, as they are
// sorted: the order in which they wait is an accident. It tells with which.
func (r *replica) handle(n int) k8s.Key {
	cache := r.controller.cache
	var keys []k8s.Key
	for cache.Pending() > 0 {
		key, _ := cache.Next()
		cache.Done(key)
		keys = append(keys, key)
	}
	slices.SortFunc(keys, compareKeys)
	cache.Add(keys[n])
	for _, key := range keys {
		cache.Add(key)
	}
	return r.handleNext()
}

// handleNext lets the loop deal with the key that has waited longest, as it does.
func (r *replica) handleNext() k8s.Key {
	cache := r.controller.cache
	key, _ := cache.Next()
	if err := r.controller.handle(key); err != nil {
		r.api.fatalf("handling %s: %v", key, err)
	}
	cache.Done(key)
	if err := r.controller.settle(); err != nil {
		r.api.fatalf("settling after %s: %v", key, err)
	}
	return key
}

// work lets the replica see all that there is and deal with it, without its
// writes taking effect.
func (r *replica) work() {
	for range 10_000 {
		if r.controller.cache.Pending() > 0 {
			if r.inOrder {
				r.handleNext()
			} else {
				r.handle(0)
			}
			continue
		}
		idle := true
		for _, kind := range watchedKinds {
			for len(r.api.news[kind]) > 0 {
				r.deliver(kind)
				idle = false
			}
		}
		if idle {
			return
		}
	}
	r.api.fatalf("the loop does not come to rest")
}

// rest lets everything take effect, with the clock standing still, until there is
// nothing more to do.
func (r *replica) rest() {
	for range 100 {
		r.work()
		for range 2 { // what the first finds out, the second reports
			r.controller.cache.Add(k8s.Key{Kind: kindTick})
			r.work()
		}
		if !r.flush() {
			return
		}
	}
	r.api.fatalf("writes do not come to an end; the last are %q", r.writes[len(r.writes)-4:])
}

func (r *replica) writers() []*lateWriter { return []*lateWriter{r.reservations, r.status} }

// flush lets all writes take effect, and tells whether there were any.
func (r *replica) flush() bool {
	any := false
	for _, w := range r.writers() {
		for _, key := range keysOf(w.sent) {
			w.arrive(key, true)
			any = true
		}
		for _, key := range keysOf(w.latest) {
			w.send(key)
			w.arrive(key, true)
			any = true
		}
	}
	return any
}

// successor runs a fresh replica over a copy of what the API server has, until it
// rests.
func (r *replica) successor(clock *clocktesting.FakePassiveClock) *replica {
	api := &lagging{
		fatalf: r.api.fatalf, now: r.api.now, version: r.api.version,
		objects: maps.Clone(r.api.objects), news: map[k8s.Kind][]change{},
	}
	fresh := newReplica(api, clock)
	for _, kind := range watchedKinds {
		fresh.list(kind)
	}
	fresh.restore()
	fresh.rest()
	return fresh
}
