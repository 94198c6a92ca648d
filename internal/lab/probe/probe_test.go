package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// scripted returns a prober and a context that ends when the prober makes the last
// of the given number of attempts.
func scripted(t *testing.T, url string, attempts int32) (*Prober, context.Context) {
	t.Helper()
	prober, err := New(Settings{URL: url, From: "here", Timeout: 10 * time.Second, Dial: new(net.Dialer).DialContext})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ticks := make(chan time.Time, attempts-1)
	for range attempts - 1 {
		ticks <- time.Time{}
	}
	prober.ticks = func(time.Duration) (<-chan time.Time, func()) { return ticks, func() {} }
	var made atomic.Int32
	attempt := prober.attempt
	prober.attempt = func(attemptCtx context.Context) Result {
		if made.Add(1) == attempts {
			cancel()
		}
		return attempt(attemptCtx)
	}
	return prober, ctx
}

func TestRunCountsAnswers(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1)%2 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("web-1\n")) //nolint:errcheck // the test sees it missing
	}))
	defer server.Close()
	prober, ctx := scripted(t, server.URL+"/hostname", 6)
	report := prober.Run(ctx)
	if report.Sent != 6 || report.OK != 3 || report.Failed != 3 {
		t.Errorf("sent %d, ok %d, failed %d; want 6, 3, 3", report.Sent, report.OK, report.Failed)
	}
	if report.Backends["web-1"] != 3 || report.Errors["http status 503"] != 3 {
		t.Errorf("backends %v, errors %v", report.Backends, report.Errors)
	}
}

func TestRunUsesNewConnections(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(r.RemoteAddr)) //nolint:errcheck // the test sees it missing
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	prober, ctx := scripted(t, server.URL+"/clientip", 5)
	report := prober.Run(ctx)
	if got := connections.Load(); got != 5 {
		t.Errorf("%d connections for 5 attempts", got)
	}
	if report.Sources["127.0.0.1"] != 5 || len(report.Backends) != 0 {
		t.Errorf("sources %v, backends %v; want 5 times 127.0.0.1 and none", report.Sources, report.Backends)
	}
}

// An attempt that hangs delays no other, and the end of the run waits for it.
func TestRunDoesNotWaitForEarlierAttempts(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	last := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 3 {
			close(last)
		}
		<-last // the first answers only once the third has arrived
	}))
	defer server.Close()
	prober, ctx := scripted(t, server.URL, 3)
	if report := prober.Run(ctx); report.OK != 3 {
		t.Errorf("%d of 3 ok; errors %v", report.OK, report.Errors)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]Settings{
		"a name":            {URL: "http://example.org/"},
		"another scheme":    {URL: "https://192.0.2.1/"},
		"no url":            {},
		"negative interval": {URL: "http://192.0.2.1/", Every: -1},
		"negative timeout":  {URL: "http://192.0.2.1/", Timeout: -1},
	} {
		if _, err := New(settings); err == nil {
			t.Errorf("%s: accepted %+v", name, settings)
		}
	}
}
