package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/internal/lab/routers"
)

// glimpse looks for something that is there for a second only, from before it can
// be. What is returned ends that, and fails the test if it was not seen and could not
// be missed.
func (f bgpFaults) glimpse(what string, look func(context.Context) (done bool, seen string)) (end func()) {
	f.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	f.Cleanup(cancel)
	endStalls := f.watchStalls()
	done, seen := false, "nothing"
	var looking sync.WaitGroup
	looking.Go(func() {
		ticker := time.NewTicker(pollInterval)
		defer ticker.Stop()
		for !done && ctx.Err() == nil {
			now, text := look(ctx)
			if now || ctx.Err() == nil { // else it says only that
				done, seen = now, text
			}
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	return func() {
		f.Helper()
		cancel()
		looking.Wait()
		stall := endStalls()
		switch {
		case done:
		case stall > 500*time.Millisecond:
			f.Logf("%s was not seen, which may be for the stall", what)
		default:
			f.Errorf("%s was not seen; last seen: %s", what, seen)
		}
	}
}

// glimpseGoingAway looks for what tells the router that all of the victim's routes
// will go (RFC 8326). A speaker that stops says so for a second only.
func (f bgpFaults) glimpseGoingAway() (end func()) {
	f.Helper()
	told := map[netip.Addr]bool{}
	return f.glimpse("the community GRACEFUL_SHUTDOWN of all routes of "+faultVictim, func(ctx context.Context) (bool, string) {
		seen := ""
		for _, address := range f.addresses {
			if told[address] {
				continue
			}
			paths, err := f.router.Route(ctx, hostPrefix(address))
			told[address] = slices.ContainsFunc(paths, func(p routers.Path) bool {
				return f.nodeOf(p.Peer) == faultVictim && slices.Contains(p.Communities, routers.GracefulShutdown)
			})
			seen += fmt.Sprintf("%+v (error %v); ", paths, err)
		}
		return !slices.ContainsFunc(f.addresses, func(a netip.Addr) bool { return !told[a] }), seen
	})
}

// glimpseWaiting looks for what tells the router's BFD to wait for each of the
// speakers. By patientProfile alone it does so for six seconds, or 20 for one that is
// not up.
func (f bgpFaults) glimpseWaiting() (end func()) {
	f.Helper()
	told := map[netip.Addr]bool{}
	return f.glimpse("the router's BFD that waits for all speakers", func(ctx context.Context) (bool, string) {
		sessions, err := f.router.BFDSessions(ctx)
		for _, s := range sessions {
			if s.Detection > time.Minute {
				told[s.Neighbor] = true
			}
		}
		return len(told) == len(f.router.Config().Neighbors), fmt.Sprintf("%v, now %+v (error %v)", told, sessions, err)
	})
}
