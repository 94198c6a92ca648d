package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// DialContext connects from inside the target. The address must be a literal one
// with a port: a name would be looked up by other threads, in another network.
func (t Target) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from network namespace %s: %w", t.Name, err)
	}
	var conn net.Conn
	err := t.Do(func() (err error) {
		// For a single literal address the socket is made by this very thread;
		// from then on it stays in the namespace, whoever uses it.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
