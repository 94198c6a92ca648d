package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

const (
	// defendInterval is the least time between two announcements in defence of an
	// address (RFC 5227 section 1.1, DEFEND_INTERVAL).
	defendInterval = 10 * time.Second
	// conflictRecheck is how often it is found out anew whether another host still
	// has an address that is not answered for because of it.
	conflictRecheck = 20 * time.Second
	// conflictMemory is how long a conflict is told of after the other host was last
	// heard.
	conflictMemory = time.Minute
	// maxPerHost is how many addresses a host may have before it seems to answer for
	// every address, as routers do that proxy ARP.
	maxPerHost = 8
	// detectPatience bounds finding out whether an address is free. Thousands may
	// wait for their turn.
	detectPatience = 30 * time.Second
)

// detector finds out whether a host on an interface has an address, those with
// the MACs to disregard aside; *neighbor.Prober is one.
type detector interface {
	Detect(ctx context.Context, ifname string, addr netip.Addr, disregard ...ether.MAC) (rival ether.MAC, found bool, err error)
}

// conflicts looks after the addresses of this node that a foreign host has. Its
// fields but what mu guards belong to the speaker's loop.
type conflicts struct {
	detector detector
	asker    asker
	// probes says whether addresses are looked at before their first use.
	probes bool
	clock  clock.PassiveClock
	logger log.Logger

	changed chan struct{}
	// unsure says that this node may not know who has which address, so that what it
	// hears another say may be right.
	unsure  bool
	known   map[netip.Addr]*conflict
	checked map[netip.Addr]bool // to be free, before their first use
	// heard are addresses that are left to other speakers; see overheard.go.
	heard map[netip.Addr]*overheard

	mu      sync.Mutex
	orders  []order
	wake    chan struct{}
	results []finding
	pending map[netip.Addr]bool
}

// conflict is an address that a foreign host has.
type conflict struct {
	mac             ether.MAC
	ifname          string
	since, lastSeen time.Time
	// beforeUse says that it had the address before any node announced it.
	beforeUse bool
	// unused says that this node has not announced the address.
	unused bool
	// yields says that this node does not answer for the address meanwhile.
	yields bool
	// proxied says that the host seems to answer for every address.
	proxied  bool
	told     bool      // that users know
	toldAt   time.Time // when there was last something to tell
	checked  time.Time // when it was last looked for
	defended time.Time
}

// order asks for a look at an address.
type order struct {
	addr       netip.Addr
	interfaces []string
	disregard  []ether.MAC
	// first says that it is not in use yet.
	first bool
	// heard says that it is left to another speaker, which has the MAC.
	heard bool
	mac   ether.MAC
}

// finding is what came of it.
type finding struct {
	addr   netip.Addr
	first  bool
	heard  bool
	rival  ether.MAC
	ifname string // "" if the address is free
	err    error
}

func newConflicts(d detector, a asker, probes bool, logger log.Logger) *conflicts {
	return &conflicts{
		detector: d, asker: a, probes: probes, clock: clock.RealClock{}, logger: logger, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		known: map[netip.Addr]*conflict{}, checked: map[netip.Addr]bool{}, pending: map[netip.Addr]bool{},
		heard: map[netip.Addr]*overheard{},
	}
}

// changes receives a value when there are findings.
func (c *conflicts) changes() <-chan struct{} { return c.changed }

// run looks at addresses until ctx ends.
func (c *conflicts) run(ctx context.Context) error {
	var looking sync.WaitGroup
	defer looking.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		}
		c.mu.Lock()
		orders := c.orders
		c.orders = nil
		c.mu.Unlock()
		for _, o := range orders {
			looking.Go(func() { c.look(ctx, o) })
		}
	}
}

func (c *conflicts) look(ctx context.Context, o order) {
	bounded, cancel := context.WithTimeout(ctx, detectPatience)
	defer cancel()
	find := c.detect
	if o.heard {
		find = c.ask
	}
	f := find(bounded, o)
	c.mu.Lock()
	c.results = append(c.results, f)
	c.mu.Unlock()
	signal(c.changed)
}

// detect finds out whether another host has an address.
func (c *conflicts) detect(ctx context.Context, o order) finding {
	f := finding{addr: o.addr, first: o.first}
	var errs []error
	for _, name := range o.interfaces {
		rival, found, err := c.detector.Detect(ctx, name, o.addr, o.disregard...)
		if err != nil {
			errs = append(errs, err)
		}
		if found {
			f.rival, f.ifname = rival, name
			return f
		}
	}
	f.err = errors.Join(errs...)
	return f
}

// order has an address looked at, unless that is under way.
func (c *conflicts) order(o order) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[o.addr] {
		return
	}
	c.pending[o.addr] = true
	c.orders = append(c.orders, o)
	signal(c.wake)
}

// take takes in the findings.
func (c *conflicts) take(speakerWith func(ether.MAC) string) {
	c.mu.Lock()
	results := c.results
	c.results = nil
	for _, f := range results {
		delete(c.pending, f.addr)
	}
	c.mu.Unlock()
	for _, f := range results {
		if f.heard {
			c.concludeHeard(f, speakerWith)
		} else {
			c.conclude(f)
		}
	}
}

func (c *conflicts) conclude(f finding) {
	now := c.clock.Now()
	k := c.known[f.addr]
	switch {
	case k == nil && !f.first: // nobody needs to know any more
	case f.ifname != "" && k == nil && c.of(f.rival) >= maxPerHost:
		if len(c.proxies()) == 0 {
			level.Warn(c.logger).Log("msg", "a host answers for so many addresses that it seems to answer for every one (proxy ARP?); those that it has not been found to have so far are announced all the same",
				"mac", f.rival, "interface", f.ifname, "address", f.addr)
		}
		c.known[f.addr] = &conflict{mac: f.rival, ifname: f.ifname, since: now, lastSeen: now, checked: now, proxied: true}
		c.checked[f.addr] = true
	case f.ifname != "" && k == nil:
		c.known[f.addr] = &conflict{mac: f.rival, ifname: f.ifname, since: now, lastSeen: now, beforeUse: !c.unsure, yields: true, checked: now, unused: true}
		level.Warn(c.logger).Log("msg", "another host has an address that was about to be announced; it is not announced", "address", f.addr, "mac", f.rival, "interface", f.ifname)
	case f.ifname != "":
		k.mac, k.ifname, k.lastSeen, k.checked = f.rival, f.ifname, now, now
	case k != nil && k.yields && f.err == nil:
		level.Info(c.logger).Log("msg", "the other host has given the address up; announcing it", "address", f.addr, "mac", k.mac)
		delete(c.known, f.addr)
		c.checked[f.addr] = true
	case k != nil:
		k.checked = now
	default:
		if f.err != nil {
			// Whether somebody has it is not known. It is what the address is for that counts.
			level.Warn(c.logger).Log("msg", "cannot find out whether another host has the address; announcing it", "address", f.addr, "err", f.err)
		}
		c.checked[f.addr] = true
	}
}

// beingPrepared says of an address that whether another host has it is being found
// out, or that kube-proxy is given time to write its rules, or that its owner is about
// to say that it answers. It is the same text whoever says so.
const beingPrepared = "it is " + v1beta1.PreparingText + " for the first time"

// prepare keeps back an address of this node that is to be announced soon.
func (p *plan) prepare(addr netip.Addr) {
	p.withheld[addr] = withheld{preparing, beingPrepared}
	delete(p.desired, addr)
}

// withhold keeps back what must not be announced: addresses that are new until it
// is known that nobody has them and kube-proxy serves them, and those that are left
// to another host. It returns when it wants to be called again; zero for never.
func (s *speaker) withhold(p *plan) (again time.Time) {
	c := s.conflicts
	c.unsure = p.minority || s.clock.Since(s.minorityAt) < minorityHold
	for addr := range c.checked {
		if !p.first[addr] {
			delete(c.checked, addr) // it is claimed by now, or somebody else's
		}
	}
	for addr, k := range c.known {
		again = earlier(again, s.follow(p, addr, k))
	}
	for addr := range p.first {
		announcement, have := p.desired[addr]
		if !have || !c.probes || c.checked[addr] || c.known[addr] != nil {
			continue
		}
		o := s.orderFor(addr, announcement.Interfaces)
		o.first = true
		c.order(o)
		p.prepare(addr)
	}
	for addr := range p.fresh {
		if _, have := p.desired[addr]; have && !isIn(s.held, addr) {
			p.prepare(addr)
		}
	}
	return again
}

// follow keeps up one conflict. A host that had an address before anybody
// announced it is looked after even when no Service has the address any more, so
// that the controller knows for how long to give it to none.
func (s *speaker) follow(p *plan, addr netip.Addr, k *conflict) (again time.Time) {
	c := s.conflicts
	announcement, owned := p.desired[addr]
	if _, claimed := p.claims[addr]; !claimed && !k.beforeUse && s.joined {
		delete(c.known, addr)
		return time.Time{}
	}
	if owned && !k.unused && !k.proxied {
		k.yields = p.yields[addr] // users may change their minds
	}
	if !k.yields {
		due := k.lastSeen.Add(conflictMemory)
		if k.proxied && c.of(k.mac) >= maxPerHost {
			due = time.Time{} // as long as that host is found to have others
		} else if !s.clock.Now().Before(due) {
			delete(c.known, addr)
			return time.Time{}
		}
		p.rivals[addr] = fmt.Sprintf("another host, %s, speaks for it too", k.mac)
		if k.proxied {
			p.rivals[addr] = fmt.Sprintf("another host, %s, answers for it, as it seems to do for every address: proxy ARP?", k.mac)
		}
		return due
	}
	if owned {
		p.withheld[addr] = withheld{conflicting, fmt.Sprintf("another host has it (%s on %s of node %s)", k.mac, k.ifname, s.self)}
		delete(p.desired, addr)
	} else {
		announcement.Interfaces = []string{k.ifname}
	}
	due := k.checked.Add(conflictRecheck)
	if !s.clock.Now().Before(due) {
		c.order(s.orderFor(addr, announcement.Interfaces))
		return time.Time{} // the finding will call
	}
	return due
}

func (s *speaker) orderFor(addr netip.Addr, interfaces []string) order {
	return order{addr: addr, interfaces: slices.Clone(interfaces), disregard: s.speakerMACs()}
}

// speakerMACs returns the MACs of all speakers' links.
func (s *speaker) speakerMACs() []ether.MAC {
	var macs []ether.MAC
	view := s.members.View()
	for i := range view.Members {
		for _, l := range view.Members[i].Info.Links {
			macs = append(macs, ether.MAC(l.MAC))
		}
	}
	for i := range view.Gone {
		for _, l := range view.Gone[i].Info.Links {
			macs = append(macs, ether.MAC(l.MAC))
		}
	}
	return macs
}

// meetRival deals with another station that has spoken for an address of this
// node, and says whether a plan may depend on it.
func (s *speaker) meetRival(r l2.Rival) bool {
	if _, have := s.held[r.Addr]; !have {
		return false
	}
	if node := s.speakerWith(r.MAC); node != "" {
		return s.meetSpeaker(node, r)
	}
	s.metrics.rivals.WithLabelValues("foreign").Inc()
	c, now := s.conflicts, s.clock.Now()
	k := c.known[r.Addr]
	if k == nil {
		k = &conflict{since: now, checked: now, yields: s.yields[r.Addr]}
		c.known[r.Addr] = k
		level.Warn(s.logger).Log("msg", "another host speaks for an address of this node", "address", r.Addr, "mac", r.MAC,
			"interface", r.Interface, "yields", k.yields)
	}
	// One who forges packets from ever other stations is told of every now and then.
	fresh := k.lastSeen.IsZero() || k.mac != r.MAC && now.Sub(k.toldAt) >= defendInterval
	if fresh {
		k.told, k.toldAt = false, now
	}
	k.mac, k.ifname, k.lastSeen = r.MAC, r.Interface, now
	if !k.yields && now.Sub(k.defended) >= defendInterval {
		k.defended = now
		s.announcer.Announce(r.Addr)
	}
	return fresh
}

// speakerWith returns the node that has the MAC, or "".
func (s *speaker) speakerWith(mac ether.MAC) string {
	view := s.members.View()
	has := func(links []membership.Link) bool {
		return slices.ContainsFunc(links, func(l membership.Link) bool { return ether.MAC(l.MAC) == mac })
	}
	for i := range view.Members {
		if has(view.Members[i].Info.Links) {
			return view.Members[i].Node
		}
	}
	for i := range view.Gone {
		if has(view.Gone[i].Info.Links) {
			return view.Gone[i].Node
		}
	}
	return ""
}

// of returns how many addresses a host had before they were announced.
func (c *conflicts) of(mac ether.MAC) int {
	n := 0
	for _, k := range c.known {
		if k.mac == mac && k.beforeUse {
			n++
		}
	}
	return n
}

// proxies returns the hosts that seem to answer for every address.
func (c *conflicts) proxies() map[ether.MAC]bool {
	macs := map[ether.MAC]bool{}
	for _, k := range c.known {
		if k.proxied {
			macs[k.mac] = true
		}
	}
	return macs
}

// report returns the conflicts as the NodeState has them.
func (c *conflicts) report() []v1beta1.AddressConflict {
	var all []v1beta1.AddressConflict
	for addr, k := range c.known {
		all = append(all, v1beta1.AddressConflict{
			Address: addr.String(), MAC: k.mac.String(), Interface: k.ifname,
			Since: metav1.NewTime(k.since), LastSeen: metav1.NewTime(k.lastSeen), BeforeUse: k.beforeUse,
		})
	}
	slices.SortFunc(all, func(a, b v1beta1.AddressConflict) int { return strings.Compare(a.Address, b.Address) })
	return all
}

// news returns what users have to be told of conflicts that are new.
func (c *conflicts) news(self string) map[netip.Addr]string {
	var news map[netip.Addr]string
	for addr, k := range c.known {
		if k.told {
			continue
		}
		k.told = true
		if news == nil {
			news = map[netip.Addr]string{}
		}
		if k.proxied {
			news[addr] = fmt.Sprintf("a host, %s, answers for every address that it is asked for on %s of node %s, be it %s: "+
				"proxy ARP? It is announced all the same", k.mac, k.ifname, self, addr)
			continue
		}
		what := "it is announced all the same, in defence of it"
		if k.yields {
			what = "it is not announced meanwhile"
		}
		news[addr] = fmt.Sprintf("another host, %s, has %s as seen on %s of node %s; %s", k.mac, addr, k.ifname, self, what)
	}
	return news
}

// signal puts a value into a channel of capacity one unless one is there.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
