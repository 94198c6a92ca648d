package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

const (
	// advertiseInterval is how often this node's address is made known, and how
	// often that of a router is asked for until it is. Routers with unnumbered
	// peers use the same.
	advertiseInterval = 10 * time.Second
	// hastyInterval is for the first few times.
	hastyInterval = time.Second
	hastyRounds   = 5
	// answerInterval is the least time between answers to solicitations.
	answerInterval = 500 * time.Millisecond
	// silence is after how long another router may take the place of the one
	// that was heard first.
	silence = 3 * advertiseInterval
	// reopenDelay is how long to wait for an interface that cannot be used.
	reopenDelay = time.Second
)

// A Discovery finds the router at the other end of an interface for a peer that
// is given by the interface alone. It listens for Router Advertisements (RFC
// 4861 section 4.2) and solicits them. As most routers find their unnumbered
// peers the same way, it also sends advertisements, with a lifetime of zero, so
// that no host takes this node for its router.
type Discovery struct {
	ifname string
	logger log.Logger

	mu        sync.Mutex
	local     netip.Addr
	routers   routers
	announced chan struct{} // closed and replaced at each change
	now       func() time.Time
}

// NewDiscovery returns a Discovery for an interface; Run sets it going.
func NewDiscovery(ifname string, logger log.Logger) *Discovery {
	return &Discovery{ifname: ifname, logger: logger, announced: make(chan struct{}), now: time.Now}
}

// Router returns the router's link-local address, with the zone, or an invalid
// one while it is unknown.
func (d *Discovery) Router() netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.routers.current.addr
}

// Local returns this node's link-local address on the interface, with the zone,
// or an invalid one while there is none.
func (d *Discovery) Local() netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.local
}

// Wait returns the router's address as soon as it is known.
func (d *Discovery) Wait(ctx context.Context) (netip.Addr, error) {
	for {
		d.mu.Lock()
		addr, changed := d.routers.current.addr, d.announced
		d.mu.Unlock()
		if addr.IsValid() {
			return addr, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return netip.Addr{}, fmt.Errorf("no router has advertised itself on %s: %w", d.ifname, ctx.Err())
		}
	}
}

// Unreachable says that a router's address does not answer, so that another that
// was heard lately takes its place.
func (d *Discovery) Unreachable(addr netip.Addr) {
	d.change(func() { d.routers.unreachable(addr, d.now()) })
}

// change changes what is known and tells of it.
func (d *Discovery) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.routers.current.addr
	f()
	if after := d.routers.current.addr; after != before {
		_ = d.logger.Log("level", "info", "msg", "found router", "interface", d.ifname, "router", after, "before", before)
		close(d.announced)
		d.announced = make(chan struct{})
	}
}

// Run listens until ctx ends, in the network namespace of the calling thread. An
// interface that is not there, or has no link-local address yet, is waited for.
func (d *Discovery) Run(ctx context.Context) error {
	var last string
	for ctx.Err() == nil {
		err := d.listen(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil && err.Error() != last {
			last = err.Error()
			_ = d.logger.Log("level", "warn", "msg", "cannot look for a router", "interface", d.ifname, "err", err)
		}
		d.change(func() { d.local, d.routers = netip.Addr{}, routers{} })
		select {
		case <-time.After(reopenDelay):
		case <-ctx.Done():
		}
	}
	return nil
}

// listen runs with one socket.
func (d *Discovery) listen(ctx context.Context) error {
	ifi, err := net.InterfaceByName(d.ifname)
	if err != nil {
		return err
	}
	c, local, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := prepare(c); err != nil {
		return err
	}
	d.change(func() { d.local = local })
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	s := &solicitor{conn: c, mac: ifi.HardwareAddr}
	for {
		now := time.Now()
		if !now.Before(s.next) {
			if err := s.round(now, !d.Router().IsValid()); err != nil {
				return err
			}
		}
		if err := c.SetReadDeadline(s.next); err != nil {
			return err
		}
		// Had ctx ended before, its deadline would be gone now.
		if ctx.Err() != nil {
			return nil
		}
		m, cm, from, err := c.ReadFrom()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return err
		}
		if err := d.received(s, m, cm, from); err != nil {
			return err
		}
	}
}

// prepare lets the socket receive the two kinds of message that matter.
func prepare(c *ndp.Conn) error {
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	return errors.Join(
		c.SetICMPFilter(&filter),
		c.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true),
		// A node that forwards is in the group already, but on its own account.
		c.JoinGroup(netip.IPv6LinkLocalAllRouters()),
	)
}

// received takes up a message, if it is valid by RFC 4861 section 6.1.
func (d *Discovery) received(s *solicitor, m ndp.Message, cm *ipv6.ControlMessage, from netip.Addr) error {
	if cm == nil || cm.HopLimit != ndp.HopLimit {
		return nil
	}
	switch m.(type) {
	case *ndp.RouterAdvertisement:
		if from.IsLinkLocalUnicast() {
			d.change(func() { d.routers.heard(from, d.now()) })
		}
	case *ndp.RouterSolicitation:
		return s.answer(time.Now())
	}
	return nil
}

// A solicitor sends what has to be sent on one socket, and keeps the times.
type solicitor struct {
	conn     *ndp.Conn
	mac      net.HardwareAddr
	next     time.Time // of the next round
	answered time.Time
	rounds   int
}

// round makes this node known, and solicits unless the router is known.
func (s *solicitor) round(now time.Time, solicit bool) error {
	interval := advertiseInterval
	if s.rounds++; s.rounds < hastyRounds {
		interval = hastyInterval
	}
	s.next = now.Add(interval)
	if solicit {
		if err := s.conn.WriteTo(&ndp.RouterSolicitation{Options: s.options()}, nil, netip.IPv6LinkLocalAllRouters()); err != nil {
			return fmt.Errorf("sending router solicitation: %w", err)
		}
	}
	return s.advertise()
}

// answer advertises in answer to a solicitation, to all, as RFC 4861 section
// 6.2.6 allows.
func (s *solicitor) answer(now time.Time) error {
	if now.Sub(s.answered) < answerInterval {
		return nil
	}
	s.answered = now
	return s.advertise()
}

func (s *solicitor) advertise() error {
	if err := s.conn.WriteTo(&ndp.RouterAdvertisement{Options: s.options()}, nil, netip.IPv6LinkLocalAllNodes()); err != nil {
		return fmt.Errorf("sending router advertisement: %w", err)
	}
	return nil
}

func (s *solicitor) options() []ndp.Option {
	if len(s.mac) != 6 {
		return nil
	}
	return []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: s.mac}}
}

// routers chooses among the routers of a link. Usually there is one.
type routers struct {
	current, other sighting
}

// A sighting is when a router was heard last.
type sighting struct {
	addr netip.Addr
	at   time.Time
}

// heard takes up an advertisement. The router in use stays so as long as it is
// heard.
func (r *routers) heard(addr netip.Addr, now time.Time) {
	switch {
	case addr == r.current.addr || !r.current.addr.IsValid() || now.Sub(r.current.at) > silence:
		r.current = sighting{addr, now}
	default:
		r.other = sighting{addr, now}
	}
}

// unreachable puts the other router, if there is one, in the place of addr.
func (r *routers) unreachable(addr netip.Addr, now time.Time) {
	if addr == r.current.addr && r.other.addr.IsValid() && r.other.addr != addr && now.Sub(r.other.at) <= silence {
		r.current, r.other = r.other, r.current
	}
}
