package main

import (
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// freshness knows which addresses have only just come to a Service: kube-proxy may
// have no rules for them yet. Who connects then gets no answer from the node, which
// looks for the address on the network in vain for three seconds; nor does that
// connection ever get one, for the kernel remembers that it is not translated.
type freshness struct {
	// wait is how long kube-proxy may take; zero for no time at all.
	wait time.Duration
	// holders counts the Services that have an address. One that comes to an address
	// of others does not make it fresh: those are served.
	holders map[netip.Addr]int
	// unserved are those that came without anything that serves them: kube-proxy
	// refuses connections to them, and has to write rules once something does.
	unserved map[netip.Addr]bool
	// until is until when kube-proxy may have no rules.
	until map[netip.Addr]time.Time
	// left is when Services lost addresses, for as long as they may get them back as
	// if nothing had been: see overwritten.
	left map[tenure]time.Time
}

// overwritten is for how long a status that another controller has overwritten may
// say something else. Berth's controller restores it at once, and kube-proxy mostly
// has not noticed.
const overwritten = time.Second

// tenure is that a Service has an address.
type tenure struct {
	service types.UID
	addr    netip.Addr
}

func newFreshness() freshness {
	return freshness{
		holders: map[netip.Addr]int{}, unserved: map[netip.Addr]bool{}, until: map[netip.Addr]time.Time{}, left: map[tenure]time.Time{},
	}
}

// move takes in that a Service has other addresses than before. What it has from the
// beginning, as far as this speaker knows, is not fresh.
func (f *freshness) move(service types.UID, before, after []netip.Addr, now time.Time, beginning bool) {
	for _, addr := range after {
		if slices.Contains(before, addr) {
			continue
		}
		f.holders[addr]++
		since, lost := f.left[tenure{service, addr}]
		if !beginning && f.holders[addr] == 1 && (!lost || now.Sub(since) >= overwritten) {
			f.unserved[addr] = true
		}
	}
	for _, addr := range before {
		if slices.Contains(after, addr) {
			continue
		}
		if !f.unserved[addr] { // else it has yet to be served
			f.left[tenure{service, addr}] = now
		}
		if f.holders[addr]--; f.holders[addr] == 0 {
			delete(f.holders, addr)
			delete(f.unserved, addr)
		}
	}
}

// serve takes in which addresses of a Service are served by something.
func (f *freshness) serve(s *service, now time.Time) {
	for _, addr := range s.addresses {
		if f.unserved[addr] && s.backends[familyOf(addr)].anywhere {
			delete(f.unserved, addr)
			f.until[addr] = now.Add(f.wait)
		}
	}
}

// at returns the addresses that are fresh, and until when.
func (f *freshness) at(now time.Time) map[netip.Addr]time.Time {
	for addr, until := range f.until {
		if !now.Before(until) {
			delete(f.until, addr)
		}
	}
	for t, since := range f.left {
		if now.Sub(since) >= overwritten {
			delete(f.left, t)
		}
	}
	return f.until
}
