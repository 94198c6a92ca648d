package allocation

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// object is anything that the API server holds.
type object = Object

// change is what a watch tells: an object as it is since the change, nil once
// it is gone.
type change struct {
	key    k8s.Key
	object object
}

// lagging is an API server whose watches tell of changes late: those of a kind
// in their order, those of different kinds in any. It takes writes as the real
// one does.
type lagging struct {
	fatalf  func(format string, args ...any)
	now     func() time.Time
	objects map[k8s.Key]object
	// news are the changes that no watch has told of yet.
	news    map[k8s.Kind][]change
	version int
	// onChange is called with every change; writing says that it is one of the
	// controller's writes.
	onChange func(key k8s.Key, before, after object)
	writing  bool
}

var watchedKinds = []k8s.Kind{
	k8s.KindService, k8s.KindNamespace, k8s.KindNode, k8s.KindIPAddressPool, k8s.KindIPReservation, k8s.KindL2Advertisement,
	k8s.KindNodeState,
}

func (a *lagging) next() int {
	a.version++
	return a.version
}

// create adds an object that was not there.
func (a *lagging) create(key k8s.Key, o object) {
	if a.objects[key] != nil {
		a.fatalf("%s exists already", key)
	}
	o.SetNamespace(key.Namespace)
	o.SetName(key.Name)
	o.SetUID(types.UID("uid-" + strconv.Itoa(a.next())))
	o.SetCreationTimestamp(metav1.NewTime(a.now().Truncate(time.Second)))
	o.SetGeneration(1)
	a.store(key, o)
}

// update replaces an object. What changes nothing makes no news.
func (a *lagging) update(key k8s.Key, o object) {
	before := a.objects[key]
	if equality.Semantic.DeepEqual(before, o) {
		return
	}
	if !equality.Semantic.DeepEqual(specOf(before), specOf(o)) {
		o.SetGeneration(before.GetGeneration() + 1)
	}
	a.store(key, o)
}

func (a *lagging) store(key k8s.Key, o object) {
	o.SetResourceVersion(strconv.Itoa(a.next()))
	before := a.objects[key]
	o = normal(a, o)
	a.objects[key] = o
	a.tell(key, before, o)
}

func (a *lagging) remove(key k8s.Key) {
	if before := a.objects[key]; before != nil {
		delete(a.objects, key)
		a.tell(key, before, nil)
	}
}

func (a *lagging) tell(key k8s.Key, before, after object) {
	a.news[key.Kind] = append(a.news[key.Kind], change{key, after})
	if a.onChange != nil {
		a.onChange(key, before, after)
	}
}

// patch takes a write of the controller. It tells whether the object was there
// and the patch valid.
func (a *lagging) patch(key k8s.Key, patch []byte) bool {
	a.writing = true
	defer func() { a.writing = false }()
	before := a.objects[key]
	if before == nil {
		return false
	}
	after, err := patched(before, patch)
	if errors.Is(err, errRefused) {
		return false
	}
	if err != nil {
		a.fatalf("applying %s: %v", patch, err)
	}
	a.update(key, after)
	return true
}

// apply takes what the controller applies to, or deletes of, IPReservations.
func (a *lagging) apply(key k8s.Key, patch []byte) bool {
	a.writing = true
	defer func() { a.writing = false }()
	before := a.objects[key]
	after, err := appliedReservation(before, patch)
	switch {
	case err != nil:
		a.fatalf("applying %s: %v", patch, err)
	case after == nil:
		a.remove(key)
		return before != nil
	case before == nil:
		a.create(key, after)
	default:
		a.update(key, after)
	}
	return true
}

func (a *lagging) encode(o any) []byte {
	out, err := json.Marshal(o)
	if err != nil {
		a.fatalf("encoding: %v", err)
	}
	return out
}

func (a *lagging) decode(from []byte, into any) {
	if err := json.Unmarshal(from, into); err != nil {
		a.fatalf("decoding %s: %v", from, err)
	}
}

// normal returns an object as the API server has it: times are in seconds.
func normal(a *lagging, o object) object {
	out := emptyLike(o)
	a.decode(a.encode(o), out)
	return out
}

// specOf is what the generation of an object counts the changes of.
func specOf(o object) any {
	switch o := o.(type) {
	case *v1beta1.IPAddressPool:
		return o.Spec
	case *v1beta1.IPReservation:
		return o.Spec
	case *v1beta1.L2Advertisement:
		return o.Spec
	}
	return nil
}

// lateWriter is a writer to the API server as k8s.Writer is one, but each write
// is sent, and arrives, when the test says so.
type lateWriter struct {
	latest map[k8s.Key][]byte
	// sent are the writes on their way.
	sent map[k8s.Key][]byte
	// arrives writes to the API server.
	arrives func(key k8s.Key, patch []byte) bool
}

func newLateWriter(arrives func(k8s.Key, []byte) bool) *lateWriter {
	return &lateWriter{latest: map[k8s.Key][]byte{}, sent: map[k8s.Key][]byte{}, arrives: arrives}
}

func (w *lateWriter) Set(key k8s.Key, patch []byte) {
	delete(w.latest, key)
	if patch != nil {
		w.latest[key] = patch
	}
}

func (w *lateWriter) send(key k8s.Key) { w.sent[key] = w.latest[key] }

// arrive lets a write that was sent take effect. If the answer is lost it will be
// sent again.
func (w *lateWriter) arrive(key k8s.Key, answered bool) {
	patch := w.sent[key]
	delete(w.sent, key)
	w.arrives(key, patch)
	if latest, found := w.latest[key]; answered && found && &latest[0] == &patch[0] {
		delete(w.latest, key)
	}
}

// fail loses a write that was sent; it will be sent again.
func (w *lateWriter) fail(key k8s.Key) { delete(w.sent, key) }

// unsent returns what can be sent: one write of an object at a time.
func (w *lateWriter) unsent() []k8s.Key {
	return slices.DeleteFunc(keysOf(w.latest), func(key k8s.Key) bool { return w.sent[key] != nil })
}
