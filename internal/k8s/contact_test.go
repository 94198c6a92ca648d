package k8s

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestContact(t *testing.T) {
	t.Parallel()
	clock := clocktesting.NewFakePassiveClock(time.Unix(100, 0))
	reg := prometheus.NewRegistry()
	contact := NewContact(clock, reg)
	event := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/broken":
			http.Error(w, "etcd is away", http.StatusInternalServerError)
		case "/watch":
			w.(http.Flusher).Flush()
			<-event
			_, _ = w.Write([]byte("bookmark"))
		}
	}))
	t.Cleanup(server.Close)
	client := &http.Client{Transport: contact.Wrap(server.Client().Transport)}
	get := func(path string) io.Reader {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = response.Body.Close() })
		return response.Body
	}
	expect := func(when string, seconds float64) {
		t.Helper()
		families, err := reg.Gather()
		if err != nil || len(families) != 1 {
			t.Fatalf("%d metrics (error %v)", len(families), err)
		}
		if heard := families[0].GetMetric()[0].GetGauge().GetValue(); heard != seconds {
			t.Errorf("%s: heard at %v, want %v", when, heard, seconds)
		}
	}
	expect("at the start", 0)
	get("/broken")
	expect("after an error of the server", 0)
	watch := get("/watch")
	expect("after an answer", 100)
	clock.SetTime(time.Unix(200, 0))
	close(event)
	if _, err := io.ReadAll(watch); err != nil {
		t.Fatal(err)
	}
	expect("after an event of a watch", 200)
}
