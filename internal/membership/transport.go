package membership

import (
	"context"
	"fmt"
	stdlog "log"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// listen opens the TCP and UDP sockets.
func (m *Membership) listen(ctx context.Context, logger *stdlog.Logger) (memberlist.NodeAwareTransport, int, error) {
	nt, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{m.cfg.Bind.Addr().String()},
		BindPort:  int(m.cfg.Bind.Port()),
		Logger:    logger,
	})
	if err != nil {
		return nil, 0, fmt.Errorf("membership: listening on %s: %w", m.cfg.Bind, err)
	}
	var t memberlist.NodeAwareTransport = &boundTransport{NetTransport: nt, ctx: ctx}
	if m.cfg.wrap != nil {
		t = m.cfg.wrap(t)
	}
	return t, nt.GetAutoBindPort(), nil
}

// boundTransport gives up its connections when the context ends, so that a join which waits for a dead host does not
// hold up the end of the process.
type boundTransport struct {
	*memberlist.NetTransport
	//nolint:containedctx // memberlist's interface has no context to pass; this one is that of Run.
	ctx context.Context
}

func (t *boundTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *boundTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: min(timeout, dialTimeout)}
	conn, err := d.DialContext(t.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	return &boundConn{Conn: conn, stop: context.AfterFunc(t.ctx, func() { _ = conn.Close() })}, nil
}

type boundConn struct {
	net.Conn
	stop func() bool
}

func (c *boundConn) Close() error {
	c.stop()
	return c.Conn.Close()
}
