package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// berthNamespace is where deploy/berth.yaml installs.
const berthNamespace = "berth-system"

// suffixVariable is the environment's way to give labs names that no other run has:
// a run takes down what it finds under its own.
const suffixVariable = "BERTH_E2E_SUFFIX"

// cleanupTime is kept free before the deadline of the whole run, for labs to be
// taken down in.
const cleanupTime = 20 * time.Second

// testLab is a lab with clients of its API server.
type testLab struct {
	*lab.Cluster
	family network.Family
	kube   *kubernetes.Clientset
	// berth speaks of the custom resources.
	berth *rest.RESTClient
	// slots counts the parts of the free address range that tests were given.
	slots atomic.Int64
	// secrets are what no log may have, each with what it is.
	secrets sync.Map
	// refused is how many writes tests have tried that the policies must deny, and
	// deniedBefore how many those had denied when the test began.
	refused      atomic.Int64
	deniedBefore int64
}

// startLab returns a lab of the family that is taken down when the test ends,
// however it ends.
func startLab(t *testing.T, family network.Family) *testLab {
	t.Helper()
	options := lab.DefaultOptions()
	options.Name = "e2e" + string(family)
	options.Nodes = nodes
	options.IPFamily = family
	return startLabWith(t, options)
}

// startLabWith is startLab with other options.
func startLabWith(t *testing.T, options lab.Options) *testLab {
	t.Helper()
	if testing.Short() {
		t.Skip("end-to-end tests take minutes")
	}
	if os.Geteuid() != 0 {
		t.Fatal("end-to-end tests need root, as network namespaces do")
	}
	options.Name += os.Getenv(suffixVariable)
	cluster, mine := openOrStart(t, options)
	l := &testLab{Cluster: cluster, family: options.IPFamily}
	if mine {
		t.Cleanup(func() {
			if t.Failed() {
				l.saveLogs(t)
			}
			if err := cluster.Down(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
	} else {
		// Slots that earlier runs used may not be free yet.
		l.slots.Store(time.Now().Unix() % 1000)
	}
	config, err := cluster.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1 // bursts are to burst
	if l.kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if l.berth, err = berthClient(config); err != nil {
		t.Fatal(err)
	}
	if l.deniedBefore, err = l.policyDenials(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // while the lab is still there
		l.checkLogs(t)
		l.checkDenials(t)
	})
	return l
}

func openOrStart(t *testing.T, options lab.Options) (cluster *lab.Cluster, mine bool) {
	t.Helper()
	if *labFlag != "" {
		cluster, err := lab.Open(*labFlag)
		if err != nil {
			t.Fatal(err)
		}
		if cluster.Plan().Family != options.IPFamily {
			t.Skipf("lab %s is %s", *labFlag, cluster.Plan().Family)
		}
		return cluster, false
	}
	// What a run that was killed left behind.
	if err := lab.Down(t.Context(), options.Name); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := testContext(t)
	defer cancel()
	began := time.Now()
	cluster, err := lab.Up(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("lab %s started in %s", options.Name, time.Since(began).Round(100*time.Millisecond))
	return cluster, true
}

// testContext ends a while before the run has to, and when it is interrupted.
func testContext(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	stop := context.AfterFunc(interrupted, cancel)
	if deadline, ok := t.Deadline(); ok {
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-cleanupTime))
	}
	return ctx, func() {
		stop()
		cancel()
	}
}

func berthClient(config *rest.Config) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	version := v1beta1.GroupVersion()
	config.GroupVersion, config.APIPath = &version, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientFor(config)
}

// node returns the name of the node whose interface has the MAC, or the MAC
// itself if it is no node's.
func (l *testLab) node(mac string) string {
	for _, host := range l.Plan().Hosts {
		if host.MAC == mac {
			return host.Name
		}
	}
	return mac
}

// isNode reports whether the MAC is that of a node.
func (l *testLab) isNode(mac string) bool {
	host, err := l.Plan().Host(l.node(mac))
	return err == nil && host.IsNode()
}

// otherNodes returns the nodes except some.
func (l *testLab) otherNodes(except ...string) []string {
	var names []string
hosts:
	for _, host := range l.Plan().Nodes() {
		for _, name := range except {
			if host.Name == name {
				continue hosts
			}
		}
		names = append(names, host.Name)
	}
	return names
}

// waitUntilCalm returns when all nodes are ready and all of Berth runs, as the
// next test expects to find them.
func (l *testLab) waitUntilCalm(e *env) {
	e.Helper()
	e.waitFor("all nodes and Berth's Pods to be ready", time.Minute, func(ctx context.Context) (bool, string) {
		nodes, err := l.kube.CoreV1().Nodes().List(ctx, listAll)
		if err != nil {
			return false, err.Error()
		}
		for _, node := range nodes.Items {
			if !nodeReady(&node) {
				return false, "node " + node.Name + " is not ready"
			}
		}
		pods, err := l.kube.CoreV1().Pods(berthNamespace).List(ctx, listAll)
		if err != nil {
			return false, err.Error()
		}
		ready := 0
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil || !podReady(&pod) {
				return false, "Pod " + pod.Name + " is not ready"
			}
			ready++
		}
		const controllers = 2
		return ready == controllers+nodesOf(l), fmt.Sprintf("%d Pods of Berth are ready", ready)
	})
}

func nodesOf(l *testLab) int { return len(l.Plan().Nodes()) }

func nodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0
		}
	}
	return false
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// saveLogs copies the lab's logs to where they outlive it and quotes the end of
// what Berth's own processes wrote.
func (l *testLab) saveLogs(t *testing.T) {
	t.Helper()
	target, err := os.MkdirTemp("", "berth-"+l.Name()+"-logs-")
	if err != nil {
		t.Error(err)
		return
	}
	for _, process := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		if err := copyFile(l.Log(process), filepath.Join(target, process+".log")); err != nil {
			t.Log(err)
		}
	}
	for _, node := range l.Plan().Nodes() {
		for _, process := range []string{"agent", "kube-proxy"} {
			name := process + "@" + node.Name
			if err := copyFile(l.Log(name), filepath.Join(target, name+".log")); err != nil {
				t.Log(err)
			}
		}
	}
	l.saveBerthLogs(t, target)
	t.Logf("the lab's logs are in %s", target)
}

func (l *testLab) saveBerthLogs(t *testing.T, target string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	pods, err := l.kube.CoreV1().Pods(berthNamespace).List(ctx, listAll)
	if err != nil {
		t.Log(err)
		return
	}
	for _, pod := range pods.Items {
		for _, previous := range []bool{true, false} {
			content, err := l.kube.CoreV1().Pods(berthNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{Previous: previous}).DoRaw(ctx)
			if err != nil {
				continue // there is no previous one
			}
			name := pod.Name + "@" + pod.Spec.NodeName
			if previous {
				name += ".previous"
			}
			if err := os.WriteFile(filepath.Join(target, name+".log"), content, 0o600); err != nil {
				t.Log(err)
			}
			t.Logf("the end of %s:\n%s", name, lastLines(content, 12))
		}
	}
}

func lastLines(content []byte, n int) []byte {
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o600)
}
