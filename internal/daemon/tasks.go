package daemon

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// Task is one long-running part of a program.
type Task struct {
	Name string
	// Run works until ctx is done. An error stops the whole program.
	Run func(ctx context.Context) error
}

// Run runs all tasks until ctx is done or one of them fails. It returns when
// the last has returned, with the first error that was not the end of ctx.
func Run(ctx context.Context, tasks ...Task) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, task := range tasks {
		g.Go(func() error {
			if err := task.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", task.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// UntilSignalled returns a context that is done at the first SIGINT or SIGTERM.
// A second one kills the process, as usual.
func UntilSignalled(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
