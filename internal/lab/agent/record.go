package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// podRecord is what StateDir/pods/NAMESPACE_NAME.json says about a Pod. Others
// read it to enter a Pod or to kill a container.
type podRecord struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	UID         string            `json:"uid"`
	Netns       string            `json:"netns"`
	HostNetwork bool              `json:"hostNetwork"`
	IPs         []netip.Addr      `json:"ips"`
	Containers  []containerRecord `json:"containers"`
}

// containerRecord is a running container.
type containerRecord struct {
	Name   string `json:"name"`
	Image  string `json:"image"`
	PID    int    `json:"pid"`
	Rootfs string `json:"rootfs"`
	// StartTicks is when the process started, by which it is told from a later one
	// with the same number.
	StartTicks string `json:"startTicks"`
}

// records are the files in StateDir/pods.
type records struct{ folder string }

func (r records) path(namespace, name string) string {
	return filepath.Join(r.folder, namespace+"_"+name+".json")
}

// write replaces the file of a Pod at once.
func (r records) write(record podRecord) error {
	data, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	path := r.path(record.Namespace, record.Name)
	fresh := path + "." + record.UID // not a name that readers look for
	if err := os.WriteFile(fresh, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("record pod: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("record pod: %w", err)
	}
	return nil
}

// remove deletes the file of a Pod, unless it already is that of a later Pod with
// the same name.
func (r records) remove(record podRecord) error {
	path := r.path(record.Namespace, record.Name)
	present, err := readRecord(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && present.UID != record.UID {
		return nil
	}
	return os.Remove(path)
}

func readRecord(path string) (podRecord, error) {
	var record podRecord
	data, err := os.ReadFile(path)
	if err != nil {
		return record, err
	}
	return record, json.Unmarshal(data, &record)
}

// killLeftovers ends the containers that an earlier agent left running, waits for
// that, and empties the folder.
func (r records) killLeftovers() error {
	if err := os.MkdirAll(r.folder, 0o755); err != nil {
		return err
	}
	paths, err := filepath.Glob(filepath.Join(r.folder, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		if record, err := readRecord(path); err == nil {
			for _, c := range record.Containers {
				errs = append(errs, c.kill())
			}
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// killPatience is how long the kernel may take to end a killed container.
const killPatience = 5 * time.Second

// kill ends the container if it is still the one that was recorded.
func (c containerRecord) kill() error {
	pidfd, err := unix.PidfdOpen(c.PID, 0)
	if errors.Is(err, syscall.ESRCH) || c.PID <= 1 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill container %s: %w", c.Name, err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	// The descriptor holds on to the process, so it is the right one from here on.
	if ticks, err := startTicks(c.PID); err != nil || ticks != c.StartTicks {
		return nil
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill container %s: %w", c.Name, err)
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(killPatience/time.Millisecond))
	if err != nil && !errors.Is(err, syscall.EINTR) {
		return fmt.Errorf("kill container %s: %w", c.Name, err)
	}
	return nil
}

// startTicks is field 22 of /proc/PID/stat, proc(5).
func startTicks(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field, the program's name in parentheses, may contain anything.
	rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
	fields := strings.Fields(rest)
	const state, start = 3, 22 // field numbers; rest begins with the state
	if len(fields) <= start-state {
		return "", fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields))
	}
	return fields[start-state], nil
}
