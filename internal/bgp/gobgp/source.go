package gobgp

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/go-kit/log/level"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/bgp/transport"
	"github.com/berth-lb/berth/internal/bgp/wire"
)

// A source makes connections for one configuration of a peer: it calls the
// peer, or waits to be called.
type source struct {
	*session
	peer bgp.Peer
	// generation is the session's that peer is of.
	generation int
	acceptor   *transport.Acceptor
	discovery  *transport.Discovery
	// next is a connection that came while there was another.
	next *net.TCPConn
}

// discover looks for a peer that has no address, until ctx ends.
func (f *source) discover(ctx context.Context, helpers *sync.WaitGroup) {
	if f.peer.Address.IsValid() {
		return
	}
	f.discovery = transport.NewDiscovery(f.peer.Interface, f.logger)
	helpers.Go(func() {
		_ = f.speaker.cfg.Inside(func() error { return f.discovery.Run(ctx) }) // it never fails
	})
}

// listen begins to wait for the peer.
func (f *source) listen() error {
	addr := f.peer.Address
	if !addr.IsValid() {
		addr = netip.IPv6Unspecified()
	}
	return f.speaker.cfg.Inside(func() (err error) {
		f.acceptor, err = f.speaker.listener.Accept(options(f.peer, addr), portOr(f.peer.LocalPort))
		return err
	})
}

func (f *source) close() {
	if f.next != nil {
		_ = f.next.Close()
	}
	if f.acceptor != nil {
		if err := f.speaker.cfg.Inside(f.acceptor.Close); err != nil {
			level.Warn(f.logger).Log("msg", "cannot change what is listened for", "err", err)
		}
	}
}

// state is what the session is in while connect waits.
func (f *source) state() bgp.State {
	if f.peer.Passive {
		return bgp.Active
	}
	return bgp.Connect
}

// ready reports whether there is nothing to wait for before connect.
func (f *source) ready() bool { return f.acceptor != nil || f.next != nil }

// connect returns a connection to the peer.
func (f *source) connect(ctx context.Context) (*net.TCPConn, error) {
	if conn := f.next; conn != nil {
		f.next = nil
		return conn, nil
	}
	if f.peer.Passive {
		return f.accept(ctx)
	}
	addr := f.peer.Address
	if f.discovery != nil {
		waiting, cancel := context.WithTimeout(ctx, discoveryTime)
		defer cancel()
		var err error
		if addr, err = f.discovery.Wait(waiting); err != nil {
			return nil, err
		}
	}
	var conn *net.TCPConn
	err := f.speaker.cfg.Inside(func() (err error) {
		conn, err = transport.Dial(ctx, options(f.peer, addr))
		return err
	})
	if err != nil && f.discovery != nil {
		f.discovery.Unreachable(addr)
	}
	return conn, err
}

// link returns the addresses of the interface that a session between link-local
// addresses goes over; none if it cannot be seen.
func (f *source) link(local netip.Addr) []netip.Addr {
	if !local.IsLinkLocalUnicast() {
		return nil
	}
	name := f.peer.Interface
	if name == "" {
		name = f.peer.Address.Zone()
	}
	var out []netip.Addr
	err := f.speaker.cfg.Inside(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		addrs, err := ifi.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				out = append(out, p.Addr())
			}
		}
		return err
	})
	if err != nil {
		level.Debug(f.logger).Log("msg", "cannot see the addresses of the link", "interface", name, "err", err)
	}
	return out
}

func (f *source) accept(ctx context.Context) (*net.TCPConn, error) {
	if f.acceptor == nil {
		if err := f.listen(); err != nil {
			return nil, err
		}
	}
	select {
	case conn := <-f.acceptor.Conns():
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// watch waits for the peer to connect again while there is a session. A peer
// that restarts gracefully does so before we know that the old connection is
// gone (RFC 4724 section 4.2), any other has to wait for that.
func (f *source) watch(ctx context.Context, a *attempt) {
	if f.acceptor == nil {
		return
	}
	for {
		select {
		case conn := <-f.acceptor.Conns():
			f.mu.Lock()
			known := a.relay.Session()
			if known.Established.IsZero() || gracefulRestart(known) {
				f.next = conn
				a.interrupted, a.reason = true, "the peer has connected again"
				a.cancel()
				f.mu.Unlock()
				return
			}
			f.mu.Unlock()
			collision := wire.Notification{Code: wire.CodeCease, Subcode: wire.SubcodeCollision}
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write(collision.Append(nil))
			_ = conn.Close()
		case <-ctx.Done():
			return
		}
	}
}
