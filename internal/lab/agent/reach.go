package agent

import (
	"sync"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// reach says once when the API server gets out of reach, and once when it is back.
type reach struct {
	logger log.Logger

	mu   sync.Mutex
	lost bool
}

func (r *reach) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lost {
		level.Warn(r.logger).Log("msg", "the API server does not answer; containers keep running", "err", err)
	}
	r.lost = true
}

func (r *reach) succeeded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost {
		level.Info(r.logger).Log("msg", "the API server answers again")
	}
	r.lost = false
}
