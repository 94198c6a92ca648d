package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/lab"
)

func newUpCommand(global *globalFlags) *cobra.Command {
	options := lab.DefaultOptions()
	family := string(options.IPFamily)
	quiet := false
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab and return when it is ready",
		Long: `Start a lab and return when it is ready, leaving it running in the background.
If it fails or is interrupted, nothing of it is left.`,
		Example: `  lab up
  lab up --name v6 --nodes 5 --ip-family ipv6
  lab up --berth=false --image example.org/web:1=./bin/web`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options.Name = global.name
			options.IPFamily = lab.Family(family)
			if !quiet {
				options.Progress = stopwatch(cmd)
			}
			_, err := lab.Up(cmd.Context(), options)
			if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				return errors.New("interrupted; everything was removed")
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&options.Nodes, "nodes", options.Nodes, "number of nodes")
	flags.IntVar(&options.Routers, "routers", 1, "number of routers between the nodes and wan-client: 1 or 2")
	flags.StringVar(&family, "ip-family", family, "addresses of nodes, Pods and Services: ipv4, ipv6 or dual")
	flags.BoolVar(&options.Berth, "berth", options.Berth, "install Berth and wait until it runs")
	flags.StringVar(&options.Manifest, "manifest", "", "file that installs Berth (default deploy/berth.yaml of the source tree)")
	flags.StringToStringVar(&options.Images, "image", nil, "IMAGE=FILE: run FILE, a binary or an OCI image archive (.tar), for images called IMAGE, whatever their registry and tag; may be repeated")
	flags.BoolVarP(&quiet, "quiet", "q", false, "print nothing but errors")
	return cmd
}

// stopwatch prints each step with the time since the start.
func stopwatch(cmd *cobra.Command) func(string) {
	start := time.Now()
	return func(step string) {
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%5.1fs  %s\n", time.Since(start).Seconds(), step)
	}
}

func newDownCommand(global *globalFlags) *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove a lab and everything that belongs to it",
		Long: `Remove a lab and everything that belongs to it, whatever state it is in: also one
that did not start, was killed in part, or is still starting.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			existing, err := lab.Names()
			if err != nil {
				return err
			}
			names := existing
			if !all {
				names = []string{global.name}
			}
			if text := nothingToRemove(names, existing); text != "" {
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), text)
			}
			var errs []error
			for _, name := range names {
				errs = append(errs, lab.Down(cmd.Context(), name))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all labs of this machine")
	return cmd
}

// nothingToRemove tells of a lab that is to be removed and does not exist, or
// that there is none at all. It is no error: the lab is gone, as is wanted.
func nothingToRemove(names, existing []string) string {
	switch {
	case len(existing) == 0:
		return "nothing to remove: there is no lab"
	case len(names) == 1 && !slices.Contains(existing, names[0]):
		return fmt.Sprintf("nothing to remove: lab %s does not exist; those that do: %s", names[0], strings.Join(existing, ", "))
	}
	return ""
}
