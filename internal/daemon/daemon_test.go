package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunStopsAllWhenOneFails(t *testing.T) {
	t.Parallel()
	failure := errors.New("no such interface")
	stopped := false
	err := Run(t.Context(),
		Task{Name: "bystander", Run: func(ctx context.Context) error {
			<-ctx.Done()
			stopped = true
			return ctx.Err()
		}},
		Task{Name: "links", Run: func(context.Context) error { return failure }},
	)
	if !errors.Is(err, failure) || !strings.HasPrefix(err.Error(), "links: ") {
		t.Errorf("Run: %v", err)
	}
	if !stopped {
		t.Error("Run returned before the other task did")
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, Task{Name: "waiter", Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakeClock(time.Unix(0, 0))
	h := NewHealth(clock, 10*time.Second)
	check := func(when string, healthy, ready bool) {
		t.Helper()
		if err := h.Healthy(); (err == nil) != healthy {
			t.Errorf("%s: Healthy is %v", when, err)
		}
		if err := h.Ready(); (err == nil) != ready {
			t.Errorf("%s: Ready is %v", when, err)
		}
	}
	check("at the start", true, false)
	h.SetReady(true)
	check("when ready", true, true)
	h.Queued()
	clock.Step(9 * time.Second)
	h.Queued() // does not make the oldest work younger
	check("with work waiting for a while", true, true)
	clock.Step(2 * time.Second)
	check("with work waiting for long", false, false)
	h.Applied()
	check("when done", true, true)
	h.Queued()
	clock.Step(time.Second)
	check("with new work", true, true)
}

func TestHandler(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakeClock(time.Unix(0, 0))
	health := NewHealth(clock, time.Second)
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "berth_test_total", Help: "For this test."})
	registry.MustRegister(counter)
	handler := (&Server{Gatherer: registry, Health: health}).handler()
	get := func(path string) (int, string) {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		return recorder.Code, recorder.Body.String()
	}
	if code, body := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "not ready yet") {
		t.Errorf("/readyz before ready: %d %s", code, body)
	}
	health.SetReady(true)
	health.Queued()
	clock.Step(time.Minute)
	if code, body := get("/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "waiting for 1m0s") {
		t.Errorf("/healthz when stuck: %d %s", code, body)
	}
	if code, body := get("/metrics"); code != http.StatusOK || !strings.Contains(body, "berth_test_total 0") {
		t.Errorf("/metrics: %d %s", code, body)
	}
}

func TestServerRunsUntilTold(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	server := &Server{Addr: taken.Addr().String(), Gatherer: prometheus.NewRegistry(), Health: NewHealth(clocktesting.NewFakeClock(time.Now()), time.Second)}
	if err := server.Run(t.Context()); err == nil || !strings.Contains(err.Error(), server.Addr) {
		t.Errorf("an address that is taken: %v", err)
	}
	server.Addr = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := server.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
}

func TestNewLogger(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ format, threshold, want, wantErr string }{
		{"logfmt", "info", "level=info ts=", ""},
		{"json", "info", `{"level":"info"`, ""},
		{"logfmt", "error", "", ""},
		{"xml", "info", "", `log format "xml": must be logfmt or json`},
		{"json", "loud", "", `log level "loud": must be debug, info, warn or error`},
	} {
		var out bytes.Buffer
		logger, err := NewLogger(&out, test.format, test.threshold)
		if test.wantErr != "" {
			if err == nil || err.Error() != test.wantErr {
				t.Errorf("%s %s: %v", test.format, test.threshold, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		level.Info(logger).Log("msg", "hello")
		line, err := io.ReadAll(&out)
		if err != nil || !strings.HasPrefix(string(line), test.want) || (test.want == "") != (len(line) == 0) {
			t.Errorf("%s %s: wrote %q", test.format, test.threshold, line)
		}
	}
}
