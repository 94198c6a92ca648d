package l2

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/berth-lb/berth/internal/netif"
)

const (
	// convergeInterval is the pause that a round is worth, so that a stream of
	// changes to many addresses costs few rebuilt filters. A round that took long
	// is worth a pause convergeShare times as long. Up to convergeCredit of that
	// may be owed, so that a change after a while of rest is never put off, nor
	// are the few that it may bring with it.
	convergeInterval = 20 * time.Millisecond
	convergeShare    = 3
	convergeCredit   = 100 * time.Millisecond

	minBackoff = 50 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// errNoInterface is what InterfaceState says of an interface that is not there.
var errNoInterface = errors.New("no such interface")

// loop is the state of Announcer.Run. It belongs to Run's goroutine.
type loop struct {
	*Announcer
	scheduler *scheduler
	ports     map[portKey]*port
	retries   map[portKey]*retry
	states    map[portKey]InterfaceState
	failures  chan failure
	more      chan struct{} // there are more groups to join
	serving   sync.WaitGroup
	// moved tells that an address was added or removed since the last report.
	moved bool
}

// A retry remembers a port that failed.
type retry struct {
	id   identity
	err  error
	wait time.Duration
	at   time.Time // not before
}

// A failure is a port whose socket broke.
type failure struct {
	port *port
	err  error
}

func newLoop(a *Announcer) *loop {
	return &loop{
		Announcer: a,
		scheduler: newScheduler(a.clock, a.refresh),
		ports:     make(map[portKey]*port),
		retries:   make(map[portKey]*retry),
		states:    make(map[portKey]InterfaceState),
		failures:  make(chan failure),
		more:      make(chan struct{}, 1),
	}
}

func (l *loop) run(ctx context.Context) error {
	changed, cancel := l.links.Subscribe()
	defer cancel()
	sending, stopSending := context.WithCancel(ctx)
	var sender sync.WaitGroup
	sender.Go(func() { l.scheduler.run(sending) })
	defer func() {
		stopSending()
		sender.Wait()
		for _, p := range l.ports {
			l.close(p)
		}
		l.serving.Wait()
		l.finish(l.report(nil))
	}()

	var rested time.Time // when the rounds so far will have been rested for
	for {
		start := l.clock.Now()
		retry := l.clock.NewTimer(l.converge())
		now := l.clock.Now()
		if rested.Before(now) {
			rested = now
		}
		rested = rested.Add(max(convergeInterval, convergeShare*now.Sub(start)))
		goOn := l.rest(ctx, rested.Sub(now)-convergeCredit) && l.await(ctx, changed, retry.C())
		retry.Stop()
		if !goOn {
			return nil
		}
	}
}

// await waits for a reason for another round. It returns false at the end.
func (l *loop) await(ctx context.Context, changed <-chan struct{}, retry <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-l.more:
			l.joinMore()
			continue
		case <-l.wake:
		case <-changed:
		case f := <-l.failures:
			l.fail(f)
		case <-retry:
		}
		return true
	}
}

// rest waits between two rounds and reports whether to go on.
func (l *loop) rest(ctx context.Context, pause time.Duration) bool {
	if pause <= 0 {
		return true
	}
	timer := l.clock.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case f := <-l.failures:
			l.fail(f)
			notify(l.wake) // for another round after this rest
		case <-timer.C():
			return true
		}
	}
}

// converge makes the ports what the desired addresses and the links ask for. It
// returns the time until it is to be called again without an event.
func (l *loop) converge() time.Duration {
	snapshot := l.links.Links()
	if snapshot == nil {
		return math.MaxInt64 // not listed yet: nothing is known to be missing
	}
	desired, again := l.begin()
	wanted := wants(desired)
	links := make(map[string]*netif.Link)
	macs := make(map[MAC]struct{})
	for i, link := range snapshot {
		links[link.Name] = &snapshot[i]
		if len(link.MAC) == len(MAC{}) {
			macs[MAC(link.MAC)] = struct{}{}
		}
	}
	l.macs.Store(&macs)
	l.forgetAskers(func(ifname string) bool { return links[ifname] != nil })
	l.closeUnwanted(wanted, links)
	errs := make(map[portKey]error)
	for k, held := range wanted {
		errs[k] = l.convergePort(k, held, links[k.ifname], again)
	}
	l.finish(l.report(errs))
	return l.nextRetry()
}

// wants returns the roles of each port that some address asks for.
func wants(desired Desired) map[portKey]map[netip.Addr]role {
	out := make(map[portKey]map[netip.Addr]role)
	var last portKey // most addresses are on the same
	var roles map[netip.Addr]role
	for addr, ann := range desired {
		proto := ProtocolOf(addr)
		for _, name := range ann.Interfaces {
			r, _ := ann.role(name)
			if r == stranger {
				continue
			}
			if k := (portKey{name, proto}); k != last {
				last, roles = k, out[k]
				if roles == nil {
					roles = make(map[netip.Addr]role, len(desired))
					out[k] = roles
				}
			}
			roles[addr] = r
		}
	}
	return out
}
