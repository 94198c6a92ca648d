package main

import (
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/netif"
)

// linkWatch turns what the kernel says about links into what this speaker tells
// the others.
type linkWatch struct {
	// before are the links when it last looked; nil at the start.
	before []netif.Link
}

// linkUse is what one link can be of use for.
type linkUse struct {
	index  int
	ndp    bool
	subnet netip.Prefix // zero where the link is of use whatever its subnets
}

// look returns what to tell about links, and whether one that matters has become
// usable since the last look: then speakers may be reachable that were not, and
// the view has to be settled anew.
func (w *linkWatch) look(links []netif.Link, matters relevance) (info membership.Info, regained bool) {
	info.Links = linksToTell(links)
	if w.before != nil { // at the start the view is in doubt anyway
		// What mattered before is judged anew: an edit of a pool brings no link back.
		had := matters.uses(w.before)
		for use, changes := range matters.uses(links) {
			if before, ok := had[use]; !ok || before != changes {
				regained = true
			}
		}
	}
	w.before = append([]netif.Link{}, links...)
	return info, regained
}

// linksToTell returns what the others need to know of links.
func linksToTell(links []netif.Link) []membership.Link {
	var all []membership.Link
	for i := range links {
		l := &links[i]
		told := membership.Link{Name: l.Name, ARP: l.CanARP() == nil, NDP: l.CanNDP() == nil, Addr6: l.LinkLocal}
		if !told.ARP && !told.NDP {
			continue
		}
		if len(l.MAC) == len(told.MAC) {
			told.MAC = membership.MAC(l.MAC)
		}
		for _, p := range l.Prefixes {
			if p.Addr().Is4() && !told.Addr4.IsValid() {
				told.Addr4 = p.Addr()
			}
			// No Service has a link-local address: every link has that subnet.
			if !p.Addr().IsLinkLocalUnicast() {
				told.Prefixes = append(told.Prefixes, netip.PrefixFrom(p.Addr(), p.Bits()).Masked())
			}
		}
		all = append(all, told)
	}
	return all
}

// relevance says which links may have to do with who owns an address. Others come
// and go at any time, such as the bridge of a node's Pods with the first Pod.
type relevance struct {
	// named are the interfaces that L2Advertisements name.
	named map[string]bool
	// self is where the other speakers reach this one.
	self netip.Addr
	// serves says whether an address of a pool or of a Service is in the subnet.
	serves func(subnet netip.Prefix) bool
}

// uses returns what the links can be of use for, with the kernel's count of
// carrier changes.
func (r *relevance) uses(links []netif.Link) map[linkUse]uint32 {
	uses := map[linkUse]uint32{}
	for i := range links {
		l := &links[i]
		for ndp, err := range map[bool]error{false: l.CanARP(), true: l.CanNDP()} {
			if err != nil {
				continue
			}
			if r.named[l.Name] {
				uses[linkUse{index: l.Index, ndp: ndp}] = l.CarrierChanges
			}
			for _, p := range l.Prefixes {
				if subnet := p.Masked(); p.Addr().Is6() == ndp && (p.Addr() == r.self || r.serves(subnet)) {
					uses[linkUse{l.Index, ndp, subnet}] = l.CarrierChanges
				}
			}
		}
	}
	return uses
}

// alreadyTold returns the part of now that told says too.
func alreadyTold(told, now []membership.Link) []membership.Link {
	var both []membership.Link
	for _, n := range now {
		i := slices.IndexFunc(told, func(t membership.Link) bool { return t.Name == n.Name })
		if i < 0 {
			continue
		}
		t := &told[i]
		l := n
		l.ARP, l.NDP, l.Prefixes = n.ARP && t.ARP, n.NDP && t.NDP, nil
		for _, p := range n.Prefixes {
			if slices.Contains(t.Prefixes, p) {
				l.Prefixes = append(l.Prefixes, p)
			}
		}
		if l.ARP || l.NDP {
			both = append(both, l)
		}
	}
	return both
}
