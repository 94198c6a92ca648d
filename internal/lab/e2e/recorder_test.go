package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// change is a Service as a watch has shown it, and what happened to it.
type change struct {
	at      time.Time
	kind    watch.EventType
	service *corev1.Service
}

// recorder keeps everything that happens to the Services of a namespace.
type recorder struct {
	e *env
	// before are the Services as they were when the recording began.
	before  []change
	watch   watch.Interface
	done    chan struct{}
	mu      sync.Mutex
	changes []change
}

// record starts to record what happens to the test's Services from now on.
func (e *env) record() *recorder {
	e.Helper()
	services := e.lab.kube.CoreV1().Services(e.namespace)
	list, err := services.List(e.ctx, listAll)
	if err != nil {
		e.Fatal(err)
	}
	// The API server ends the watch of who does not keep up; this one goes on from there.
	w, err := watchtools.NewRetryWatcherWithContext(e.ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: services.Watch})
	if err != nil {
		e.Fatal(err)
	}
	r := &recorder{e: e, watch: w, done: make(chan struct{})}
	for i := range list.Items {
		r.before = append(r.before, change{at: time.Now(), kind: watch.Added, service: &list.Items[i]})
	}
	go r.run()
	e.Cleanup(func() {
		w.Stop()
		<-r.done
	})
	return r
}

func (r *recorder) run() {
	defer close(r.done)
	for event := range r.watch.ResultChan() {
		service, ok := event.Object.(*corev1.Service)
		if !ok {
			return // an error: sync will find that nothing more comes
		}
		r.mu.Lock()
		r.changes = append(r.changes, change{at: time.Now(), kind: event.Type, service: service})
		r.mu.Unlock()
	}
}

func (r *recorder) all() []change {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]change(nil), r.changes...)
}

// sync returns when everything that has happened until now is recorded: it makes
// a Service of no interest and waits for that to come by.
func (r *recorder) sync() {
	r.e.Helper()
	marker := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "marker-"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}},
	}
	marker, err := r.e.lab.kube.CoreV1().Services(r.e.namespace).Create(r.e.ctx, marker, metav1.CreateOptions{})
	if err != nil {
		r.e.Fatal(err)
	}
	r.e.waitFor("the watch to show Service "+marker.Name, time.Minute, func(context.Context) (bool, string) {
		all := r.all()
		for _, c := range all {
			if c.service.Name == marker.Name {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%d other changes", len(all))
	})
}

// writes returns the changes of one Service so far, or of all if name is empty,
// apart from the recorder's own markers.
func (r *recorder) writes(name string) []change {
	r.e.Helper()
	r.sync()
	var writes []change
	for _, c := range r.all() {
		if !strings.HasPrefix(c.service.Name, "marker-") && (name == "" || c.service.Name == name) {
			writes = append(writes, c)
		}
	}
	return writes
}

// expectNone fails the test if any of the named Services was written to at all.
func (r *recorder) expectNone(during string, names ...string) {
	r.e.Helper()
	for _, c := range r.writes("") {
		if slices.Contains(names, c.service.Name) {
			r.e.Errorf("%s: Service %s was written at %s (%s): %+v", during, c.service.Name, c.at.Format("15:04:05.000"), c.kind, c.service.Status)
		}
	}
}

// expectSameAddresses fails the test if any of the named Services had, at any
// time, other addresses than these.
func (r *recorder) expectSameAddresses(during string, want map[string]string) {
	r.e.Helper()
	for _, c := range r.writes("") {
		addresses, named := want[c.service.Name]
		if named && (ingressText(c.service) != addresses || c.kind == watch.Deleted) {
			r.e.Errorf("%s: Service %s had %q at %s (%s), not %q",
				during, c.service.Name, ingressText(c.service), c.at.Format("15:04:05.000"), c.kind, addresses)
		}
	}
}

// ingressText is a Service's addresses as `kubectl get svc` shows them.
func ingressText(service *corev1.Service) string {
	var texts []string
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		texts = append(texts, ingress.IP)
	}
	return strings.Join(texts, ",")
}
