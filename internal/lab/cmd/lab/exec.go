package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func newExecCommand(global *globalFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec HOST -- COMMAND [ARGUMENT ...]",
		Short: "Run a command on a host or in a Pod",
		Long: `Run a command of this machine on a host of the lab: control-plane, node-1 and so
on, client, router or wan-client. HOST may also be a Pod, as NAME or
NAMESPACE/NAME: the command is then one that the Pod's first container has, in
that container's namespaces. The exit status is the command's.`,
		Example: `  lab exec client -- curl -s http://172.20.128.0
  lab exec node-1 -- tcpdump -nei eth0 arp
  lab exec web-5d4f -- sh`,
		Args: arguments(2, math.MaxInt),
		RunE: func(_ *cobra.Command, args []string) error {
			host, argv := args[0], args[1:]
			if argv[0] == "--" {
				argv = argv[1:]
			}
			if len(argv) == 0 {
				return errors.New("exec: needs a command after the host; for example: lab exec client -- ip addr")
			}
			cluster, err := global.open()
			if err != nil {
				return err
			}
			command := exec.Command(argv[0], argv[1:]...)
			command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
			signals := make(chan os.Signal, 8)
			signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			if err := cluster.Start(host, command); err != nil {
				return fmt.Errorf("on %s: %w", host, err)
			}
			go passOn(signals, command.Process)
			return exitStatus(command.Wait())
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows HOST is the command's
	return cmd
}

// passOn sends signals to the command as well, except for an interrupt from the
// terminal, which the terminal itself has sent to both.
func passOn(signals <-chan os.Signal, process *os.Process) {
	for received := range signals {
		if received != os.Interrupt {
			_ = process.Signal(received) // it may just have ended
		}
	}
}

// exitStatus makes an error of a command that was ended by a signal into the
// status by which shells report that.
func exitStatus(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitStatusError(128 + int(status.Signal()))
	}
	return exitStatusError(exit.ExitCode())
}

// exitStatusError is the status with which lab itself is to end, saying nothing.
type exitStatusError int

func (c exitStatusError) Error() string { return fmt.Sprintf("exit status %d", int(c)) }
