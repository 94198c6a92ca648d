package e2e

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// lease is how long a dead leader keeps its successor waiting, by default; retry,
// the longest time between two tries of a standby (every second, with client-go's
// jitter of up to 1.2 more).
const (
	lease = 6 * time.Second
	retry = 2200 * time.Millisecond
)

// settled is a number of Services that have what they will ever have.
type settled struct {
	*env
	// addresses of each Service; one of them has none, as the pool is full.
	addresses map[string]string
	recorder  *recorder
	// sent is how many writes of Service statuses each controller had sent.
	sent map[string]int
}

// settleServices makes Services that have addresses, share one, or wait for one.
func settleServices(e *env) settled {
	e.Helper()
	e.spreadControllers()
	e.usePool(4)
	e.createDeployment(deployment{app: "web", replicas: 1})
	s := settled{env: e, addresses: map[string]string{}}
	key := annotated(v1beta1.AnnotationAllowSharedIP, "key")
	e.createService("requested", annotated(v1beta1.AnnotationLoadBalancerIPs, join(e.address(3))))
	e.waitAllocated("requested")
	e.createService("a")
	e.createService("b")
	e.createService("shared-1", key, onPort(81))
	e.waitAllocated("shared-1")
	e.createService("shared-2", key, onPort(82))
	e.createService("waiting")
	for _, name := range []string{"a", "b", "requested", "shared-1", "shared-2"} {
		s.addresses[name] = join(e.waitAnnounced(name))
	}
	e.waitCondition("waiting", v1beta1.ConditionAddressAllocated, metav1.ConditionFalse, "PoolExhausted")
	s.addresses["waiting"] = ""
	if s.addresses["shared-1"] != s.addresses["shared-2"] {
		e.Fatalf("Services with the same sharing key have %s and %s", s.addresses["shared-1"], s.addresses["shared-2"])
	}
	s.recorder = e.record()
	s.sent = map[string]int{}
	for _, pod := range e.controllers() {
		s.sent[incarnation(&pod)] = e.statusWrites(&pod)
	}
	return s
}

// spreadControllers makes sure that leader and standby are on different nodes, so
// that one can be hit without the other. The scheduler only prefers that, and when
// the cluster started there may have been one node.
func (e *env) spreadControllers() {
	e.Helper()
	pods, leader := e.controllers(), e.leader()
	for _, pod := range pods {
		if pod.Name == leader.Name || pod.Spec.NodeName != leader.Spec.NodeName {
			continue
		}
		if err := e.lab.kube.CoreV1().Pods(berthNamespace).Delete(e.ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
			e.Fatal(err)
		}
		e.waitFor("Pod "+pod.Name+" to be gone", 30*time.Second, func(ctx context.Context) (bool, string) {
			_, err := e.lab.kube.CoreV1().Pods(berthNamespace).Get(ctx, pod.Name, metav1.GetOptions{})
			return apierrors.IsNotFound(err), fmt.Sprint(err)
		})
	}
	e.lab.waitUntilCalm(e)
	for _, pod := range e.controllers() {
		if pod.Name != leader.Name && pod.Spec.NodeName == leader.Spec.NodeName {
			e.Fatalf("both controllers are on %s", pod.Spec.NodeName)
		}
	}
}

// controllers returns the Pods of the controller.
func (e *env) controllers() []corev1.Pod {
	e.Helper()
	pods, err := e.lab.kube.CoreV1().Pods(berthNamespace).List(e.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"})
	if err != nil {
		e.Fatal(err)
	}
	return pods.Items
}

// incarnation names one process of a Pod: its counters start at zero.
func incarnation(pod *corev1.Pod) string {
	return fmt.Sprintf("%s/%d", pod.Name, pod.Status.ContainerStatuses[0].RestartCount)
}

// expectUntouched fails the test if anything was written to any of the Services
// since they were settled, or the present leader has even tried to.
func (s settled) expectUntouched(during string) {
	s.Helper()
	// A new Service is served by a leader that has dealt with everything else.
	s.createService("late", onPort(83), annotated(v1beta1.AnnotationAllowSharedIP, "key"))
	s.waitAllocated("late")
	names := slices.Sorted(maps.Keys(s.addresses))
	s.recorder.expectNone(during, names...)
	leader := s.leader()
	n := 0
	s.waitFor("the leader to have counted its write", 10*time.Second, func(context.Context) (bool, string) {
		n = s.statusWrites(leader) - s.sent[incarnation(leader)]
		return n > 0, fmt.Sprint(n)
	})
	if n != 1 {
		s.Errorf("%s: the leader has sent %d writes of Service statuses, not only that of the new Service", during, n)
	}
	s.deleteService("late")
	s.waitGone("late")
}

// leader returns the Pod that holds the Lease.
func (e *env) leader() (pod *corev1.Pod) {
	e.Helper()
	e.waitFor("a controller to lead", 20*time.Second, func(ctx context.Context) (bool, string) {
		var err error
		pod, err = e.tryLeader(ctx)
		return err == nil, fmt.Sprint(err)
	})
	return pod
}

func (e *env) tryLeader(ctx context.Context) (*corev1.Pod, error) {
	l, err := e.lab.kube.CoordinationV1().Leases(berthNamespace).Get(ctx, "berth-controller", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
		return nil, fmt.Errorf("nobody holds the Lease")
	}
	return e.lab.kube.CoreV1().Pods(berthNamespace).Get(ctx, *l.Spec.HolderIdentity, metav1.GetOptions{})
}

// waitOtherLeader returns when another Pod than before has the lead.
func (e *env) waitOtherLeader(before string, limit time.Duration) *corev1.Pod {
	e.Helper()
	var now *corev1.Pod
	e.waitFor("another Pod than "+before+" to lead", limit, func(ctx context.Context) (bool, string) {
		pod, err := e.tryLeader(ctx)
		if err != nil {
			return false, err.Error()
		}
		now = pod
		return pod.Name != before, pod.Name
	})
	return now
}

// statusWrites is how many writes of Service statuses a controller has sent since
// it started, by its own account; those that change nothing are among them,
// which no watch shows.
func (e *env) statusWrites(pod *corev1.Pod) int {
	e.Helper()
	return writesOf(e.metrics(pod, 7958), "Service")
}

// metrics returns the metrics of a Pod by their full names.
func (e *env) metrics(pod *corev1.Pod, port int) (values map[string]float64) {
	e.Helper()
	e.waitFor("the metrics of "+pod.Name, 20*time.Second, func(ctx context.Context) (bool, string) {
		var err error
		values, err = e.tryMetrics(ctx, pod, port)
		return err == nil, fmt.Sprint(err)
	})
	return values
}

func (e *env) tryMetrics(ctx context.Context, pod *corev1.Pod, port int) (map[string]float64, error) {
	address, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return nil, err
	}
	text, err := e.lab.getWithin(ctx, 5*time.Second, pod.Spec.NodeName, urlOf(address, port, "/metrics"))
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		line := scanner.Text()
		if i := strings.LastIndexByte(line, ' '); i > 0 && !strings.HasPrefix(line, "#") {
			if value, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
				values[line[:i]] = value
			}
		}
	}
	return values, nil
}

// testControllerKilled: a controller that is killed and restarted finds
// everything as it was, and leaves it so.
func testControllerKilled(e *env) {
	s := settleServices(e)
	before := e.leader()
	if err := e.lab.Kill(before.Spec.NodeName, "controller", syscall.SIGKILL); err != nil {
		e.Fatal(err)
	}
	e.waitFor("the killed controller to run again", 30*time.Second, func(ctx context.Context) (bool, string) {
		pod, err := e.lab.kube.CoreV1().Pods(berthNamespace).Get(ctx, before.Name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		status := pod.Status.ContainerStatuses[0]
		return status.RestartCount > before.Status.ContainerStatuses[0].RestartCount && status.Ready, fmt.Sprintf("%+v", status)
	})
	s.expectUntouched("controller killed")
}

// testLeaderHandsOver: a leader that is told to end gives its Lease back, so the
// standby need not wait for it to expire.
func testLeaderHandsOver(e *env) {
	s := settleServices(e)
	before := e.leader()
	meter := e.meterStalls()
	began := time.Now()
	if err := e.lab.kube.CoreV1().Pods(berthNamespace).Delete(e.ctx, before.Name, metav1.DeleteOptions{}); err != nil {
		e.Fatal(err)
	}
	// That the Lease was given back is what tells this from a leader that is gone.
	e.waitOtherLeader(before.Name, lease+2*retry)
	took := time.Since(began)
	measured.add("controller: Pod of the leader deleted, until another leads", took)
	if allowed := e.bound(lease-time.Second, meter); took > allowed {
		e.Errorf("another controller leads %s after the leader was told to end, more than %s: was the Lease given back?", took, allowed)
	}
	s.expectUntouched("leader handed over")
}

// testStandbyTakesOver: when the leader hangs, the standby leads once the Lease
// has expired, and the old leader does no harm when it comes round.
func testStandbyTakesOver(e *env) {
	s := settleServices(e)
	before := e.leader()
	node := before.Spec.NodeName
	if err := e.lab.Kill(node, "controller", syscall.SIGSTOP); err != nil {
		e.Fatal(err)
	}
	began := time.Now()
	thawed := false
	thaw := func() {
		if !thawed {
			thawed = true
			if err := e.lab.Kill(node, "controller", syscall.SIGCONT); err != nil {
				e.Error(err)
			}
		}
	}
	e.Cleanup(thaw)
	// The standby may see the last renewal one retry late, and the end of the Lease
	// another.
	after := e.waitOtherLeader(before.Name, lease+2*retry+10*time.Second)
	measured.add("controller: leader hangs, until another leads", time.Since(began))
	s.expectUntouched("leader hung")

	// The old leader comes round in the middle of its term and has to see that
	// it is over, also when there is something to do.
	thaw()
	s.createService("meanwhile", onPort(84), annotated(v1beta1.AnnotationAllowSharedIP, "key"))
	s.waitAllocated("meanwhile")
	e.waitLogged(before.Name, "no longer leading")
	if now := e.leader(); now.Name != after.Name {
		e.Errorf("the lead went on from %s to %s", after.Name, now.Name)
	}
	s.recorder.expectNone("the old leader came round", slices.Sorted(maps.Keys(s.addresses))...)
	if n := len(s.recorder.writes("meanwhile")); n > 3 {
		e.Errorf("a new Service was written %d times; want its creation and one status each by controller and speaker", n)
	}
}

// waitLogged returns when a Pod of Berth has logged a text.
func (e *env) waitLogged(pod, text string) {
	e.Helper()
	e.waitFor(fmt.Sprintf("Pod %s to log %q", pod, text), 20*time.Second, func(ctx context.Context) (bool, string) {
		content, err := e.lab.kube.CoreV1().Pods(berthNamespace).GetLogs(pod, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(string(content), text), string(lastLines(content, 2))
	})
}

// join renders addresses as an annotation takes them.
func join(addresses []netip.Addr) string {
	texts := make([]string, len(addresses))
	for i, address := range addresses {
		texts[i] = address.String()
	}
	return strings.Join(texts, ",")
}
