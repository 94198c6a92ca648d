package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func dial(t *testing.T, listener net.Listener) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// forward runs a forwarder and returns its listener and how to stop it.
func forward(t *testing.T, target string) (listener net.Listener, stop func()) {
	t.Helper()
	listener = listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, listener, target) }()
	return listener, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

// A server that answers only once the client has closed its direction shows that
// ends are passed on one by one.
func TestForwardsBothDirectionsAndTheirEnds(t *testing.T) {
	t.Parallel()
	server := listen(t)
	defer func() { _ = server.Close() }()
	served := make(chan error, 1)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			served <- err
			return
		}
		request, err := io.ReadAll(conn)
		_, writeErr := conn.Write(append([]byte("you said "), request...))
		served <- errors.Join(err, writeErr, conn.Close())
	}()
	listener, stop := forward(t, server.Addr().String())
	defer stop()
	conn := dial(t, listener)
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || string(answer) != "you said hello" {
		t.Errorf("answer %q, error %v", answer, err)
	}
	if err := <-served; err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestDeadTargetHarmsOnlyItsConnection(t *testing.T) {
	t.Parallel()
	server := listen(t)
	address := server.Addr().String()
	_ = server.Close()
	listener, stop := forward(t, address)
	defer stop()
	for range 2 { // the second shows that the forwarder still runs
		if _, err := dial(t, listener).Read(make([]byte, 1)); err == nil {
			t.Error("read from a target that is not there")
		}
	}
}

func TestStopEndsIdleConnections(t *testing.T) {
	t.Parallel()
	server := listen(t)
	defer func() { _ = server.Close() }()
	listener, stop := forward(t, server.Addr().String())
	conn := dial(t, listener)
	inner, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inner.Close() }()
	stop()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("read from a connection that was to end")
	}
}
