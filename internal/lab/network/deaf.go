package network

import (
	"errors"
	"fmt"
	"net/netip"
)

// The tables of a host that does not listen to announcements.
const (
	deafTable4 = "arp berth-deaf"
	deafTable6 = "ip6 berth-deaf"
)

// Deafen makes a host ignore announcements of who has an address of the free
// ranges, as some hosts do: ARP requests and replies to everyone in the name of
// such an address (RFC 5227 section 3, RFC 5944 section 4.6), and neighbor
// advertisements to all nodes (RFC 4861 section 7.2.6). It believes answers to its
// own questions, and whatever else is sent to it alone.
func (n Network) Deafen(host string) error {
	planned, err := n.plan.Host(host)
	if err != nil {
		return err
	}
	rules := resetTable(deafTable4) + resetTable(deafTable6)
	for _, free := range n.plan.FreeRanges {
		rules += deafRules(free)
	}
	return nftIn(n.Namespace(planned.Name), rules)
}

func deafRules(free netip.Prefix) string {
	const chain = "table %s {\nchain input {\ntype filter hook input priority 0;\n%s drop\n}\n}\n"
	if free.Addr().Is4() {
		return fmt.Sprintf(chain, deafTable4, "meta pkttype broadcast arp saddr ip "+free.String())
	}
	return fmt.Sprintf(chain, deafTable6, "icmpv6 type nd-neighbor-advert ip6 daddr ff02::1")
}

// Undeafen has a host listen again. It does nothing to one that does.
func (n Network) Undeafen(host string) error {
	planned, err := n.plan.Host(host)
	if err != nil {
		return err
	}
	return nftIn(n.Namespace(planned.Name), resetTable(deafTable4)+resetTable(deafTable6))
}

// HealAll undoes Cut, CutSilently, Partition, Deafen and Squat everywhere.
func (n Network) HealAll() error {
	errs := []error{n.Partition()}
	for _, host := range n.plan.Hosts {
		errs = append(errs, n.Heal(host.Name), n.Undeafen(host.Name))
		if host.Network == Ethernet {
			errs = append(errs, n.vacateAll(host))
		}
	}
	return errors.Join(errs...)
}
