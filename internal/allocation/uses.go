package allocation

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
)

// useInterval bounds how often it is told what the objects of the configuration are
// used for, and so the writes: one for each object in this time, however many
// Services come and sessions go.
const useInterval = 5 * time.Second

// uses are how much the objects of the configuration are used, by their names.
type uses struct {
	l2, bgp map[string]tally
	// sessions are those with each BGPPeer.
	sessions map[string]sessions
	// profiles are how many BGPPeers name each BFDProfile, communities how many
	// BGPAdvertisements use a name of each Community.
	profiles, communities map[string]int32
}

// tally counts what an advertisement is for.
type tally struct{ services, addresses int32 }

// sessions are those with one peer.
type sessions struct{ established, all int32 }

// String is "" for a peer that nobody speaks to.
func (s sessions) String() string {
	if s.all == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", s.established, s.all)
}

// census is what came of counting uses, whether that is out of date, and when it was
// last another than before.
type census struct {
	uses    uses
	stale   bool
	changed time.Time
}

// count counts anew what is out of date, unless something was another than before a
// moment ago. It says whether anything is now.
func (c *Controller) count() (changed bool) {
	c.census.stale = c.census.stale || c.poolsDirty
	now := c.clock.Now()
	if !c.census.stale || now.Sub(c.census.changed) < useInterval {
		return false
	}
	c.census.stale = false
	if uses := c.usesNow(); !reflect.DeepEqual(uses, c.census.uses) {
		c.census.uses, c.census.changed = uses, now
		return true
	}
	return false
}

func (c *Controller) usesNow() uses {
	u := uses{sessions: sessionsIn(c.cache.NodeStates.List()), profiles: map[string]int32{}}
	u.l2, u.bgp = c.selected()
	for _, o := range c.cache.BGPPeers.List() {
		u.profiles[string(o.Spec.BFDProfile)]++
	}
	u.communities = usersOf(c.cache.Communities.List(), c.cache.BGPAdvertisements.List())
	return u
}

// sessionsIn counts the sessions with each BGPPeer that nodes report.
func sessionsIn(states []*v1beta1.NodeState) map[string]sessions {
	found := map[string]sessions{}
	for _, state := range states {
		for _, session := range state.Status.BGPSessions {
			s := found[session.Peer]
			s.all++
			if session.State == v1beta1.BGPEstablished {
				s.established++
			}
			found[session.Peer] = s
		}
	}
	return found
}

// usersOf counts the advertisements that use a name of each Community.
func usersOf(communities []*v1beta1.Community, advertisements []*v1beta1.BGPAdvertisement) map[string]int32 {
	users := map[string]int32{}
	for _, community := range communities {
		names := map[v1beta1.CommunityRef]bool{}
		for _, alias := range community.Spec.Communities {
			names[v1beta1.CommunityRef(alias.Name)] = true
		}
		for _, a := range advertisements {
			if slices.ContainsFunc(a.Spec.Communities, func(ref v1beta1.CommunityRef) bool { return names[ref] }) {
				users[community.Name]++
			}
		}
	}
	return users
}

// selected counts what the advertisements are for, whether or not a node announces
// it.
func (c *Controller) selected() (l2, bgp map[string]tally) {
	forL2, forBGP := counters{}, counters{}
	for owner, assigned := range c.allocator.All() {
		svc, found := c.cache.Services.Get(owner.Namespace, owner.Name)
		if !found {
			continue
		}
		announced := config.Announced{Name: owner.String(), Labels: svc.Labels, Addresses: addressesOf(assigned), Pools: originsOf(assigned)}
		for _, addr := range announced.Addresses {
			for _, a := range c.snapshot.L2AdvertisementsFor(announced, addr) {
				forL2.add(a.Name, owner, addr)
			}
			for _, a := range c.snapshot.BGPAdvertisementsFor(announced, addr) {
				forBGP.add(a.Name, owner, addr)
			}
		}
	}
	return forL2.tallies(), forBGP.tallies()
}

// originsOf returns the pools that addresses came from, as far as that is known.
func originsOf(assigned []ipam.Assigned) []string {
	var pools []string
	for _, a := range assigned {
		if a.From != "" {
			pools = append(pools, a.From)
		}
	}
	return pools
}

// counters count what each advertisement is for, Service by Service.
type counters map[string]*counter

type counter struct {
	services  int32
	latest    ipam.Owner
	addresses map[netip.Addr]bool
}

func (cs counters) add(advertisement string, owner ipam.Owner, addr netip.Addr) {
	n := cs[advertisement]
	if n == nil {
		n = &counter{addresses: map[netip.Addr]bool{}}
		cs[advertisement] = n
	}
	if n.latest != owner {
		n.services++
		n.latest = owner
	}
	n.addresses[addr] = true
}

func (cs counters) tallies() map[string]tally {
	all := make(map[string]tally, len(cs))
	for name, n := range cs {
		all[name] = tally{services: n.services, addresses: int32(len(n.addresses))}
	}
	return all
}
