package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/lab/agent/crilog"
	"github.com/berth-lb/berth/internal/lab/container"
)

// Reasons of container states, as a kubelet gives them.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonConfigError  = "CreateContainerConfigError"
	reasonPullError    = "ErrImagePull"
	reasonPullBackOff  = "ImagePullBackOff"
	reasonCrashLoop    = "CrashLoopBackOff"
	reasonStartError   = "StartError"
	reasonCompleted    = "Completed"
	reasonError        = "Error"
)

// prepareRetry is how soon a container whose specification cannot be resolved yet
// is tried again.
const prepareRetry = 300 * time.Millisecond

// pullBackOff is how long a container with an unknown image shows the first reason
// before it shows the second.
const pullBackOff = 10 * time.Second

// runner runs one container of a Pod, again and again as the Pod's policy says.
type runner struct {
	pod     *pod
	spec    *corev1.Container
	init    bool
	backoff backoff

	// Guarded by pod.mu:
	status  corev1.ContainerStatus // without Ready and Started
	process *container.Process     // nil unless it runs
	ended   chan struct{}          // closed when the present run has ended
	started bool                   // as the startup probe has it
	ready   bool                   // as the readiness probe has it
}

func newRunner(p *pod, spec *corev1.Container, init bool) *runner {
	reason := reasonCreating
	if !init && len(p.object.Spec.InitContainers) > 0 {
		reason = reasonInitializing
	}
	r := &runner{pod: p, spec: spec, init: init, ended: make(chan struct{})}
	close(r.ended)
	r.status = corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, State: waiting(reason, "")}
	all := p.object.Status.ContainerStatuses
	if init {
		all = p.object.Status.InitContainerStatuses
	}
	for _, before := range all {
		if before.Name == spec.Name {
			r.inherit(before)
		}
	}
	return r
}

// inherit goes on from what an earlier agent of this node reported. A container
// that ran then has ended since, nobody knows how.
func (r *runner) inherit(before corev1.ContainerStatus) {
	if before.ContainerID == "" {
		return // it never ran
	}
	last := before.State
	if running := last.Running; running != nil {
		last = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 255, Reason: "Unknown", StartedAt: running.StartedAt, ContainerID: before.ContainerID,
			FinishedAt: metav1.NewTime(r.pod.clock.Now().Truncate(time.Second)),
		}}
	}
	r.status.RestartCount, r.status.ImageID, r.status.ContainerID = before.RestartCount, before.ImageID, before.ContainerID
	r.status.LastTerminationState = before.LastTerminationState
	if last.Terminated != nil {
		r.status.State = last
	}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// statusLocked returns the container's status; pod.mu is held.
func (r *runner) statusLocked() corev1.ContainerStatus {
	status := *r.status.DeepCopy()
	running := status.State.Running != nil
	started := running && r.started
	status.Started = &started
	status.Ready = started && (r.ready || r.spec.ReadinessProbe == nil)
	if r.init {
		terminated := status.State.Terminated
		status.Ready = terminated != nil && terminated.ExitCode == 0
	}
	return status
}

// change applies fn to the state and publishes the result.
func (r *runner) change(fn func()) {
	r.pod.mu.Lock()
	fn()
	r.pod.mu.Unlock()
	r.pod.markDirty()
}

// wait shows why the container does not run. The end of its last run stays visible.
func (r *runner) wait(reason, message string) {
	r.change(func() {
		if r.status.State.Terminated != nil {
			r.status.LastTerminationState = r.status.State
		}
		r.status.State = waiting(reason, message)
	})
}

// renew forgets that an init container ended when an earlier agent ran: what it
// prepared is gone.
func (r *runner) renew() {
	r.pod.mu.Lock()
	ended := r.status.State.Terminated != nil
	r.pod.mu.Unlock()
	if ended {
		r.wait(reasonInitializing, "")
	}
}

// succeeded reports whether the container has ended well.
func (r *runner) succeeded() bool {
	r.pod.mu.Lock()
	defer r.pod.mu.Unlock()
	terminated := r.status.State.Terminated
	return terminated != nil && terminated.ExitCode == 0
}

// finished reports whether the container has ended and is not to run again.
func (r *runner) finished() bool {
	r.pod.mu.Lock()
	defer r.pod.mu.Unlock()
	terminated := r.status.State.Terminated
	return terminated != nil && !restarts(r.pod.object.Spec.RestartPolicy, r.init, int(terminated.ExitCode))
}

// restarts says whether a container that ended is started again.
func restarts(policy corev1.RestartPolicy, init bool, exitCode int) bool {
	switch {
	case policy == corev1.RestartPolicyNever:
		return false
	case policy == corev1.RestartPolicyOnFailure || init:
		return exitCode != 0
	default:
		return true
	}
}

// run returns when the container has ended for good, or together with its Pod.
func (r *runner) run() {
	for !r.finished() && r.pod.living.Err() == nil {
		ran := r.once()
		if r.pod.living.Err() != nil || r.finished() {
			return
		}
		pause := r.backoff.next(ran)
		if pause == 0 {
			continue
		}
		r.wait(reasonCrashLoop, fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
			pause, r.spec.Name, r.pod.name, r.pod.namespace, r.pod.uid))
		r.pod.event(corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container "+r.spec.Name)
		r.pod.sleep(r.pod.living, pause)
	}
}

// once prepares, starts and supervises one run, and returns how long it took.
func (r *runner) once() time.Duration {
	spec, ok := r.prepare()
	if !ok {
		return 0
	}
	r.pod.mu.Lock()
	count := r.status.RestartCount
	if r.status.ContainerID != "" {
		count++
	}
	r.pod.mu.Unlock()
	output, err := crilog.Create(r.logPath(count), r.pod.clock.Now)
	if err != nil {
		r.failedToStart(count, err)
		return 0
	}
	defer func() { _ = output.Close() }()
	process, err := container.Start(container.Options{
		Spec: spec, Network: r.pod.netns, Stdout: output.Stream(crilog.Stdout), Stderr: output.Stream(crilog.Stderr),
	})
	if err != nil {
		r.failedToStart(count, err)
		return 0
	}
	began := r.pod.clock.Now()
	r.running(count, began, process)
	r.supervise(process)
	r.hasEnded(process, began)
	return r.pod.clock.Since(began)
}

func (r *runner) logPath(count int32) string {
	return filepath.Join(r.pod.logs(), r.spec.Name, strconv.Itoa(int(count))+".log")
}

// containerID distinguishes the runs of all containers.
func (r *runner) containerID(count int32) string {
	return fmt.Sprintf("process://%s/%s/%d", r.pod.uid, r.spec.Name, count)
}

// failedToStart records a run that never came about, as a container runtime does.
func (r *runner) failedToStart(count int32, err error) {
	now := metav1.NewTime(r.pod.clock.Now().Truncate(time.Second))
	r.pod.event(corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
	r.change(func() {
		r.remember(count)
		r.status.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 128, Reason: reasonStartError, Message: err.Error(), FinishedAt: now, ContainerID: r.status.ContainerID,
		}}
	})
}

// remember keeps the last run's end and counts the new one; pod.mu is held.
func (r *runner) remember(count int32) {
	if r.status.State.Terminated != nil {
		r.status.LastTerminationState = r.status.State
	}
	r.status.RestartCount, r.status.ContainerID = count, r.containerID(count)
	r.status.Image, r.status.ImageID = r.spec.Image, r.spec.Image
}

func (r *runner) running(count int32, began time.Time, process *container.Process) {
	r.change(func() {
		r.remember(count)
		r.status.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(began.Truncate(time.Second))}}
		r.process, r.ended = process, make(chan struct{})
		r.started, r.ready = r.spec.StartupProbe == nil, false
	})
	r.recordPod()
	r.pod.event(corev1.EventTypeNormal, "Started", "Started container "+r.spec.Name)
}

func (r *runner) hasEnded(process *container.Process, began time.Time) {
	exit := process.Exit()
	terminated := &corev1.ContainerStateTerminated{
		ExitCode:   int32(exit.Code),
		Signal:     int32(exit.Signal),
		Reason:     reasonError,
		Message:    r.terminationMessage(),
		StartedAt:  metav1.NewTime(began.Truncate(time.Second)),
		FinishedAt: metav1.NewTime(exit.At.Truncate(time.Second)),
	}
	if exit.Code == 0 {
		terminated.Reason = reasonCompleted
	}
	r.change(func() {
		terminated.ContainerID = r.status.ContainerID
		r.status.State = corev1.ContainerState{Terminated: terminated}
		r.process, r.started, r.ready = nil, false, false
		close(r.ended)
	})
	r.recordPod()
}

func (r *runner) recordPod() {
	if err := r.pod.record(); err != nil {
		r.pod.event(corev1.EventTypeWarning, "RecordFailed", err.Error())
	}
}

// maxMessage is the part of a termination message that ends up in the status, in
// bytes, as with a kubelet.
const maxMessage = 4096

// terminationMessage is what the container wrote about its end.
func (r *runner) terminationMessage() string {
	data, err := os.ReadFile(r.messagePath())
	if err != nil || len(data) == 0 {
		return ""
	}
	return string(data[max(0, len(data)-maxMessage):])
}

func (r *runner) messagePath() string { return filepath.Join(r.folder(), "termination-log") }

// folder is the host's folder of this container alone.
func (r *runner) folder() string {
	return filepath.Join(r.pod.folder(), "containers", r.spec.Name)
}

// prepare resolves the container's specification, as often as it takes.
func (r *runner) prepare() (container.Spec, bool) {
	var last string
	first := r.pod.clock.Now()
	for r.pod.living.Err() == nil {
		spec, reason, err := r.resolve()
		if err == nil {
			return spec, true
		}
		if r.pod.living.Err() != nil {
			break
		}
		if reason == reasonPullError && r.pod.clock.Since(first) >= pullBackOff {
			reason = reasonPullBackOff
		}
		if text := reason + err.Error(); text != last {
			r.wait(reason, err.Error())
			r.pod.event(corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
			last = text
		}
		r.pod.sleep(r.pod.living, prepareRetry)
	}
	return container.Spec{}, false
}

// resolve returns what to start, or why that is not possible now.
func (r *runner) resolve() (spec container.Spec, reason string, err error) {
	p := r.pod
	image, err := findImage(p.config.Images, r.image())
	if err != nil {
		return spec, reasonPullError, err
	}
	ctx, cancel := context.WithTimeout(p.living, requestTimeout)
	defer cancel()
	services, err := p.serviceVariables(ctx)
	if err != nil {
		return spec, reasonConfigError, err
	}
	root := filepath.Join(r.folder(), "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return spec, reasonConfigError, err
	}
	p.mu.Lock()
	ips := p.ips
	p.mu.Unlock()
	spec, err = launch{
		pod: p.current(), container: r.spec, image: image, node: p.config.Node, nodeIPs: p.config.NodeIPs, podIPs: ips,
		services: services, volumes: p.volumes(), source: p, root: root, message: r.messagePath(),
	}.spec(ctx)
	return spec, reasonConfigError, err
}

// image is the container's image as it is now: one that does not exist may be
// corrected in the Pod.
func (r *runner) image() string {
	object := r.pod.current()
	all := object.Spec.Containers
	if r.init {
		all = object.Spec.InitContainers
	}
	for _, c := range all {
		if c.Name == r.spec.Name {
			return c.Image
		}
	}
	return r.spec.Image
}
