package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
)

func newCutCommand(global *globalFlags) *cobra.Command {
	silent := false
	cmd := &cobra.Command{
		Use:   "cut HOST",
		Short: "Pull a host's network cable",
		Long: `Pull the cable of a node, or of another host, out of the Ethernet: its interface
loses carrier, and neither the other hosts nor the API server can reach it. With
--silent the interface keeps carrier and packets are dropped without notice.`,
		Example: "  lab cut node-2\n  lab cut --silent node-2",
		Args:    arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			cluster, err := global.open()
			if err != nil {
				return err
			}
			if silent {
				return cluster.CutSilently(args[0])
			}
			return cluster.Cut(args[0])
		},
	}
	cmd.Flags().BoolVar(&silent, "silent", false, "drop all packets, but leave carrier")
	return cmd
}

func newHealCommand(global *globalFlags) *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "heal HOST",
		Short: "Plug a host's network cable in again",
		Long: `Plug a host's network cable in again. With --all, the whole Ethernet works as in
the beginning: no cable is cut, no partition divides it, no host is deaf, and none
has an address that is not its own.`,
		Example: "  lab heal node-2\n  lab heal --all",
		RunE: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name a host, or use --all")
			}
			cluster, err := global.open()
			if err != nil {
				return err
			}
			if all {
				return cluster.HealAll()
			}
			return cluster.Heal(args[0])
		},
	}
	cmd.Args = arguments(0, 1)
	cmd.Flags().BoolVar(&all, "all", false, "everything on the Ethernet")
	return cmd
}

func newPartitionCommand(global *globalFlags) *cobra.Command {
	end := false
	cmd := &cobra.Command{
		Use:   "partition HOST,HOST / HOST",
		Short: "Divide the Ethernet between hosts",
		Long: `Drop all packets between hosts of different groups. All keep carrier, and hosts in
no group, such as the client, still reach everyone: so both sides of a divided
cluster can be seen to answer. It takes the place of an earlier partition.`,
		Example: "  lab partition node-1 / node-2,node-3\n  lab partition node-1,control-plane / node-2 / node-3\n  lab partition --end",
		RunE: func(_ *cobra.Command, args []string) error {
			if end == (len(args) > 0) {
				return errors.New("name groups, such as node-1 / node-2,node-3, or use --end")
			}
			cluster, err := global.open()
			if err != nil {
				return err
			}
			if end {
				return cluster.Partition()
			}
			return cluster.Partition(network.ParsePartition(args...)...)
		},
	}
	cmd.Flags().BoolVar(&end, "end", false, "join the parts again")
	return cmd
}

func newSquatCommand(global *globalFlags) *cobra.Command {
	var options lab.SquatOptions
	leave := false
	cmd := &cobra.Command{
		Use:   "squat ADDRESS",
		Short: "Have a foreign host take an address",
		Long: `Give an address of the free ranges to a host that has no right to it: its kernel
answers ARP and NDP for the address from then on.`,
		Example: "  lab squat 172.20.128.0\n  lab squat fd00:172:20:0:1:: --announce\n  lab squat 172.20.128.0 --leave",
		Args:    arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			address, err := netip.ParseAddr(args[0])
			if err != nil {
				return fmt.Errorf("squat: %w", err)
			}
			cluster, err := global.open()
			if err != nil {
				return err
			}
			if leave {
				return cluster.Vacate(options.Host, address)
			}
			return cluster.Squat(address, options)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Host, "on", network.Stranger, "host that takes it")
	flags.BoolVar(&options.Announce, "announce", false, "tell everyone at once, rather than only answer")
	flags.BoolVar(&leave, "leave", false, "give it up again")
	return cmd
}

func newDeafenCommand(global *globalFlags) *cobra.Command {
	end := false
	cmd := &cobra.Command{
		Use:   "deafen HOST",
		Short: "Have a host ignore announcements of addresses",
		Long: `Have a host ignore gratuitous ARP and unsolicited neighbor advertisements to
everyone, as some hosts and routers do: it learns that an address has moved only by
asking, or by what is sent to it alone.`,
		Example: "  lab deafen client\n  lab deafen client --end",
		Args:    arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			cluster, err := global.open()
			if err != nil {
				return err
			}
			if end {
				return cluster.Undeafen(args[0])
			}
			return cluster.Deafen(args[0])
		},
	}
	cmd.Flags().BoolVar(&end, "end", false, "have it listen again")
	return cmd
}
