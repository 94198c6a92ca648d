package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// podRecord is what a node's agent says of a Pod that runs there.
type podRecord struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	Netns       string            `json:"netns"`
	HostNetwork bool              `json:"hostNetwork"`
	Containers  []containerRecord `json:"containers"`

	node string
}

type containerRecord struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	PID   int    `json:"pid"`
}

// podsOn returns the Pods that run on a node.
func (c *Cluster) podsOn(node string) ([]podRecord, error) {
	files, err := filepath.Glob(filepath.Join(c.nodeFolder(node), "pods", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("pods of %s: %w", node, err)
	}
	var pods []podRecord
	for _, file := range files {
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("pods of %s: %w", node, err)
		}
		pod := podRecord{node: node}
		if err := json.Unmarshal(content, &pod); err != nil {
			return nil, fmt.Errorf("pods of %s: %s: %w", node, file, err)
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

// findPod returns the one Pod that is called name, or namespace/name.
func (c *Cluster) findPod(name string) (podRecord, error) {
	namespace, base, qualified := strings.Cut(name, "/")
	if !qualified {
		namespace, base = "", name
	}
	var found []podRecord
	for _, node := range c.plan.Nodes() {
		pods, err := c.podsOn(node.Name)
		if err != nil {
			return podRecord{}, err
		}
		for _, pod := range pods {
			if pod.Name == base && (namespace == "" || pod.Namespace == namespace) {
				found = append(found, pod)
			}
		}
	}
	switch len(found) {
	case 0:
		_, err := c.plan.Host(name)
		return podRecord{}, fmt.Errorf("%w, and no Pod of that name runs", err)
	case 1:
		return found[0], nil
	default:
		return podRecord{}, fmt.Errorf("pod %q exists in several namespaces; write NAMESPACE/%s", name, base)
	}
}

// namespaceOf is the network namespace that the Pod lives in.
func (c *Cluster) namespaceOf(pod podRecord) string {
	if pod.HostNetwork {
		return c.net.Namespace(pod.node)
	}
	return pod.Netns
}

// processOf returns a container's first process, provided that it still runs:
// its recorded id counts only if that process lives in the Pod's network.
func (c *Cluster) processOf(pod podRecord, container containerRecord) (proc.Record, error) {
	pids, err := netns.Processes(c.namespaceOf(pod))
	if err != nil {
		return proc.Record{}, err
	}
	name := fmt.Sprintf("container %s of Pod %s/%s", container.Name, pod.Namespace, pod.Name)
	if !slices.Contains(pids, container.PID) {
		return proc.Record{}, fmt.Errorf("%s: %w", name, proc.ErrNotRunning)
	}
	record, err := proc.Identify(container.PID)
	if err != nil {
		return proc.Record{}, fmt.Errorf("%s: %w", name, err)
	}
	record.Name, record.Host = name, pod.node
	return record, nil
}

// place says where commands for host run: a host of the plan, or a Pod by name or
// namespace/name, whose first container that runs is entered.
func (c *Cluster) place(host string) (netns.Target, error) {
	if _, err := c.plan.Host(host); err == nil {
		return netns.Target{Name: c.net.Namespace(host), Hostname: host, Sysfs: true}, nil
	}
	pod, err := c.findPod(host)
	if err != nil {
		return netns.Target{}, err
	}
	for _, container := range pod.Containers {
		if process, err := c.processOf(pod, container); err == nil {
			return netns.Target{PID: process.PID}, nil
		}
	}
	return netns.Target{}, fmt.Errorf("pod %s: none of its containers runs", host)
}

// networkOf is the place for connections from host, which may also be a Pod.
func (c *Cluster) networkOf(host string) (netns.Target, error) {
	if _, err := c.plan.Host(host); err == nil {
		return netns.Target{Name: c.net.Namespace(host)}, nil
	}
	pod, err := c.findPod(host)
	if err != nil {
		return netns.Target{}, err
	}
	return netns.Target{Name: c.namespaceOf(pod)}, nil
}

// Kill sends a signal to every container on node whose image is called image,
// whatever the registry and tag of both. It can be told proxyProcess as well, which is
// no container here, and which only Boot starts again.
func (c *Cluster) Kill(node, image string, signal syscall.Signal) error {
	host, err := c.node(node)
	if err != nil {
		return err
	}
	if image == proxyProcess {
		return c.signal(nodeProcess(proxyProcess, host.Name), signal)
	}
	pods, err := c.podsOn(host.Name)
	if err != nil {
		return err
	}
	var errs []error
	killed, others := 0, map[string]bool{}
	for _, pod := range pods {
		for _, container := range pod.Containers {
			base := imageBaseName(container.Image)
			if base != imageBaseName(image) {
				others[base] = true
				continue
			}
			process, err := c.processOf(pod, container)
			if err == nil {
				err = process.Signal(signal)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			killed++
		}
	}
	switch {
	case killed > 0: // what ended by itself meanwhile need not be killed
		return nil
	case len(errs) == 0:
		return fmt.Errorf("kill: no container with image %q runs on %s; it has %s", image, node, listOr(others, "none"))
	}
	return errors.Join(errs...)
}

// node returns the node called name.
func (c *Cluster) node(name string) (network.Host, error) {
	host, err := c.plan.Host(name)
	if err != nil {
		return network.Host{}, err
	}
	if !host.IsNode() {
		nodes := map[string]bool{}
		for _, node := range c.plan.Nodes() {
			nodes[node.Name] = true
		}
		return network.Host{}, fmt.Errorf("host %q is not a node; the lab has %s", name, listOr(nodes, "none"))
	}
	return host, nil
}
