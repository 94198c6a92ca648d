package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Kubeconfig is the path of an administrator's kubeconfig that works on the
// machine itself.
func (c *Cluster) Kubeconfig() string { return c.dir.join("kubeconfig") }

// RESTConfig returns that kubeconfig for client-go, without a limit on the rate
// of requests.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("lab %s: kubeconfig: %w", c.Name(), err)
	}
	config.QPS = -1
	return config, nil
}

func httpClient(config *rest.Config) (*http.Client, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("API client: %w", err)
	}
	return client, nil
}

// KubectlArgs is the command line that runs kubectl, before its own arguments.
func (c *Cluster) KubectlArgs() []string {
	return []string{c.state.Options.bin("kube"), "kubectl"}
}

// KubectlEnv is the environment in which kubectl finds the lab.
func (c *Cluster) KubectlEnv() []string {
	return append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
}

// Kubectl runs kubectl as administrator and returns what it writes to its
// output. The error holds what it writes to its error output. stdin may be nil.
func (c *Cluster) Kubectl(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	argv := append(c.KubectlArgs(), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = c.KubectlEnv()
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}
