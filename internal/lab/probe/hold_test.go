package probe

import (
	"context"
	"net"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/lab/streamer"
)

// scriptedConn calls after once some data has come, more than what is said in the
// beginning. What that returns is how the connection breaks.
type scriptedConn struct {
	net.Conn
	reads int
	after func() error
}

func (c *scriptedConn) Read(b []byte) (int, error) {
	const some = 4
	if c.reads++; c.reads > some {
		if err := c.after(); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// hold holds a connection to a server until after ends or breaks it.
func hold(t *testing.T, url string, after func(end context.CancelFunc) error) HoldReport {
	t.Helper()
	server := httptest.NewServer(streamer.Handler())
	defer server.Close()
	defer server.CloseClientConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	holder, err := NewHolder(HoldSettings{
		URL:   strings.Replace(url, "SERVER", server.Listener.Addr().String(), 1),
		From:  "here",
		Every: time.Millisecond,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return &scriptedConn{Conn: conn, after: func() error { return after(cancel) }}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return holder.Run(ctx)
}

func TestHold(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"http://SERVER/download", "ws://SERVER/echo"} {
		report := hold(t, url, func(end context.CancelFunc) error {
			end()
			return nil
		})
		if !report.Connected || report.Broken != "" || report.Received == 0 || report.LongestStall == 0 {
			t.Errorf("held until the end: %+v", report)
		}
		report = hold(t, url, func(context.CancelFunc) error { return syscall.ECONNRESET })
		if !report.Connected || report.Broken != "connection reset by peer" || report.BrokeAt.IsZero() {
			t.Errorf("reset: %+v", report)
		}
	}
	nothing := func(context.CancelFunc) error { return nil }
	if report := hold(t, "http://SERVER/absent", nothing); report.Connected || report.Broken != "http status 404" {
		t.Errorf("absent page: %+v", report)
	}
	if report := hold(t, "ws://SERVER/hostname", nothing); report.Connected || report.Broken == "" {
		t.Errorf("no WebSocket: %+v", report)
	}
}

func TestHoldOfNonsense(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"ftp://192.0.2.1/x":       "must start with http:// or ws://",
		"http://example.org/x":    "needs an address",
		"ws://[192.0.2.1]:80:1/x": "hold:",
	} {
		if _, err := NewHolder(HoldSettings{URL: url}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", url, err, want)
		}
	}
}

func TestHoldReportText(t *testing.T) {
	t.Parallel()
	at := time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, report := range map[string]HoldReport{
		"held for 2s\n12 bytes":              {Connected: true, Lasted: Seconds(2 * time.Second), Received: 12},
		"no connection: timeout\n":           {Broken: "timeout"},
		"broke after 1s (03:04:05.000): boo": {Connected: true, Lasted: Seconds(time.Second), Broken: "boo", BrokeAt: at},
	} {
		var text strings.Builder
		if err := report.WriteText(&text); err != nil || !strings.Contains(text.String(), want) {
			t.Errorf("%q does not contain %q", text.String(), want)
		}
	}
}
