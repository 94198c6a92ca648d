package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A Listener waits for routers that connect by themselves. It listens only on
// ports for which there is an Acceptor. Its methods may be called from any
// goroutine.
type Listener struct {
	logger log.Logger
	wake   chan struct{}

	mu        sync.Mutex
	acceptors []*Acceptor
	sockets   map[bindKey]*socket
	failing   bool // converging is to be tried again
	logged    string
}

// A bindKey is what a listening socket is bound to.
type bindKey struct {
	device string
	local  netip.AddrPort // with the unspecified address for any
}

// A socket is one that listens.
type socket struct {
	listener *net.TCPListener
	served   bool
	keys     map[netip.Prefix]string // TCP MD5 keys that are set
}

// An Acceptor gets the connections of one router.
type Acceptor struct {
	listener *Listener
	options  Options
	port     uint16
	conns    chan *net.TCPConn
}

// NewListener returns a Listener that listens on nothing yet.
func NewListener(logger log.Logger) *Listener {
	return &Listener{logger: logger, wake: make(chan struct{}, 1), sockets: make(map[bindKey]*socket)}
}

// Accept begins to accept connections of the router that o describes on a local
// port. Neither the router's port nor ConnectTimeout matters. If the router's
// address is the unspecified one, with a Device, any link-local address on that
// device is the router. The socket is bound in the network namespace of the
// calling thread; connections come once Run runs.
func (l *Listener) Accept(o Options, port uint16) (*Acceptor, error) {
	if err := o.validatePassive(); err != nil {
		return nil, fmt.Errorf("accepting %s: %w", o, err)
	}
	a := &Acceptor{listener: l, options: o, port: port, conns: make(chan *net.TCPConn, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, other := range l.acceptors {
		if other.overlaps(a) {
			return nil, fmt.Errorf("accepting %s: another passive peer has the same address and ports", o)
		}
	}
	l.acceptors = append(l.acceptors, a)
	failed := l.converge()
	// What keeps others from being heard is Run's to try again.
	if err := failed[l.keyOf(a)]; err != nil {
		l.acceptors = l.acceptors[:len(l.acceptors)-1]
		l.converge()
		return nil, fmt.Errorf("accepting %s: %w", o, err)
	}
	return a, nil
}

// keyOf returns on which socket an acceptor's connections come.
func (l *Listener) keyOf(a *Acceptor) bindKey {
	for k, members := range l.wanted() {
		if slices.Contains(members, a) {
			return k
		}
	}
	return bindKey{}
}

func (o Options) validatePassive() error {
	if a := o.Remote.Addr(); a.IsUnspecified() {
		if a.Is4() || o.Device == "" {
			return errors.New("a router without an address needs an interface")
		}
		o.Remote = netip.AddrPortFrom(netip.MustParseAddr("fe80::1"), 1)
	}
	o.Remote = netip.AddrPortFrom(o.Remote.Addr(), 1)
	return o.validate()
}

// Conns delivers the router's connections. One that nobody takes is closed when
// the next one comes.
func (a *Acceptor) Conns() <-chan *net.TCPConn { return a.conns }

// Close accepts no more of the router's connections, and stops listening if
// nobody else is waited for.
func (a *Acceptor) Close() error {
	l := a.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acceptors = slices.DeleteFunc(l.acceptors, func(b *Acceptor) bool { return a == b })
	a.discard()
	return joined(l.converge())
}

func (a *Acceptor) discard() {
	select {
	case c := <-a.conns:
		reset(c)
	default:
	}
}

// deliver hands over a connection in place of one that nobody took. Callers
// hold the Listener's lock, so that there is only one.
func (a *Acceptor) deliver(c *net.TCPConn) {
	a.discard()
	a.conns <- c
}

// overlaps reports whether a connection could be either router's.
func (a *Acceptor) overlaps(b *Acceptor) bool {
	x, y := a.options, b.options
	return a.port == b.port && x.Device == y.Device && x.Remote.Addr() == y.Remote.Addr() &&
		(x.Local == y.Local || !x.Local.IsValid() || !y.Local.IsValid())
}

// matches reports whether a connection is the router's.
func (a *Acceptor) matches(device string, local, remote netip.AddrPort) bool {
	o := a.options
	if a.port != local.Port() || o.Device != device || o.Local.IsValid() && o.Local.WithZone("") != local.Addr().WithZone("") {
		return false
	}
	want, addr := o.Remote.Addr(), remote.Addr()
	if want.IsUnspecified() {
		return addr.Is6() && addr.IsLinkLocalUnicast()
	}
	if want.Zone() == "" || want.Zone() == device {
		return addr.WithZone("") == want.WithZone("")
	}
	return addr == want
}

// prefix returns for which addresses the router's TCP MD5 key is.
func (a *Acceptor) prefix() netip.Prefix {
	addr := a.options.Remote.Addr().WithZone("")
	if addr.IsUnspecified() {
		return netip.MustParsePrefix("fe80::/10")
	}
	return netip.PrefixFrom(addr, addr.BitLen())
}

// wanted returns which sockets there have to be and for whom: of those that
// share device, port and family one for any address, for a second one beside it
// would not bind, or one for each address if all acceptors name theirs.
func (l *Listener) wanted() map[bindKey][]*Acceptor {
	type group struct {
		device string
		port   uint16
		is4    bool
	}
	groups := make(map[group][]*Acceptor)
	for _, a := range l.acceptors {
		g := group{a.options.Device, a.port, a.options.Remote.Addr().Is4()}
		groups[g] = append(groups[g], a)
	}
	want := make(map[bindKey][]*Acceptor)
	for g, members := range groups {
		any := netip.IPv6Unspecified()
		if g.is4 {
			any = netip.IPv4Unspecified()
		}
		needAny := slices.ContainsFunc(members, func(a *Acceptor) bool {
			return !a.options.Local.IsValid() || a.options.Local.IsLinkLocalUnicast()
		})
		for _, a := range members {
			local := any
			if !needAny {
				local = a.options.Local
			}
			k := bindKey{device: g.device, local: netip.AddrPortFrom(local, g.port)}
			want[k] = append(want[k], a)
		}
	}
	return want
}

// converge opens and closes sockets, and sets and removes keys. It goes on after
// a failure and returns what is the matter with which socket.
func (l *Listener) converge() map[bindKey]error {
	want := l.wanted()
	for k, s := range l.sockets {
		if _, ok := want[k]; !ok {
			delete(l.sockets, k)
			s.close()
		}
	}
	failed := make(map[bindKey]error)
	for k, members := range want {
		s := l.sockets[k]
		if s == nil {
			var err error
			if s, err = open(k); err != nil {
				failed[k] = err
				continue
			}
			l.sockets[k] = s
		}
		if err := s.setKeys(members); err != nil {
			failed[k] = err
		}
	}
	l.failing = len(failed) > 0
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return failed
}

// joined makes one error out of those of sockets, the same one of the same ones.
func joined(failed map[bindKey]error) error {
	errs := slices.Collect(maps.Values(failed))
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// open binds a socket.
func open(k bindKey) (*socket, error) {
	is4 := k.local.Addr().Is4()
	c := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: false},
		KeepAlive:       -1,
		Control: func(_, _ string, raw syscall.RawConn) error {
			// A router that uses GTSM takes an answer only with a TTL of 255,
			// and what TTL is right is known only when the router is.
			opts := []sockopt{sendTTL(is4, 255)}
			if k.device != "" {
				opts = append(opts, bindToDevice(k.device))
			}
			return apply(raw, opts)
		},
	}
	// TCP MD5 and the TTL are not to be had with it.
	c.SetMultipathTCP(false)
	listener, err := c.Listen(context.Background(), network(k.local.Addr()), k.local.String())
	if err != nil {
		return nil, err
	}
	return &socket{listener: listener.(*net.TCPListener), keys: make(map[netip.Prefix]string)}, nil
}

// close frees the port at once. Closing alone would do so only when a pending
// Accept has noticed, and another socket may have to be bound meanwhile.
func (s *socket) close() {
	if raw, err := s.listener.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	_ = s.listener.Close()
}

// setKeys makes the TCP MD5 keys of the socket be those of the acceptors.
func (s *socket) setKeys(members []*Acceptor) error {
	want := make(map[netip.Prefix]string)
	for _, a := range members {
		p := a.prefix()
		if key, ok := want[p]; ok && key != a.options.Password {
			return fmt.Errorf("passive peers at %s have different passwords on one socket: give each a source address", p)
		}
		want[p] = a.options.Password
	}
	maps.DeleteFunc(want, func(_ netip.Prefix, key string) bool { return key == "" })
	raw, err := s.listener.SyscallConn()
	if err != nil {
		return err
	}
	for p := range s.keys {
		if _, ok := want[p]; !ok {
			delete(s.keys, p)
			if err := apply(raw, []sockopt{md5Key(p, "")}); err != nil {
				return err
			}
		}
	}
	for p, key := range want {
		if s.keys[p] == key {
			continue
		}
		if err := apply(raw, []sockopt{md5Key(p, key)}); err != nil {
			return err
		}
		s.keys[p] = key
	}
	return nil
}

// Run accepts connections until ctx ends. No Acceptor gets one afterwards.
func (l *Listener) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, s := range l.sockets {
			_ = s.listener.SetDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	for {
		l.mu.Lock()
		for k, s := range l.sockets {
			if !s.served && ctx.Err() == nil {
				s.served = true
				g.Go(func() error { return l.serve(ctx, k.device, s.listener) })
			}
		}
		var again <-chan time.Time
		if l.failing {
			again = time.After(retryDelay)
		}
		l.mu.Unlock()
		select {
		case <-l.wake:
		case <-again:
			l.retry()
		case <-ctx.Done():
			err := g.Wait()
			l.close()
			return err
		}
	}
}

// retry binds what could not be bound when an Acceptor came or went.
func (l *Listener) retry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := joined(l.converge())
	if err == nil {
		l.logged = ""
		return
	}
	if text := err.Error(); text != l.logged {
		l.logged = text
		_ = l.logger.Log("level", "warn", "msg", "cannot listen for BGP connections", "err", err)
	}
}

// close closes everything at the end of Run.
func (l *Listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.acceptors {
		a.discard()
	}
	l.acceptors = nil
	l.converge()
}

// retryDelay is how long to wait before binding again what could not be bound.
const retryDelay = 5 * time.Second

// acceptPause is how long to wait after a failure that is likely to last, such
// as too many open files.
const acceptPause = 100 * time.Millisecond

// serve accepts connections on one socket until that is closed.
func (l *Listener) serve(ctx context.Context, device string, listener *net.TCPListener) error {
	for ctx.Err() == nil {
		c, err := listener.AcceptTCP()
		switch {
		case err == nil:
			l.accepted(device, c)
		case errors.Is(err, net.ErrClosed), errors.Is(err, unix.EINVAL):
			return nil // see socket.close
		case errors.Is(err, os.ErrDeadlineExceeded):
		default:
			_ = l.logger.Log("level", "warn", "msg", "cannot accept BGP connections", "address", listener.Addr(), "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// accepted gives a connection to whom it belongs.
func (l *Listener) accepted(device string, c *net.TCPConn) {
	local, remote := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.acceptors, func(a *Acceptor) bool { return a.matches(device, local, remote) })
	if i < 0 {
		reset(c)
		return
	}
	a := l.acceptors[i]
	if err := applyTo(c, a.options.ttlSockopts()); err != nil {
		_ = l.logger.Log("level", "warn", "msg", "cannot accept BGP connection", "peer", remote, "err", err)
		reset(c)
		return
	}
	a.deliver(c)
}
