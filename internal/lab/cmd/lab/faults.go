package main

import (
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/lab"
)

func newCrashCommand(global *globalFlags) *cobra.Command {
	return onCluster(global, &cobra.Command{
		Use:   "crash NODE",
		Short: "Kill everything that runs on a node",
		Long: `Kill everything that runs on a node at once: the node agent, kube-proxy and all
containers. The node's kernel keeps its addresses and rules.`,
	}, (*lab.Cluster).Crash)
}

func newBootCommand(global *globalFlags) *cobra.Command {
	return onCluster(global, &cobra.Command{
		Use:   "boot NODE",
		Short: "Start a crashed node again, or its kube-proxy",
	}, (*lab.Cluster).Boot)
}

func newFreezeCommand(global *globalFlags) *cobra.Command {
	return onCluster(global, &cobra.Command{
		Use:   "freeze apiserver|PROCESS",
		Short: "Stop the API server in its tracks",
		Long: `Stop the API server, or another process that lab status lists, in its tracks:
connections to it stay open, but nothing is answered until lab thaw.`,
		Example: "  lab freeze apiserver\n  lab freeze kube-proxy@node-1",
	}, func(cluster *lab.Cluster, process string) error { return cluster.Freeze(processName(process)) })
}

func newThawCommand(global *globalFlags) *cobra.Command {
	return onCluster(global, &cobra.Command{
		Use:     "thaw apiserver|PROCESS",
		Short:   "Let a frozen process go on",
		Example: "  lab thaw apiserver",
	}, func(cluster *lab.Cluster, process string) error { return cluster.Thaw(processName(process)) })
}

// processName allows a short form of the process that is frozen most.
func processName(given string) string {
	if given == "apiserver" {
		return lab.APIServer
	}
	return given
}

// onCluster completes a command whose one argument goes to action.
func onCluster(global *globalFlags, cmd *cobra.Command, action func(*lab.Cluster, string) error) *cobra.Command {
	cmd.Args = arguments(1, 1)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		cluster, err := global.open()
		if err != nil {
			return err
		}
		return action(cluster, args[0])
	}
	return cmd
}

func newKillCommand(global *globalFlags) *cobra.Command {
	hard := false
	cmd := &cobra.Command{
		Use:   "kill NODE CONTAINER-IMAGE",
		Short: "End the containers of an image on a node",
		Long: `Send SIGTERM, or SIGKILL with -9, to the containers on a node that run an image.
Registry and tag of the image do not matter. The node restarts them as Kubernetes
does. kube-proxy, which is no container here, can be killed by its name as well; only
lab boot starts it again.`,
		Example: "  lab kill node-1 speaker\n  lab kill node-1 speaker -9\n  lab kill node-1 kube-proxy -9",
		Args:    arguments(2, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			cluster, err := global.open()
			if err != nil {
				return err
			}
			signal := syscall.SIGTERM
			if hard {
				signal = syscall.SIGKILL
			}
			return cluster.Kill(args[0], args[1], signal)
		},
	}
	cmd.Flags().BoolVarP(&hard, "kill", "9", false, "send SIGKILL instead of SIGTERM")
	return cmd
}
