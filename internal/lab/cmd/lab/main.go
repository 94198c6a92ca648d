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
		TraverseChildren: true,
	}
	name := lab.DefaultName
	if fromEnvironment := os.Getenv("BERTH_LAB"); fromEnvironment != "" {
		name = fromEnvironment
	}
	flags := &globalFlags{}
	root.PersistentFlags().StringVar(&flags.name, "name", name, "which lab; the variable BERTH_LAB changes the default")
	root.AddCommand(
		newUpCommand(flags), newDownCommand(flags), newStatusCommand(flags),
		newKubectlCommand(flags), newKubeconfigCommand(flags),
		newExecCommand(flags), newProbeCommand(flags),
		newCutCommand(flags), newHealCommand(flags),
		newFreezeCommand(flags), newThawCommand(flags),
		newKillCommand(flags), newCrashCommand(flags), newBootCommand(flags),
		newForwardCommand(), newAgentCommand(), newPauseCommand(),
	)
	return root
}

// globalFlags are those of all commands.
type globalFlags struct {
	name string
}

func (f *globalFlags) open() (*lab.Cluster, error) { return lab.Open(f.name) }
