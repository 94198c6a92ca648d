package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func newKubectlCommand(global *globalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [ARGUMENT ...]",
		Short: "Run kubectl on the lab",
		Long:  "Run kubectl as the lab's administrator. Choose a lab by --name before anything else.",
		Example: `  lab kubectl get pods -A
  lab kubectl --name v6 apply -f service.yaml`,
		DisableFlagParsing: true, // they are kubectl's
		RunE: func(_ *cobra.Command, args []string) error {
			args, err := takeName(global, args)
			if err != nil {
				return err
			}
			cluster, err := global.open()
			if err != nil {
				return err
			}
			argv := append(cluster.KubectlArgs(), args...)
			if err := syscall.Exec(argv[0], argv, cluster.KubectlEnv()); err != nil {
				return fmt.Errorf("run %s: %w", argv[0], err)
			}
			return nil
		},
	}
}

// takeName removes a leading --name flag, which kubectl does not have.
func takeName(global *globalFlags, args []string) ([]string, error) {
	if len(args) == 0 {
		return args, nil
	}
	if name, given := strings.CutPrefix(args[0], "--name="); given {
		global.name = name
		return args[1:], nil
	}
	if args[0] != "--name" {
		return args, nil
	}
	if len(args) == 1 {
		return nil, fmt.Errorf("--name: needs the name of a lab")
	}
	global.name = args[1]
	return args[2:], nil
}

func newKubeconfigCommand(global *globalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a kubeconfig for programs on this machine",
		Example: `  lab kubeconfig > lab.kubeconfig
  KUBECONFIG=lab.kubeconfig kubectl get nodes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := global.open()
			if err != nil {
				return err
			}
			content, err := os.ReadFile(cluster.Kubeconfig())
			if err != nil {
				return fmt.Errorf("read kubeconfig: %w", err)
			}
			_, err = cmd.OutOrStdout().Write(content)
			return err
		},
	}
}
