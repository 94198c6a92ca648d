package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log/level"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/internal/lab/agent/podstatus"
	"github.com/berth-lb/berth/internal/lab/agent/volume"
)

// Pauses between attempts to prepare a Pod, and the shortest time that a container
// gets to end.
const (
	setupRetry   = time.Second
	minimumGrace = time.Second
)

// pod is one Pod of this node, from when it is first seen until its object is gone.
type pod struct {
	*agent
	uid             types.UID
	namespace, name string
	created         time.Time
	netns           string // "" if it uses the node's network

	// living ends when the Pod is to end, surviving when its grace period is over.
	living, surviving context.Context
	endLife, kill     context.CancelFunc

	vanished  chan struct{} // closed when the object is gone
	dirty     chan struct{} // has an element if the status may have to be written
	refresh   chan struct{} // has an element if a volume may have to be written
	publishMu sync.Mutex    // held while the status is written
	recordMu  sync.Mutex    // held while the record is made and written

	mu       sync.Mutex
	object   *corev1.Pod // as last seen in the API
	gone     bool
	init     []*runner
	main     []*runner
	ips      []netip.Addr
	failure  *podstatus.Failure
	started  metav1.Time
	previous corev1.PodStatus
	deadline time.Time // when surviving will end; zero while living
	killer   *time.Timer
}

func newPod(ctx context.Context, a *agent, object *corev1.Pod) *pod {
	p := &pod{
		agent:     a,
		uid:       object.UID,
		namespace: object.Namespace,
		name:      object.Name,
		created:   object.CreationTimestamp.Time,
		object:    object,
		started:   metav1.NewTime(a.clock.Now().Truncate(time.Second)),
		vanished:  make(chan struct{}),
		dirty:     make(chan struct{}, 1),
		refresh:   make(chan struct{}, 1),
	}
	if object.Status.StartTime != nil {
		p.started = *object.Status.StartTime
	}
	if !object.Spec.HostNetwork {
		p.netns = fmt.Sprintf("%s%.40s-%.8s", a.config.NetnsPrefix, object.Name, object.UID)
	}
	p.surviving, p.kill = context.WithCancel(ctx)
	p.living, p.endLife = context.WithCancel(p.surviving)
	for i := range object.Spec.InitContainers {
		p.init = append(p.init, newRunner(p, &object.Spec.InitContainers[i], true))
	}
	for i := range object.Spec.Containers {
		p.main = append(p.main, newRunner(p, &object.Spec.Containers[i], false))
	}
	if object.DeletionTimestamp != nil {
		p.endLocked(0)
	}
	return p
}

// run is the whole life of the Pod on this node.
func (p *pod) run(ctx context.Context) {
	defer p.kill()
	over := podstatus.Terminal(p.current().Status.Phase) // it ended before this agent began
	publishing, stopPublishing := context.WithCancel(ctx)
	var publisher sync.WaitGroup
	if !over {
		publisher.Go(func() { p.publish(publishing) })
		if p.living.Err() == nil {
			p.live(ctx)
		}
		p.tearDown()
	}
	stopPublishing()
	publisher.Wait()
	if ctx.Err() != nil {
		return
	}
	p.conclude(ctx, over)
}

// live starts the containers and returns when all have ended for good.
func (p *pod) live(ctx context.Context) {
	if refusal := refuse(p.current()); refusal != nil {
		p.event(corev1.EventTypeWarning, refusal.Reason, refusal.Message)
		p.fail(*refusal)
		return
	}
	if limit := p.current().Spec.ActiveDeadlineSeconds; limit != nil {
		left := time.Until(p.started.Add(time.Duration(*limit) * time.Second))
		timer := time.AfterFunc(left, p.exceedDeadline)
		defer timer.Stop()
	}
	p.markDirty()
	if !p.retry("FailedCreatePodSandBox", p.connect) {
		return
	}
	defer p.acquireObjects(ctx)()
	var renew time.Time
	ready := p.retry("FailedMount", func() (err error) {
		renew, err = p.volumes().Refresh(p.living, p.current())
		return err
	})
	if !ready {
		return
	}
	var group sync.WaitGroup
	defer group.Wait()
	refreshing, stop := context.WithCancel(p.surviving)
	defer stop()
	group.Go(func() { p.keepVolumes(refreshing, renew) })
	p.runContainers()
}

func (p *pod) runContainers() {
	if !slices.ContainsFunc(p.main, func(r *runner) bool { return !r.finished() }) {
		return // they had all ended for good when an earlier agent ran
	}
	for _, r := range p.init {
		r.renew()
		if r.run(); !r.succeeded() {
			return
		}
	}
	var group sync.WaitGroup
	for _, r := range p.main {
		group.Go(r.run)
	}
	group.Wait()
}

// retry calls attempt until it succeeds or the Pod is to end, at once when an
// object that the Pod refers to has changed. It reports success.
func (p *pod) retry(reason string, attempt func() error) bool {
	var last string
	for p.living.Err() == nil {
		err := attempt()
		if err == nil {
			return true
		}
		if text := err.Error(); text != last && p.living.Err() == nil {
			p.event(corev1.EventTypeWarning, reason, text)
			last = text
		}
		select {
		case <-p.living.Done():
		case <-p.refresh:
		case <-time.After(setupRetry):
		}
	}
	return false
}

func (p *pod) connect() error {
	ips := p.config.NodeIPs
	if p.netns != "" {
		var err error
		if ips, err = p.network.Add(p.netns); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.ips = ips
	p.mu.Unlock()
	p.markDirty()
	return p.record()
}

// folder holds what the Pod leaves on disk, except logs.
func (p *pod) folder() string { return filepath.Join(p.podFolder(), string(p.uid)) }

func (p *pod) volumes() volume.Set {
	return volume.Set{Folder: filepath.Join(p.folder(), "volumes"), Source: p, Allocatable: capacity()}
}

// Token, ConfigMap and Secret make the Pod a volume.Source.
func (p *pod) Token(ctx context.Context, object *corev1.Pod, projection *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	return p.tokens.Token(ctx, object, projection)
}

// ConfigMap implements volume.Source.
func (p *pod) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return p.objects.ConfigMap(ctx, namespace, name)
}

// Secret implements volume.Source.
func (p *pod) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return p.objects.Secret(ctx, namespace, name)
}

// acquireObjects watches the ConfigMaps and Secrets that the Pod refers to.
func (p *pod) acquireObjects(ctx context.Context) (release func()) {
	object := p.current()
	var releases []func()
	volumeMaps, volumeSecrets := volume.References(object)
	envMaps, envSecrets := references(object)
	for _, name := range append(volumeMaps, envMaps...) {
		releases = append(releases, p.objects.acquire(ctx, objectKey{configMaps, p.namespace, name}, p.markStale))
	}
	for _, name := range append(volumeSecrets, envSecrets...) {
		releases = append(releases, p.objects.acquire(ctx, objectKey{secrets, p.namespace, name}, p.markStale))
	}
	return func() {
		for _, release := range releases {
			release()
		}
	}
}

// keepVolumes brings the volumes up to date when objects or the Pod change, and
// tokens before they expire.
func (p *pod) keepVolumes(ctx context.Context, renew time.Time) {
	var last string
	for {
		var due <-chan time.Time
		if !renew.IsZero() {
			due = time.After(time.Until(renew))
		}
		select {
		case <-ctx.Done():
			return
		case <-p.refresh:
		case <-due:
		}
		next, err := p.volumes().Refresh(ctx, p.current())
		renew = next
		if err == nil || ctx.Err() != nil {
			last = ""
			continue
		}
		if err.Error() != last {
			p.event(corev1.EventTypeWarning, "FailedMount", "the old content stays: "+err.Error())
			last = err.Error()
		}
		renew = p.clock.Now().Add(setupRetry)
	}
}

// tearDown frees what the containers used. All have ended.
func (p *pod) tearDown() {
	var errs []error
	if p.netns != "" {
		errs = append(errs, p.network.Remove(p.netns))
	}
	errs = append(errs, os.RemoveAll(p.folder()), p.records.remove(p.describe()))
	p.tokens.forget(p.uid)
	if err := errors.Join(errs...); err != nil {
		level.Warn(p.logger).Log("msg", "remains of a pod", "pod", p.namespace+"/"+p.name, "err", err)
	}
}

// refuse says why a Pod cannot run here, or nil.
func refuse(object *corev1.Pod) *podstatus.Failure {
	for _, c := range object.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			return &podstatus.Failure{Reason: "SidecarNotSupported", Message: fmt.Sprintf(
				"init container %q has restartPolicy Always, which this node agent does not support; make it a container", c.Name)}
		}
	}
	for _, c := range object.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort != 0 && !object.Spec.HostNetwork {
				return &podstatus.Failure{Reason: "HostPortNotSupported", Message: fmt.Sprintf(
					"container %q asks for hostPort %d, which this node agent does not support; use hostNetwork or a Service", c.Name, port.HostPort)}
			}
		}
	}
	return nil
}
