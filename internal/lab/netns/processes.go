package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// identity is what distinguishes one namespace from another: stat(2) of any file
// that refers to it gives the same device and inode (namespaces(7)).
type identity struct{ device, inode uint64 }

func identify(path string) (identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, fmt.Errorf("%s: no device and inode", path)
	}
	return identity{device: stat.Dev, inode: stat.Ino}, nil
}

// Processes returns the ids of all processes whose network is one of the named
// namespaces. Processes that end meanwhile, zombies and names that do not exist
// are left out, and so is the caller itself.
func Processes(names ...string) ([]int, error) {
	wanted := map[identity]bool{}
	for _, name := range names {
		if id, err := identify(Path(name)); err == nil {
			wanted[id] = true
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	entries, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		id, err := identify(entry)
		if err != nil || !wanted[id] {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(entry))))
		if err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
