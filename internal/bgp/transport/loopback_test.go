package transport

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const strangerVariable = "BERTH_TEST_CONNECT_TO"

// TestStranger is another process that connects to where the engine should. It
// is no test unless TestLoopbackResetsOtherProcesses runs it.
func TestStranger(t *testing.T) {
	to := os.Getenv(strangerVariable)
	if to == "" {
		return
	}
	c, err := net.Dial("tcp4", to)
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("error is %v", err)
	}
}

func TestLoopbackResetsOtherProcesses(t *testing.T) {
	t.Parallel()
	l, err := ListenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithCancel(testContext(t))
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept(ctx)
		if c != nil {
			_ = c.Close()
		}
		accepted <- err
	}()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestStranger$", "-test.v")
	cmd.Env = append(os.Environ(), strangerVariable+"="+l.Addr().String())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestStranger") {
		t.Errorf("stranger: %v\n%s", err, out)
	}
	select {
	case err := <-accepted:
		t.Fatalf("stranger was accepted: %v", err)
	default:
	}
	cancel()
	if err := <-accepted; !errors.Is(err, context.Canceled) {
		t.Errorf("Accept ended with %v", err)
	}
}

func TestLoopbackAcceptsOwnProcess(t *testing.T) {
	t.Parallel()
	l, err := ListenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	// After one call was given up, and more than once.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Accept ended with %v", err)
	}
	for _, network := range []string{"tcp4", "tcp"} {
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Accept(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		talk(t, c, got)
		_, _ = c.Close(), got.Close()
	}
	_ = l.Close()
	if _, err := l.Accept(testContext(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept ended with %v", err)
	}
}
