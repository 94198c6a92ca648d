// Command kubectl-berth is a plugin of kubectl: it shows how Berth is doing, says
// why an address does or does not work, and takes nodes out of service.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "dev"

// Exit statuses.
const (
	exitNotGood = 1 // the answer was given: something is wrong, or would change
	exitFailed  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := newOptions(os.Stdout, os.Stderr)
	err := newCommand(o).ExecuteContext(ctx)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, errUnhealthy), errors.Is(err, errPlanned):
		os.Exit(exitNotGood)
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(exitFailed)
	}
}
