package lab

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// statusTimeout is how long Status waits for the API server, which may be frozen.
const statusTimeout = 3 * time.Second

// Status is what a lab consists of and how it is at the moment.
type Status struct {
	Name string `json:"name"`
	// Ready is false while the lab is being started.
	Ready bool `json:"ready"`
	// API is empty if the API server answers, or says why it does not.
	API string `json:"api,omitempty"`
	// Server and Kubeconfig lead to the API server from the machine itself,
	// ServerInLab does from the lab's hosts.
	Server      string `json:"server"`
	ServerInLab string `json:"serverInLab"`
	Kubeconfig  string `json:"kubeconfig"`

	IPFamily     network.Family `json:"ipFamily"`
	Ethernet     []netip.Prefix `json:"ethernet"`
	WAN          []netip.Prefix `json:"wan"`
	FreeRanges   []netip.Prefix `json:"freeRanges"`
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`

	// Partition says how the Ethernet is divided, as `lab partition` takes it; it is
	// empty if it is not.
	Partition string          `json:"partition,omitempty"`
	Hosts     []HostStatus    `json:"hosts"`
	Processes []ProcessStatus `json:"processes"`
}

// HostStatus is that of one host.
type HostStatus struct {
	network.Host
	// Namespace is the host's network namespace, for `ip netns exec`.
	Namespace string `json:"namespace"`
	// Cable is the state of the host's link to its network.
	Cable network.LinkState `json:"cable"`
	// Kubernetes is Ready or NotReady for a node, Unknown if the API server does
	// not answer, and empty for other hosts.
	Kubernetes string `json:"kubernetes,omitempty"`
}

// ProcessStatus is that of a background process.
type ProcessStatus struct {
	proc.Record
	State string `json:"state"`
	Log   string `json:"log"`
}

// States of a process.
const (
	Running = "running"
	Frozen  = "frozen"
	Gone    = "gone"
)

// Status finds out how the lab is. An API server that does not answer is part of
// the status, not an error.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	status := c.baseStatus()
	nodes, err := c.nodeReadiness(ctx)
	if err != nil {
		status.API = err.Error()
	}
	for _, host := range c.plan.Hosts {
		cable, err := c.net.State(host)
		if err != nil {
			return Status{}, fmt.Errorf("lab %s: %w", c.Name(), err)
		}
		status.Hosts = append(status.Hosts, HostStatus{
			Host:       host,
			Namespace:  c.net.Namespace(host.Name),
			Cable:      cable,
			Kubernetes: inKubernetes(host, nodes, status.API != ""),
		})
	}
	if status.Partition, err = c.net.Partitioned(); err != nil {
		return Status{}, fmt.Errorf("lab %s: %w", c.Name(), err)
	}
	records, err := proc.LoadAll(c.dir.processes().Records)
	if err != nil {
		return Status{}, fmt.Errorf("lab %s: %w", c.Name(), err)
	}
	for _, record := range records {
		status.Processes = append(status.Processes, ProcessStatus{Record: record, State: processState(record), Log: c.Log(record.Name)})
	}
	return status, nil
}

// baseStatus is what does not change while the lab runs.
func (c *Cluster) baseStatus() Status {
	return Status{
		Name:         c.Name(),
		Ready:        c.state.Ready,
		Server:       fmt.Sprintf("https://127.0.0.1:%d", c.state.APIPort),
		ServerInLab:  c.apiURL(),
		Kubeconfig:   c.Kubeconfig(),
		IPFamily:     c.plan.Family,
		Ethernet:     c.plan.Ethernet,
		WAN:          c.plan.WAN,
		FreeRanges:   c.plan.FreeRanges,
		PodCIDRs:     c.plan.PodCIDRs,
		ServiceCIDRs: c.plan.ServiceCIDRs,
	}
}

// nodeReadiness returns the status of each Node by name.
func (c *Cluster) nodeReadiness(ctx context.Context) (map[string]string, error) {
	config, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("API client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("API server does not answer: %w", err)
	}
	nodes := map[string]string{}
	for i := range list.Items {
		nodes[list.Items[i].Name] = readiness(&list.Items[i])
	}
	return nodes, nil
}

func inKubernetes(host network.Host, nodes map[string]string, unknown bool) string {
	switch {
	case !host.IsNode():
		return ""
	case unknown:
		return "Unknown"
	case nodes[host.Name] == "":
		return "NotRegistered"
	default:
		return nodes[host.Name]
	}
}

func processState(record proc.Record) string {
	switch {
	case !record.Alive():
		return Gone
	case record.Stopped():
		return Frozen
	default:
		return Running
	}
}

// WriteText writes the status for people.
func (s Status) WriteText(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cells ...string) { _, _ = fmt.Fprintln(table, strings.TrimRight(strings.Join(cells, "\t"), "\t")) }
	state := "ready"
	switch {
	case !s.Ready:
		state = "starting"
	case s.API != "":
		state = s.API
	}
	line("lab", s.Name+", "+state)
	line("API server", s.Server)
	line("kubeconfig", s.Kubeconfig)
	line("Ethernet", joinPrefixes(s.Ethernet))
	if s.Partition != "" {
		line("partition", s.Partition)
	}
	line("free for pools", joinPrefixes(s.FreeRanges))
	line("behind the router", joinPrefixes(s.WAN))
	line("Pods", joinPrefixes(s.PodCIDRs))
	line("Services", joinPrefixes(s.ServiceCIDRs))
	line()
	line("HOST", "ADDRESSES", "MAC", "CABLE", "KUBERNETES")
	for _, host := range s.Hosts {
		line(host.Name, joinAddresses(host.IPs()), host.MAC, string(host.Cable), host.Kubernetes)
	}
	line()
	line("PROCESS", "STATE", "PID", "LOG")
	for _, process := range s.Processes {
		line(process.Name, process.State, fmt.Sprint(process.PID), process.Log)
	}
	return table.Flush()
}

func joinAddresses(addresses []netip.Addr) string {
	texts := make([]string, len(addresses))
	for i, address := range addresses {
		texts[i] = address.String()
	}
	return strings.Join(texts, ",")
}
