package lab

import (
	"net/netip"

	"github.com/berth-lb/berth/internal/lab/network"
)

// Cut pulls a host's cable out of the Ethernet: its interface loses carrier.
func (c *Cluster) Cut(host string) error { return c.net.Cut(host) }

// CutSilently drops all packets to and from a host, whose interface keeps
// carrier: nobody is told.
func (c *Cluster) CutSilently(host string) error { return c.net.CutSilently(host) }

// Heal undoes Cut and CutSilently.
func (c *Cluster) Heal(host string) error { return c.net.Heal(host) }

// Partition drops all packets on the Ethernet between hosts of different groups,
// whose interfaces all keep carrier. A host in no group, such as a client, reaches
// all. It takes the place of an earlier partition; without groups, it only ends
// that.
func (c *Cluster) Partition(groups ...[]string) error { return c.net.Partition(groups...) }

// Deafen makes a host ignore announcements of who has an address: those that it
// did not ask for and that go to everyone.
func (c *Cluster) Deafen(host string) error { return c.net.Deafen(host) }

// Undeafen undoes Deafen.
func (c *Cluster) Undeafen(host string) error { return c.net.Undeafen(host) }

// HealAll undoes everything that this file has methods for, on all hosts.
func (c *Cluster) HealAll() error { return c.net.HealAll() }

// SquatOptions say who takes an address, and how.
type SquatOptions struct {
	// Host is who; network.Stranger if empty.
	Host string
	// Announce tells everyone at once. Otherwise the host only answers who asks.
	Announce bool
}

// Squat has a host take an address that belongs to the cluster.
func (c *Cluster) Squat(address netip.Addr, options SquatOptions) error {
	if options.Host == "" {
		options.Host = network.Stranger
	}
	if err := c.net.Squat(options.Host, address); err != nil || !options.Announce {
		return err
	}
	return c.net.Announce(options.Host, address)
}

// Vacate undoes Squat. An empty host is network.Stranger.
func (c *Cluster) Vacate(host string, address netip.Addr) error {
	if host == "" {
		host = network.Stranger
	}
	return c.net.Vacate(host, address)
}
