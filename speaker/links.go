package main

import (
	"net/netip"

	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/netif"
)

// linkWatch turns what the kernel says about links into what this speaker tells
// the others.
type linkWatch struct {
	// usable are the links on which the node could announce when it last looked,
	// by index and protocol, with the kernel's count of carrier changes.
	usable map[linkUse]uint32
}

type linkUse struct {
	index int
	ndp   bool
}

// look returns what to tell about links, and whether one has become usable
// since the last look: then speakers may be reachable that were not, and the
// view has to be settled anew.
func (w *linkWatch) look(links []netif.Link) (info membership.Info, regained bool) {
	usable := map[linkUse]uint32{}
	for i := range links {
		l := &links[i]
		told := membership.Link{Name: l.Name, ARP: l.CanARP() == nil, NDP: l.CanNDP() == nil}
		if !told.ARP && !told.NDP {
			continue
		}
		for use, can := range map[linkUse]bool{{l.Index, false}: told.ARP, {l.Index, true}: told.NDP} {
			if can {
				usable[use] = l.CarrierChanges
			}
		}
		for _, p := range l.Prefixes {
			// No Service has a link-local address: every link has that subnet.
			if !p.Addr().IsLinkLocalUnicast() {
				told.Prefixes = append(told.Prefixes, netip.PrefixFrom(p.Addr(), p.Bits()).Masked())
			}
		}
		info.Links = append(info.Links, told)
	}
	if w.usable != nil { // at the start the view is in doubt anyway
		for use, changes := range usable {
			if before, had := w.usable[use]; !had || before != changes {
				regained = true
			}
		}
	}
	w.usable = usable
	return info, regained
}
