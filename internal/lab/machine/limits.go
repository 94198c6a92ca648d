package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// minimums are what every limit has to be at least, by path below /proc/sys.
// All hosts of all labs share one neighbour table per IP family: its default of
// 1024 entries is too few for 30 nodes that know each other. Kubernetes programs
// and containers each watch files, for which the default is 128 watchers.
func minimums() map[string]int {
	return map[string]int{
		"net/ipv4/neigh/default/gc_thresh2": 32768,
		"net/ipv4/neigh/default/gc_thresh3": 65536,
		"net/ipv6/neigh/default/gc_thresh2": 32768,
		"net/ipv6/neigh/default/gc_thresh3": 65536,
		"fs/inotify/max_user_instances":     8192,
	}
}

// Limits are the kernel's, below a folder such as /proc/sys.
type Limits struct {
	root string
	// saved is the file that remembers what limits were before they were raised.
	saved string
}

// NewLimits returns those of this machine. What they were before is kept in the
// file saved while they are raised.
func NewLimits(saved string) Limits { return Limits{root: "/proc/sys", saved: saved} }

// Raise raises each limit that is too low and remembers what it was. Limits that
// are raised already stay as they are, and so does what is remembered.
func (l Limits) Raise() error {
	before, err := l.remembered()
	if err != nil {
		return err
	}
	raise := map[string]int{}
	for name, minimum := range minimums() {
		value, err := l.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // this kernel, or the container we are in, does not have it
		}
		if err != nil {
			return err
		}
		if value < minimum {
			raise[name] = minimum
			before[name] = value
		}
	}
	if len(raise) == 0 {
		return nil
	}
	// Remembered first: if this process dies in between, nothing is lost.
	content, err := json.Marshal(before)
	if err != nil {
		return fmt.Errorf("limits of the machine: %w", err)
	}
	if err := os.WriteFile(l.saved, content, 0o600); err != nil {
		return fmt.Errorf("limits of the machine: %w", err)
	}
	for name, value := range raise {
		if err := l.write(name, value); err != nil {
			return err
		}
	}
	return nil
}

// Restore sets all limits that Raise has raised to what they were.
func (l Limits) Restore() error {
	before, err := l.remembered()
	if err != nil {
		return err
	}
	for name, value := range before {
		if err := l.write(name, value); err != nil {
			return err
		}
	}
	if err := os.Remove(l.saved); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("limits of the machine: %w", err)
	}
	return nil
}

func (l Limits) remembered() (map[string]int, error) {
	before := map[string]int{}
	content, err := os.ReadFile(l.saved)
	if errors.Is(err, fs.ErrNotExist) {
		return before, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &before)
	}
	if err != nil {
		return nil, fmt.Errorf("limits of the machine: %s: %w", l.saved, err)
	}
	return before, nil
}

func (l Limits) read(name string) (int, error) {
	content, err := os.ReadFile(filepath.Join(l.root, name))
	if err != nil {
		return 0, fmt.Errorf("limit %s: %w", name, err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, fmt.Errorf("limit %s: %w", name, err)
	}
	return value, nil
}

func (l Limits) write(name string, value int) error {
	if err := os.WriteFile(filepath.Join(l.root, name), []byte(strconv.Itoa(value)), 0); err != nil {
		return fmt.Errorf("limit %s: %w", name, err)
	}
	return nil
}
