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

// What a burst of Services may cost at the most, and a restart among them.
const (
	latencyLimit  = 250 * time.Millisecond // 99th percentile
	readyLimit    = 2 * time.Second
	logLinesLimit = 50
	memoryLimit   = 200 << 20
)

// quiet is how long a controller that has restarted is watched for writes.
const quiet = 5 * time.Second

// A burst has scaleMost Services, or as many as the API server takes in scaleTime,
// which on a busy machine are fewer, but scaleLeast of them. $BERTH_E2E_SERVICES
// sets their number, whatever time that takes.
const (
	scaleLeast = 1000
	scaleMost  = 5000
	scaleTime  = 2 * time.Minute
)

// moreServices says whether the burst is to go on after n Services.
func moreServices(n int, since time.Duration) bool {
	if number, err := strconv.Atoi(os.Getenv("BERTH_E2E_SERVICES")); err == nil && number > 0 {
		return n < number
	}
	return n < scaleLeast || n < scaleMost && since < scaleTime
}

// scale is a burst of n Services.
type scale struct {
	*env
	n int
}

// TestScale creates many Services at once and restarts the controller among
// them.
func TestScale(t *testing.T) {
	l := startScaleLab(t)
	s := scale{env: newEnv(t, l)}
	s.createPool(s.namespace, []v1beta1.AddressRange{v1beta1.AddressRange(l.Plan().FreeRanges[0].String())}, nil)
	// It is for all of them, and there is no node for it.
	s.createAdvertisement(s.namespace, v1beta1.L2AdvertisementSpec{
		IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(s.namespace)}, NodeSelectors: onHosts("nowhere"),
	})
	s.waitVerdict("l2advertisements", s.namespace, true, v1beta1.ReasonAccepted)
	speaker := func() map[string]float64 { return s.metrics(s.speaker(), 7957) }
	before, speakerBefore, written := s.controllerMetrics(), speaker(), l.apiWrites(s.env)
	arrivals := watchArrivals(s.env)
	began := time.Now()
	created := s.burst(moreServices)
	s.n = len(created)
	t.Logf("%d Services created in %s", s.n, time.Since(began).Round(time.Millisecond))
	s.expectLatency(created, arrivals.wait(s.env, created))
	s.waitPoolStatus(func(status v1beta1.IPAddressPoolStatus) bool { return status.AssignedIPv4 == int64(s.n) })
	// The speaker writes to each Service that nothing announces it.
	s.waitWrites("speaker", speaker, speakerBefore)
	s.waitUse(s.n, s.n)
	after := s.waitWrites("controller", s.controllerMetrics, before)
	s.expectWrites(l.apiWrites(s.env).since(written), time.Since(began))
	cpu := time.Duration((after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) * float64(time.Second))
	measured.note(s.row("controller's CPU for each"), int64(cpu)/int64(s.n), func(n int64) string {
		return time.Duration(n).Round(10 * time.Microsecond).String()
	})
	s.measureMemory("controller's peak memory", s.leader())
	s.restart()
}

func (s scale) row(what string) string { return fmt.Sprintf("%d Services at once: %s", s.n, what) }

func (s scale) measure(what string, result time.Duration) { measured.add(s.row(what), result) }

// expectLatency judges how long the Services waited for their addresses.
func (s scale) expectLatency(created map[string]creation, latencies []time.Duration) {
	s.Helper()
	var answers []time.Duration
	for _, c := range created {
		answers = append(answers, c.there.Sub(c.asked))
	}
	slices.Sort(answers)
	worst, answer := latencies[s.n*99/100], answers[s.n*99/100]
	s.measure("API server creates one, 99th percentile", answer)
	s.measure("creation to EXTERNAL-IP, median", latencies[s.n/2])
	s.measure("creation to EXTERNAL-IP, 99th percentile", worst)
	// An address takes a watch, a write and a watch: where the API server itself needs
	// longer for one write in a hundred, the machine is too busy to tell by the limit.
	limit := max(latencyLimit, answer)
	if answer > latencyLimit {
		s.Logf("the machine is busy: the API server took %s to create a Service (99th percentile)", answer)
	}
	if worst > limit {
		s.Errorf("99th percentile from creation to EXTERNAL-IP is %s, more than %s; that of the API server to create a Service was %s", worst, limit, answer)
	}
}

// controllerMetrics are those of all controllers together: on a machine that is
// very busy the lead may change.
func (s scale) controllerMetrics() map[string]float64 {
	s.Helper()
	total := map[string]float64{}
	for _, pod := range s.controllers() {
		for series, value := range s.metrics(&pod, 7958) {
			total[series] += value
		}
	}
	return total
}

// waitWrites returns the metrics of the controller or the speaker once it has
// written the status of every Service, which it may do once.
func (s scale) waitWrites(who string, metrics func() map[string]float64, before map[string]float64) map[string]float64 {
	s.Helper()
	var after map[string]float64
	count := func() int { return writesOf(after, "Service") - writesOf(before, "Service") }
	s.waitFor("the "+who+" to have counted its writes", 10*time.Second, func(context.Context) (bool, string) {
		after = metrics()
		return count() >= s.n, fmt.Sprintf("%d of %d", count(), s.n)
	})
	if count() != s.n {
		s.Errorf("the %s sent %d writes for %d Services by its own account, want one for each", who, count(), s.n)
	}
	return after
}

// expectWrites judges what the API server says was written in a burst: one status
// each by controller and speaker for every Service, nothing to its metadata, the
// pool's status at most once a second, and the advertisement's every five seconds.
func (s scale) expectWrites(written apiWrites, took time.Duration) {
	s.Helper()
	s.Logf("written in %s: %s", took.Round(time.Millisecond), written)
	for what, want := range map[string]int{"POST services": s.n, "PATCH services/status": 2 * s.n} {
		if written[what] != want {
			s.Errorf("the API server has counted %d %s for %d Services, want %d", written[what], what, s.n, want)
		}
		delete(written, what)
	}
	for what, each := range map[string]time.Duration{"PATCH ipaddresspools/status": time.Second, "PATCH l2advertisements/status": 5 * time.Second} {
		if most := int(took/each) + 2; written[what] == 0 || written[what] > most {
			s.Errorf("the API server has counted %d %s in %s, want at most one in %s", written[what], what, took, each)
		}
		delete(written, what)
	}
	if len(written) > 0 {
		s.Errorf("the API server has also counted %s", written)
	}
}

// speaker returns the only one there is.
func (s scale) speaker() *corev1.Pod {
	s.Helper()
	pods, err := s.lab.kube.CoreV1().Pods(berthNamespace).List(s.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=speaker"})
	if err != nil || len(pods.Items) != 1 {
		s.Fatalf("want one speaker, found %d (error %v)", len(pods.Items), err)
	}
	return &pods.Items[0]
}

// measureMemory notes the most memory that a controller has had resident.
func (s scale) measureMemory(what string, pod *corev1.Pod) {
	s.Helper()
	status, err := s.lab.Exec(s.ctx, berthNamespace+"/"+pod.Name, "cat", "/proc/1/status")
	if err != nil {
		s.Fatal(err)
	}
	var kibibytes int64
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			if kibibytes, err = strconv.ParseInt(strings.Fields(value)[0], 10, 64); err != nil {
				s.Fatal(err)
			}
		}
	}
	if kibibytes == 0 {
		s.Fatalf("the status of the controller's process has no VmHWM: %s", status)
	}
	measured.addBytes(s.row(what), kibibytes<<10)
	if kibibytes<<10 > memoryLimit {
		s.Errorf("the controller has had %d MiB resident, more than %d", kibibytes>>10, memoryLimit>>20)
	}
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

// restart kills the leader and checks that its successor finds all as it was: it
// is ready at once, says little, and writes nothing, not even a while later.
func (s scale) restart() {
	s.Helper()
	events := s.waitEventsSent()
	written := s.lab.apiWrites(s.env)
	before := s.leader()
	meter := s.meterStalls()
	if err := s.lab.Kill(before.Spec.NodeName, "controller", syscall.SIGKILL); err != nil {
		s.Fatal(err)
	}
	began := time.Now()
	leader, took := s.waitDealtWith()
	measured.add(fmt.Sprintf("controller killed among %d Services: until it leads again", s.n), time.Since(began))
	measured.add(fmt.Sprintf("controller restarted with %d Services: caches filled to ready", s.n), took)
	if allowed := s.bound(readyLimit, meter); took > allowed {
		s.Errorf("ready %s after its caches were filled, more than %s", took, allowed)
	}
	s.stays("no write after a restart", quiet, func(context.Context) (bool, string) {
		n := writesOf(s.metrics(leader, 7958), "")
		return n == 0, fmt.Sprintf("%d writes", n)
	})
	if later := s.lab.apiWrites(s.env).since(written); len(later) > 0 {
		s.Errorf("after a restart the API server has counted %s, want no write at all", later)
	}
	if sent := s.eventsOfController() - events; sent != 0 {
		s.Errorf("%d events after a restart, want none", sent)
	}
	if lines := s.logLines(leader); len(lines) >= logLinesLimit {
		s.Errorf("%d log lines after a restart, want less than %d; the last: %s", len(lines), logLinesLimit, lines[len(lines)-1])
	}
	s.measureMemory("controller's peak memory after a restart", leader)
}

// waitEventsSent returns how many events the controller has sent once it sends no
// more: they follow in the background.
func (s scale) waitEventsSent() int {
	s.Helper()
	sent, since := -1, time.Now()
	s.waitFor("the controller to have sent its events", time.Minute, func(context.Context) (bool, string) {
		if now := s.eventsOfController(); now != sent {
			sent, since = now, time.Now()
		}
		return time.Since(since) > 2*time.Second, fmt.Sprintf("%d events", sent)
	})
	return sent
}

// waitDealtWith returns the leader and how long it took to be ready, from when its
// caches were filled, as soon as it says that it has dealt with every Service.
func (s scale) waitDealtWith() (leader *corev1.Pod, took time.Duration) {
	s.Helper()
	s.waitFor("a controller to have dealt with every Service again", time.Minute, func(ctx context.Context) (bool, string) {
		pod, err := s.tryLeader(ctx)
		if err != nil {
			return false, err.Error()
		}
		leader = pod
		lines := s.logLines(pod)
		for _, line := range lines {
			if strings.Contains(line, fmt.Sprintf(`msg="every Service is dealt with" services=%d `, s.n)) {
				_, text, _ := strings.Cut(line, "took=")
				took, err = time.ParseDuration(strings.TrimSpace(text))
				return err == nil, line
			}
		}
		return false, lines[len(lines)-1]
	})
	return leader, took
}

func (e *env) logLines(pod *corev1.Pod) []string {
	e.Helper()
	content, err := e.lab.kube.CoreV1().Pods(berthNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(e.ctx)
	if err != nil {
		return []string{err.Error()} // the container may be about to start
	}
	return strings.Split(strings.TrimSpace(string(content)), "\n")
}

// writesOf counts the writes of a kind in a controller's metrics, or of all kinds
// if kind is empty.
func writesOf(metrics map[string]float64, kind string) int {
	total := 0.0
	for series, value := range metrics {
		if strings.HasPrefix(series, "berth_api_writes_total{") && (kind == "" || strings.Contains(series, `kind="`+kind+`"`)) {
			total += value
		}
	}
	return int(total)
}

// creation is of one Service: when it was asked for, and when it was there.
type creation struct{ asked, there time.Time }

// burst creates Services as fast as the API server takes them, for as long as more
// says so.
func (e *env) burst(more func(n int, since time.Duration) bool) map[string]creation {
	e.Helper()
	var mu sync.Mutex
	created := map[string]creation{}
	g, ctx := errgroup.WithContext(e.ctx)
	g.SetLimit(8)
	began := time.Now()
	for i := 0; more(i, time.Since(began)); i++ {
		g.Go(func() error {
			service := e.newService(fmt.Sprintf("s-%d", i), withoutPods)
			asked := time.Now()
			_, err := e.lab.kube.CoreV1().Services(e.namespace).Create(ctx, service, metav1.CreateOptions{})
			there := time.Now()
			mu.Lock()
			defer mu.Unlock()
			created[service.Name] = creation{asked, there}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		e.Fatal(err)
	}
	return created
}

// withoutPods leaves a Service to the controller alone, and needs none of the node
// ports, of which there are fewer than 3,000.
func withoutPods(s *corev1.Service) {
	s.Spec.Selector, s.Spec.AllocateLoadBalancerNodePorts = nil, ptr.To(false)
}

// arrivals notes when each Service was first seen, and when with an address.
type arrivals struct {
	mu       sync.Mutex
	seen, at map[string]time.Time
}

func watchArrivals(e *env) *arrivals {
	e.Helper()
	ctx, cancel := context.WithCancel(e.ctx)
	e.Cleanup(cancel)
	watching, err := e.lab.kube.CoreV1().Services(e.namespace).Watch(ctx, listAll)
	if err != nil {
		e.Fatal(err)
	}
	a := &arrivals{seen: map[string]time.Time{}, at: map[string]time.Time{}}
	go func() {
		for {
			for event := range watching.ResultChan() {
				if service, ok := event.Object.(*corev1.Service); ok && event.Type != watch.Deleted {
					a.note(service, time.Now())
				}
			}
			// The API server ends a watch that cannot keep up; another begins with all there is.
			if watching, err = e.lab.kube.CoreV1().Services(e.namespace).Watch(ctx, listAll); err != nil {
				return // the test ends, or what waits will say how far this has come
			}
		}
	}()
	return a
}

func (a *arrivals) note(service *corev1.Service, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.seen[service.Name]; !known {
		a.seen[service.Name] = now
	}
	allocated := meta.IsStatusConditionTrue(service.Status.Conditions, v1beta1.ConditionAddressAllocated)
	if _, known := a.at[service.Name]; !known && allocated && len(service.Status.LoadBalancer.Ingress) > 0 {
		a.at[service.Name] = now
	}
}

// wait returns how long each Service waited for its address, from the moment when
// it was there: when the API server said so to its creator or to the watch,
// whichever came first.
func (a *arrivals) wait(e *env, created map[string]creation) []time.Duration {
	e.Helper()
	e.waitFor("every Service to have an address", 2*time.Minute, func(context.Context) (bool, string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.at) >= len(created), fmt.Sprintf("%d of %d have one", len(a.at), len(created))
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	var latencies []time.Duration
	for name, c := range created {
		there := c.there
		if seen := a.seen[name]; seen.Before(there) {
			there = seen
		}
		latencies = append(latencies, a.at[name].Sub(there))
	}
	slices.Sort(latencies)
	return latencies
}
