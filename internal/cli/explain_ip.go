package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// ExplainAddress explains an address: whose it is, and if it is a Service's, how
// that is doing.
func ExplainAddress(c *Cluster, text string) (*Explanation, error) {
	addr, err := ipam.ParseAddr(text)
	if err != nil {
		return nil, err
	}
	sharers := c.sharers(addr)
	if len(sharers) == 0 {
		x := &explainer{c: c}
		x.snapshot, x.verdicts = c.build()
		x.explainUnused(addr)
		return x.finish("Address " + addr.String()), nil
	}
	x := newExplainer(c, sharers[0])
	x.explainPoolOf(addr)
	names := make([]string, len(sharers))
	for i, svc := range sharers {
		names[i] = nameOf(svc)
	}
	x.step("Service", StateOK, strings.Join(names, ", ")+map[bool]string{true: "; what follows is about the first"}[len(names) > 1])
	x.chain()
	return x.finish("Address " + addr.String() + " of Service " + names[0]), nil
}

// explainPoolOf tells which pool has the address.
func (x *explainer) explainPoolOf(addr netip.Addr) bool {
	pool, found := x.snapshot.PoolOf(addr)
	if !found {
		x.step("Pool", StateWarning, "no pool in force has it")
		return false
	}
	summary := pool.Name
	if !pool.MayAssign(addr) {
		summary += ", which does not hand it out: it is excluded, or ends in .0 or .255 with avoidBuggyIPs"
	}
	x.step("Pool", StateOK, summary)
	return true
}

// explainUnused tells what is known of an address that no Service of Berth's has.
func (x *explainer) explainUnused(addr netip.Addr) {
	inPool := x.explainPoolOf(addr)
	holders := x.holders(addr)
	holders = append(holders, x.claims(addr)...)
	conflict := x.conflictOf(addr)
	if conflict != "" {
		holders = append(holders, "the host "+strings.TrimSuffix(conflict, "; "))
	}
	state, summary := StateOK, "nobody: it is free"
	switch {
	case len(holders) > 0:
		state, summary = StateWarning, strings.Join(holders, ", ")
	case !inPool:
		summary = "nobody that Berth knows"
	}
	x.step("Holder", state, summary)
	switch {
	case conflict != "" && inPool:
		x.blame(rankAddress, StateWarning, "another host has it: "+summary, fixForAddress(v1beta1.ReasonAddressConflict, nil))
	case len(holders) > 0:
		x.blame(rankAddress, StateWarning, "no Service of Berth's has it: "+summary, "Nothing, unless it should be a Service's: then ask for it on that one.")
	case !inPool:
		x.blame(rankAddress, StateWarning, "it is no address of Berth's", "Add it to an IPAddressPool if it should be.")
	default:
		x.blame(rankAddress, StateWarning, "no Service has it, so nobody announces it", "Nothing, unless a Service should have it: ask for it by berth.dev/load-balancer-ips.")
	}
}

// holders are others than Berth's Services that have the address.
func (x *explainer) holders(addr netip.Addr) []string {
	var all []string
	for _, svc := range byName(x.c.Services) {
		if !x.c.class().owns(svc) && (slices.Contains(addressesOf(svc), addr) || svc.Spec.ClusterIP == addr.String()) {
			all = append(all, "Service "+nameOf(svc)+", which is not Berth's")
		}
	}
	for _, n := range byName(x.c.Nodes) {
		if slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == addr.String() }) {
			all = append(all, "node "+n.Name)
		}
	}
	return all
}

// claims are what keeps the address from being given.
func (x *explainer) claims(addr netip.Addr) []string {
	var all []string
	for _, r := range x.snapshot.Reservations {
		if slices.Contains(r.Held, addr) || slices.ContainsFunc(r.Ranges, func(r ipam.Range) bool { return r.Contains(addr) }) {
			whom := "namespace " + r.Namespace
			if r.Service != "" {
				whom = "Service " + r.Namespace + "/" + r.Service
			}
			all = append(all, fmt.Sprintf("reserved for %s by IPReservation %s", whom, r.Name))
		}
	}
	for _, p := range byName(x.c.Pools) {
		for _, r := range p.Status.Resting {
			if r.Address == addr.String() {
				all = append(all, fmt.Sprintf("resting: Service %s gave it up %s ago", r.Service, age(x.c.Now, &r.Since)))
			}
		}
	}
	return all
}
