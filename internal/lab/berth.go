package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// berthNamespace is where deploy/berth.yaml installs.
const berthNamespace = "berth-system"

// applyManifest installs Berth from the very bytes that users apply.
func (c *Cluster) applyManifest(ctx context.Context) error {
	file, err := os.Open(c.state.Options.Manifest)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	defer func() { _ = file.Close() }()
	_, err = c.Kubectl(ctx, file, "apply", "--server-side", "-f", "-")
	return err
}

// waitForBerth returns when everything that the manifest runs does.
func (c *Cluster) waitForBerth(ctx context.Context, client kubernetes.Interface) error {
	err := c.wait(ctx, "Berth", func(ctx context.Context) (string, error) {
		deployments, err := client.AppsV1().Deployments(berthNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		daemonSets, err := client.AppsV1().DaemonSets(berthNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		if len(deployments.Items) == 0 || len(daemonSets.Items) == 0 {
			return "namespace " + berthNamespace + " lacks a Deployment or a DaemonSet", nil
		}
		for i := range deployments.Items {
			if missing := deploymentMissing(&deployments.Items[i]); missing != "" {
				return missing, nil
			}
		}
		for i := range daemonSets.Items {
			if missing := daemonSetMissing(&daemonSets.Items[i]); missing != "" {
				return missing, nil
			}
		}
		return "", nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w%s", err, c.podTroubles(ctx, client))
	}
	return err
}

// podTroubles quotes the first Pods of Berth that are not ready and their logs.
func (c *Cluster) podTroubles(ctx context.Context, client kubernetes.Interface) string {
	pods, err := client.CoreV1().Pods(berthNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return ""
	}
	const most = 3 // of what is most often the same trouble
	var text strings.Builder
	told := 0
	for i := range pods.Items {
		pod := &pods.Items[i]
		if podReady(pod) {
			continue
		}
		if told++; told > most {
			text.WriteString("\n  and more")
			break
		}
		fmt.Fprintf(&text, "\n  Pod %s is %s", pod.Name, pod.Status.Phase)
		for _, status := range pod.Status.ContainerStatuses {
			if waiting := status.State.Waiting; waiting != nil {
				fmt.Fprintf(&text, ", %s waits: %s %s", status.Name, waiting.Reason, waiting.Message)
			}
		}
		log, err := c.Kubectl(ctx, nil, "logs", "--namespace="+berthNamespace, "--tail=10", pod.Name)
		if err == nil {
			text.WriteString(lastLines("its log", string(log), 10))
		}
	}
	return text.String()
}

func podReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func deploymentMissing(d *appsv1.Deployment) string {
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	if d.Status.ObservedGeneration < d.Generation || d.Status.AvailableReplicas < wanted || d.Status.UpdatedReplicas < wanted {
		return fmt.Sprintf("deployment %s has %d of %d replicas", d.Name, d.Status.AvailableReplicas, wanted)
	}
	return ""
}

func daemonSetMissing(d *appsv1.DaemonSet) string {
	status := d.Status
	if status.ObservedGeneration < d.Generation || status.NumberReady < status.DesiredNumberScheduled || status.DesiredNumberScheduled == 0 {
		return fmt.Sprintf("daemonset %s is ready on %d of %d nodes", d.Name, status.NumberReady, status.DesiredNumberScheduled)
	}
	return ""
}
