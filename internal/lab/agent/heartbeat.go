package agent

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The lease by which the node life cycle controller knows that the node lives, with
// the durations of a kubelet.
const (
	leaseDuration = 40 * time.Second
	renewInterval = 10 * time.Second
	// An attempt is given up early and repeated at once. So one is under way when an
	// outage ends, and the lease is renewed before the controller, which sees that it
	// has expired, declares the node dead.
	renewTimeout = 2 * time.Second
	renewRetry   = 200 * time.Millisecond
)

// keepLease renews the node's lease until ctx ends.
func (a *agent) keepLease(ctx context.Context) error {
	var lease *coordinationv1.Lease
	for ctx.Err() == nil {
		renewed, err := a.renewLease(ctx, lease)
		if err != nil {
			lease = nil // read it anew
			if !apierrors.IsNotFound(err) {
				a.reach.failed(err) // not found: the node is not registered yet
			}
			a.sleep(ctx, renewRetry)
			continue
		}
		lease = renewed
		a.reach.succeeded()
		a.sleep(ctx, renewInterval)
	}
	return nil
}

// renewLease updates the lease as last seen, or else as it is now, or creates it.
func (a *agent) renewLease(ctx context.Context, last *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	leases := a.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if last == nil {
		found, err := leases.Get(ctx, a.config.Node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return a.createLease(ctx)
		}
		if err != nil {
			return nil, err
		}
		last = found
	}
	next := last.DeepCopy()
	a.fillLease(next)
	return leases.Update(ctx, next, metav1.UpdateOptions{})
}

func (a *agent) createLease(ctx context.Context) (*coordinationv1.Lease, error) {
	// The node as its owner makes the lease disappear together with it.
	owner, err := a.client.CoreV1().Nodes().Get(ctx, a.config.Node, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Name:            a.config.Node,
		Namespace:       corev1.NamespaceNodeLease,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: owner.Name, UID: owner.UID}},
	}}
	a.fillLease(lease)
	return a.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{})
}

func (a *agent) fillLease(lease *coordinationv1.Lease) {
	seconds := int32(leaseDuration / time.Second)
	lease.Spec.HolderIdentity = &a.config.Node
	lease.Spec.LeaseDurationSeconds = &seconds
	lease.Spec.RenewTime = &metav1.MicroTime{Time: a.clock.Now()}
}
