package lab

import (
	"encoding/json"
	"fmt"

	"github.com/berth-lb/berth/internal/lab/agent"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// proxyHealthzPort is where kube-proxy answers /healthz on every node; its own
// default.
const proxyHealthzPort = 10256

// nodeFolder is where the agent of a node keeps its files.
func (c *Cluster) nodeFolder(node string) string { return c.dir.join("nodes", node) }

// podNamespacePrefix starts the names of the network namespaces of a node's Pods.
func (c *Cluster) podNamespacePrefix(node string) string {
	return c.net.Namespace(node) + "-pod-"
}

// nodeAgent is the node's kubelet.
func (c *Cluster) nodeAgent(node network.Host) (proc.Spec, error) {
	config, err := json.MarshalIndent(agent.Config{
		Node:        node.Name,
		Kubeconfig:  c.dir.join("kubeconfigs", node.Name),
		StateDir:    c.nodeFolder(node.Name),
		NodeIPs:     node.IPs(),
		PodCIDRs:    node.PodCIDRs,
		Images:      c.state.Images,
		NetnsPrefix: c.podNamespacePrefix(node.Name),
	}, "", "  ")
	if err != nil {
		return proc.Spec{}, fmt.Errorf("agent of %s: %w", node.Name, err)
	}
	path := c.dir.join("nodes", node.Name+".json")
	if err := writeFile(path, config); err != nil {
		return proc.Spec{}, fmt.Errorf("agent of %s: %w", node.Name, err)
	}
	return c.spec(nodeProcess("agent", node.Name), node.Name, c.state.Options.bin("lab"), "agent", "--config="+path), nil
}

// proxyProcess is the name of a node's kube-proxy in those of its processes.
const proxyProcess = "kube-proxy"

// kubeProxy leaves the machine's conntrack limits alone, which are not the
// node's own.
func (c *Cluster) kubeProxy(node network.Host) proc.Spec {
	anyAddress := "[::]"
	if c.plan.Family == network.IPv4 {
		anyAddress = "0.0.0.0"
	}
	return c.spec(nodeProcess(proxyProcess, node.Name), node.Name, c.state.Options.bin("kube"), proxyProcess,
		"--kubeconfig="+c.dir.join("kubeconfigs", node.Name),
		"--hostname-override="+node.Name,
		"--proxy-mode=nftables",
		"--cluster-cidr="+joinPrefixes(c.plan.PodCIDRs),
		fmt.Sprintf("--healthz-bind-address=%s:%d", anyAddress, proxyHealthzPort),
		"--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0",
		"--conntrack-tcp-timeout-close-wait=0",
	)
}

// nodeProcess is the name of a node's process.
func nodeProcess(name, node string) string { return name + "@" + node }
