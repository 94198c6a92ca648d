package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/lab/network"
)

// moveLimit is how long a planned move may take until the new owner alone answers.
const moveLimit = 20 * time.Second

// drain annotates a node to be drained, and takes that back when the test ends.
func (e *env) drain(node string) {
	e.Helper()
	e.Cleanup(func() { e.undrain(node) })
	e.patchNode(node, fmt.Sprintf(`{"metadata":{"annotations":{%q:""}}}`, v1beta1.AnnotationDrain))
}

func (e *env) undrain(node string) {
	e.Helper()
	e.patchNode(node, fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, v1beta1.AnnotationDrain))
}

// localService makes a Service of policy Local for the fleet's Pods, or for others,
// and returns its addresses.
func (f *fleet) localService(name, app string) []netip.Addr {
	f.Helper()
	f.createService(name, local, forPods(app), labelled("side", otherSide))
	f.Cleanup(func() {
		f.deleteService(name)
		f.waitGone(name)
	})
	addresses := f.waitAnnounced(name)
	for _, address := range addresses {
		f.waitServed(network.Client, address, servicePort, "/hostname")
	}
	return addresses
}

// testDrain: a node that owns addresses of both policies is drained and loses them
// all, without a connection that fails. Undrained, it takes nothing back.
func (f *fleet) testDrain() {
	locals := f.localService("local", "web")
	for range runs() {
		owner := f.waitOwner(locals[0])
		f.arrange(owner)
		watched := slices.Concat(sample(f.lost), locals)
		f.failsAtMost(1, "drain", watched, func() {
			began := time.Now()
			f.drain(owner)
			f.waitOwners(slices.Concat(f.lost, locals[:1]), func(node string) bool { return node != owner })
			measured.add(f.row("drain, until others answer for all"), time.Since(began))
		})
		f.expectUnmoved("drain", f.kept...)
		f.look(owner)
		if len(f.lost) > 0 {
			f.Errorf("a drained node still owns %s", join(f.lost))
		}
		placed := f.waitOwners(locals, nil)
		f.noFailure("end of a drain", watched, func() {
			f.undrain(owner)
			f.pause(time.Second, "it might take something back")
		})
		f.expectUnmoved("end of a drain", f.addresses...)
		for address, now := range f.waitOwners(locals, nil) {
			if now != placed[address] {
				f.Errorf("end of a drain: %s moved from %s to %s", address, placed[address], now)
			}
		}
	}
}

// testPodsMoved: under externalTrafficPolicy Local the Pods move to another node, and
// the addresses follow them, while those that end still serve.
func (f *fleet) testPodsMoved() {
	const app = "mover"
	f.createDeployment(deployment{
		app: app, replicas: 1, nodes: []string{"node-2"}, streams: true, args: []string{"--delay-shutdown=8"}, grace: 20,
	})
	f.Cleanup(func() { f.deleteDeployment(app) })
	addresses := f.localService(app, app)
	f.waitOwners(addresses, among("node-2"))
	for range runs() {
		for _, to := range []string{"node-3", "node-2"} {
			f.failsAtMost(1, "Pods moved under Local", addresses, func() {
				f.movePods(app, to)
				f.waitOwners(addresses, among(to))
			})
		}
	}
}

// testRebalance: all addresses are with one node, though all nodes may have them.
// Told to, the speakers spread them again.
func (f *fleet) testRebalance() {
	for range runs() {
		for _, side := range []string{sideOfVictim, otherSide} {
			f.advertise(side, faultNode)
		}
		f.waitOwners(f.addresses, among(faultNode))
		for _, side := range []string{sideOfVictim, otherSide} {
			f.advertise(side)
		}
		f.pause(time.Second, "the speakers are told within an instant")
		f.look(faultNode)
		if len(f.kept) > 0 {
			f.Errorf("addresses left %s before anything was said about balance: %s", faultNode, join(f.kept))
		}
		f.failsAtMost(1, "rebalance", sample(f.addresses), func() {
			began := time.Now()
			for _, side := range []string{sideOfVictim, otherSide} {
				f.patch("l2advertisements", f.advertisement(side), map[string]any{"metadata": map[string]any{
					"annotations": map[string]string{v1beta1.AnnotationRebalance: began.Format(time.RFC3339Nano)},
				}})
			}
			f.waitBalanced()
			measured.add(f.row(fmt.Sprintf("rebalance of %d addresses, until done", len(f.addresses))), time.Since(began))
		})
		f.look(faultNode)
	}
}

// waitBalanced returns when no node owns more than it should: a fair share and half
// of one.
func (f *fleet) waitBalanced() {
	f.Helper()
	fair := len(f.addresses) / nodesOf(f.lab)
	deadline := time.Now().Add(moveLimit)
	for {
		owned := map[string]int{}
		for _, owner := range f.waitOwners(f.addresses, nil) {
			owned[owner]++
		}
		most := 0
		for _, n := range owned {
			most = max(most, n)
		}
		if most <= fair+(fair+1)/2 {
			f.Logf("addresses per node: %v", owned)
			return
		}
		if time.Now().After(deadline) {
			f.Fatalf("addresses per node after %s: %v", moveLimit, owned)
		}
	}
}
