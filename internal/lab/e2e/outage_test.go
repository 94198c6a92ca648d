package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/probe"
)

// outage is how long the API server is away.
const outage = time.Minute

// testAPIServerFrozen: the API server hangs for a minute. Nothing is withdrawn
// and no connection fails; even a node that dies meanwhile is replaced.
func testAPIServerFrozen(e *env) {
	f := newFleet(e)
	spectator := f.otherOwner()
	f.movePods("web", e.lab.otherNodes(spectator)...)
	f.waitServedAll()
	stable := sample(f.lost)
	departing := f.serviceWithout(stable)
	f.waitSteady(stable...)
	probes, meter := f.startProbes(watchService(), stable...), f.meterStalls()
	watching := f.watchAnswers(stable)

	e.Cleanup(func() {
		if err := e.lab.Thaw(lab.APIServer); err != nil {
			e.Error(err)
		}
	})
	began := time.Now()
	if err := e.lab.Freeze(lab.APIServer); err != nil {
		e.Fatal(err)
	}
	f.loseSpectator(spectator)
	e.waitFor("the outage to last its time", outage+time.Second, func(context.Context) (bool, string) {
		return time.Since(began) >= outage, ""
	})
	f.expectOneOwner("at the end of the outage", time.Second, f.addresses...)
	if err := e.lab.Thaw(lab.APIServer); err != nil {
		e.Fatal(err)
	}

	// Everything works again: a new Service is served, an old one is silenced.
	e.waitAPI()
	e.createService("new", onPort(90), labelled("side", otherSide), annotated("berth.dev/allow-shared-ip", "nobody"))
	e.deleteService(departing)
	fresh := e.waitAnnounced("new")
	for _, address := range fresh {
		e.waitServed(network.Client, address, 90, "/hostname")
	}
	reports := probes.stop()
	if stalled := meter.longest(); stalled > stalling {
		excuseOne(e, reports, stalled)
	}
	e.expectNoFailure("API server frozen", reports)
	for address, answers := range watching.stop() {
		for _, a := range answers {
			if owner := e.lab.node(a.claimed); owner != f.owners[address] {
				e.Errorf("API server frozen: %s moved from %s to %s at %s", address, f.owners[address], owner, a.at.Format("15:04:05.000"))
				break
			}
		}
	}
}

// excuseOne forgives each address a failed connection: when the API server thaws, all
// that waited for it is done at once.
func excuseOne(e *env, reports map[netip.Addr]probe.Report, stalled time.Duration) {
	e.Helper()
	for address, r := range reports {
		if r.Failed == 1 {
			e.Logf("1 of %d connections to %s failed, while the machine was busy with something else for %s: %v", r.Sent, address, stalled, r.Errors)
			r.Failed = 0
			reports[address] = r
		}
	}
}

// serviceWithout returns a Service of the fleet that has none of the addresses,
// and so may go while they are probed.
func (f *fleet) serviceWithout(probed []netip.Addr) string {
	f.Helper()
	for i := range f.addresses {
		name := fmt.Sprintf("web-%d", i)
		if !slices.ContainsFunc(f.addressesOf(name), func(a netip.Addr) bool { return slices.Contains(probed, a) }) {
			return name
		}
	}
	f.Fatalf("every Service is probed: %v", probed)
	return ""
}

// waitSteady returns when many fetches in a row succeed: kube-proxy gathers
// changes for up to a second, and sends connections to Pods that have moved away
// meanwhile.
func (e *env) waitSteady(addresses ...netip.Addr) {
	e.Helper()
	const inARow = 60
	for _, address := range addresses {
		e.waitFor(fmt.Sprintf("%d fetches from %s in a row", inARow, address), 30*time.Second, func(ctx context.Context) (bool, string) {
			for n := range inARow {
				if _, err := e.lab.get(ctx, network.Client, urlOf(address, servicePort, "/hostname")); err != nil {
					return false, fmt.Sprintf("the %dth: %v", n+1, err)
				}
			}
			return true, ""
		})
	}
}

// otherOwner returns a node that owns something, but not what the victim owns.
func (f *fleet) otherOwner() string {
	f.Helper()
	if len(f.kept) == 0 {
		f.Fatalf("%s owns everything", f.victim)
	}
	return f.owners[f.kept[0]]
}

// loseSpectator cuts a node while nobody can be asked about it, and lets it come
// back.
func (f *fleet) loseSpectator(node string) {
	f.Helper()
	f.Cleanup(func() {
		if err := f.lab.Heal(node); err != nil {
			f.Error(err)
		}
	})
	orphan := f.kept[0]
	if err := f.lab.Cut(node); err != nil {
		f.Fatal(err)
	}
	began := time.Now()
	f.waitOwners(f.kept[:1], func(owner string) bool { return owner != node })
	measured.add(fmt.Sprintf("node cut while the API server hangs: until another answers, %s lab", f.lab.family), time.Since(began))
	f.waitServed(network.Client, orphan, servicePort, "/hostname")
	if err := f.lab.Heal(node); err != nil {
		f.Fatal(err)
	}
	f.waitOwners(f.addresses, nil)
}
