package l2

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/internal/netif"
)

// closeUnwanted closes the ports that no address asks for or whose link is not
// what it was, and forgets what else belongs to them.
func (l *loop) closeUnwanted(wanted map[portKey][]netip.Addr, links map[string]*netif.Link) {
	for k, p := range l.ports {
		link := links[k.ifname]
		if wanted[k] == nil || link == nil || usable(link, k.proto) != nil || identify(link) != p.id {
			l.close(p)
		}
	}
	for k := range l.retries {
		// A link that comes back is tried at once.
		if link := links[k.ifname]; wanted[k] == nil || link == nil || usable(link, k.proto) != nil {
			delete(l.retries, k)
		}
	}
}

// usable returns why proto cannot work on link, or nil.
func usable(link *netif.Link, proto Protocol) error {
	if proto == ARP {
		return link.CanARP()
	}
	return link.CanNDP()
}

// convergePort makes the port k answer for addrs and returns what prevents it.
func (l *loop) convergePort(k portKey, addrs []netip.Addr, link *netif.Link, again map[netip.Addr]struct{}) error {
	if link == nil {
		return fmt.Errorf("interface %s: %w", k.ifname, errNoInterface)
	}
	if err := usable(link, k.proto); err != nil {
		return err
	}
	p := l.ports[k]
	if p == nil {
		var err error
		if p, err = l.open(k, link, addrs); err != nil {
			return err
		}
	} else if err := l.update(p, addrs); err != nil {
		return err
	}
	if p.carrierChanges != link.CarrierChanges {
		p.carrierChanges = link.CarrierChanges
		again = p.held // the switch may have forgotten where we are
	}
	for addr := range again {
		if _, ok := p.held[addr]; ok {
			l.scheduler.add(p, addr)
		}
	}
	if p.groupErr == nil || !l.clock.Now().Before(p.groupRetry) {
		l.joinGroups(p)
	}
	return p.groupErr
}

// open opens the port k for addrs, unless it failed a short while ago.
func (l *loop) open(k portKey, link *netif.Link, addrs []netip.Addr) (*port, error) {
	id := identify(link)
	now := l.clock.Now()
	if r := l.retries[k]; r != nil && r.id == id && now.Before(r.at) {
		return nil, r.err
	}
	p := &port{
		key: k, id: id, desired: &l.desired, metrics: l.metrics.forPort(k), opened: now,
		closing: make(chan struct{}), done: make(chan struct{}),
		held: make(map[netip.Addr]struct{}, len(addrs)), limit: maxProgram,
		carrierChanges: link.CarrierChanges,
	}
	if k.proto == NDP {
		p.groups = newGroups(l.wire, link.Index)
		p.groupless = make(map[netip.Addr]struct{})
	}
	var err error
	for {
		p.conn, err = l.wire.Open(*link, k.proto, filterFor(k.proto, addrs, p.limit))
		if !errors.Is(err, ErrFilterSize) || p.limit/2 < minProgram {
			break
		}
		p.limit /= 2
	}
	if err != nil {
		l.metrics.failed(k, kindOpen)
		return nil, l.retryLater(k, id, err)
	}
	l.ports[k] = p
	for _, addr := range addrs {
		l.hold(p, addr)
	}
	l.serving.Go(func() {
		if err := p.serve(); err != nil {
			select {
			case l.failures <- failure{p, err}:
			case <-p.closing:
			}
		}
	})
	return p, nil
}

// hold makes p announce addr, which its filter lets in.
func (l *loop) hold(p *port, addr netip.Addr) {
	p.held[addr] = struct{}{}
	if p.groupless != nil {
		p.groupless[addr] = struct{}{}
	}
	l.scheduler.add(p, addr)
	l.moved = true
}

// update makes the open port p answer for addrs.
func (l *loop) update(p *port, addrs []netip.Addr) error {
	want := make(map[netip.Addr]struct{}, len(addrs))
	var added, removed []netip.Addr
	for _, addr := range addrs {
		want[addr] = struct{}{}
		if _, ok := p.held[addr]; !ok {
			added = append(added, addr)
		}
	}
	for addr := range p.held {
		if _, ok := want[addr]; !ok {
			removed = append(removed, addr)
			l.scheduler.cancel(p, addr)
		}
	}
	if len(added)+len(removed) == 0 {
		return nil
	}
	l.moved = true
	p.held = want
	if err := p.setFilter(); err != nil {
		l.metrics.failed(p.key, kindFilter)
		l.close(p)
		return l.retryLater(p.key, p.id, fmt.Errorf("replacing filter of %s on %s: %w", p.key.proto, p.key.ifname, err))
	}
	for _, addr := range added {
		l.hold(p, addr)
	}
	for _, addr := range removed {
		l.leaveGroup(p, addr)
	}
	return nil
}

// joinBatch is how many groups are joined before other work gets a turn. The
// kernel searches its list of groups for each, so that ten thousand take seconds.
const joinBatch = 100

// joinGroups joins some of the groups that are missing. Until all are joined,
// multicast solicitations may miss us where a switch snoops on MLD; the
// announcements that go out meanwhile make up for it. A failure ends the attempt,
// which is repeated after a while.
func (l *loop) joinGroups(p *port) {
	left := joinBatch
	for addr := range p.groupless {
		if left--; left < 0 {
			notify(l.more)
			return
		}
		if err := p.groups.add(addr); err != nil {
			l.metrics.failed(p.key, kindGroup)
			p.groupErr = fmt.Errorf("interface %s: %w", p.key.ifname, err)
			p.groupRetry = l.clock.Now().Add(maxBackoff)
			notify(l.wake) // to report it
			return
		}
		delete(p.groupless, addr)
	}
	p.groupErr = nil
}

// joinMore goes on with joinGroups.
func (l *loop) joinMore() {
	for _, p := range l.ports {
		if len(p.groupless) > 0 && p.groupErr == nil {
			l.joinGroups(p)
		}
	}
}

// leaveGroup takes back what joinGroups did for addr.
func (l *loop) leaveGroup(p *port, addr netip.Addr) {
	if p.groups == nil {
		return
	}
	if _, missing := p.groupless[addr]; missing {
		delete(p.groupless, addr)
		return
	}
	if err := p.groups.remove(addr); err != nil {
		l.metrics.failed(p.key, kindGroup)
	}
}

// close closes p and ends its announcements.
func (l *loop) close(p *port) {
	for addr := range p.held {
		l.scheduler.cancel(p, addr)
	}
	p.close()
	delete(l.ports, p.key)
	l.moved = true
}

// fail closes a port whose socket broke. A link that goes down breaks it too,
// often before the event of the link arrives.
func (l *loop) fail(f failure) {
	if l.ports[f.port.key] != f.port {
		return
	}
	l.metrics.failed(f.port.key, kindRead)
	l.close(f.port)
	if l.clock.Since(f.port.opened) > maxBackoff {
		delete(l.retries, f.port.key) // it worked for long: begin anew
	}
	_ = l.retryLater(f.port.key, f.port.id, f.err)
}

// retryLater has the port opened again after a while, twice as long each time,
// and returns err. A link that changes is tried at once.
func (l *loop) retryLater(k portKey, id identity, err error) error {
	r := l.retries[k]
	if r == nil || r.id != id {
		r = &retry{id: id, wait: minBackoff / 2}
		l.retries[k] = r
	}
	r.wait = min(2*r.wait, maxBackoff)
	r.at = l.clock.Now().Add(r.wait)
	r.err = err
	return err
}

// nextRetry returns the time until something that failed is to be tried again.
func (l *loop) nextRetry() time.Duration {
	wait := time.Duration(math.MaxInt64)
	now := l.clock.Now()
	for k, r := range l.retries {
		if l.ports[k] == nil {
			wait = min(wait, r.at.Sub(now))
		}
	}
	for _, p := range l.ports {
		if p.groupErr != nil {
			wait = min(wait, p.groupRetry.Sub(now))
		}
	}
	return max(wait, 0)
}
