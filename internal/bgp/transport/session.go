package transport

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/berth-lb/berth/internal/bgp/wire"
)

// Messages counts messages by type.
type Messages struct {
	Open, Update, Notification, Keepalive, RouteRefresh uint64
}

// A Session is what is known of a connection to a router at one moment. It
// shares no memory with the relay.
type Session struct {
	Local, Remote netip.AddrPort
	// LocalOpen and PeerOpen are nil until the OPEN was sent and received.
	LocalOpen, PeerOpen *wire.Open
	// Families and HoldTime are what both OPENs agree on; none and zero before.
	Families []wire.Family
	HoldTime time.Duration
	// Established is when the peer confirmed our OPEN, zero before.
	Established time.Time
	// Sent and Received count what went over the router's connection.
	Sent, Received Messages
	// The NOTIFICATION that ended the session, if one did.
	NotificationSent, NotificationReceived *wire.Notification
	// Err is why the relay ended; nil while it runs.
	Err error
}

// counters counts messages by their type.
type counters [wire.TypeRouteRefresh + 1]atomic.Uint64

func (c *counters) snapshot() Messages {
	return Messages{
		Open:         c[wire.TypeOpen].Load(),
		Update:       c[wire.TypeUpdate].Load(),
		Notification: c[wire.TypeNotification].Load(),
		Keepalive:    c[wire.TypeKeepalive].Load(),
		RouteRefresh: c[wire.TypeRouteRefresh].Load(),
	}
}

// Session returns what is known at the moment.
func (r *Relay) Session() Session {
	r.mu.Lock()
	s := r.session
	r.mu.Unlock()
	s.LocalOpen, s.PeerOpen = cloneOpen(s.LocalOpen), cloneOpen(s.PeerOpen)
	s.NotificationSent, s.NotificationReceived = cloneNotification(s.NotificationSent), cloneNotification(s.NotificationReceived)
	s.Families = append([]wire.Family(nil), s.Families...)
	s.Sent, s.Received = r.sent.snapshot(), r.received.snapshot()
	return s
}

// update changes the session and tells of it. What its pointers point to is
// never changed afterwards.
func (r *Relay) update(f func(*Session)) {
	r.mu.Lock()
	f(&r.session)
	if s := &r.session; s.LocalOpen != nil && s.PeerOpen != nil && s.Families == nil {
		s.Families = wire.NegotiatedFamilies(s.LocalOpen.Capabilities, s.PeerOpen.Capabilities)
		s.HoldTime = time.Duration(min(s.LocalOpen.HoldTime, s.PeerOpen.HoldTime)) * time.Second
	}
	r.mu.Unlock()
	r.config.Changed()
}

func cloneOpen(o *wire.Open) *wire.Open {
	if o == nil {
		return nil
	}
	c := o.Clone()
	return &c
}

func cloneNotification(n *wire.Notification) *wire.Notification {
	if n == nil {
		return nil
	}
	c := n.Clone()
	return &c
}
