package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

// What a burst of Services may cost at the most. These bounds are for machines
// that do other things too, and tell work that grows with the square of the
// Services from work that does not; what is measured is in the table.
const (
	latencyBound  = 5 * time.Second
	readyBound    = 10 * time.Second
	logLinesBound = 50
	memoryBound   = 200 << 20
)

// poolWritesSeries counts the writes of pool statuses.
const poolWritesSeries = `berth_api_writes_total{kind="IPAddressPool",result="ok"}`

// scaleServices is how many Services the burst has, unless $BERTH_E2E_SERVICES
// says otherwise.
func scaleServices() int {
	if n, err := strconv.Atoi(os.Getenv("BERTH_E2E_SERVICES")); err == nil && n > 0 {
		return n
	}
	return 1000
}

// TestScale creates many Services at once and restarts the controller among
// them.
func TestScale(t *testing.T) {
	l := startScaleLab(t)
	e := newEnv(t, l)
	e.createPool(e.namespace, []v1beta1.AddressRange{v1beta1.AddressRange(l.Plan().FreeRanges[0].String())}, nil)
	n := scaleServices()
	arrivals := watchArrivals(e)
	leader := e.leader()
	before := e.metrics(leader, 7958)
	began := time.Now()
	created := e.burst(n)
	t.Logf("%d Services created in %s", n, time.Since(began).Round(time.Millisecond))
	latencies := arrivals.wait(e, created)
	slices.Sort(latencies)
	name := func(what string) string { return fmt.Sprintf("%d Services at once: %s", n, what) }
	measured.add(name("creation to EXTERNAL-IP, median"), latencies[n/2])
	measured.add(name("creation to EXTERNAL-IP, 99th percentile"), latencies[n*99/100])
	if worst := latencies[n*99/100]; worst > latencyBound {
		t.Errorf("99th percentile from creation to EXTERNAL-IP is %s, more than %s", worst, latencyBound)
	}
	var after map[string]float64
	e.waitFor("the controller to have counted its writes", 10*time.Second, func(context.Context) (bool, string) {
		after = e.metrics(leader, 7958)
		written := writesOf(after) - writesOf(before)
		return written >= n, fmt.Sprintf("%d of %d", written, n)
	})
	if written := writesOf(after) - writesOf(before); written != n {
		t.Errorf("the controller sent %d writes for %d Services, want one for each", written, n)
	}
	poolWrites := int(after[poolWritesSeries] - before[poolWritesSeries])
	if most := int(time.Since(began)/time.Second) + 2; poolWrites > most {
		t.Errorf("%d writes of the pool's status in %s, want at most one a second", poolWrites, time.Since(began).Round(time.Second))
	}
	cpu := time.Duration((after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) * float64(time.Second))
	measured.add(name("controller CPU, all together"), cpu)
	t.Logf("controller: %s of CPU, %s for each Service; %d MiB resident", cpu, (cpu / time.Duration(n)).Round(time.Microsecond), int(after["process_resident_memory_bytes"])>>20)
	if rss := after["process_resident_memory_bytes"]; rss > memoryBound {
		t.Errorf("the controller has %d MiB resident, more than %d", int(rss)>>20, memoryBound>>20)
	}
	restartAmongMany(e, n)
}

// startScaleLab is a lab of one node and one family: what is measured is the
// controller.
func startScaleLab(t *testing.T) *testLab {
	t.Helper()
	options := lab.DefaultOptions()
	options.Name = "e2escale"
	options.Nodes = 1
	options.IPFamily = network.IPv4
	return startLabWith(t, options)
}

// restartAmongMany kills the leader and checks that its successor finds all as
// it was: it writes nothing, says little, and is ready at once.
func restartAmongMany(e *env, n int) {
	e.Helper()
	before := e.leader()
	if err := e.lab.Kill(before.Spec.NodeName, "controller", syscall.SIGKILL); err != nil {
		e.Fatal(err)
	}
	var leader *corev1.Pod
	var lines []string
	e.waitFor("a controller to have dealt with every Service again", time.Minute, func(ctx context.Context) (bool, string) {
		pod, err := e.tryLeader(ctx)
		if err != nil {
			return false, err.Error()
		}
		leader = pod
		content, err := e.lab.kube.CoreV1().Pods(berthNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return false, err.Error()
		}
		lines = strings.Split(strings.TrimSpace(string(content)), "\n")
		return strings.Contains(string(content), fmt.Sprintf(`msg="every Service is dealt with" services=%d `, n)), lines[len(lines)-1]
	})
	took := tookOf(lines)
	measured.add(fmt.Sprintf("controller restarted with %d Services: caches filled to ready", n), took)
	if took > readyBound {
		e.Errorf("ready %s after its caches were filled, more than %s", took, readyBound)
	}
	if len(lines) > logLinesBound {
		e.Errorf("%d log lines after a restart, more than %d", len(lines), logLinesBound)
	}
	if written := writesOf(e.metrics(leader, 7958)); written != 0 {
		e.Errorf("%d writes after a restart, want none", written)
	}
}

// tookOf returns what the controller says it took to be ready.
func tookOf(lines []string) time.Duration {
	for _, line := range lines {
		if _, rest, found := strings.Cut(line, "every Service is dealt with"); found {
			_, text, _ := strings.Cut(rest, "took=")
			took, _ := time.ParseDuration(strings.TrimSpace(text))
			return took
		}
	}
	return 0
}

// writesOf counts the writes of Service statuses in a controller's metrics.
func writesOf(metrics map[string]float64) int {
	total := 0.0
	for series, value := range metrics {
		if strings.HasPrefix(series, "berth_api_writes_total{") && strings.Contains(series, `kind="Service"`) {
			total += value
		}
	}
	return int(total)
}

// burst creates n Services as fast as the API server takes them, and returns
// when each was there.
func (e *env) burst(n int) map[string]time.Time {
	e.Helper()
	var mu sync.Mutex
	created := map[string]time.Time{}
	g, ctx := errgroup.WithContext(e.ctx)
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error {
			service := e.newService(fmt.Sprintf("s-%d", i))
			service.Spec.Selector = nil                                // no Pods: only the controller is at work
			service.Spec.AllocateLoadBalancerNodePorts = ptr.To(false) // there are fewer than 3,000
			_, err := e.lab.kube.CoreV1().Services(e.namespace).Create(ctx, service, metav1.CreateOptions{})
			mu.Lock()
			defer mu.Unlock()
			created[service.Name] = time.Now()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		e.Fatal(err)
	}
	return created
}

// arrivals notes when each Service was first seen with an address.
type arrivals struct {
	mu sync.Mutex
	at map[string]time.Time
}

func watchArrivals(e *env) *arrivals {
	e.Helper()
	watching, err := e.lab.kube.CoreV1().Services(e.namespace).Watch(e.ctx, listAll)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(watching.Stop)
	a := &arrivals{at: map[string]time.Time{}}
	go func() {
		for event := range watching.ResultChan() {
			service, ok := event.Object.(*corev1.Service)
			if !ok || event.Type == watch.Deleted || len(service.Status.LoadBalancer.Ingress) == 0 {
				continue
			}
			if !meta.IsStatusConditionTrue(service.Status.Conditions, v1beta1.ConditionAddressAllocated) {
				continue
			}
			a.mu.Lock()
			if _, seen := a.at[service.Name]; !seen {
				a.at[service.Name] = time.Now()
			}
			a.mu.Unlock()
		}
	}()
	return a
}

// wait returns how long each Service waited for its address.
func (a *arrivals) wait(e *env, created map[string]time.Time) []time.Duration {
	e.Helper()
	e.waitFor("every Service to have an address", 2*time.Minute, func(context.Context) (bool, string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.at) >= len(created), fmt.Sprintf("%d of %d have one", len(a.at), len(created))
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	var latencies []time.Duration
	for name, at := range created {
		latencies = append(latencies, max(0, a.at[name].Sub(at)))
	}
	return latencies
}
