package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// What container runtimes hide from an unprivileged container.
func maskedFiles() []string {
	return []string{"/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list"}
}

func maskedFolders() []string {
	return []string{"/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware"}
}

// readOnlyPaths are what it may see but not change.
func readOnlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// device is a character device in /dev, numbered as in the kernel's
// admin-guide/devices.txt.
type device struct {
	name         string
	major, minor uint32
}

// mountKernelFiles mounts /proc, /sys and /dev inside the new root. They belong to
// the namespaces of the process that mounts them, so each container sees its own
// processes and interfaces.
func (s Spec) mountKernelFiles() error {
	const harmless = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", harmless, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	var readOnly uintptr = unix.MS_RDONLY
	if s.Credentials.Privileged {
		readOnly = 0
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", harmless|readOnly, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if s.Credentials.Privileged {
		return nil // /dev is a tree of the host, see takeTrees
	}
	if err := mountDevices(); err != nil {
		return err
	}
	return hideKernelFiles()
}

func mountDevices() error {
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755,size=64m"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, d := range []device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		number := int(unix.Mkdev(d.major, d.minor))
		if err := unix.Mknod("/dev/"+d.name, unix.S_IFCHR|0o666, number); err != nil {
			return fmt.Errorf("create /dev/%s: %w", d.name, err)
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return fmt.Errorf("create /dev/%s: %w", name, err)
		}
	}
	return mountTerminals()
}

// mountTerminals gives the container pseudo-terminals and shared memory of its own.
func mountTerminals() error {
	for _, folder := range []string{"/dev/pts", "/dev/shm"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	const options = "newinstance,ptmxmode=0666,mode=0620,gid=5"
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	if err := unix.Mount("shm", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size=64m"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}

func hideKernelFiles() error {
	for _, path := range readOnlyPaths() {
		err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("bind %s: %w", path, err)
		}
		if err := remountReadOnly(path); err != nil {
			return err
		}
	}
	for _, path := range maskedFiles() {
		if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	for _, path := range maskedFolders() {
		if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return nil
}
