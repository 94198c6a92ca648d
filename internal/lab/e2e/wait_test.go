package e2e

import (
	"context"
	"fmt"
	"time"
)

// pollInterval is the time between two looks at a condition.
const pollInterval = 50 * time.Millisecond

// waitFor returns when check says so. If that does not happen within limit, the
// test fails with what check saw last.
func (e *env) waitFor(what string, limit time.Duration, check func(context.Context) (done bool, seen string)) {
	e.Helper()
	if err := e.waited(what, limit, check); err != nil {
		e.Fatal(err)
	}
}

// waitHeld returns when check has said so for as long without a break: for what may
// look right before anything has happened.
func (e *env) waitHeld(what string, duration time.Duration, check func(context.Context) (done bool, seen string)) {
	e.Helper()
	since := time.Now()
	e.waitFor(what, duration+20*time.Second, func(ctx context.Context) (bool, string) {
		done, seen := check(ctx)
		if !done {
			since = time.Now()
		}
		return time.Since(since) > duration, seen
	})
}

// waited is waitFor for other goroutines than the test's own.
func (e *env) waited(what string, limit time.Duration, check func(context.Context) (done bool, seen string)) error {
	ctx, cancel := context.WithTimeout(e.ctx, limit)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	seen := "nothing"
	for {
		done, now := check(ctx)
		if done {
			return nil
		}
		if ctx.Err() == nil { // else it says only that
			seen = now
		}
		select {
		case <-ctx.Done():
			if e.ctx.Err() != nil {
				return fmt.Errorf("the run ends while waiting for %s; last seen: %s", what, seen)
			}
			// A machine that was busy until now has kept it from looking.
			if done, _ := check(e.ctx); done {
				return nil
			}
			return fmt.Errorf("waited %s for %s; last seen: %s", limit, what, seen)
		case <-ticker.C:
		}
	}
}

// stays fails the test if check says no within the time: it proves that nothing
// happens for as long.
func (e *env) stays(what string, duration time.Duration, check func(context.Context) (still bool, seen string)) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, duration)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		if still, seen := check(e.ctx); !still {
			e.Fatalf("%s: no longer: %s", what, seen)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// pause lets time pass, for a reason.
func (e *env) pause(duration time.Duration, reason string) {
	e.Helper()
	e.pauseUntil(time.Now().Add(duration), reason)
}

func (e *env) pauseUntil(moment time.Time, reason string) {
	e.Helper()
	select {
	case <-e.ctx.Done():
		e.Fatalf("the run ends during a pause because %s", reason)
	case <-time.After(time.Until(moment)):
	}
}
