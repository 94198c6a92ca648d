package agent

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/lab/agent/probe"
	"github.com/berth-lb/berth/internal/lab/container"
)

// afterHook is what a container gets between SIGTERM and SIGKILL if its preStop
// hook has used up the grace period, as with a kubelet.
const afterHook = 2 * time.Second

// supervise probes a running container and returns when it has ended: by itself,
// with its Pod, or because it is to be started anew.
func (r *runner) supervise(process *container.Process) {
	// The readiness probe goes on while the container ends: EndpointSlices tell
	// endpoints that still serve from those that do not.
	running, stopAll := context.WithCancel(r.pod.surviving)
	healthy, stopHealth := context.WithCancel(running)
	var group sync.WaitGroup
	defer group.Wait()
	defer stopAll()
	defer stopHealth()
	unhealthy := make(chan string, 3) // one for each that can send
	if hook := r.spec.Lifecycle; hook != nil && hook.PostStart != nil {
		group.Go(func() { r.afterStart(healthy, process, hook.PostStart, unhealthy) })
	}
	group.Go(func() { r.probe(running, healthy, process, unhealthy) })
	select {
	case <-process.Done():
		return
	case <-r.pod.living.Done():
		stopHealth()
		r.stop(r.pod.surviving, process)
	case reason := <-unhealthy:
		stopHealth()
		r.pod.event(corev1.EventTypeNormal, "Killing", fmt.Sprintf("Container %s %s, will be restarted", r.spec.Name, reason))
		surviving, cancel := context.WithTimeout(r.pod.surviving, r.restartGrace())
		defer cancel()
		r.stop(surviving, process)
	}
	<-process.Done()
}

// stop ends the container, gently until surviving ends.
func (r *runner) stop(surviving context.Context, process *container.Process) {
	if surviving.Err() != nil {
		process.Kill()
		return
	}
	limit := surviving.Done()
	if hook := r.spec.Lifecycle; hook != nil && hook.PreStop != nil {
		r.beforeStop(surviving, process, hook.PreStop)
		if surviving.Err() != nil {
			extra, cancel := context.WithTimeout(context.WithoutCancel(surviving), afterHook)
			defer cancel()
			limit = extra.Done()
		}
	}
	if err := process.Signal(r.stopSignal()); err != nil {
		process.Kill()
	}
	select {
	case <-process.Done():
	case <-limit:
		process.Kill()
	}
}

// beforeStop runs the preStop hook until it is over, the container has ended or the
// grace period is used up.
func (r *runner) beforeStop(surviving context.Context, process *container.Process, hook *corev1.LifecycleHandler) {
	ctx, cancel := context.WithCancel(surviving)
	defer cancel()
	go func() {
		select {
		case <-process.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := probe.RunHook(ctx, hook, r.target(process)); err != nil && ctx.Err() == nil {
		r.pod.event(corev1.EventTypeWarning, "FailedPreStopHook", err.Error())
	}
}

func (r *runner) stopSignal() syscall.Signal {
	if hook := r.spec.Lifecycle; hook != nil && hook.StopSignal != nil {
		if signal := unix.SignalNum(string(*hook.StopSignal)); signal != 0 {
			return signal
		}
	}
	return syscall.SIGTERM
}

// restartGrace is how long a container that fails its liveness or startup probe has
// to end.
func (r *runner) restartGrace() time.Duration {
	for _, p := range []*corev1.Probe{r.spec.LivenessProbe, r.spec.StartupProbe} {
		if p != nil && p.TerminationGracePeriodSeconds != nil {
			return time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
		}
	}
	if seconds := r.pod.current().Spec.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(*seconds) * time.Second
	}
	return minimumGrace
}

func (r *runner) afterStart(ctx context.Context, process *container.Process, hook *corev1.LifecycleHandler, unhealthy chan<- string) {
	err := probe.RunHook(ctx, hook, r.target(process))
	if err == nil || ctx.Err() != nil {
		return
	}
	r.pod.event(corev1.EventTypeWarning, "FailedPostStartHook", err.Error())
	unhealthy <- "failed its postStart hook"
}

// probe runs the container's probes: the startup probe before the others.
func (r *runner) probe(running, healthy context.Context, process *container.Process, unhealthy chan<- string) {
	run := func(ctx context.Context, kind probe.Kind, spec *corev1.Probe, changed func(bool)) {
		(&probe.Prober{
			Kind: kind, Probe: spec, Clock: r.pod.clock,
			Check: probe.Checker(spec.ProbeHandler, r.target(process)),
			Failed: func(message string) {
				r.pod.event(corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", kind, message))
			},
			Changed: func(ok bool, _ string) { changed(ok) },
		}).Run(ctx)
	}
	fail := func(kind probe.Kind) {
		select {
		case unhealthy <- "failed " + strings.ToLower(string(kind)) + " probe":
		case <-running.Done():
		}
	}
	if spec := r.spec.StartupProbe; spec != nil {
		var started bool
		run(healthy, probe.Startup, spec, func(ok bool) { started = ok })
		if !started {
			if healthy.Err() == nil {
				fail(probe.Startup)
			}
			return
		}
		r.set(process, func() { r.started = true })
	}
	var group sync.WaitGroup
	defer group.Wait()
	if spec := r.spec.LivenessProbe; spec != nil {
		group.Go(func() {
			run(healthy, probe.Liveness, spec, func(ok bool) {
				if !ok {
					fail(probe.Liveness)
				}
			})
		})
	}
	if spec := r.spec.ReadinessProbe; spec != nil {
		run(running, probe.Readiness, spec, func(ok bool) { r.set(process, func() { r.ready = ok }) })
	}
}

// set changes the state if the process is still the one that runs.
func (r *runner) set(process *container.Process, fn func()) {
	r.change(func() {
		if r.process == process {
			fn()
		}
	})
}

// target is what probes and hooks are aimed at.
func (r *runner) target(process *container.Process) probe.Target {
	r.pod.mu.Lock()
	defer r.pod.mu.Unlock()
	target := probe.Target{Container: r.spec, Exec: execIn(process)}
	if len(r.pod.ips) > 0 {
		target.PodIP = r.pod.ips[0].String()
	}
	return target
}

// maxExecOutput is how much of what a probe's command says is kept, in bytes.
const maxExecOutput = 10 << 10

func execIn(process *container.Process) probe.Exec {
	return func(ctx context.Context, command []string) (string, int, error) {
		var output capped
		exit, err := process.Exec(ctx, container.ExecOptions{Args: command, Stdout: &output, Stderr: &output})
		return output.text.String(), exit.Code, err
	}
}

// capped keeps the beginning of what is written to it.
type capped struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *capped) Write(data []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.Write(data[:min(len(data), maxExecOutput-c.text.Len())])
	return len(data), nil
}
