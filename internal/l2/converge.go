package l2

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/netif"
)

// closeUnwanted closes the ports that no address asks for or whose link is not
// what it was, and forgets what else belongs to them.
func (l *loop) closeUnwanted(wanted map[portKey]map[netip.Addr]role, links map[string]*netif.Link) {
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

// convergePort makes the port k hold what is wanted and returns what prevents it.
func (l *loop) convergePort(k portKey, wanted map[netip.Addr]role, link *netif.Link, again map[netip.Addr]struct{}) error {
	if link == nil {
		return fmt.Errorf("interface %s: %w", k.ifname, errNoInterface)
	}
	if err := usable(link, k.proto); err != nil {
		return err
	}
	p := l.ports[k]
	if p == nil {
		var err error
		if p, err = l.openPort(k, link, wanted); err != nil {
			return err
		}
	} else if err := l.update(p, wanted); err != nil {
		return err
	}
	if p.carrierChanges != link.CarrierChanges {
		p.carrierChanges = link.CarrierChanges
		for addr, r := range p.held { // the switch may have forgotten where we are
			if r == owner {
				l.scheduler.add(p, addr, false)
			}
		}
	}
	for addr := range again {
		if p.held[addr] == owner {
			l.scheduler.add(p, addr, true)
		}
	}
	if p.groupErr == nil || !l.clock.Now().Before(p.groupRetry) {
		l.joinGroups(p)
	}
	return p.groupErr
}

// openPort opens the port k for what is wanted, unless it failed a short while
// ago.
func (l *loop) openPort(k portKey, link *netif.Link, wanted map[netip.Addr]role) (*port, error) {
	id := identify(link)
	if r := l.retries[k]; r != nil && r.id == id && l.clock.Now().Before(r.at) {
		return nil, r.err
	}
	p := l.newPort(k, id)
	p.held, p.carrierChanges = wanted, link.CarrierChanges
	if stats := l.states[k].stats; stats != nil {
		p.stats = stats
	}
	if k.proto == NDP {
		p.groups = newGroups(l.wire, link.Index)
	}
	var err error
	for {
		p.conn, err = l.wire.Open(*link, k.proto, p.filter())
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
	l.publishPorts()
	for addr, r := range wanted {
		l.hold(p, addr, r)
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

// publishPorts tells Apply which ports there are to flush.
func (l *loop) publishPorts() {
	open := slices.Collect(maps.Values(l.ports))
	l.open.Store(&open)
}

// hold makes p take up its role for addr, which its filter lets in.
func (l *loop) hold(p *port, addr netip.Addr, r role) {
	if p.groupless != nil {
		p.groupless[addr] = struct{}{}
	}
	if r == owner {
		l.takeOver(p, addr)
	}
	l.moved = true
}

// takeOver makes it known that addr is here now, to the own kernel at once.
func (l *loop) takeOver(p *port, addr netip.Addr) {
	if p.key.proto == NDP {
		p.correct(addr)
	}
	l.scheduler.add(p, addr, true)
}

// update makes the open port p hold what is wanted.
func (l *loop) update(p *port, wanted map[netip.Addr]role) error {
	var added, removed []netip.Addr
	filtered := false // the filter is to be another
	for addr, r := range wanted {
		old := p.held[addr]
		switch {
		case old == r:
			continue
		case old == stranger:
			added = append(added, addr)
			filtered = true
		case r == owner:
			l.takeOver(p, addr) // its requests are let in already
			filtered = p.key.proto == ARP || filtered
		case old == owner:
			l.scheduler.cancel(p, addr)
			filtered = p.key.proto == ARP || filtered
		}
		l.moved = true
	}
	for addr := range p.held {
		if _, ok := wanted[addr]; !ok {
			removed = append(removed, addr)
			l.scheduler.cancel(p, addr)
			filtered, l.moved = true, true
		}
	}
	p.held = wanted
	if !filtered {
		return nil
	}
	if err := p.setFilter(); err != nil {
		l.metrics.failed(p.key, kindFilter)
		l.close(p)
		return l.retryLater(p.key, p.id, fmt.Errorf("replacing filter of %s on %s: %w", p.key.proto, p.key.ifname, err))
	}
	for _, addr := range added {
		l.hold(p, addr, wanted[addr])
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
	l.publishPorts()
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
