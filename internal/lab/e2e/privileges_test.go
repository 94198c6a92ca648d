package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Capabilities as the kernel shows them in /proc/PID/status: NET_RAW, for layer 2,
// is number 13, and NET_BIND_SERVICE, for BGP peers that connect to port 179,
// number 10.
const (
	netRawAndBind  = "0000000000002400"
	noCapabilities = "0000000000000000"
)

// testPrivileges: the processes have what the manifest promises, and no more.
func testPrivileges(e *env) {
	for component, want := range map[string]struct{ uid, capabilities string }{
		"speaker": {"0", netRawAndBind}, "controller": {"65532", noCapabilities},
	} {
		pods, err := e.lab.kube.CoreV1().Pods(berthNamespace).List(e.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
		if err != nil || len(pods.Items) == 0 {
			e.Fatalf("Pods of the %s: %v, %d of them", component, err, len(pods.Items))
		}
		pod := berthNamespace + "/" + pods.Items[0].Name
		status, err := e.lab.Exec(e.ctx, pod, "cat", "/proc/1/status")
		if err != nil {
			e.Fatal(err)
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			fields[key] = strings.TrimSpace(value)
		}
		if got := strings.Fields(fields["Uid"])[0]; got != want.uid {
			e.Errorf("the %s runs as uid %s, want %s", component, got, want.uid)
		}
		for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
			if fields[set] != want.capabilities {
				e.Errorf("the %s has %s %s, want %s", component, set, fields[set], want.capabilities)
			}
		}
		if fields["Seccomp"] != "2" { // a filter, seccomp(2)
			e.Errorf("the %s is not confined by seccomp: %s", component, fields["Seccomp"])
		}
		if fields["NoNewPrivs"] != "1" {
			e.Errorf("the %s may gain privileges", component)
		}
		if out, err := e.lab.Exec(e.ctx, pod, "sh", "-c", "touch /written"); err == nil {
			e.Errorf("the root of the %s can be written to: %s", component, out)
		}
	}
}

// testNodeNotReady: a node whose cable is pulled goes NotReady as in production,
// and comes back.
func testNodeNotReady(e *env) {
	node := e.lab.Plan().Nodes()[nodesOf(e.lab)-1].Name
	waitReady := func(want bool) {
		e.waitFor(fmt.Sprintf("node %s to have Ready=%v", node, want), 2*time.Minute, func(ctx context.Context) (bool, string) {
			object, err := e.lab.kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
			if err != nil {
				return false, err.Error()
			}
			for _, c := range object.Status.Conditions {
				if c.Type == corev1.NodeReady {
					return (c.Status == corev1.ConditionTrue) == want, fmt.Sprintf("%s: %s", c.Status, c.Reason)
				}
			}
			return false, "no condition"
		})
	}
	e.Cleanup(func() {
		if err := e.lab.Heal(node); err != nil {
			e.Error(err)
		}
	})
	began := time.Now()
	if err := e.lab.Cut(node); err != nil {
		e.Fatal(err)
	}
	waitReady(false)
	measured.add("lab: node cut until NotReady", time.Since(began))
	if err := e.lab.Heal(node); err != nil {
		e.Fatal(err)
	}
	waitReady(true)
}
