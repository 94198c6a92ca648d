package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/cli"
)

// newCommand returns the command and all below it.
func newCommand(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-berth",
		Short: "Shows how Berth is doing, and why",
		Long: "Shows how Berth is doing and why, and takes nodes out of service.\n\n" +
			"It needs a kubeconfig with the right to read; what it may not read it says, and goes on without.",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl berth"},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(o.out)
	root.SetErr(o.errOut)
	o.addFlags(root)
	root.AddCommand(
		newVersion(o),
		newStatus(o),
		newExplain(o),
		o.newReport("pools", "IPAddressPools: how full they are, and which addresses other hosts have",
			func(c *cli.Cluster) cli.Report { return cli.ReportPools(c) }),
		o.newReport("services", "Services of Berth's: their addresses, who announces them, or why nobody does",
			func(c *cli.Cluster) cli.Report { return cli.ReportServices(c) }),
		o.newReport("nodes", "Nodes: the addresses they own, their sessions, conflicts, and whom they stand in for",
			func(c *cli.Cluster) cli.Report { return cli.ReportNodes(c) }),
		o.newReport("peers", "BGP sessions of all nodes, and BFD",
			func(c *cli.Cluster) cli.Report { return cli.ReportPeers(c) }),
		o.newReport("routes", "Routes: what each BGPPeer is told by which nodes, and why",
			func(c *cli.Cluster) cli.Report { return cli.ReportRoutes(c) }),
		newPlan(o),
		newDrain(o),
		newUndrain(o),
		newRebalance(o),
		newImport(o),
		newBundle(o),
	)
	return root
}

// newReport returns a command without arguments that writes a report.
func (o *options) newReport(name, short string, report func(*cli.Cluster) cli.Report) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(cmd.Context(), o.namespace())
			if err != nil {
				return err
			}
			o.warnUnread(c)
			return o.write(report(c))
		},
	}
}

// warnUnread says what could not be read.
func (o *options) warnUnread(c *cli.Cluster) {
	for _, u := range c.Unread {
		_, _ = fmt.Fprintf(o.errOut, "warning: cannot read %s: %s\n", u.Kind, u.Why)
	}
}

func newVersion(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Version of this plugin", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			return o.write(cli.Version{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH})
		},
	}
}

func newStatus(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Whether all is well, what is not, and why; exit status 1 if something is wrong",
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(cmd.Context(), o.namespace())
			if err != nil {
				return err
			}
			o.warnUnread(c)
			status := cli.ReportStatus(c)
			if err := o.write(status); err != nil {
				return err
			}
			if !status.Healthy {
				return errUnhealthy
			}
			return nil
		},
	}
}
