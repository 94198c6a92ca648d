package netif

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// state is what the events so far add up to. It belongs to one goroutine.
type state struct {
	links map[int]*Link // without addresses
	// addrs is kept apart from links because an address event may arrive
	// before the link's own. The value tells if the address is usable.
	addrs map[int]map[netip.Prefix]bool
}

func newState() *state {
	return &state{links: make(map[int]*Link), addrs: make(map[int]map[netip.Prefix]bool)}
}

// list asks the kernel for all links and addresses, again if they changed while
// it answered.
func list(ctx context.Context) (*state, error) {
	for {
		st := newState()
		err := st.load()
		if err == nil {
			return st, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) || ctx.Err() != nil {
			return nil, fmt.Errorf("listing links and addresses: %w", err)
		}
	}
}

func (st *state) load() error {
	for _, dump := range []struct {
		request, answer int
	}{{unix.RTM_GETLINK, unix.RTM_NEWLINK}, {unix.RTM_GETADDR, unix.RTM_NEWADDR}} {
		req := nl.NewNetlinkRequest(dump.request, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, uint16(dump.answer))
		if err != nil {
			return err
		}
		for _, m := range msgs {
			st.apply(uint16(dump.answer), m)
		}
	}
	return nil
}

// applyAll applies the messages of a datagram and reports whether readers can
// see a difference.
func (st *state) applyAll(b []byte) (changed bool) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(native.Uint32(b))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return changed // a truncated tail
		}
		if st.apply(native.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:length]) {
			changed = true
		}
		b = b[min(align(length), len(b)):]
	}
	return changed
}

// apply applies one message and reports whether readers can see a difference.
func (st *state) apply(kind uint16, body []byte) (changed bool) {
	switch kind {
	case unix.RTM_NEWLINK:
		if link, ok := parseLink(body); ok {
			return st.setLink(link)
		}
	case unix.RTM_DELLINK:
		if link, ok := parseLink(body); ok {
			return st.deleteLink(link.Index)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a, ok := parseAddress(body); ok {
			return st.setAddress(a, kind == unix.RTM_NEWADDR)
		}
	}
	return false
}

func (st *state) setLink(link Link) (changed bool) {
	old := st.links[link.Index]
	if old != nil && old.Equal(&link) {
		return false
	}
	visible := st.visible(link.Index)
	st.links[link.Index] = &link
	return visible || st.visible(link.Index)
}

func (st *state) deleteLink(index int) (changed bool) {
	visible := st.visible(index)
	delete(st.links, index)
	delete(st.addrs, index)
	return visible
}

func (st *state) setAddress(a address, present bool) (changed bool) {
	addrs := st.addrs[a.index]
	usable, known := addrs[a.prefix]
	if known == present && usable == (present && a.usable) {
		return false
	}
	visible := st.visible(a.index)
	if !present {
		delete(addrs, a.prefix)
	} else {
		if addrs == nil {
			addrs = make(map[netip.Prefix]bool)
			st.addrs[a.index] = addrs
		}
		addrs[a.prefix] = a.usable
	}
	// Without its subnet a Pod's link goes out of sight: that counts too.
	return visible || st.visible(a.index)
}

// visible reports whether readers see the link. A busy node has hundreds of
// links to Pods, none of which is an Ethernet to announce on; they come and go
// unseen. What marks them is to be one end of a virtual pair or tunnel that is
// either enslaved or has no subnet: host routes and link-local addresses only.
func (st *state) visible(index int) bool {
	l := st.links[index]
	if l == nil {
		return false
	}
	switch l.Kind {
	case "veth", "netkit", "tun":
	default:
		return true
	}
	if l.Master != 0 {
		return false
	}
	for p := range st.addrs[index] {
		if !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}

// snapshot returns the visible links with their addresses, ordered by index.
func (st *state) snapshot() []Link {
	out := []Link{}
	for index, l := range st.links {
		if !st.visible(index) {
			continue
		}
		link := *l
		for p, usable := range st.addrs[index] {
			if !usable {
				continue
			}
			link.Prefixes = append(link.Prefixes, p)
			a := p.Addr()
			if a.Is6() && a.IsLinkLocalUnicast() && (!link.LinkLocal.IsValid() || a.Less(link.LinkLocal)) {
				link.LinkLocal = a
			}
		}
		slices.SortFunc(link.Prefixes, comparePrefixes)
		out = append(out, link)
	}
	slices.SortFunc(out, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	return out
}
