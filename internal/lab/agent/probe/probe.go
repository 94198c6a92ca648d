package probe

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
)

// The time in which early failures are forgiven, and how soon they are followed
// by another attempt.
const (
	earlyTime     = 2 * time.Second
	earlyInterval = 100 * time.Millisecond
)

// Kind of a probe, named as in a Pod's specification.
type Kind string

// The kinds.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Outcome of one attempt.
type Outcome struct {
	OK bool
	// Message says what was wrong.
	Message string
}

// Prober runs one probe of one run of a container.
type Prober struct {
	Kind  Kind
	Probe *corev1.Probe
	Clock clock.Clock
	// Check makes one attempt. The end of its context is the probe's timeout.
	Check func(context.Context) Outcome
	// Failed is told of every failure that counts.
	Failed func(message string)
	// Changed is told when one of the thresholds is reached and the state differs
	// from the one before. Everything starts out not OK, except liveness.
	Changed func(ok bool, message string)
}

// Run probes until ctx ends, or until there is nothing left to find out: a startup
// probe ends with either answer, a liveness probe with a failure.
func (p *Prober) Run(ctx context.Context) {
	if !p.sleep(ctx, seconds(p.Probe.InitialDelaySeconds)) {
		return
	}
	state := tally{prober: p, began: p.Clock.Now(), ok: p.Kind == Liveness}
	for {
		outcome := p.attempt(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := state.count(outcome)
		if state.final || !p.sleep(ctx, pause) {
			return
		}
	}
}

func (p *Prober) attempt(ctx context.Context) Outcome {
	ctx, cancel := context.WithTimeout(ctx, max(seconds(p.Probe.TimeoutSeconds), time.Second))
	defer cancel()
	return p.Check(ctx)
}

// sleep reports whether the context is still alive afterwards.
func (p *Prober) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := p.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// tally turns a series of outcomes into a state.
type tally struct {
	prober              *Prober
	began               time.Time
	ok                  bool
	succeeded           bool // at least once
	successes, failures int32
	final               bool
}

// count takes in an outcome and returns the time until the next attempt.
func (t *tally) count(outcome Outcome) time.Duration {
	p := t.prober
	period := max(seconds(p.Probe.PeriodSeconds), time.Second)
	switch {
	case outcome.OK:
		t.succeeded, t.failures = true, 0
		t.successes++
		if t.successes >= max(p.Probe.SuccessThreshold, 1) {
			t.become(true, "")
		}
	case t.early():
		return earlyInterval
	default:
		t.successes = 0
		t.failures++
		p.Failed(outcome.Message)
		if t.failures >= max(p.Probe.FailureThreshold, 1) {
			t.become(false, outcome.Message)
		}
	}
	return period
}

// early failures are forgiven. Not those of liveness probes, which stand for a
// container that does run but should not.
func (t *tally) early() bool {
	return t.prober.Kind != Liveness && !t.succeeded && t.prober.Clock.Since(t.began) < earlyTime
}

func (t *tally) become(ok bool, message string) {
	// A startup probe that fails is an answer although its state was "no" before.
	answer := t.prober.Kind == Startup || t.prober.Kind == Liveness && !ok
	if t.ok != ok || answer {
		t.prober.Changed(ok, message)
	}
	t.ok, t.final = ok, answer
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }
