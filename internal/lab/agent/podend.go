package agent

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/go-kit/log/level"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/lab/agent/podstatus"
)

// update takes in a new version of the Pod's object.
func (p *pod) update(object *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observeLocked(object)
	if object.DeletionTimestamp != nil {
		p.endLocked(graceOf(object))
	}
	p.markDirty()
	p.markStale()
}

// vanish is called when the object is gone, with its last version if that is
// known. Containers that still run get what grace the Pod has.
func (p *pod) vanish(last *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return
	}
	p.gone = true
	close(p.vanished)
	if last == nil {
		last = p.object
	}
	p.endLocked(graceOf(last))
}

// graceOf is the time that a Pod's containers have to end.
func graceOf(object *corev1.Pod) time.Duration {
	seconds := object.DeletionGracePeriodSeconds
	if seconds == nil {
		seconds = object.Spec.TerminationGracePeriodSeconds
	}
	if seconds == nil {
		return minimumGrace
	}
	return max(time.Duration(*seconds)*time.Second, minimumGrace)
}

// endLocked begins the Pod's end, or brings it forward. p.mu is held.
func (p *pod) endLocked(grace time.Duration) {
	deadline := p.clock.Now().Add(grace)
	if !p.deadline.IsZero() && !deadline.Before(p.deadline) {
		return
	}
	if p.killer != nil {
		p.killer.Stop()
	}
	p.deadline = deadline
	p.killer = time.AfterFunc(grace, p.kill)
	p.endLife()
}

// fail ends the Pod for a reason that is not its containers'.
func (p *pod) fail(failure podstatus.Failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = &failure
	p.endLocked(graceOf(p.object))
	p.markDirty()
}

func (p *pod) exceedDeadline() {
	const reason, message = "DeadlineExceeded", "the pod was active for longer than its activeDeadlineSeconds"
	p.event(corev1.EventTypeNormal, reason, message)
	p.fail(podstatus.Failure{Reason: reason, Message: message})
}

// conclude writes the final status, waits for the object to be deleted, completes
// that, and removes the logs.
func (p *pod) conclude(ctx context.Context, over bool) {
	if !over {
		p.settle()
		p.insist(ctx, p.writeStatus)
	}
	for !p.deleting() {
		select {
		case <-ctx.Done():
			return
		case <-p.vanished:
		case <-p.dirty: // the object has changed
		}
	}
	p.insist(ctx, p.deleteObject)
	// Finalizers may keep the object for longer.
	select {
	case <-ctx.Done():
	case <-p.vanished:
		if err := os.RemoveAll(p.logs()); err != nil {
			level.Warn(p.logger).Log("msg", "remains of a pod", "pod", p.namespace+"/"+p.name, "err", err)
		}
	}
}

func (p *pod) logs() string { return filepath.Join(p.logFolder(), string(p.uid)) }

// settle replaces the states of containers that never ran, or of whose end nothing
// is known, in a Pod that has ended.
func (p *pod) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := metav1.NewTime(p.clock.Now().Truncate(time.Second))
	for _, r := range append(append([]*runner{}, p.init...), p.main...) {
		if r.status.State.Terminated == nil {
			r.status.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 137, Reason: "ContainerStatusUnknown", FinishedAt: now,
				Message: "the container did not run when its pod ended",
			}}
		}
	}
}

// deleting reports whether the object is to disappear, or has.
func (p *pod) deleting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone || p.object.DeletionTimestamp != nil
}

// deleteObject tells the API that nothing is left of the Pod.
func (p *pod) deleteObject(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = metav1.NewUIDPreconditions(string(p.uid))
	err := p.client.CoreV1().Pods(p.namespace).Delete(ctx, p.name, *options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // a conflict: it is another Pod's by now
		return nil
	}
	return err
}

// insist repeats a request until it succeeds, the object is gone or ctx ends.
func (p *pod) insist(ctx context.Context, request func(context.Context) error) {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		err := request(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		p.reach.failed(err)
		select {
		case <-ctx.Done():
			return
		case <-p.vanished:
			return
		case <-time.After(pause):
		}
	}
}
