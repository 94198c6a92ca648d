package k8s

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
)

// PatchFunc sends one patch of an object's status.
type PatchFunc func(ctx context.Context, key Key, patch []byte) error

// Writer sends status patches in the background. For each object only the
// latest patch matters: one that is replaced before it was sent is never sent,
// and one that fails is sent again, ever more slowly, until it is replaced,
// cancelled or refused for good. Nothing that calls it ever waits for the API
// server.
type Writer struct {
	patch   PatchFunc
	logger  log.Logger
	metrics *WriterMetrics
	queue   workqueue.TypedRateLimitingInterface[Key]

	mu      sync.Mutex
	latest  map[Key][]byte
	failing map[Key]bool
	idle    *sync.Cond // signalled when latest becomes empty
}

// WriterMetrics count what a Writer does.
type WriterMetrics struct {
	Writes *prometheus.CounterVec // by kind and result: ok, retry, dropped
}

// NewWriterMetrics registers the metrics of a Writer on reg.
func NewWriterMetrics(reg prometheus.Registerer) *WriterMetrics {
	m := &WriterMetrics{Writes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_api_writes_total",
		Help: "Status writes to the API server, by kind of object and result: ok, retry (failed, will be sent again) or dropped (refused for good).",
	}, []string{"kind", "result"})}
	reg.MustRegister(m.Writes)
	return m
}

const (
	writerWorkers  = 16
	firstRetry     = 50 * time.Millisecond
	slowestRetries = 5 * time.Second
)

// NewWriter returns a writer that sends with patch. It sends nothing before Run.
func NewWriter(patch PatchFunc, logger log.Logger, metrics *WriterMetrics) *Writer {
	w := &Writer{
		patch:   patch,
		logger:  logger,
		metrics: metrics,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[Key](firstRetry, slowestRetries)),
		latest:  map[Key][]byte{},
		failing: map[Key]bool{},
	}
	w.idle = sync.NewCond(&w.mu)
	return w
}

// Set makes patch the status to send for key; nil cancels what was not sent yet.
func (w *Writer) Set(key Key, patch []byte) {
	w.mu.Lock()
	if patch == nil {
		delete(w.latest, key)
		w.wakeIdle()
	} else {
		w.latest[key] = patch
	}
	w.mu.Unlock()
	if patch != nil {
		w.queue.Add(key)
	}
}

// Pending is the number of objects whose latest status was not sent yet.
func (w *Writer) Pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.latest)
}

// Flush waits until everything was sent or ctx is done.
func (w *Writer) Flush(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.idle.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.latest) > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%d status writes were not sent: %w", len(w.latest), ctx.Err())
		}
		w.idle.Wait()
	}
	return nil
}

// Run sends until ctx is done.
func (w *Writer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		w.queue.ShutDown()
		return nil
	})
	for range writerWorkers {
		g.Go(func() error {
			for w.sendNext(ctx) {
			}
			return nil
		})
	}
	return g.Wait()
}

func (w *Writer) sendNext(ctx context.Context) bool {
	key, shutdown := w.queue.Get()
	if shutdown {
		return false
	}
	defer w.queue.Done(key)
	w.mu.Lock()
	patch, wanted := w.latest[key]
	if !wanted {
		delete(w.failing, key)
	}
	w.mu.Unlock()
	if !wanted || ctx.Err() != nil {
		w.queue.Forget(key)
		return true
	}
	requestCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := w.patch(requestCtx, key, patch)
	if err != nil && !refused(err) {
		w.retry(ctx, key, err)
		return true
	}
	w.settle(key, patch, err)
	return true
}

func (w *Writer) retry(ctx context.Context, key Key, err error) {
	if ctx.Err() != nil {
		return
	}
	w.metrics.Writes.WithLabelValues(string(key.Kind), "retry").Inc()
	w.mu.Lock()
	first := !w.failing[key]
	w.failing[key] = true
	w.mu.Unlock()
	if first {
		level.Warn(w.logger).Log("msg", "writing a status failed, retrying", "object", key, "err", err)
	}
	w.queue.AddRateLimited(key)
}

// settle forgets the patch that was sent, unless a newer one took its place
// meanwhile: that one is queued already.
func (w *Writer) settle(key Key, sent []byte, err error) {
	result := "ok"
	if err != nil {
		result = "dropped"
	}
	w.metrics.Writes.WithLabelValues(string(key.Kind), result).Inc()
	if err != nil && !gone(err) { // an object that is gone has an event of its own
		level.Error(w.logger).Log("msg", "the API server refused a status", "object", key, "err", err)
	}
	w.queue.Forget(key)
	w.mu.Lock()
	defer w.mu.Unlock()
	if latest, ok := w.latest[key]; ok && &latest[0] == &sent[0] {
		delete(w.latest, key)
	}
	delete(w.failing, key)
	w.wakeIdle()
}

func (w *Writer) wakeIdle() {
	if len(w.latest) == 0 {
		w.idle.Broadcast()
	}
}

// gone says that the object which a patch was meant for no longer exists. A
// conflict may also mean that the API server has lost against other writers of the
// object too often; then it is worth another attempt.
func gone(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsConflict(err) && strings.Contains(err.Error(), "UID")
}

// refused says that sending the same patch again cannot succeed.
func refused(err error) bool {
	return gone(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || errors.Is(err, errUnknownKind)
}

var errUnknownKind = errors.New("no status of this kind is ever written")

// PatchStatus returns a PatchFunc that sends to the status subresource of
// Services (strategic merge patches) and of Berth's own kinds (JSON merge
// patches, RFC 7386).
func PatchStatus(clients *Clients) PatchFunc {
	return func(ctx context.Context, key Key, patch []byte) error {
		var err error
		opts := metav1.PatchOptions{}
		switch key.Kind {
		case KindService:
			_, err = clients.Kube.CoreV1().Services(key.Namespace).Patch(ctx, key.Name, types.StrategicMergePatchType, patch, opts, "status")
		case KindIPAddressPool:
			_, err = clients.IPAddressPools.Patch(ctx, key.Name, types.MergePatchType, patch, opts, "status")
		case KindIPReservation:
			_, err = clients.IPReservations.Patch(ctx, key.Name, types.MergePatchType, patch, opts, "status")
		case KindL2Advertisement:
			_, err = clients.L2Advertisements.Patch(ctx, key.Name, types.MergePatchType, patch, opts, "status")
		case KindBGPPeer:
			_, err = clients.BGPPeers.Patch(ctx, key.Name, types.MergePatchType, patch, opts, "status")
		case KindBGPAdvertisement:
			_, err = clients.BGPAdvertisements.Patch(ctx, key.Name, types.MergePatchType, patch, opts, "status")
		case KindCommunity:
			_, err = clients.Communities.Patch(ctx, key.Name, types.MergePatchType, patch, opts, "status")
		case KindBFDProfile:
			_, err = clients.BFDProfiles.Patch(ctx, key.Name, types.MergePatchType, patch, opts, "status")
		default:
			err = errUnknownKind
		}
		if err != nil {
			return fmt.Errorf("patching the status of %s: %w", key, err)
		}
		return nil
	}
}
