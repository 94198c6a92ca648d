package main

import (
	"encoding/json"
	"errors"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newStatusCommand(global *globalFlags) *cobra.Command {
	var output outputFlag
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show hosts, addresses, nodes and processes",
		Long: `Show the lab's hosts with their addresses and cables, the ranges of addresses that
are free for pools, where the API server is, which nodes are ready, and the
background processes with their logs.`,
		Example: `  lab status
  lab status -o json | jq -r '.freeRanges[]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := global.open()
			if err != nil {
				return err
			}
			status, err := cluster.Status(cmd.Context())
			if err != nil {
				return err
			}
			return output.write(cmd.OutOrStdout(), status)
		},
	}
	output.add(cmd.Flags())
	return cmd
}

// outputFlag is -o of the commands whose result people or programs may read. A
// format that does not exist is refused before the command does anything.
type outputFlag struct{ json bool }

func (o *outputFlag) add(flags *pflag.FlagSet) {
	flags.VarP(o, "output", "o", "text or json")
}

func (o *outputFlag) String() string {
	if o.json {
		return "json"
	}
	return "text"
}

func (o *outputFlag) Set(format string) error {
	if format != "text" && format != "json" {
		return errors.New("use text or json")
	}
	o.json = format == "json"
	return nil
}

func (o *outputFlag) Type() string { return "format" }

func (o *outputFlag) write(w io.Writer, result interface{ WriteText(io.Writer) error }) error {
	if !o.json {
		return result.WriteText(w)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}
