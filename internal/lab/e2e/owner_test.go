package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/lab/network"
)

// askInterval is the time between two questions: short enough to hear a second
// owner at once, long enough for the answers to one not to be those to the next.
const askInterval = 50 * time.Millisecond

// glance is how long it takes to see who answers at the moment.
const glance = 4 * askInterval

// onlooker is the host that asks: not a client, whose kernel would learn from the
// answers what it has to learn by itself.
const onlooker = network.Stranger

// claims are the nodes that answer for an address, with the number of answers.
// Names that are MACs are nobody's.
type claims map[string]int

// listen asks for an address for as long and returns all answers.
func (l *testLab) listen(ctx context.Context, address netip.Addr, duration time.Duration) ([]answer, error) {
	a, err := l.newAsker(onlooker, address)
	if err != nil {
		return nil, err
	}
	defer a.close()
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	return a.collect(ctx, askInterval)
}

// whoHas asks for addresses for as long, all at the same time, and returns who has
// answered for each. A node may answer in the name of another, as a stand-in does,
// but from its own MAC.
func (e *env) whoHas(duration time.Duration, addresses ...netip.Addr) map[netip.Addr]claims {
	e.Helper()
	answers := make([][]answer, len(addresses))
	var group errgroup.Group
	for i, address := range addresses {
		group.Go(func() (err error) {
			answers[i], err = e.lab.listen(e.ctx, address, duration)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		e.Fatal(err)
	}
	all := map[netip.Addr]claims{}
	for i, address := range addresses {
		all[address] = claims{}
		for _, found := range answers[i] {
			all[address][e.lab.node(found.claimed)]++
			if found.source != found.claimed && (!e.lab.isNode(found.source) || !e.lab.isNode(found.claimed)) {
				e.Errorf("%s was answered for by %s in the name of %s", address, found.source, found.claimed)
			}
		}
	}
	return all
}

// owner returns the node that answers, if it is the only one.
func (c claims) owner() (node string, only bool) {
	for node = range c {
	}
	return node, len(c) == 1
}

// waitOwners returns the one node that answers for each of the addresses, once
// there is exactly one for each, and acceptable says yes to it; nil accepts all.
func (e *env) waitOwners(addresses []netip.Addr, acceptable func(node string) bool) map[netip.Addr]string {
	e.Helper()
	return e.waitOwnersFor(20*time.Second, addresses, acceptable)
}

// waitOwnersFor is waitOwners with another limit.
func (e *env) waitOwnersFor(limit time.Duration, addresses []netip.Addr, acceptable func(node string) bool) map[netip.Addr]string {
	e.Helper()
	var owners map[netip.Addr]string
	e.waitFor(fmt.Sprintf("each of %s to be answered for by one right node", join(addresses)), limit, func(context.Context) (bool, string) {
		owners = map[netip.Addr]string{}
		all := e.whoHas(glance, addresses...)
		for address, c := range all {
			if node, only := c.owner(); only && (acceptable == nil || acceptable(node)) {
				owners[address] = node
			}
		}
		return len(owners) == len(addresses), fmt.Sprint(all)
	})
	return owners
}

// waitOwner is waitOwners for one address.
func (e *env) waitOwner(address netip.Addr) string {
	e.Helper()
	return e.waitOwners([]netip.Addr{address}, nil)[address]
}

// among accepts some nodes.
func among(nodes ...string) func(string) bool {
	return func(node string) bool { return slices.Contains(nodes, node) }
}

// silence is how long nothing is heard of an address before it counts as silent.
const silence = time.Second

// waitSilent returns when nobody answers for any of the addresses any more, and
// makes sure that it stays so for a while.
func (e *env) waitSilent(addresses ...netip.Addr) {
	e.Helper()
	heard := func(duration time.Duration) (bool, string) {
		all := e.whoHas(duration, addresses...)
		for _, c := range all {
			if len(c) > 0 {
				return true, fmt.Sprint(all)
			}
		}
		return false, ""
	}
	e.waitFor("nobody to answer for "+join(addresses), 20*time.Second, func(context.Context) (bool, string) {
		answered, by := heard(silence) // a shorter silence may be the machine's
		return !answered, by
	})
	if answered, by := heard(silence); answered {
		e.Errorf("answered for again after silence: %s", by)
	}
}

// expectOneOwner listens for as long and fails the test unless, for each of the
// addresses, one node answers throughout and nobody else does.
func (e *env) expectOneOwner(when string, duration time.Duration, addresses ...netip.Addr) map[netip.Addr]string {
	e.Helper()
	owners := map[netip.Addr]string{}
	meter := e.meterStalls()
	defer meter.stop()
	for address, c := range e.whoHas(duration, addresses...) {
		node, only := c.owner()
		if !only {
			e.Errorf("%s: %s is answered for by %v", when, address, c)
			continue
		}
		owners[address] = node
		// Not every question need be answered on a machine that is busy.
		if asked := int((duration - meter.longest()) / askInterval); c[node] < asked/2 {
			e.Errorf("%s: %s answered only %d of %d questions for %s", when, node, c[node], asked, address)
		}
	}
	return owners
}

// neighbor is what the kernel of a host knows about an address.
func (e *env) neighbor(host string, address netip.Addr) (mac, state string) {
	e.Helper()
	out, err := e.lab.Exec(e.ctx, host, "ip", "neighbor", "show", address.String(), "dev", "eth0")
	if err != nil {
		e.Fatal(err)
	}
	fields := strings.Fields(string(out))
	for i, field := range fields[:max(0, len(fields)-1)] {
		if field == "lladdr" {
			mac = fields[i+1]
		}
	}
	if len(fields) > 0 {
		state = fields[len(fields)-1]
	}
	return mac, state
}

// answerWatch hears everything that is said about some addresses.
type answerWatch struct {
	e       *env
	stopped context.CancelFunc
	results chan heard
}

type heard struct {
	address netip.Addr
	answers []answer
	err     error
}

// watchAnswers asks for addresses until it is stopped.
func (e *env) watchAnswers(addresses []netip.Addr) *answerWatch {
	ctx, cancel := context.WithCancel(e.ctx)
	w := &answerWatch{e: e, stopped: cancel, results: make(chan heard, len(addresses))}
	for _, address := range addresses {
		go func() {
			a, err := e.lab.newAsker(onlooker, address)
			if err != nil {
				w.results <- heard{address: address, err: err}
				return
			}
			defer a.close()
			answers, err := a.collect(ctx, askInterval)
			w.results <- heard{address, answers, err}
		}()
	}
	e.Cleanup(cancel)
	return w
}

// stop returns the answers about each address in the order in which they came.
func (w *answerWatch) stop() map[netip.Addr][]answer {
	w.e.Helper()
	w.stopped()
	all := map[netip.Addr][]answer{}
	for range cap(w.results) {
		h := <-w.results
		if h.err != nil {
			w.e.Error(h.err)
		}
		all[h.address] = h.answers
	}
	return all
}
