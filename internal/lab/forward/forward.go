package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// dialTimeout is how long the target may take to accept a connection.
const dialTimeout = 10 * time.Second

// Run joins every connection that listener accepts with a new one to target, an
// address:port, until ctx ends. A connection whose target does not answer is
// closed; others are not affected.
func Run(ctx context.Context, listener net.Listener, target string) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() }) //nolint:errcheck // only ends Accept
	defer stop()
	var group errgroup.Group
	defer group.Wait() //nolint:errcheck // the tasks return nil
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("forward to %s: %w", target, err)
		}
		group.Go(func() error {
			join(ctx, conn, target)
			return nil
		})
	}
}

func join(ctx context.Context, outer net.Conn, target string) {
	defer func() { _ = outer.Close() }()
	dialer := net.Dialer{Timeout: dialTimeout}
	inner, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer func() { _ = inner.Close() }()
	stop := context.AfterFunc(ctx, func() { errors.Join(outer.Close(), inner.Close()) }) //nolint:errcheck // only ends the copies
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return oneWay(inner, outer) })
	group.Go(func() error { return oneWay(outer, inner) })
	group.Wait() //nolint:errcheck // either end may break off at any time
}

// oneWay copies until src ends and passes the end on, so that each direction
// can be closed by itself.
func oneWay(dst, src net.Conn) error {
	_, err := io.Copy(dst, src)
	if tcp, ok := dst.(*net.TCPConn); ok {
		return errors.Join(err, tcp.CloseWrite())
	}
	return err
}
