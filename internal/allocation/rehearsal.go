package allocation

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/k8s"
)

// Rehearsal is a controller at work on a copy of the API objects: what it writes
// takes effect there at once, and time stands still.
type Rehearsal struct {
	controller *Controller
	objects    map[k8s.Key]Object
	now        time.Time
	// status and reservations are what the controller wants to write.
	status, reservations unwritten
}

// unwritten is the latest write of each object.
type unwritten map[k8s.Key][]byte

// Set implements StatusWriter.
func (u unwritten) Set(key k8s.Key, patch []byte) {
	delete(u, key)
	if patch != nil {
		u[key] = patch
	}
}

// silent tells nobody of events.
type silent struct{}

func (silent) Normal(*corev1.Service, string, string)  {}
func (silent) Warning(*corev1.Service, string, string) {}

// still is a clock that stands still.
type still struct{ now time.Time }

func (s still) Now() time.Time                     { return s.now }
func (s still) Since(then time.Time) time.Duration { return s.now.Sub(then) }

// Premises are what a rehearsal goes by beside the objects.
type Premises struct {
	// LoadBalancerClass and DefaultLoadBalancer are those of k8s.Class.
	LoadBalancerClass   string
	DefaultLoadBalancer bool
	Now                 time.Time
}

// NewRehearsal starts a controller over a copy of objects, as after a restart, and
// lets it come to rest. Objects of other kinds than the controller reads are left
// out.
func NewRehearsal(objects []Object, p Premises) (*Rehearsal, error) {
	cache, err := k8s.NewCache(k8s.CacheConfig{})
	if err != nil {
		return nil, err
	}
	r := &Rehearsal{objects: map[k8s.Key]Object{}, now: p.Now, status: unwritten{}, reservations: unwritten{}}
	clock := still{p.Now}
	r.controller = New(Config{
		Cache: cache, Writer: r.status, Reservations: r.reservations, Events: silent{},
		Class: k8s.Class{Name: p.LoadBalancerClass, Default: p.DefaultLoadBalancer},
		Clock: clock, Logger: log.NewNopLogger(), Health: daemon.NewHealth(clock, time.Minute), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	for _, o := range objects {
		if key, known := keyFor(o); known {
			r.objects[key] = o
		}
	}
	for kind := range kindsOf(r.objects) {
		if err := show(cache, kind, r.objects); err != nil {
			return nil, err
		}
	}
	if err := r.controller.restore(); err != nil {
		return nil, err
	}
	for _, key := range keysOf(r.objects) {
		cache.Add(key)
	}
	return r, r.rest()
}

// Objects returns all objects as they are now. They must not be changed.
func (r *Rehearsal) Objects() []Object {
	all := make([]Object, 0, len(r.objects))
	for _, key := range keysOf(r.objects) {
		all = append(all, r.objects[key])
	}
	return all
}

// Snapshot returns the configuration that is in force.
func (r *Rehearsal) Snapshot() *config.Snapshot { return r.controller.snapshot }

// Object returns the object of the kind and name of o as it is now, nil if there is
// none. It must not be changed.
func (r *Rehearsal) Object(o Object) Object {
	key, _ := keyFor(o)
	return r.objects[key]
}

// Put creates objects, or makes spec, labels and annotations of those that there are
// be these, all at once. The controller comes to rest then.
func (r *Rehearsal) Put(objects ...Object) error {
	for _, o := range objects {
		if err := r.put(o); err != nil {
			return err
		}
	}
	return r.changed(objects)
}

func (r *Rehearsal) put(o Object) error {
	key, known := keyFor(o)
	if !known {
		return fmt.Errorf("the controller reads no %T", o)
	}
	if before := r.objects[key]; before != nil {
		after, err := overlaid(before, o)
		if err != nil {
			return fmt.Errorf("changing %s: %w", key, err)
		}
		r.objects[key] = after
		return nil
	}
	o = o.DeepCopyObject().(Object)
	o.SetCreationTimestamp(metav1.NewTime(r.now.Truncate(time.Second)))
	o.SetUID(types.UID("new " + key.String()))
	o.SetGeneration(1)
	r.objects[key] = o
	return nil
}

// Delete deletes those of the objects that there are, by kind and name, all at once.
// The controller comes to rest then.
func (r *Rehearsal) Delete(objects ...Object) error {
	for _, o := range objects {
		if key, known := keyFor(o); known {
			delete(r.objects, key)
		}
	}
	return r.changed(objects)
}

// changed tells the controller of changed objects.
func (r *Rehearsal) changed(objects []Object) error {
	changed := map[k8s.Key]Object{}
	for _, o := range objects {
		if key, known := keyFor(o); known {
			changed[key] = o
		}
	}
	for kind := range kindsOf(changed) {
		if err := show(r.controller.cache, kind, r.objects); err != nil {
			return err
		}
	}
	for _, o := range objects {
		if key, known := keyFor(o); known {
			r.controller.cache.Add(key)
		}
	}
	return r.rest()
}

// errRestless says that a controller does not stop writing.
var errRestless = errors.New("the controller does not come to rest")

// rest lets everything take effect until there is nothing more to do.
func (r *Rehearsal) rest() error {
	for range 100 {
		if err := r.work(); err != nil {
			return err
		}
		for range 2 { // what the first finds out, the second reports
			r.controller.cache.Add(k8s.Key{Kind: kindTick})
			if err := r.work(); err != nil {
				return err
			}
		}
		if len(r.status)+len(r.reservations) == 0 {
			return nil
		}
		if err := r.write(); err != nil {
			return err
		}
	}
	return errRestless
}

// work has the controller deal with all changes that it knows of.
func (r *Rehearsal) work() error {
	cache := r.controller.cache
	for steps := 0; cache.Pending() > 0; steps++ {
		if steps > 100*(len(r.objects)+100) {
			return errRestless
		}
		key, _ := cache.Next()
		err := r.controller.handle(key)
		cache.Done(key)
		if err == nil {
			err = r.controller.settle()
		}
		if err != nil {
			return fmt.Errorf("dealing with %s: %w", key, err)
		}
	}
	return nil
}

// write has everything take effect that the controller wants to write.
func (r *Rehearsal) write() error {
	written := map[k8s.Key]Object{}
	for _, key := range keysOf(r.reservations) {
		after, err := appliedReservation(r.objects[key], r.reservations[key])
		if err != nil {
			return fmt.Errorf("writing %s: %w", key, err)
		}
		if after != nil && r.objects[key] == nil {
			after.SetName(key.Name)
			after.SetCreationTimestamp(metav1.NewTime(r.now.Truncate(time.Second)))
		}
		written[key] = after
	}
	for _, key := range keysOf(r.status) {
		before := r.objects[key]
		if o, again := written[key]; again {
			before = o
		}
		if before == nil {
			continue
		}
		after, err := patched(before, r.status[key])
		switch {
		case errors.Is(err, errRefused):
		case err != nil:
			return fmt.Errorf("writing %s: %w", key, err)
		default:
			written[key] = after
		}
	}
	clear(r.status)
	clear(r.reservations)
	for key, o := range written {
		if o == nil {
			delete(r.objects, key)
		} else {
			r.objects[key] = o
		}
	}
	for kind := range kindsOf(written) {
		if err := show(r.controller.cache, kind, r.objects); err != nil {
			return err
		}
	}
	for _, key := range keysOf(written) {
		r.controller.cache.Add(key)
	}
	return nil
}

// errRefused says that the API server refuses a write.
var errRefused = errors.New("refused")

// patched returns an object with a patch of its status, as the API server applies
// it.
func patched(before Object, patch []byte) (Object, error) {
	svc, isService := before.(*corev1.Service)
	if isService {
		return patchedService(svc, patch)
	}
	doc, err := documentOf(before)
	if err != nil {
		return nil, err
	}
	change, err := asDocument(patch)
	if err != nil {
		return nil, err
	}
	return decoded(mergePatch(doc, change), before)
}

// appliedReservation returns an IPReservation as it is once the controller has
// applied it, nil if it has deleted it. Nobody else has fields there: what is not
// applied any more is removed.
func appliedReservation(before Object, patch []byte) (Object, error) {
	if bytes.Equal(patch, k8s.DeleteReservation()) {
		return nil, nil
	}
	applied := &v1beta1.IPReservation{}
	if err := json.Unmarshal(patch, applied); err != nil {
		return nil, err
	}
	applied.TypeMeta = metav1.TypeMeta{}
	old, exists := before.(*v1beta1.IPReservation)
	if !exists {
		applied.SetGeneration(1)
		return applied, nil
	}
	after := old.DeepCopy()
	after.Spec, after.Labels, after.Annotations = applied.Spec, applied.Labels, applied.Annotations
	return after, nil
}

// overlaid returns before with spec, labels and annotations of o.
func overlaid(before, o Object) (Object, error) {
	doc, err := documentOf(before)
	if err != nil {
		return nil, err
	}
	wanted, err := documentOf(o)
	if err != nil {
		return nil, err
	}
	specBefore := doc["spec"]
	doc["spec"] = wanted["spec"]
	after, err := decoded(doc, before)
	if err != nil {
		return nil, err
	}
	after.SetLabels(o.GetLabels())
	after.SetAnnotations(o.GetAnnotations())
	if !equality.Semantic.DeepEqual(specBefore, doc["spec"]) {
		after.SetGeneration(before.GetGeneration() + 1)
	}
	return after, nil
}

func kindsOf(objects map[k8s.Key]Object) map[k8s.Kind]bool {
	kinds := map[k8s.Kind]bool{}
	for key := range objects {
		kinds[key.Kind] = true
	}
	return kinds
}

func keysOf[V any](m map[k8s.Key]V) []k8s.Key {
	return slices.SortedFunc(maps.Keys(m), compareKeys)
}

func compareKeys(a, b k8s.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
