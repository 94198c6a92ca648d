package k8s

import (
	"bytes"
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// DeleteReservation returns what to give a Writer with ApplyReservation to
// delete an object instead of writing it.
func DeleteReservation() []byte { return []byte("delete") }

// ApplyReservation returns a PatchFunc that makes IPReservations what the patch
// says, by server-side apply under the name owner, or deletes them.
func ApplyReservation(clients *Clients, owner string) PatchFunc {
	return func(ctx context.Context, key Key, patch []byte) error {
		if bytes.Equal(patch, DeleteReservation()) {
			if err := clients.IPReservations.Delete(ctx, key.Name, metav1.DeleteOptions{}); err != nil {
				return fmt.Errorf("deleting %s: %w", key, err)
			}
			return nil
		}
		_, err := clients.IPReservations.Patch(ctx, key.Name, types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: owner, Force: ptr.To(true)})
		if err != nil {
			return fmt.Errorf("applying %s: %w", key, err)
		}
		return nil
	}
}

// Serves says whether the API server has the resource of that group and
// version, such as "networking.k8s.io/v1" and "servicecidrs".
func (c *Clients) Serves(groupVersion, resource string) (bool, error) {
	list, err := c.Kube.Discovery().ServerResourcesForGroupVersion(groupVersion)
	if err != nil {
		return false, fmt.Errorf("asking the API server for the resources of %s: %w", groupVersion, err)
	}
	for _, r := range list.APIResources {
		if r.Name == resource {
			return true, nil
		}
	}
	return false, nil
}
