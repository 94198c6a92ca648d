package lab

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// How long killed processes may take to end, and how often that is looked at.
const (
	endTimeout = 10 * time.Second
	endPoll    = 5 * time.Millisecond
)

// APIServer is the name of the process that Freeze and Thaw are mostly used on.
const APIServer = "kube-apiserver"

// Freeze stops a background process such as APIServer in its tracks: it keeps
// its connections and answers nothing. Freezing the API server ends the
// controller manager: in production it ends itself when it cannot renew its
// lease. Here it would go on and, when the API server is back, take all nodes
// for dead because none has sent a heartbeat.
func (c *Cluster) Freeze(process string) error {
	if process == APIServer {
		if err := c.signal(c.controllerManager().Name, syscall.SIGKILL); err != nil && !errors.Is(err, proc.ErrNotRunning) {
			return err
		}
	}
	if err := c.signal(process, syscall.SIGSTOP); err != nil {
		return err
	}
	return c.waitStopped(process)
}

// waitStopped returns when a process that was sent SIGSTOP answers no more.
func (c *Cluster) waitStopped(process string) error {
	record, err := proc.Load(c.dir.processes().Records, process)
	if err != nil {
		return err
	}
	for range 500 {
		if record.Stopped() || !record.Alive() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("process %s does not stop", process)
}

// Thaw lets a frozen process go on. With the API server the controller manager
// starts again.
func (c *Cluster) Thaw(process string) error {
	if err := c.signal(process, syscall.SIGCONT); err != nil || process != APIServer {
		return err
	}
	manager := c.controllerManager()
	if record, err := proc.Load(c.dir.processes().Records, manager.Name); err == nil && record.Alive() {
		return nil // it was not frozen
	}
	return c.startProcess(manager)
}

// startProcess starts a process in the background.
func (c *Cluster) startProcess(spec proc.Spec) error {
	cmd, err := c.dir.processes().Start(spec)
	if err != nil {
		return err
	}
	c.children.Go(func() { _ = cmd.Wait() }) // how it ends is in its log
	return nil
}

func (c *Cluster) signal(process string, signal syscall.Signal) error {
	records, err := proc.LoadAll(c.dir.processes().Records)
	if err != nil {
		return err
	}
	others := map[string]bool{}
	for _, record := range records {
		if record.Name == process {
			return record.Signal(signal)
		}
		others[record.Name] = true
	}
	return fmt.Errorf("process %q does not exist; the lab has %s", process, listOr(others, "none"))
}

// Crash kills everything that runs on a node at once: its agent, kube-proxy and
// all containers. Its kernel goes on, with its addresses, rules and connections.
func (c *Cluster) Crash(node string) error {
	host, err := c.node(node)
	if err != nil {
		return err
	}
	pods, err := netns.List(c.podNamespacePrefix(host.Name))
	if err != nil {
		return err
	}
	pids, err := netns.Processes(append(pods, c.net.Namespace(host.Name))...)
	if err != nil {
		return err
	}
	var errs []error
	var killed []proc.Record
	for _, pid := range pids {
		process, err := proc.Identify(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		process.Name = fmt.Sprintf("process %d on %s", pid, node)
		if err := process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, proc.ErrNotRunning) {
			errs = append(errs, err)
		}
		killed = append(killed, process)
	}
	return errors.Join(append(errs, awaitEnd(killed))...)
}

// awaitEnd returns when processes that were killed have ended.
func awaitEnd(killed []proc.Record) error {
	deadline := time.Now().Add(endTimeout)
	for _, process := range killed {
		for process.Alive() {
			if time.Now().After(deadline) {
				return fmt.Errorf("%s still runs %s after it was killed", process.Name, endTimeout)
			}
			time.Sleep(endPoll)
		}
	}
	return nil
}

// ErrRuns is returned by Boot for a node that lacks nothing.
var ErrRuns = errors.New("it runs")

// Boot starts the agent and kube-proxy of a node again after Crash, or the one of
// them that was killed.
func (c *Cluster) Boot(node string) error {
	host, err := c.node(node)
	if err != nil {
		return err
	}
	agent, err := c.nodeAgent(host)
	if err != nil {
		return err
	}
	started := 0
	for _, spec := range []proc.Spec{agent, c.kubeProxy(host)} {
		record, err := proc.Load(c.dir.processes().Records, spec.Name)
		if err == nil && record.Alive() {
			continue
		}
		if err := c.startProcess(spec); err != nil {
			return fmt.Errorf("boot %s: %w", node, err)
		}
		started++
	}
	if started == 0 {
		return fmt.Errorf("boot %s: %w; crash the node first", node, ErrRuns)
	}
	return nil
}
