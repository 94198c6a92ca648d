package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/allocation"
	"github.com/berth-lb/berth/internal/cli"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/manifest"
)

// dryRun has the API server validate and complete objects without writing them: what
// the schemas say, in CEL as well, it alone evaluates.
type dryRun struct {
	clients *k8s.Clients
	live    *cli.Cluster
	// forbidden are the kinds that the user may not write, so that they are not
	// validated.
	forbidden []string
}

// writing is a client that writes objects T.
type writing[T allocation.Object] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Create(ctx context.Context, object T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, object T, opts metav1.UpdateOptions) (T, error)
}

// of returns an object as the API server would have it.
func (d *dryRun) of(ctx context.Context, from manifest.Object) (allocation.Object, error) {
	switch object := from.APIObject.(type) {
	case *corev1.Service:
		after, err := write(ctx, d, d.clients.Kube.CoreV1().Services(object.Namespace), object)
		if apierrors.IsForbidden(err) {
			return nil, fmt.Errorf("only the API server can complete a Service: %w", err)
		}
		return after, err
	case *v1beta1.IPAddressPool:
		return tryWrite(ctx, d, d.clients.IPAddressPools, object)
	case *v1beta1.IPReservation:
		return tryWrite(ctx, d, d.clients.IPReservations, object)
	case *v1beta1.L2Advertisement:
		return tryWrite(ctx, d, d.clients.L2Advertisements, object)
	case *v1beta1.BGPPeer:
		return tryWrite(ctx, d, d.clients.BGPPeers, object)
	case *v1beta1.BGPAdvertisement:
		return tryWrite(ctx, d, d.clients.BGPAdvertisements, object)
	case *v1beta1.Community:
		return tryWrite(ctx, d, d.clients.Communities, object)
	case *v1beta1.BFDProfile:
		return tryWrite(ctx, d, d.clients.BFDProfiles, object)
	}
	return nil, fmt.Errorf("a plan is not about %s", cli.KindOf(from.APIObject))
}

// tryWrite returns the object as it is where the user may not write it.
func tryWrite[T allocation.Object](ctx context.Context, d *dryRun, client writing[T], object T) (allocation.Object, error) {
	after, err := write(ctx, d, client, object)
	if !apierrors.IsForbidden(err) {
		return after, err
	}
	if kind := cli.KindOf(object); !slices.Contains(d.forbidden, kind) {
		d.forbidden = append(d.forbidden, kind)
	}
	return object, nil
}

// write creates an object, or replaces the one that there is, without doing so.
func write[T allocation.Object](ctx context.Context, d *dryRun, client writing[T], object T) (allocation.Object, error) {
	live := d.live.Live(object)
	if live == nil {
		return client.Create(ctx, object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	}
	next, ok := object.DeepCopyObject().(T)
	if !ok {
		return nil, fmt.Errorf("%T is not what was copied", object)
	}
	annotations := maps.Clone(live.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	maps.Copy(annotations, object.GetAnnotations())
	next.SetAnnotations(annotations)
	next.SetResourceVersion(live.GetResourceVersion())
	next.SetUID(live.GetUID())
	var after T
	// The controller may have written its status meanwhile.
	err := retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		after, err = client.Update(ctx, next, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
		if !apierrors.IsConflict(err) {
			return err
		}
		if fresh, failed := client.Get(ctx, next.GetName(), metav1.GetOptions{}); failed == nil {
			next.SetResourceVersion(fresh.GetResourceVersion())
		}
		return err
	})
	return after, err
}
