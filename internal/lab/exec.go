package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/berth-lb/berth/internal/lab/netns"
)

// Start starts cmd on a host or in a Pod, given by name or as namespace/name. Its
// program is looked up there. On a host with a router, vtysh and birdc are those
// that talk to it. The caller waits for the command.
func (c *Cluster) Start(host string, cmd *exec.Cmd) error {
	target, err := c.place(host)
	if err != nil {
		return err
	}
	c.offerConsoles(host, cmd)
	return startAt(target, cmd)
}

func startAt(target netns.Target, cmd *exec.Cmd) error {
	return target.Do(func() error {
		if !strings.Contains(cmd.Args[0], "/") {
			cmd.Path, cmd.Err = exec.LookPath(cmd.Args[0])
		}
		return cmd.Start()
	})
}

// Exec runs a command on a host or in a Pod and returns what it writes to its
// output. The error holds what it writes to its error output.
func (c *Cluster) Exec(ctx context.Context, host string, args ...string) ([]byte, error) {
	if len(args) == 0 {
		return nil, errors.New("exec: no command given")
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := c.Start(host, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return stdout.Bytes(), fmt.Errorf("on %s: %s: %w: %s", host, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}
