package membership

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
)

// Info is what a speaker tells the others about itself. The zero Info is that of a speaker which can announce nothing.
// An Info that was handed to this package or came from it is shared and must not be changed.
type Info struct {
	// Links are the interfaces the speaker can announce on, at present: up, with carrier, and fit for ARP or NDP.
	Links []Link
	// Abstains says that the speaker holds no address and takes none for now, because its view is not settled. Others
	// count it out until then, so that no address is without an owner while a speaker joins.
	Abstains bool
	// Sessions are the BGPPeers with which the node has an established session, each with a family.
	Sessions []string
	// ProxyDown says that the node's kube-proxy is not well: the node should own no address that another can own.
	ProxyDown bool
	// Mute are the nodes whose speakers live and do not answer for addresses that they own, as this speaker finds.
	Mute []string
	// WatchPort is the TCP port on which the speaker holds connections whose end tells that it is gone; 0 if there is none.
	WatchPort uint16
}

// Link is an interface of a node as other nodes need to know it.
type Link struct {
	// Name is the interface's name on its node, such as "eth0".
	Name string
	// Prefixes are the subnets of the interface's own addresses, without host bits.
	Prefixes []netip.Prefix
	// ARP and NDP say for which address families the speaker can answer on this link.
	ARP, NDP bool
	// ARPFails and NDPFails say that it should be able to and cannot at present: no socket works, or nothing leaves.
	ARPFails, NDPFails bool
	// MAC is the link's own Ethernet address.
	MAC MAC
	// Addr4 and Addr6 are addresses of the node itself at which its kernel can be asked over this link, without zone; zero
	// if it has none. Addr6 may be link-local.
	Addr4, Addr6 netip.Addr
}

// MAC is an Ethernet address. The zero MAC is none.
type MAC [6]byte

// String returns the address as six bytes in hexadecimal, with colons between.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Speaks reports whether the speaker can answer on the link for addresses of addr's family.
func (l *Link) Speaks(addr netip.Addr) bool {
	if addr.Is4() || addr.Is4In6() {
		return l.ARP
	}
	return l.NDP
}

// Fails reports whether the speaker cannot answer on the link for addresses of addr's family though it should.
func (l *Link) Fails(addr netip.Addr) bool {
	if addr.Is4() || addr.Is4In6() {
		return l.ARPFails
	}
	return l.NDPFails
}

// Contains reports whether addr lies in a subnet of the link.
func (l *Link) Contains(addr netip.Addr) bool {
	addr = addr.Unmap()
	for _, p := range l.Prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func (l Link) equal(o Link) bool {
	return l.Name == o.Name && l.ARP == o.ARP && l.NDP == o.NDP && l.ARPFails == o.ARPFails && l.NDPFails == o.NDPFails && l.MAC == o.MAC && l.Addr4 == o.Addr4 && l.Addr6 == o.Addr6 &&
		slices.Equal(l.Prefixes, o.Prefixes)
}

// Equal reports whether both say the same.
func (i Info) Equal(other Info) bool {
	return i.Abstains == other.Abstains && i.ProxyDown == other.ProxyDown && i.WatchPort == other.WatchPort &&
		slices.Equal(i.Sessions, other.Sessions) && slices.Equal(i.Mute, other.Mute) && slices.EqualFunc(i.Links, other.Links, Link.equal)
}

// normalized returns a copy in canonical order, without invalid or repeated prefixes: two Infos that mean the same are
// then Equal, and no news is sent about a mere reordering.
func (i Info) normalized() Info {
	links := make([]Link, 0, len(i.Links))
	for _, l := range i.Links {
		prefixes := make([]netip.Prefix, 0, len(l.Prefixes))
		for _, p := range l.Prefixes {
			if p = p.Masked(); p.IsValid() && !p.Addr().Is4In6() {
				prefixes = append(prefixes, p)
			}
		}
		slices.SortFunc(prefixes, comparePrefix)
		l.Prefixes = slices.Compact(prefixes)
		if l.Addr4 = l.Addr4.Unmap(); !l.Addr4.Is4() {
			l.Addr4 = netip.Addr{}
		}
		if l.Addr6 = l.Addr6.WithZone(""); !l.Addr6.Is6() || l.Addr6.Is4In6() {
			l.Addr6 = netip.Addr{}
		}
		links = append(links, l)
	}
	slices.SortStableFunc(links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	links = slices.CompactFunc(links, func(a, b Link) bool { return a.Name == b.Name })
	sessions := slices.Clone(i.Sessions)
	slices.Sort(sessions)
	mute := slices.Clone(i.Mute)
	slices.Sort(mute)
	i.Links, i.Sessions, i.Mute = links, slices.Compact(sessions), slices.Compact(mute)
	return i
}

// bounded returns as much of the normalized info as other speakers accept, and the names of the links that were left out
// or cut short. Links with subnets go first, as a node may have hundreds without (one for each Pod), then names decide, so
// that the same links make the same choice. Sessions beyond the first maxSessions are left out in silence: they only tell
// people how many there are.
func (i Info) bounded() (bounded Info, left []string) {
	i.Sessions = i.Sessions[:min(len(i.Sessions), maxSessions)]
	i.Mute = i.Mute[:min(len(i.Mute), maxMute)]
	order := slices.Clone(i.Links)
	slices.SortStableFunc(order, func(a, b Link) int {
		return cmp.Compare(min(len(b.Prefixes), 1), min(len(a.Prefixes), 1))
	})
	keep, room := map[string]Link{}, maxRecord-maxFrame
	for _, l := range order {
		if len(l.Prefixes) > maxPrefixes {
			left = append(left, l.Name)
			l.Prefixes = l.Prefixes[:maxPrefixes]
		}
		size := len(appendField(nil, tagLink, appendLink(nil, &l)))
		if len(l.Name) > maxLinkName || len(keep) == maxLinks || size > room {
			left = append(left, l.Name)
			continue
		}
		keep[l.Name] = l
		room -= size
	}
	if len(left) == 0 {
		return i, nil
	}
	bounded = i
	bounded.Links = nil
	for _, l := range i.Links {
		if k, ok := keep[l.Name]; ok {
			bounded.Links = append(bounded.Links, k)
		}
	}
	slices.Sort(left)
	return bounded, slices.Compact(left)
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}
