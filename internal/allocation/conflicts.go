package allocation

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// An address that another host had before any node announced it, as a NodeState
// says, is in quarantine: it is given to nobody until no NodeState says so any
// more. A Service that has it already gets another, unless it asks for just this
// one, or there is none. What a NodeState says of a host that came later moves
// nobody: the address was the Service's first.

// conflict is a host that has an address.
type conflict struct {
	mac, node, link string
	since           time.Time
}

func (c conflict) String() string {
	where := "node " + c.node
	if c.link != "" {
		where += " (" + c.link + ")"
	}
	return fmt.Sprintf("the host %s on the network of %s", c.mac, where)
}

func (c conflict) equal(other conflict) bool { return c.compare(other) == 0 }

func (c conflict) compare(other conflict) int {
	return cmp.Or(c.since.Compare(other.since), cmp.Compare(c.node, other.node), cmp.Compare(c.mac, other.mac), cmp.Compare(c.link, other.link))
}

// conflictsIn returns the addresses that other hosts had first, of each the host
// that was heard first.
func conflictsIn(states []*v1beta1.NodeState) map[netip.Addr]conflict {
	found := map[netip.Addr]conflict{}
	for _, state := range states {
		for _, reported := range state.Status.AddressConflicts {
			addr, err := ipam.ParseAddr(reported.Address)
			if err != nil || !reported.BeforeUse {
				continue
			}
			one := conflict{mac: reported.MAC, node: state.Name, link: reported.Interface, since: reported.Since.Time}
			if first, known := found[addr]; !known || one.compare(first) < 0 {
				found[addr] = one
			}
		}
	}
	return found
}

// quarantine reads what the NodeStates say of other hosts.
func (c *Controller) quarantine() {
	c.conflictsDirty = false
	before, found := c.conflicts, conflictsIn(c.cache.NodeStates.List())
	if maps.EqualFunc(before, found, conflict.equal) {
		return
	}
	c.conflicts = found
	c.allocator.SetQuarantine(slices.Collect(maps.Keys(found)))
	c.waitingDirty, c.poolsDirty = true, true
	for _, addr := range slices.SortedFunc(maps.Keys(found), netip.Addr.Compare) {
		if old, known := before[addr]; !known || !old.equal(found[addr]) {
			c.wake(c.allocator.Owners(addr))
			level.Warn(c.logger).Log("msg", "another host has an address: it is given to nobody", "address", addr, "mac", found[addr].mac, "node", found[addr].node)
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(before), netip.Addr.Compare) {
		if _, stays := found[addr]; !stays {
			c.wake(c.allocator.Owners(addr))
			level.Info(c.logger).Log("msg", "no other host has an address any more", "address", addr)
		}
	}
}

// leaveConflicts gives a Service whose request was met other addresses than those
// that other hosts have. It says whether any is another now.
func (c *Controller) leaveConflicts(owner ipam.Owner) (moved bool) {
	if len(c.conflicts) == 0 {
		return false
	}
	for _, a := range c.allocator.Allocation(owner) {
		if _, found := c.conflicts[a.Address]; !found {
			continue
		}
		if why := c.replace(a.Address); why == "" {
			moved = true
		} else {
			c.strand(owner, a.Address, why)
		}
	}
	return moved
}

// strand notes why a Service keeps an address that another host has.
func (c *Controller) strand(owner ipam.Owner, addr netip.Addr, why string) {
	if c.stranded[owner] == nil {
		c.stranded[owner] = map[netip.Addr]string{}
	}
	c.stranded[owner][addr] = why
}

// replace gives all Services that have an address another in its place, or says
// why they keep it. They stay together, because they share it.
func (c *Controller) replace(addr netip.Addr) (why string) {
	owners := c.allocator.Owners(addr)
	requests := make([]ipam.Request, 0, len(owners))
	for _, owner := range owners {
		req, found := c.requestOf(owner)
		switch {
		case !found:
			return fmt.Sprintf("what Service %s asks for, which has it too, cannot be met", owner)
		case c.asksFor(req, addr) && len(owners) == 1:
			return "it is what the Service asks for"
		case c.asksFor(req, addr):
			return fmt.Sprintf("it is what Service %s asks for", owner)
		case c.announced(owner, addr):
			// Who reports the other host may be the one who does not know who has what.
			return "a node announces it"
		}
		requests = append(requests, req.Request)
	}
	to, err := c.allocator.Replace(addr, requests)
	var exhausted *ipam.ExhaustedError
	switch {
	case errors.As(err, &exhausted):
		return "there is no other for it"
	case err != nil: // one of several asks for something that it does not get
		return "what a Service asks for that shares it cannot be met"
	}
	message := fmt.Sprintf("%s is in use by %s: replaced by %s", addr, c.conflicts[addr], to)
	level.Info(c.logger).Log("msg", "an address that another host has is replaced", "address", addr, "by", to, "services", len(owners))
	for _, owner := range owners {
		c.handover.release(owner, []netip.Addr{addr})
		if svc, found := c.cache.Services.Get(owner.Namespace, owner.Name); found {
			c.events.Warning(svc, eventConflict, message)
		}
	}
	c.wake(owners)
	c.waitingDirty, c.poolsDirty = true, true
	return ""
}

// announced says whether the speakers say that a node announces the address of the
// Service.
func (c *Controller) announced(owner ipam.Owner, addr netip.Addr) bool {
	svc, found := c.cache.Services.Get(owner.Namespace, owner.Name)
	if !found {
		return false
	}
	said := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAnnounced)
	if said == nil {
		return false
	}
	for sentence := range strings.SplitSeq(said.Message, "; ") {
		if strings.HasPrefix(sentence, addr.String()+" by ") {
			return true
		}
	}
	return false
}

// requestOf reads what a Service asks for that has an address; false if it is not
// to be dealt with as that.
func (c *Controller) requestOf(owner ipam.Owner) (request, bool) {
	svc, found := c.cache.Services.Get(owner.Namespace, owner.Name)
	if !found || !c.class.Owns(svc) {
		return request{}, false
	}
	if uid, known := c.contests.uids[owner]; known && uid != svc.UID {
		return request{}, false
	}
	ns, _ := c.cache.Namespaces.Get("", owner.Namespace)
	req, err := newRequest(svc, ns, c.snapshot, c.verdicts, c.allocator.Allocation(owner))
	return req, err == nil
}

// asksFor says whether a Service wants to have just this address: by what it says
// itself, or by a reservation that somebody made for it and that names addresses.
// What Berth keeps for a Service to come back is no wish.
func (c *Controller) asksFor(req request, addr netip.Addr) bool {
	if slices.Contains(req.Addresses, addr) {
		return true
	}
	for _, r := range c.snapshot.Reservations {
		if r.Namespace != req.Owner.Namespace || r.Service != req.Owner.Name || r.Count > 0 || c.reserved[r.Name].Held == nil ||
			!slices.ContainsFunc(r.Ranges, func(r ipam.Range) bool { return r.Contains(addr) }) {
			continue
		}
		object, found := c.cache.IPReservations.Get("", r.Name)
		if !found {
			continue
		}
		if _, ours := retainedOwner(object); !ours {
			return true
		}
	}
	return false
}

// foreignTo describes the hosts that have addresses which a Service has too, "" if
// there are none.
func (c *Controller) foreignTo(owner ipam.Owner, addresses []ipam.Assigned) string {
	var texts []string
	for _, a := range addresses {
		other, found := c.conflicts[a.Address]
		if !found {
			continue
		}
		text := fmt.Sprintf("%s is in use by %s as well", a.Address, other)
		if why := c.stranded[owner][a.Address]; why != "" {
			text += " and is kept, because " + why
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

// explainQuarantine adds to a refusal who has the address.
func (c *Controller) explainQuarantine(refused *refusal, err error) *refusal {
	var foreign *ipam.QuarantinedError
	if errors.As(err, &foreign) {
		refused.message += fmt.Sprintf(", %s; the Service gets it once no node hears that host any more", c.conflicts[foreign.Address])
	}
	return refused
}

// quarantined returns the addresses of each pool that other hosts have, as many as
// a status lists, and how many there are.
func (c *Controller) quarantined() (listed map[string][]v1beta1.QuarantinedAddress, count map[string]int32) {
	const most = 256
	listed, count = map[string][]v1beta1.QuarantinedAddress{}, map[string]int32{}
	for _, addr := range slices.SortedFunc(maps.Keys(c.conflicts), netip.Addr.Compare) {
		pool, found := c.allocator.PoolOf(addr)
		if !found {
			continue
		}
		if count[pool]++; count[pool] > most {
			continue
		}
		other := c.conflicts[addr]
		listed[pool] = append(listed[pool], v1beta1.QuarantinedAddress{
			Address: addr.String(), MAC: other.mac, Node: other.node, Since: metav1.NewTime(other.since),
		})
	}
	return listed, count
}
