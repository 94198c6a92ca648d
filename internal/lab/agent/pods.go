package agent

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// pods are all Pods that the API has bound to this node. They are told apart by
// UID: while one ends, another with the same name may already run.
type pods struct {
	agent *agent

	mu      sync.Mutex
	byUID   map[types.UID]*pod
	ctx     context.Context // that of run; new Pods live in it
	workers sync.WaitGroup
	listed  bool
}

func newPods(a *agent) *pods { return &pods{agent: a, byUID: map[types.UID]*pod{}} }

// run keeps the Pods as the API wants them until ctx ends; then it ends them all.
func (s *pods) run(ctx context.Context) error {
	s.ctx = ctx
	newReflector(s.agent.client, selection{
		resource: "pods",
		selector: fields.OneTermEqualSelector("spec.nodeName", s.agent.config.Node),
		kind:     &corev1.Pod{},
	}, sink{
		set:     func(object any) { s.set(object.(*corev1.Pod)) },
		unset:   func(object any) { s.unset(object.(*corev1.Pod)) },
		replace: s.replace,
	}).RunWithContext(ctx)
	s.workers.Wait()
	return nil
}

func (s *pods) set(object *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, found := s.byUID[object.UID]; found {
		known.update(object)
		return
	}
	p := newPod(s.ctx, s.agent, object)
	s.byUID[object.UID] = p
	s.workers.Go(func() {
		p.run(s.ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.byUID, object.UID)
	})
}

func (s *pods) unset(object *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, found := s.byUID[object.UID]; found {
		known.vanish(object)
	}
}

// replace takes in all Pods there are. Those that are not among them were deleted
// while the API was out of reach.
func (s *pods) replace(objects []any) {
	present := map[types.UID]bool{}
	for _, object := range objects {
		if p, ok := object.(*corev1.Pod); ok {
			present[p.UID] = true
			s.set(p)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, known := range s.byUID {
		if !present[uid] {
			known.vanish(nil)
		}
	}
	if !s.listed {
		s.removeOldLogs(present)
		s.listed = true
	}
}

// removeOldLogs deletes the logs of Pods that were deleted while no agent ran.
func (s *pods) removeOldLogs(present map[types.UID]bool) {
	entries, err := os.ReadDir(s.agent.logFolder())
	if err != nil {
		return // there are none
	}
	for _, entry := range entries {
		if !present[types.UID(entry.Name())] {
			_ = os.RemoveAll(filepath.Join(s.agent.logFolder(), entry.Name()))
		}
	}
}

// find returns the newest Pod of a name, or nil.
func (s *pods) find(namespace, name string) *pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	var newest *pod
	for _, p := range s.byUID {
		if p.namespace != namespace || p.name != name {
			continue
		}
		if newest == nil || p.created.After(newest.created) {
			newest = p
		}
	}
	return newest
}
