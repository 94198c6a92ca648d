package l2

import (
	"cmp"
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// An Asker is a station that asked for one of our addresses.
type Asker struct {
	Addr netip.Addr
	MAC  MAC
	Last time.Time // when it asked last
}

const (
	// maxAskers bounds what is remembered for each interface and protocol.
	maxAskers = 64
	askerAge  = 10 * time.Minute
	// askerTargets is how many addresses an asker is remembered for.
	askerTargets = 16
	// maxUpdates is how many askers are told of an address that none is known
	// to have asked for.
	maxUpdates = 16
)

// askers are the stations that asked on one interface by one protocol of late.
type askers struct {
	mu     sync.Mutex
	byAddr map[netip.Addr]*list.Element
	recent list.List // of *asker, the latest first
}

type asker struct {
	Asker
	targets [askerTargets]netip.Addr // the latest that it asked for, a ring
	next    int
}

func newAskers() *askers { return &askers{byAddr: make(map[netip.Addr]*list.Element)} }

// saw remembers that q was asked.
func (a *askers) saw(q query, now time.Time) {
	if q.asker.IsUnspecified() || q.asker.IsMulticast() || q.asker == q.target {
		return // a probe's answer would be for nobody
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.byAddr[q.asker]
	switch {
	case e != nil:
		a.recent.MoveToFront(e)
	case a.recent.Len() < maxAskers:
		e = a.recent.PushFront(&asker{})
	default:
		e = a.recent.Back()
		delete(a.byAddr, e.Value.(*asker).Addr)
		*e.Value.(*asker) = asker{}
		a.recent.MoveToFront(e)
	}
	s := e.Value.(*asker)
	s.Addr, s.MAC, s.Last = q.asker, q.askerMAC, now
	a.byAddr[q.asker] = e
	if !slices.Contains(s.targets[:], q.target) {
		s.targets[s.next] = q.target
		s.next = (s.next + 1) % askerTargets
	}
}

// forget drops stations by their MACs.
func (a *askers) forget(macs map[MAC]struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for addr, e := range a.byAddr {
		if _, found := macs[e.Value.(*asker).MAC]; found {
			a.recent.Remove(e)
			delete(a.byAddr, addr)
		}
	}
}

// list returns the askers, the latest first.
func (a *askers) list(now time.Time) []Asker {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []Asker
	for e := a.recent.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*asker); now.Sub(s.Last) < askerAge {
			out = append(out, s.Asker)
		}
	}
	return out
}

// of returns those who asked for addr, or if there are none the latest few that
// asked for anything.
func (a *askers) of(addr netip.Addr, now time.Time) (out []Asker) {
	a.mu.Lock()
	for e := a.recent.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*asker); now.Sub(s.Last) < askerAge && slices.Contains(s.targets[:], addr) {
			out = append(out, s.Asker)
		}
	}
	a.mu.Unlock()
	if len(out) > 0 {
		return out
	}
	out = a.list(now)
	return slices.Clip(out[:min(len(out), maxUpdates)])
}

// RecentAskers returns the stations that asked for an address on the named
// interface in the last ten minutes, the latest first, at most 64 for each
// protocol. It knows of those that asked for addresses which were in Desired
// when they did.
func (a *Announcer) RecentAskers(ifname string) []Asker {
	var out []Asker
	for _, proto := range []Protocol{ARP, NDP} {
		if t := a.askersOn(portKey{ifname, proto}); t != nil {
			out = append(out, t.list(a.clock.Now())...)
		}
	}
	slices.SortStableFunc(out, func(x, y Asker) int { return cmp.Compare(y.Last.UnixNano(), x.Last.UnixNano()) })
	return out
}

// SetPeers names the MACs of other speakers. They ask to find out whether somebody
// answers, and are not to be told of moves in place of those who want to connect. It
// may be called at any time.
func (a *Announcer) SetPeers(macs []MAC) {
	peers := make(map[MAC]struct{}, len(macs))
	for _, m := range macs {
		peers[m] = struct{}{}
	}
	a.peers.Store(&peers)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.askers {
		t.forget(peers)
	}
}

// askersOn returns the table of a port, nil if it was never open.
func (a *Announcer) askersOn(k portKey) *askers {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.askers[k]
}

// rememberAskers returns the table of a port, a new one at first.
func (a *Announcer) rememberAskers(k portKey) *askers {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.askers[k] == nil {
		a.askers[k] = newAskers()
	}
	return a.askers[k]
}

// forgetAskers drops the tables of interfaces that are gone.
func (a *Announcer) forgetAskers(there func(ifname string) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range a.askers {
		if !there(k.ifname) {
			delete(a.askers, k)
		}
	}
}
