package agent

import (
	"context"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/util/pod"

	"github.com/berth-lb/berth/internal/lab/agent/podstatus"
)

// current returns the Pod's object as last seen. It must not be changed.
func (p *pod) current() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object
}

// observeLocked keeps the newest version of the object: the answer to a request can
// overtake the watch. p.mu is held.
func (p *pod) observeLocked(object *corev1.Pod) {
	if version(object) >= version(p.object) {
		p.object = object
	}
}

// version orders the versions of an object; resource versions are numbers that
// grow, by the API's rules since Kubernetes 1.35.
func version(object *corev1.Pod) uint64 {
	number, err := strconv.ParseUint(object.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return number
}

// markDirty has the status written if it differs from the API's.
func (p *pod) markDirty() { mark(p.dirty) }

// markStale has the volumes written if their content has changed.
func (p *pod) markStale() { mark(p.refresh) }

func mark(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

// publish keeps the API's status as it should be. A status that somebody else
// overwrote, such as the node life cycle controller during an outage, is restored.
func (p *pod) publish(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.dirty:
			p.insist(ctx, p.writeStatus)
		}
	}
}

func (p *pod) writeStatus(ctx context.Context) error {
	p.publishMu.Lock()
	defer p.publishMu.Unlock()
	p.mu.Lock()
	present := p.object
	wanted := podstatus.Merge(p.computeLocked(), present.Status)
	gone := p.gone
	p.mu.Unlock()
	if gone || equality.Semantic.DeepEqual(present.Status, wanted) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	patched, _, _, err := podutil.PatchPodStatus(ctx, p.client, p.namespace, p.name, p.uid, present.Status, wanted)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // a conflict: it is another Pod's by now
		return nil
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observeLocked(patched)
	return nil
}

// computeLocked returns the Pod's status as this node sees it. p.mu is held.
func (p *pod) computeLocked() corev1.PodStatus {
	p.previous = podstatus.Compute(podstatus.Input{
		Pod:      p.object,
		Init:     statuses(p.init),
		Main:     statuses(p.main),
		NodeIPs:  p.config.NodeIPs,
		PodIPs:   p.ips,
		Started:  p.started,
		Failure:  p.failure,
		Previous: p.previous,
		Now:      metav1.NewTime(p.clock.Now().Truncate(time.Second)),
	})
	return p.previous
}

func statuses(runners []*runner) []corev1.ContainerStatus {
	var all []corev1.ContainerStatus
	for _, r := range runners {
		all = append(all, r.statusLocked())
	}
	return all
}

// event tells the user about the Pod.
func (p *pod) event(kind, reason, message string) {
	p.events.Event(p.current(), kind, reason, message)
}

// describe returns the Pod's record.
func (p *pod) describe() podRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	record := podRecord{
		Namespace: p.namespace, Name: p.name, UID: string(p.uid),
		Netns: p.netns, HostNetwork: p.netns == "", IPs: p.ips, Containers: []containerRecord{},
	}
	for _, r := range append(append([]*runner{}, p.init...), p.main...) {
		if r.process == nil {
			continue
		}
		pid := r.process.PID()
		ticks, err := startTicks(pid)
		if err != nil {
			continue // it has just ended
		}
		record.Containers = append(record.Containers, containerRecord{
			Name: r.spec.Name, Image: r.spec.Image, PID: pid,
			Rootfs: "/proc/" + strconv.Itoa(pid) + "/root", StartTicks: ticks,
		})
	}
	return record
}

// record writes what others are to know of the Pod. Its containers' runners call
// it side by side; the last to write is the last to have looked.
func (p *pod) record() error {
	p.recordMu.Lock()
	defer p.recordMu.Unlock()
	return p.records.write(p.describe())
}
