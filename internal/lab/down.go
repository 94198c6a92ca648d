package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berth-lb/berth/internal/lab/netns"
	"github.com/berth-lb/berth/internal/lab/proc"
)

// downTimeout is how long processes may take to end after SIGKILL, which takes
// longer than an instant only for those that wait for a disk.
const downTimeout = 20 * time.Second

// Down ends every process of the lab and removes all that it consists of.
func (c *Cluster) Down(ctx context.Context) error {
	if err := Down(ctx, c.Name()); err != nil {
		return err
	}
	c.children.Wait()
	return nil
}

// Down removes the lab called name, whatever state it is in: still starting,
// broken, or half removed. It goes by what the kernel knows of the lab, not by
// the lab's own files. A lab that does not exist is no error.
func Down(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if err := killAll(ctx, name); err != nil {
		return fmt.Errorf("lab %s: %w", name, err)
	}
	if err := deleteNamespaces(name); err != nil {
		return fmt.Errorf("lab %s: %w", name, err)
	}
	if err := stateFolder(name).remove(); err != nil {
		return fmt.Errorf("lab %s: %w", name, err)
	}
	return nil
}

// killAll returns when no process of the lab is left. It looks again after each
// round, because what it kills may just have started another. What it has killed
// it waits for itself: a process on its way out leaves its network before it ends.
func killAll(ctx context.Context, name string) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	killed := map[int]proc.Record{} // by PID
	for {
		alive, err := processesOf(name)
		if err != nil {
			return err
		}
		for _, process := range alive {
			killed[process.PID] = process
		}
		maps.DeleteFunc(killed, func(_ int, r proc.Record) bool { return !r.Alive() })
		alive = slices.Collect(maps.Values(killed))
		if len(alive) == 0 {
			return nil
		}
		for _, process := range alive {
			if err := process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, proc.ErrNotRunning) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes do not end, among them %d: %w", len(alive), alive[0].PID, ctx.Err())
		case <-ticker.C:
		}
	}
}

// processesOf finds the lab's processes by the networks they live in, which they
// cannot leave, and by the records of those that the lab started itself, in case
// a namespace has lost its name.
func processesOf(name string) ([]proc.Record, error) {
	namespaces, err := netns.List(namespacePrefix(name))
	if err != nil {
		return nil, err
	}
	pids, err := netns.Processes(namespaces...)
	if err != nil {
		return nil, err
	}
	// Records that cannot be read are no reason to leave the rest alone.
	records, _ := proc.LoadAll(stateFolder(name).processes().Records)
	alive := slices.DeleteFunc(records, func(r proc.Record) bool { return !r.Alive() })
	for _, pid := range pids {
		if record, err := proc.Identify(pid); err == nil && record.Alive() {
			record.Name = fmt.Sprintf("process %d", pid)
			alive = append(alive, record)
		}
	}
	return alive, nil
}

func deleteNamespaces(name string) error {
	namespaces, err := netns.List(namespacePrefix(name))
	if err != nil {
		return err
	}
	var errs []error
	for _, namespace := range namespaces {
		errs = append(errs, netns.Delete(namespace))
	}
	return errors.Join(errs...)
}

// Names returns the names of all labs of which anything exists, in alphabetical
// order.
func Names() ([]string, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot // the folder is root's
	}
	found := map[string]bool{}
	entries, err := os.ReadDir(stateRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	for _, entry := range entries {
		found[entry.Name()] = checkName(entry.Name()) == nil
	}
	namespaces, err := netns.List("berth-")
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	for _, namespace := range namespaces {
		name, _, isLab := strings.Cut(strings.TrimPrefix(namespace, "berth-"), "-")
		found[name] = isLab && checkName(name) == nil
	}
	var names []string
	for name, valid := range found {
		if valid {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}
