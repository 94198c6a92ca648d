package streamer

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// start serves until the test ends, and returns where and how to end it before.
func start(t *testing.T, delay time.Duration) (url string, stop context.CancelFunc, ended <-chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- Run(ctx, listener, delay) }()
	return "http://" + listener.Addr().String(), cancel, done
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestPages(t *testing.T) {
	t.Parallel()
	url, _, _ := start(t, 0)
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for page, want := range map[string]string{"/healthz": "ok", "/hostname": name, "/clientip": "127.0.0.1:"} {
		if got := get(t, url+page); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", page, got, want)
		}
	}
}

// TestEndBreaksDownloads: new clients are served during the delay, and what is open
// after it breaks.
func TestEndBreaksDownloads(t *testing.T) {
	t.Parallel()
	url, stop, ended := start(t, 200*time.Millisecond)
	response, err := http.Get(url + "/download")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.ReadFull(response.Body, make([]byte, 3*Piece)); err != nil {
		t.Fatal(err)
	}
	stop()
	if got := get(t, url+"/healthz"); got != "ok" {
		t.Errorf("on its way out: %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Error("a download ended as if it were complete")
	}
}
