package neighbor

import (
	"errors"
	"fmt"
	"time"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/netif"
)

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 10 * time.Second
	// linger is how long a socket is kept that nobody needs, for questions
	// come in series.
	linger = 30 * time.Second
)

var (
	errNoInterface = errors.New("no such interface")
	errStopped     = errors.New("the prober has stopped")
)

// step runs the tasks that are due and returns when the next one is, zero if
// there is none.
func (p *Prober) step() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.agenda) > 0 {
		due := p.agenda[0].at().due
		now := p.clock.Now()
		if due.After(now) {
			return due
		}
		p.agenda[0].run(now)
	}
	return time.Time{}
}

// converge makes the sockets what those who ask and the links call for, and
// returns when it is to be called again without an event, zero if never. Sockets
// are opened without the mutex, so that it takes nobody's time.
func (p *Prober) converge() time.Time {
	snapshot := p.cfg.Links.Links()
	if snapshot == nil {
		return time.Time{} // not listed yet: nothing is known to be missing
	}
	links := make(map[string]*netif.Link)
	own := make(map[ether.MAC]struct{})
	for i := range snapshot {
		links[snapshot[i].Name] = &snapshot[i]
		if len(snapshot[i].MAC) == 6 {
			own[ether.MAC(snapshot[i].MAC)] = struct{}{}
		}
	}
	p.mu.Lock()
	p.own = own
	now := p.clock.Now()
	var missing []*lane
	var next time.Time
	for _, l := range p.lanes {
		open, again := l.converge(links[l.key.ifname], now)
		if open {
			missing = append(missing, l)
		}
		next = earlier(next, again)
	}
	p.mu.Unlock()
	for _, l := range missing {
		next = earlier(next, p.open(l))
	}
	return next
}

// converge makes the lane follow its link. It reports whether it lacks a socket,
// and when to look again in any case.
func (l *lane) converge(link *netif.Link, now time.Time) (open bool, again time.Time) {
	if len(l.entries)+len(l.jobs) == 0 && !now.Before(l.until) {
		l.down(nil)
		delete(l.prober.lanes, l.key)
		l.prober.metrics.forget(l.key)
		return false, time.Time{}
	}
	if len(l.entries)+len(l.jobs) == 0 {
		again = l.until
	}
	if err := usable(link, l.key); err != nil {
		l.pause, l.retry = 0, time.Time{} // a link that comes back is tried at once
		l.down(err)
		return false, again
	}
	if id := identify(link); l.id != id {
		if l.conn != nil {
			l.down(fmt.Errorf("interface %s is another than before", l.key.ifname))
		}
		l.id, l.pause, l.retry = id, 0, time.Time{}
	}
	if l.link.CarrierChanges != link.CarrierChanges {
		for _, entries := range l.entries {
			for _, e := range entries {
				e.void()
			}
		}
	}
	l.link = *link
	switch {
	case l.conn != nil:
		return false, again
	case now.Before(l.retry):
		return false, earlier(again, l.retry)
	}
	return true, again
}

// usable returns why nobody can be asked, or nil.
func usable(link *netif.Link, k laneKey) error {
	switch {
	case link == nil:
		return fmt.Errorf("interface %s: %w", k.ifname, errNoInterface)
	case k.proto == protoARP:
		return link.CanARP()
	}
	return link.CanNDP()
}

// open opens the socket of a lane and returns when to try again if it failed.
func (p *Prober) open(l *lane) time.Time {
	// Only converge changes link and id.
	conn, err := p.cfg.Wire.Open(l.link, l.key.proto.etherType(), filterFor(l.key.proto, l.id.mac, nil))
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.metrics.failed(l.key, kindOpen)
		l.backOff()
		l.down(err)
		return l.retry
	}
	l.up(conn)
	return time.Time{}
}

// shut ends everything.
func (p *Prober) shut() {
	p.mu.Lock()
	p.stopped = true
	for _, l := range p.lanes {
		l.down(errStopped)
	}
	p.mu.Unlock()
	p.serving.Wait()
}
