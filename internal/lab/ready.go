package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/network"
)

// startTimeout is how long any single thing may take to become ready; on a slow
// machine it is reached only when something is wrong.
const startTimeout = 2 * time.Minute

// wait calls check until it returns an empty string; any other says what is still
// missing. If that takes too long, the log of the process called name is quoted.
func (c *Cluster) wait(ctx context.Context, name string, check func(context.Context) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for lacking := "nothing is known yet"; ; {
		missing, err := check(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return fmt.Errorf("wait for %s: %w", name, err)
		case err == nil && missing == "":
			return nil
		case err == nil:
			lacking = missing
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %s: %w%s", name, lacking, ctx.Err(), tail(c.Log(name)))
		case <-ticker.C:
		}
	}
}

// waitForAPI returns when the API server says that it is ready.
func (c *Cluster) waitForAPI(ctx context.Context) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	client, err := httpClient(config)
	if err != nil {
		return err
	}
	return c.wait(ctx, APIServer, func(ctx context.Context) (string, error) {
		response, err := get(ctx, client, config.Host+"/readyz")
		if err != nil {
			return err.Error(), nil //nolint:nilerr // it is what is missing
		}
		return "", response.Body.Close()
	})
}

// get returns a response, whose body is open, only if its status is 200.
func get(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return response, nil
}

// waitForDefaults returns when Pods can be created in the default namespace.
func (c *Cluster) waitForDefaults(ctx context.Context, client kubernetes.Interface) error {
	return c.wait(ctx, "kube-controller-manager", func(ctx context.Context) (string, error) {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "ServiceAccount default/default does not exist yet", nil
		}
		return "", err
	})
}

// waitForNodeAddresses returns when the node is known to the API server.
func (c *Cluster) waitForNodeAddresses(ctx context.Context, client kubernetes.Interface, node string) error {
	return c.wait(ctx, nodeProcess("agent", node), func(ctx context.Context) (string, error) {
		object, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "Node " + node + " does not exist yet", nil
		}
		if err == nil && len(object.Status.Addresses) == 0 {
			return "Node " + node + " has no addresses yet", nil
		}
		return "", err
	})
}

// waitForNodeReady returns when the node takes Pods: Ready, and no taint left
// that keeps them away.
func (c *Cluster) waitForNodeReady(ctx context.Context, client kubernetes.Interface, node string) error {
	return c.wait(ctx, nodeProcess("agent", node), func(ctx context.Context) (string, error) {
		object, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if readiness(object) != "Ready" {
			return "Node " + node + " is " + readiness(object), nil
		}
		for _, taint := range object.Spec.Taints {
			if taint.Key == corev1.TaintNodeNotReady {
				return "Node " + node + " still has the taint " + taint.Key, nil
			}
		}
		return "", nil
	})
}

// waitForProxy returns when kube-proxy has programmed the node's rules for each
// family once. Its health endpoint says it is healthy even before that, but lists
// a family only afterwards.
func (c *Cluster) waitForProxy(ctx context.Context, node network.Host) error {
	target := netns.Target{Name: c.net.Namespace(node.Name)}
	client := &http.Client{Transport: &http.Transport{DialContext: target.DialContext, DisableKeepAlives: true}}
	url := "http://" + net.JoinHostPort(node.IPs()[0].String(), strconv.Itoa(proxyHealthzPort)) + "/healthz"
	return c.wait(ctx, nodeProcess(proxyProcess, node.Name), func(ctx context.Context) (string, error) {
		response, err := get(ctx, client, url)
		if err != nil {
			return err.Error(), nil //nolint:nilerr // it is what is missing
		}
		defer func() { _ = response.Body.Close() }()
		var health struct {
			Status map[string]json.RawMessage `json:"status"`
		}
		if err := json.NewDecoder(response.Body).Decode(&health); err != nil {
			return "", fmt.Errorf("%s: %w", url, err)
		}
		if len(health.Status) < len(node.Addresses) {
			return fmt.Sprintf("rules of %d of %d families are programmed", len(health.Status), len(node.Addresses)), nil
		}
		return "", nil
	})
}

// readiness is the status of a Node as kubectl words it.
func readiness(node *corev1.Node) string {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return "Ready"
		}
	}
	return "NotReady"
}
