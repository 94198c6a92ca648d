package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
)

// Health knows whether queued work is applied in time: a program is healthy
// while nothing has been waiting for longer than its limit (the idea is
// kube-proxy's), and ready once Ready was called.
type Health struct {
	clock clock.PassiveClock
	limit time.Duration

	mu     sync.Mutex
	oldest time.Time // when the oldest work that still waits was queued; zero if none
	ready  bool
	reason string // why not ready; may be empty
}

// NewHealth returns a health with nothing waiting and not ready. Work may wait
// for limit.
func NewHealth(c clock.PassiveClock, limit time.Duration) *Health {
	return &Health{clock: c, limit: limit}
}

// Queued says that there is work to do.
func (h *Health) Queued() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.oldest.IsZero() {
		h.oldest = h.clock.Now()
	}
}

// Applied says that all work queued until now is done.
func (h *Health) Applied() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.oldest = time.Time{}
}

// SetReady says whether the program can do its job.
func (h *Health) SetReady(ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready, h.reason = ready, ""
}

// NotReady says that the program cannot do its job, and why.
func (h *Health) NotReady(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready, h.reason = false, reason
}

// waiting returns for how long the oldest work has been waiting.
func (h *Health) waiting() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.oldest.IsZero() {
		return 0
	}
	return h.clock.Since(h.oldest)
}

// Register registers the metrics of the health.
func (h *Health) Register(reg prometheus.Registerer) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "berth_work_waiting_seconds",
		Help: "For how long the oldest work that is still to be done has been waiting; 0 if there is none.",
	}, func() float64 { return h.waiting().Seconds() }))
}

// Healthy returns nil, or since when work has been waiting.
func (h *Health) Healthy() error {
	if waiting := h.waiting(); waiting > h.limit {
		return fmt.Errorf("work has been waiting for %s, more than %s", waiting.Round(time.Millisecond), h.limit)
	}
	return nil
}

// Ready returns nil, or why the program cannot do its job now.
func (h *Health) Ready() error {
	h.mu.Lock()
	ready, reason := h.ready, h.reason
	h.mu.Unlock()
	if !ready {
		return errors.New(cmp.Or(reason, "not ready yet"))
	}
	return h.Healthy()
}
