package k8s

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// server takes patches as the API server does: it may be held up, and it
// answers what the test says.
type server struct {
	hold   chan struct{} // a patch waits for a value; nil holds up nothing
	answer func(patch string) error

	mu  sync.Mutex
	got []string
}

func (s *server) patch(ctx context.Context, _ Key, patch []byte) error {
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, string(patch))
	if s.answer != nil {
		return s.answer(string(patch))
	}
	return nil
}

// startWriter runs a writer until the test ends.
func startWriter(t *testing.T, s *server) (*Writer, *WriterMetrics) {
	t.Helper()
	metrics := NewWriterMetrics(prometheus.NewRegistry())
	w := NewWriter(s.patch, log.NewNopLogger(), metrics)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w, metrics
}

var (
	service  = Key{Kind: KindService, Namespace: "default", Name: "a"}
	resource = schema.GroupResource{Resource: "services"}
)

func TestWriterSendsOnlyTheLatest(t *testing.T) {
	t.Parallel()
	s := &server{hold: make(chan struct{})}
	w, _ := startWriter(t, s)
	w.Set(service, []byte("1"))
	w.Set(Key{Kind: KindService, Name: "other"}, []byte("other"))
	for range 2 {
		s.hold <- struct{}{} // both first patches are being sent or were
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Occupy every worker, so that what follows has to queue up.
	for i := range writerWorkers {
		w.Set(Key{Kind: KindService, Name: string(rune('a' + i))}, []byte("busy"))
	}
	for _, patch := range []string{"2", "3", "4"} {
		w.Set(service, []byte(patch))
	}
	for range writerWorkers + 1 {
		s.hold <- struct{}{}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, got := range s.got {
		if got == "2" || got == "3" {
			t.Errorf("sent %q, which was replaced before its turn", got)
		}
	}
	if len(s.got) != 2+writerWorkers+1 {
		t.Errorf("sent %d patches, want %d: %v", len(s.got), 2+writerWorkers+1, s.got)
	}
}

func TestWriterReplacesWhatIsBeingSent(t *testing.T) {
	t.Parallel()
	s := &server{hold: make(chan struct{})}
	w, _ := startWriter(t, s)
	w.Set(service, []byte("first"))
	s.hold <- struct{}{} // "first" may be on its way by now
	w.Set(service, []byte("second"))
	go func() { s.hold <- struct{}{} }()
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.got[len(s.got)-1]; last != "second" {
		t.Errorf("the last patch sent is %q, want second", last)
	}
}

func TestWriterRetriesUntilItWorks(t *testing.T) {
	t.Parallel()
	failures := 3
	s := &server{answer: func(string) error {
		if failures > 0 {
			failures--
			return errors.New("connection refused")
		}
		return nil
	}}
	w, metrics := startWriter(t, s)
	w.Set(service, []byte("x"))
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if retries := testutil.ToFloat64(metrics.Writes.WithLabelValues("Service", "retry")); retries != 3 {
		t.Errorf("%v retries, want 3", retries)
	}
	if ok := testutil.ToFloat64(metrics.Writes.WithLabelValues("Service", "ok")); ok != 1 {
		t.Errorf("%v successes, want 1", ok)
	}
}

func TestWriterGivesUpOnWhatIsRefused(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]error{
		"deleted":    apierrors.NewNotFound(resource, "a"),
		"re-created": apierrors.NewConflict(resource, "a", errors.New("Precondition failed: UID in precondition: 1, UID in object meta: 2")),
		"invalid":    apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, "a", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &server{answer: func(string) error { return refusal }}
			w, metrics := startWriter(t, s)
			w.Set(service, []byte("x"))
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(s.got) != 1 {
				t.Errorf("sent %d times, want once", len(s.got))
			}
			if dropped := testutil.ToFloat64(metrics.Writes.WithLabelValues("Service", "dropped")); dropped != 1 {
				t.Errorf("%v dropped, want 1", dropped)
			}
		})
	}
}

func TestWriterCancels(t *testing.T) {
	t.Parallel()
	refuse := true
	sent := make(chan string, 100)
	s := &server{answer: func(patch string) error {
		sent <- patch
		if refuse {
			return errors.New("not now")
		}
		return nil
	}}
	w, _ := startWriter(t, s)
	w.Set(service, []byte("cancelled"))
	<-sent
	w.Set(service, nil)
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.Pending(); n != 0 {
		t.Errorf("%d pending after cancelling", n)
	}
}

func TestFlushGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	w, _ := startWriter(t, &server{hold: make(chan struct{})})
	w.Set(service, []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Flush: %v", err)
	}
}
