package e2e

import (
	"context"
	"sync"
	"time"
)

// meterInterval is how often a stall meter asks for its turn.
const meterInterval = 10 * time.Millisecond

// stallMeter finds out for how long this process does not get a processor. What is
// measured meanwhile says that much less about Berth.
type stallMeter struct {
	stopped context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	last  time.Time
	worst time.Duration
}

// meterStalls starts a stall meter, which runs until it is stopped or the test ends.
func (e *env) meterStalls() *stallMeter {
	ctx, cancel := context.WithCancel(e.ctx)
	m := &stallMeter{stopped: cancel, last: time.Now()}
	e.Cleanup(m.stop)
	m.running.Go(func() {
		ticker := time.NewTicker(meterInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				m.longest()
			}
		}
	})
	return m
}

// longest returns the longest time without a turn so far.
func (m *stallMeter) longest() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.worst = max(m.worst, now.Sub(m.last)-meterInterval)
	m.last = now
	return m.worst
}

func (m *stallMeter) stop() {
	m.stopped()
	m.running.Wait()
}

// bound allows for what a measured time has in excess of a limit because of a stall.
func (e *env) bound(limit time.Duration, m *stallMeter) time.Duration {
	e.Helper()
	stalled := m.longest()
	if stalled > stalling {
		e.Logf("the machine was busy with something else for %s", stalled)
	}
	return limit + stalled
}
