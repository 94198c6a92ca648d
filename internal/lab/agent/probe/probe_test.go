package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"
)

// patience bounds how long a test waits for another goroutine.
const patience = 10 * time.Second

// attempt is one scripted answer, and when it is expected to be asked for.
type attempt struct {
	at time.Duration
	ok bool
}

func repeat(ok bool, times ...time.Duration) []attempt {
	attempts := make([]attempt, len(times))
	for i, at := range times {
		attempts[i] = attempt{at, ok}
	}
	return attempts
}

func TestProber(t *testing.T) {
	t.Parallel()
	const ms, s = time.Millisecond, time.Second
	every := func(spec corev1.Probe) corev1.Probe {
		spec.PeriodSeconds = 5
		return spec
	}
	tests := map[string]struct {
		kind     Kind
		spec     corev1.Probe
		attempts []attempt
		want     []string // what is reported, after which attempt
	}{
		"readiness: at once, then by period": {
			Readiness, every(corev1.Probe{}), repeat(true, 0, 5*s, 10*s), []string{"0 ok"},
		},
		"readiness: early failures are forgiven and soon repeated": {
			Readiness, every(corev1.Probe{}),
			[]attempt{{0, false}, {100 * ms, false}, {200 * ms, true}, {5200 * ms, true}},
			[]string{"2 ok"},
		},
		"readiness: failures count after the first success": {
			Readiness, every(corev1.Probe{FailureThreshold: 2}),
			[]attempt{{0, true}, {5 * s, false}, {10 * s, false}, {15 * s, false}, {20 * s, true}},
			[]string{"0 ok", "1 failed", "2 failed", "2 not ok", "3 failed", "4 ok"},
		},
		"readiness: one success between failures starts the count anew": {
			Readiness, every(corev1.Probe{FailureThreshold: 2}),
			[]attempt{{0, true}, {5 * s, false}, {10 * s, true}, {15 * s, false}},
			[]string{"0 ok", "1 failed", "3 failed"},
		},
		"readiness: success threshold": {
			Readiness, every(corev1.Probe{SuccessThreshold: 2, FailureThreshold: 1}),
			[]attempt{{0, true}, {5 * s, true}, {10 * s, false}, {15 * s, true}, {20 * s, true}},
			[]string{"1 ok", "2 failed", "2 not ok", "4 ok"},
		},
		"initial delay": {
			Readiness, every(corev1.Probe{InitialDelaySeconds: 3}), []attempt{{3 * s, false}, {3100 * ms, true}}, []string{"1 ok"},
		},
		"liveness: ends with failure, nothing is forgiven": {
			Liveness, every(corev1.Probe{FailureThreshold: 2}), repeat(false, 0, 5*s), []string{"0 failed", "1 failed", "1 not ok", "1 end"},
		},
		"liveness: success is no news": {
			Liveness, every(corev1.Probe{}), repeat(true, 0, 5*s), nil,
		},
		"startup: ends with success": {
			Startup, every(corev1.Probe{FailureThreshold: 3}), []attempt{{0, false}, {100 * ms, true}}, []string{"1 ok", "1 end"},
		},
		"startup: ends with failure, after the early ones": {
			Startup, corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1},
			repeat(false, append(steps(0, 2*s, 100*ms), 2*s)...),
			[]string{"20 failed", "20 not ok", "20 end"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script(t, test.kind, test.spec, test.attempts, test.want)
		})
	}
}

func steps(from, to, step time.Duration) []time.Duration {
	var all []time.Duration
	for at := from; at < to; at += step {
		all = append(all, at)
	}
	return all
}

// script runs a prober against scripted answers. Time only passes when everybody
// waits for it.
func script(t *testing.T, kind Kind, spec corev1.Probe, attempts []attempt, want []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []string
		began, number := time.Now(), -1
		report := func(what string) { got = append(got, fmt.Sprint(number, " ", what)) }
		prober := &Prober{
			Kind: kind, Probe: &spec, Clock: clock.RealClock{},
			Check: func(context.Context) Outcome {
				number++
				if number == len(attempts) {
					cancel()
					return Outcome{}
				}
				if at := time.Since(began); at != attempts[number].at {
					t.Errorf("attempt %d comes after %s, want %s", number, at, attempts[number].at)
				}
				return Outcome{OK: attempts[number].ok}
			},
			Failed:  func(string) { report("failed") },
			Changed: func(ok bool, _ string) { report(map[bool]string{true: "ok", false: "not ok"}[ok]) },
		}
		prober.Run(ctx)
		if ctx.Err() == nil {
			report("end")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
}

func port(t *testing.T, address string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestChecker(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host == "by.name" && r.Header.Get("X-Asked") == "yes":
			w.WriteHeader(http.StatusNoContent)
		case r.URL.Path == "/bad":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	number := port(t, server.Listener.Addr().String())
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := port(t, silent.Addr().String())
	_ = silent.Close()
	target := Target{
		PodIP:     "127.0.0.1",
		Container: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(number)}}},
		Exec: func(_ context.Context, command []string) (string, int, error) {
			switch command[0] {
			case "good":
				return "", 0, nil
			case "bad":
				return "no luck", 2, nil
			default:
				return "", 0, errors.New("cannot run")
			}
		},
	}
	get := func(path string, at intstr.IntOrString, headers ...corev1.HTTPHeader) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: at, HTTPHeaders: headers, Scheme: corev1.URISchemeHTTP}}
	}
	tcp := func(at intstr.IntOrString) corev1.ProbeHandler {
		return corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: at}}
	}
	exec := func(command string) corev1.ProbeHandler {
		return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}}
	}
	tests := map[string]struct {
		handler corev1.ProbeHandler
		ok      bool
		message string
	}{
		"http by name":      {get("/", intstr.FromString("http")), true, ""},
		"http headers":      {get("/bad", intstr.FromInt(number), corev1.HTTPHeader{Name: "Host", Value: "by.name"}, corev1.HTTPHeader{Name: "X-Asked", Value: "yes"}), true, ""},
		"http status":       {get("/bad", intstr.FromInt(number)), false, "statuscode: 503"},
		"http refused":      {get("/", intstr.FromInt(closed)), false, "refused"},
		"http unknown port": {get("/", intstr.FromString("nope")), false, "nope"},
		"tcp":               {tcp(intstr.FromString("http")), true, ""},
		"tcp refused":       {tcp(intstr.FromInt(closed)), false, "refused"},
		"exec":              {exec("good"), true, ""},
		"exec status":       {exec("bad"), false, "status 2: no luck"},
		"exec error":        {exec("other"), false, "cannot run"},
		"grpc":              {corev1.ProbeHandler{GRPC: &corev1.GRPCAction{}}, false, "not supported"},
		"nothing":           {corev1.ProbeHandler{}, false, "no handler"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got := Checker(test.handler, target)(ctx)
			if got.OK != test.ok || !test.ok && !strings.Contains(got.Message, test.message) {
				t.Errorf("got %+v, want %v with %q", got, test.ok, test.message)
			}
		})
	}
}

func TestRunHook(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler()) // any answer will do
	t.Cleanup(server.Close)
	target := Target{
		PodIP: "127.0.0.1", Container: &corev1.Container{},
		Exec: func(context.Context, []string) (string, int, error) { return "sorry", 1, nil },
	}
	number := port(t, server.Listener.Addr().String())
	tests := map[string]struct {
		hook    corev1.LifecycleHandler
		problem string
	}{
		"http":  {corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt(number)}}, ""},
		"exec":  {corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}, "status 1: sorry"},
		"sleep": {corev1.LifecycleHandler{Sleep: &corev1.SleepAction{}}, ""},
		"none":  {corev1.LifecycleHandler{}, "no supported handler"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := RunHook(t.Context(), &test.hook, target)
			if (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
				t.Errorf("error %v, want %q", err, test.problem)
			}
		})
	}
}
