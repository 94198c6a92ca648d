package k8s

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// NodeStateOf returns what to give a Writer with ApplyNodeState so that the
// NodeState of a node has this status. It is owned by the Node, and is deleted
// with it.
func NodeStateOf(node *corev1.Node, status v1beta1.NodeStateStatus) (Key, []byte, error) {
	object := map[string]any{
		"apiVersion": v1beta1.GroupVersion().String(),
		"kind":       string(KindNodeState),
		"metadata": map[string]any{
			"name":            node.Name,
			"ownerReferences": []metav1.OwnerReference{{APIVersion: "v1", Kind: string(KindNode), Name: node.Name, UID: node.UID}},
		},
		"status": status,
	}
	key := Key{Kind: KindNodeState, Name: node.Name}
	patch, err := json.Marshal(object)
	if err != nil {
		return key, nil, fmt.Errorf("composing the status of %s: %w", key, err)
	}
	return key, patch, nil
}

// ApplyNodeState returns a PatchFunc that makes the status of NodeStates what the
// patch (from NodeStateOf) says, by server-side apply under the name owner. It
// creates those that do not exist; other writes cost one request.
func ApplyNodeState(clients *Clients, owner string) PatchFunc {
	opts := metav1.PatchOptions{FieldManager: owner, Force: ptr.To(true)}
	return func(ctx context.Context, key Key, patch []byte) error {
		_, err := clients.NodeStates.Patch(ctx, key.Name, types.ApplyPatchType, patch, opts, "status")
		if apierrors.IsNotFound(err) {
			// The object itself takes all of the patch but its status.
			if _, err := clients.NodeStates.Patch(ctx, key.Name, types.ApplyPatchType, patch, opts); err != nil {
				return fmt.Errorf("creating %s: %w", key, err)
			}
			_, err = clients.NodeStates.Patch(ctx, key.Name, types.ApplyPatchType, patch, opts, "status")
		}
		if err != nil {
			return fmt.Errorf("applying the status of %s: %w", key, err)
		}
		return nil
	}
}
