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

func newHoldCommand(global *globalFlags) *cobra.Command {
	var output outputFlag
	options := lab.HoldOptions{}
	duration := 10 * time.Second
	cmd := &cobra.Command{
		Use:   "hold URL",
		Short: "Keep one connection and see whether it breaks",
		Long: `Open one connection, a download without an end (http://) or a WebSocket that
echoes (ws://), keep it, and report whether it broke and the longest time in which
nothing came. Interrupt it to end it early.

Pods of the image streamer serve both, at /download and /echo.

The exit status is 1 if the connection broke or never was.`,
		Example: `  lab hold http://172.20.128.0/download
  lab hold 'ws://[fd00:172:20:0:1::]/echo' --from wan-client --for 1m`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if duration <= 0 {
				return fmt.Errorf("--for: %s is not a time to hold for", duration)
			}
			options.URL = args[0]
			cluster, err := global.open()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), duration)
			defer cancel()
			report, err := cluster.Hold(ctx, options)
			if err != nil {
				return err
			}
			if err := output.write(cmd.OutOrStdout(), report); err != nil {
				return err
			}
			if report.Broken != "" {
				return exitStatusError(1)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.From, "from", network.Client, "host or Pod that connects")
	flags.DurationVar(&duration, "for", duration, "how long")
	flags.DurationVar(&options.Every, "every", probe.DefaultHoldEvery, "time between two messages on a WebSocket")
	output.add(flags)
	return cmd
}
