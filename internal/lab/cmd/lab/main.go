// Command lab runs a Kubernetes cluster in network namespaces, for development
// and tests. `lab help` tells what it can do.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/lab"
	"github.com/berth-lb/berth/internal/lab/container"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == container.InitCommand {
		container.Init() // becomes the container's program
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRootCommand().ExecuteContext(ctx)
	var exit exitStatusError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(int(exit)) // the command said itself what went wrong
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "lab",
		Short: "A real Kubernetes cluster in network namespaces of this machine",
		Long: `lab runs a Kubernetes cluster in network namespaces: a control plane and nodes on
one Ethernet, a client beside them, and a router with another client behind it.
Containers are processes; images are local binaries. It needs root, and removes
everything it made with ` + "`lab down`" + `.`,
		Example: `  sudo bin/lab up
  sudo bin/lab kubectl get nodes
  sudo bin/lab exec client -- ping -c 1 172.20.0.11
  sudo bin/lab down`,
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true, // so that --name may come before the command
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q; `lab help` lists all", args[0])
			}
			return cmd.Help()
		},
	}
	name := lab.DefaultName
	if fromEnvironment := os.Getenv("BERTH_LAB"); fromEnvironment != "" {
		name = fromEnvironment
	}
	flags := &globalFlags{}
	root.PersistentFlags().StringVar(&flags.name, "name", name, "which lab; the variable BERTH_LAB changes the default")
	addGroup(root, "Start and look:",
		newUpCommand(flags), newStatusCommand(flags), newKubectlCommand(flags), newKubeconfigCommand(flags), newDownCommand(flags))
	addGroup(root, "Be somewhere in it:",
		newExecCommand(flags), newProbeCommand(flags), newHoldCommand(flags), newRouterCommand(flags))
	addGroup(root, "Break and mend:",
		newCutCommand(flags), newPartitionCommand(flags), newSquatCommand(flags), newDeafenCommand(flags), newHealCommand(flags), newKillCommand(flags),
		newFreezeCommand(flags), newThawCommand(flags), newCrashCommand(flags), newBootCommand(flags))
	root.AddCommand(newForwardCommand(), newAgentCommand(), newPauseCommand(), newStreamerCommand())
	return root
}

// addGroup adds commands that the help lists under a title of their own.
func addGroup(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, cmd := range commands {
		cmd.GroupID = title
		root.AddCommand(cmd)
	}
}

// arguments checks that a command has at least min and at most max arguments.
func arguments(min, max int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < min || len(args) > max {
			return fmt.Errorf("%d arguments given; usage: %s", len(args), cmd.UseLine())
		}
		return nil
	}
}

// globalFlags are those of all commands.
type globalFlags struct {
	name string
}

func (f *globalFlags) open() (*lab.Cluster, error) { return lab.Open(f.name) }
