package allocation

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/ipam"
)

// handover keeps two Services from showing one address at the same time. Status
// writes are not ordered among Services, so when one gives up an address that
// another gets, the other shows it only once the API server shows that the
// first has let go. A controller that ends in between leaves nothing that its
// successor could misread.
type handover struct {
	// leaving are the Services that gave up an address and still show it.
	leaving map[netip.Addr]map[ipam.Owner]bool
	// gives are the addresses under which a Service is in leaving.
	gives map[ipam.Owner][]netip.Addr
	// waiting are the Services that have an address and may not show it yet.
	waiting map[netip.Addr]map[ipam.Owner]bool
}

func newHandover() handover {
	return handover{
		leaving: map[netip.Addr]map[ipam.Owner]bool{},
		gives:   map[ipam.Owner][]netip.Addr{},
		waiting: map[netip.Addr]map[ipam.Owner]bool{},
	}
}

// release notes that a Service has given up addresses which it still shows.
func (h *handover) release(owner ipam.Owner, addrs []netip.Addr) {
	for _, addr := range addrs {
		if h.leaving[addr] == nil {
			h.leaving[addr] = map[ipam.Owner]bool{}
		}
		h.leaving[addr][owner] = true
		h.gives[owner] = append(h.gives[owner], addr)
	}
}

// lettingGo returns the addresses that a Service shows, or may come to show by a
// write on its way, and does not have any more; none if there is no such Service.
func lettingGo(svc *corev1.Service, landing []netip.Addr, has []ipam.Assigned) []netip.Addr {
	if svc == nil {
		return nil
	}
	return slices.DeleteFunc(append(ingressOf(svc), landing...), func(addr netip.Addr) bool {
		return slices.ContainsFunc(has, func(a ipam.Assigned) bool { return a.Address == addr })
	})
}

// givers returns the Services that give something up: whether they have is to be
// looked at again when nothing happens to them.
func (h *handover) givers() []ipam.Owner {
	return slices.SortedFunc(maps.Keys(h.gives), ipam.Owner.Compare)
}

// left notes which addresses a Service still shows that it has given up, and
// returns those that waited for others of them.
func (h *handover) left(owner ipam.Owner, shows []netip.Addr) (waited []ipam.Owner) {
	h.gives[owner] = slices.DeleteFunc(h.gives[owner], func(addr netip.Addr) bool {
		if slices.Contains(shows, addr) {
			return false
		}
		delete(h.leaving[addr], owner)
		if len(h.leaving[addr]) == 0 {
			delete(h.leaving, addr)
			for waiter := range h.waiting[addr] {
				waited = append(waited, waiter)
			}
			delete(h.waiting, addr)
		}
		return true
	})
	if len(h.gives[owner]) == 0 {
		delete(h.gives, owner)
	}
	slices.SortFunc(waited, ipam.Owner.Compare)
	return waited
}

// hold returns what a Service may show of the addresses that it has: those that
// it shows already, and those that no other Service shows still. For the rest,
// owner is among those that left returns later.
func (h *handover) hold(owner ipam.Owner, shows []netip.Addr, o outcome) outcome {
	for i := 0; i < len(o.addresses); i++ {
		addr := o.addresses[i].Address
		if slices.Contains(shows, addr) {
			continue
		}
		for other := range h.leaving[addr] {
			if other == owner {
				continue
			}
			if h.waiting[addr] == nil {
				h.waiting[addr] = map[ipam.Owner]bool{}
			}
			h.waiting[addr][owner] = true
			o.allocated, o.reason = false, reasonAddressLeaving
			o.message = fmt.Sprintf("gets %s as soon as the status of Service %s no longer has it", addr, other)
			o.addresses = slices.Delete(slices.Clone(o.addresses), i, i+1)
			i--
			break
		}
	}
	return o
}
