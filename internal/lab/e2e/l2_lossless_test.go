package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/probe"
)

// aftermath is for how long connections are watched after something is over.
const aftermath = time.Second

// noFailure runs something in whose course no address moves and no connection may
// fail.
func (f *fleet) noFailure(what string, addresses []netip.Addr, happening func()) {
	f.Helper()
	f.failsAtMost(0, what, addresses, happening)
}

// failsAtMost runs something in whose course an address may move that often. A
// connection that is being made just then may be reset, since the node that takes
// its next packet knows nothing of it; no other may fail.
func (f *fleet) failsAtMost(moves int, what string, addresses []netip.Addr, happening func()) {
	f.Helper()
	running := f.startProbes(watchService(), addresses...)
	f.waitProbing(addresses)
	happening()
	f.pause(aftermath, "what follows from it may come late")
	for address, r := range running.stop() {
		underWay := min(moves, r.Errors["connection reset by peer"])
		tell := f.Logf
		if r.OK == 0 || r.Failed > underWay {
			tell = f.Errorf
		}
		tell("%s: %s: %d of %d connections failed: %v; longest gap %s, from %s on",
			what, address, r.Failed, r.Sent, r.Errors, r.LongestGap, r.GapBegan.Format("15:04:05.000"))
		f.count(what+", failed connections", r.Failed-underWay)
		if moves > 0 {
			f.count(what+", connections under way that were reset", underWay)
		}
		measured.add(f.row(what+", longest gap"), time.Duration(r.LongestGap))
	}
}

// row names a measurement.
func (f *fleet) row(what string) string {
	return fmt.Sprintf("%s, %d nodes, %s", what, nodesOf(f.lab), f.lab.family)
}

func (f *fleet) count(what string, n int) {
	measured.note(f.row(what), int64(n), func(n int64) string { return fmt.Sprint(n) })
}

// connections are some that are held: they must not break.
type connections struct {
	*fleet
	release context.CancelFunc
	reports chan probe.HoldReport
}

// hold opens a download and a WebSocket to each of the addresses and returns when
// they are there.
func (f *fleet) hold(addresses ...netip.Addr) connections {
	f.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	f.Cleanup(cancel)
	var urls []string
	for _, address := range addresses {
		for _, scheme := range []string{"http", "ws"} {
			path := map[string]string{"http": "/download", "ws": "/echo"}[scheme]
			urls = append(urls, strings.Replace(urlOf(address, servicePort, path), "http", scheme, 1))
		}
	}
	c := connections{f, cancel, make(chan probe.HoldReport, len(urls))}
	var open sync.WaitGroup
	for _, url := range urls {
		open.Add(1)
		once := sync.OnceFunc(open.Done)
		go func() {
			defer once()
			report, err := f.lab.Hold(ctx, lab.HoldOptions{URL: url, Connected: once})
			if err != nil {
				report.Broken = err.Error()
			}
			c.reports <- report
		}()
	}
	open.Wait()
	return c
}

// expectHeld ends the connections and fails the test if any broke before.
func (c connections) expectHeld(what string) {
	c.Helper()
	c.release()
	for range cap(c.reports) {
		r := <-c.reports
		var text strings.Builder
		if err := r.WriteText(&text); err != nil {
			c.Fatal(err)
		}
		broken, tell := 0, c.Logf
		if r.Broken != "" || !r.Connected {
			broken, tell = 1, c.Errorf
		}
		tell("%s: %s", what, text.String())
		c.count(what+", long-lived connections broken", broken)
		measured.add(c.row(what+", longest stall of a connection"), time.Duration(r.LongestStall))
	}
}

// flushing makes the client forget all the time who has which address, until it is
// stopped.
func (f *fleet) flushing() (stop func()) {
	f.Helper()
	const often = 250 * time.Millisecond
	// What it is just asking for is left alone: the packets that wait for the answer
	// would be lost.
	known := []string{"nud", "reachable", "nud", "stale", "nud", "delay", "nud", "probe"}
	ctx, cancel := context.WithCancel(f.ctx)
	f.Cleanup(cancel)
	var flushing errgroup.Group
	flushing.Go(func() error {
		ticker := time.NewTicker(often)
		defer ticker.Stop()
		for ctx.Err() == nil {
			for _, family := range []string{"-4", "-6"} {
				// What is under way when ctx ends is not broken off.
				args := append([]string{"ip", family, "neighbor", "flush", "dev", "eth0"}, known...)
				if _, err := f.lab.Exec(f.ctx, network.Client, args...); err != nil {
					return err
				}
			}
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
		return nil
	})
	return func() {
		f.Helper()
		cancel()
		if err := flushing.Wait(); err != nil {
			f.Error(err)
		}
	}
}

// undisturbed runs something of which clients may not notice anything, though they
// have to ask again all the time who has which address: no address moves, every
// question is answered, no new connection fails and no old one breaks.
func (f *fleet) undisturbed(what string, happening func()) {
	f.Helper()
	watched := sample(f.lost)
	looking := f.lookOut(onlooker, askInterval, f.addresses...)
	held := f.hold(watched...)
	stop := f.flushing()
	began := time.Now()
	f.noFailure(what, watched, happening)
	ended := time.Now()
	stop()
	held.expectHeld(what)
	looking.stop()
	for _, address := range f.addresses {
		answers := looking.heard(address, began, ended)
		for node := range looking.claims(address, began, ended) {
			if node != f.owners[address] {
				f.Errorf("%s: %s is owned by %s, but %s has answered for it: %s", what, address, f.owners[address], node, f.describeAnswers(answers))
			}
		}
		measured.add(f.row(what+", longest time without an answer"), longestSilence(answers, began, ended))
	}
}

// longestSilence is the longest time in which nobody answered.
func longestSilence(answers []answer, began, ended time.Time) time.Duration {
	longest, last := time.Duration(0), began
	for _, a := range slices.Concat(answers, []answer{{at: ended}}) {
		longest = max(longest, a.at.Sub(last))
		last = a.at
	}
	return longest
}
