package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Dir is where named network namespaces are mounted.
const Dir = "/run/netns"

// Path is the file a process opens to enter the namespace called name.
func Path(name string) string { return filepath.Join(Dir, name) }

// Create makes an empty network namespace called name, in which even the
// loopback interface is still down.
func Create(name string) error {
	if err := prepareDir(); err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	err := onThrowawayThread(func() error {
		handle, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return handle.Close()
	})
	if err != nil {
		return fmt.Errorf("network namespace %s: create: %w", name, err)
	}
	return nil
}

// prepareDir makes Dir a shared mount, as `ip netns add` does. Were that left
// to a later `ip netns add`, it would cover the mounts made before it, and those
// could then no longer be removed. The lock, which `ip netns add` takes as well,
// keeps two from doing it at the same time.
func prepareDir() error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(Dir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // which also unlocks it
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", Dir, err)
	}
	err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount: %w", Dir, err)
	}
	return nil
}

// Delete removes the namespace called name; one that does not exist is no error.
// The kernel frees its interfaces when the last process in it is gone.
func Delete(name string) error {
	path := Path(name)
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not, or no longer, a mount point
		}
		if err != nil {
			return fmt.Errorf("network namespace %s: unmount: %w", name, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network namespace %s: remove: %w", name, err)
	}
	return nil
}

// List returns the names that start with prefix, in alphabetical order.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}
