package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/routers"
)

func newRouterCommand(global *globalFlags) *cobra.Command {
	var output outputFlag
	cmd := &cobra.Command{
		Use:   "router",
		Short: "Show what the routers know by BGP; start and stop them",
		Long: `Show the BGP and BFD sessions of the lab's routers and the routes that they were
told. FRR or BIRD is started on one by lab router up. On its host, vtysh and birdc
talk to it.`,
		Example: `  lab router up frr --bfd
  lab router
  lab exec router -- vtysh -c 'show bgp summary'
  lab exec router -- birdc show protocols`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := global.open()
			if err != nil {
				return err
			}
			statuses, err := cluster.RouterStatuses(cmd.Context())
			if err != nil {
				return err
			}
			return output.write(cmd.OutOrStdout(), statuses)
		},
	}
	output.add(cmd.Flags())
	cmd.AddCommand(newRouterUpCommand(global), newRouterDownCommand(global))
	return cmd
}

func newRouterUpCommand(global *globalFlags) *cobra.Command {
	const (
		ownASN      = 64512
		bfdInterval = 100 * time.Millisecond
	)
	options := lab.RouterOptions{Host: network.Router, ASN: ownASN}
	bfd := false
	cmd := &cobra.Command{
		Use:   "up frr|bird",
		Short: "Start FRR or BIRD on a router",
		Long: `Start FRR or BIRD on a router, in place of what runs there. Every node is a
neighbor, whatever its ASN, once it connects, and tells routes of both families.`,
		Example: "  lab router up frr\n  lab router up bird --on router2 --asn 64513 --password secret --bfd",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			options.Kind = routers.Kind(args[0])
			if bfd {
				options.BFD = &routers.BFD{Receive: bfdInterval, Transmit: bfdInterval}
			}
			cluster, err := global.open()
			if err != nil {
				return err
			}
			_, err = cluster.StartRouter(cmd.Context(), options)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Host, "on", options.Host, "host: router or router2")
	flags.Uint32Var(&options.ASN, "asn", options.ASN, "the router's own ASN")
	flags.StringVar(&options.Password, "password", "", "for TCP MD5")
	flags.BoolVar(&bfd, "bfd", false, "watch neighbors by BFD, 3 times 100 ms")
	return cmd
}

func newRouterDownCommand(global *globalFlags) *cobra.Command {
	host := network.Router
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop what runs on a router",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := global.open()
			if err != nil {
				return err
			}
			router, err := cluster.Router(host)
			if err != nil {
				return err
			}
			return router.Stop(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&host, "on", host, "host: router or router2")
	return cmd
}
