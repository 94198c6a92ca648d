package agent

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/node"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubeletVersion is what the node says it runs: the version of Kubernetes that the
// agent behaves like.
const kubeletVersion = "v1.36.3"

// kubeletPort is where every node serves the kubelet's API.
const kubeletPort = 10250

// statusInterval is how often the node's status is written.
const statusInterval = 10 * time.Second

// capacity is generous, as no limit is enforced and the lab's nodes share one
// machine anyway: the scheduler is to place Pods by their number.
func capacity() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("32"),
		corev1.ResourceMemory:           resource.MustParse("64Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("64Gi"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
}

// newNode describes the node as it registers itself.
func newNode(config Config, now metav1.Time) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: config.Node, Labels: map[string]string{
			corev1.LabelHostname:   config.Node,
			corev1.LabelOSStable:   runtime.GOOS,
			corev1.LabelArchStable: runtime.GOARCH,
		}},
		Status: corev1.NodeStatus{
			Capacity:        capacity(),
			Allocatable:     capacity(),
			Conditions:      nodeConditions(now),
			NodeInfo:        nodeInfo(config.Node),
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: kubeletPort}},
		},
	}
	for i, prefix := range config.PodCIDRs {
		if i == 0 {
			n.Spec.PodCIDR = prefix.String()
		}
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, prefix.String())
	}
	for _, ip := range config.NodeIPs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: config.Node})
	return n
}

func nodeConditions(now metav1.Time) []corev1.NodeCondition {
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{
			Type: kind, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now,
		}
	}
	return []corev1.NodeCondition{
		condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "memory is not limited"),
		condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "disk space is not limited"),
		condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "the number of processes is not limited"),
		condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "the node agent is running"),
	}
}

func nodeInfo(name string) corev1.NodeSystemInfo {
	id := sha256.Sum256([]byte(name))
	info := corev1.NodeSystemInfo{
		MachineID:               hex.EncodeToString(id[:16]),
		SystemUUID:              fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16]),
		OSImage:                 osImage(),
		ContainerRuntimeVersion: "processes://1.0.0",
		KubeletVersion:          kubeletVersion,
		OperatingSystem:         runtime.GOOS,
		Architecture:            runtime.GOARCH,
	}
	if boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		info.BootID = strings.TrimSpace(string(boot))
	}
	var name64 unix.Utsname
	if err := unix.Uname(&name64); err == nil {
		info.KernelVersion = unix.ByteSliceToString(name64.Release[:])
	}
	return info
}

// osImage is the name of the host's distribution, os-release(5).
func osImage() string {
	file, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); found {
			return strings.Trim(value, `"`)
		}
	}
	return "Linux"
}

// registrationRetry is how soon a registration that failed is tried again.
const registrationRetry = 300 * time.Millisecond

// keepNode registers the node and keeps its status up to date until ctx ends.
func (a *agent) keepNode(ctx context.Context) error {
	nodes := a.client.CoreV1().Nodes()
	recreate := func(ctx context.Context, err error) error {
		if !apierrors.IsNotFound(err) {
			return err
		}
		_, err = nodes.Create(ctx, newNode(a.config, metav1.Now()), metav1.CreateOptions{})
		return err
	}
	for ctx.Err() == nil {
		provider := node.NewNaiveNodeProvider()
		controller, err := node.NewNodeController(provider, newNode(a.config, metav1.Now()), nodes,
			node.WithNodePingInterval(statusInterval), node.WithNodeStatusUpdateErrorHandler(recreate))
		if err != nil {
			return fmt.Errorf("node controller: %w", err)
		}
		attempt, cancel := context.WithCancel(ctx)
		go a.defendNode(attempt, provider)
		err = controller.Run(attempt)
		cancel()
		if err != nil && ctx.Err() == nil {
			a.reach.failed(err)
			a.sleep(ctx, registrationRetry)
		}
	}
	return nil
}

// defendNode writes the node's status as soon as somebody else has declared it not
// ready, as the node life cycle controller does after an outage. It would otherwise
// take until the next periodic write.
func (a *agent) defendNode(ctx context.Context, provider *node.NaiveNodeProviderV2) {
	check := func(object any) {
		if seen, ok := object.(*corev1.Node); ok && !isReady(seen) {
			// Blocks while the controller waits for the API; so does nothing else here.
			_ = provider.UpdateStatus(ctx, newNode(a.config, metav1.Now()))
		}
	}
	newReflector(a.client, one("nodes", "", a.config.Node, &corev1.Node{}), sink{
		set:   check,
		unset: func(any) {},
		replace: func(all []any) {
			for _, object := range all {
				check(object)
			}
		},
	}).RunWithContext(ctx)
}

func isReady(n *corev1.Node) bool {
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
