package network

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// LinkState is what a cable does.
type LinkState string

// The states of a cable.
const (
	Connected LinkState = "connected"
	// Cut: both ends have lost carrier, as when the cable is pulled.
	Cut LinkState = "cut"
	// Silent: the ends have carrier, but no packet passes, as when a host hangs or
	// a switch loses its forwarding table.
	Silent LinkState = "silent"
)

// Cut pulls the host's cable out of the Ethernet: its interface loses carrier.
func (n Network) Cut(host string) error { return n.setState(host, cut) }

// CutSilently stops all packets to and from the host while its interface keeps
// carrier.
func (n Network) CutSilently(host string) error { return n.setState(host, silence) }

// Heal undoes Cut and CutSilently. It does nothing to a cable that works.
func (n Network) Heal(host string) error { return n.setState(host, connect) }

func (n Network) setState(name string, change func(port, bridge netlink.Link) error) error {
	host, err := n.plan.Host(name)
	if err != nil {
		return err
	}
	return n.onPort(host.Network, name, change)
}

// State returns that of the host's cable.
func (n Network) State(host Host) (LinkState, error) {
	state := Connected
	err := n.onPort(host.Network, host.Name, func(port, _ netlink.Link) error {
		switch attributes := port.Attrs(); {
		case attributes.Flags&net.FlagUp == 0:
			state = Cut
		case attributes.MasterIndex == 0:
			state = Silent
		}
		return nil
	})
	return state, err
}

// onPort calls fn with the bridge end of a host's cable, in the bridge's
// namespace.
func (n Network) onPort(network, host string, fn func(port, bridge netlink.Link) error) error {
	return netns.Target{Name: n.Namespace(network)}.Do(func() error {
		port, err := netlink.LinkByName(host)
		if err != nil {
			return fmt.Errorf("port %s of network %s: %w", host, network, err)
		}
		bridge, err := netlink.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("bridge of network %s: %w", network, err)
		}
		if err := fn(port, bridge); err != nil {
			return fmt.Errorf("port %s of network %s: %w", host, network, err)
		}
		return nil
	})
}

func connect(port, bridge netlink.Link) error {
	if port.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(port)
}

func cut(port, _ netlink.Link) error { return netlink.LinkSetDown(port) }

// silence takes the port out of its bridge: up, but connected to nothing.
func silence(port, _ netlink.Link) error {
	if err := netlink.LinkSetNoMaster(port); err != nil {
		return err
	}
	return netlink.LinkSetUp(port)
}
