package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/network"
	"github.com/berth-lb/berth/internal/lab/probe"
)

func newProbeCommand(global *globalFlags) *cobra.Command {
	var output outputFlag
	options := lab.ProbeOptions{}
	duration := 10 * time.Second
	cmd := &cobra.Command{
		Use:   "probe URL",
		Short: "Measure for how long a service is not there",
		Long: `Open a new connection to URL at every tick and fetch it, without waiting for
earlier attempts, and report how many failed and why, the longest time without a
success and when it began, and who answered. Interrupt it to end it early.

Paths of agnhost's server make the report say more: /hostname for the Pod that
answers, /clientip for the source address that the Pod sees.

The exit status is 1 if no attempt at all succeeded, otherwise 0.`,
		Example: `  lab probe http://172.20.128.0/hostname
  lab probe 'http://[fd00:172:20:0:1::]/clientip' --from wan-client --for 1m -o json`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if duration <= 0 {
				return fmt.Errorf("--for: %s is not a time to probe for", duration)
			}
			options.URL = args[0]
			cluster, err := global.open()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), duration)
			defer cancel()
			report, err := cluster.Probe(ctx, options)
			if err != nil {
				return err
			}
			if err := output.write(cmd.OutOrStdout(), report); err != nil {
				return err
			}
			return probeStatus(report)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.From, "from", network.Client, "host or Pod that connects")
	flags.DurationVar(&duration, "for", duration, "how long")
	flags.DurationVar(&options.Every, "every", probe.DefaultEvery, "time between two attempts")
	flags.DurationVar(&options.Timeout, "timeout", probe.DefaultTimeout, "limit for each attempt")
	output.add(flags)
	return cmd
}

// probeStatus is the exit status of a probe: a script must not take a service
// that was never there for one without gaps.
func probeStatus(report probe.Report) error {
	if report.OK == 0 {
		return exitStatusError(1)
	}
	return nil
}
