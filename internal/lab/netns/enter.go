package netns

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Target is a place for code or a process to run in: a network namespace by
// name, or every namespace of a running process.
type Target struct {
	// Name of a network namespace. Ignored if PID is set.
	Name string
	// Hostname, if not empty, is what gethostname(2) answers there.
	Hostname string
	// Sysfs makes /sys show the network namespace's own interfaces, at the
	// price of a mount namespace of its own.
	Sysfs bool
	// PID, if not 0, is a process whose network, mount, UTS, IPC and PID
	// namespaces and root folder are entered.
	PID int
}

// Do runs fn on a thread inside the target. Goroutines that fn starts do not
// run there; processes that it starts do.
func (t Target) Do(fn func() error) error {
	return onThrowawayThread(func() error {
		if err := t.enter(); err != nil {
			return err
		}
		return fn()
	})
}

// Start starts cmd inside the target.
func (t Target) Start(cmd *exec.Cmd) error {
	return t.Do(cmd.Start)
}

// onThrowawayThread runs fn on a thread that never runs anything else: the
// goroutine ends with its thread still locked, which makes the runtime end the
// thread as well. The process's first thread is never used: it cannot end before
// the process does, and it is the one by which others see where the process is.
func onThrowawayThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onThrowawayThread(fn) // elsewhere, as this thread is taken
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

func (t Target) enter() error {
	if t.PID != 0 {
		return enterProcess(t.PID)
	}
	if err := enterNetwork(t.Name); err != nil {
		return err
	}
	if t.Hostname != "" {
		if err := setHostname(t.Hostname); err != nil {
			return err
		}
	}
	if t.Sysfs {
		return mountOwnSysfs()
	}
	return nil
}

func enterNetwork(name string) error {
	file, err := os.Open(Path(name))
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	defer func() { _ = file.Close() }()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	return nil
}

func setHostname(hostname string) error {
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("set hostname %s: %w", hostname, err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set hostname %s: %w", hostname, err)
	}
	return nil
}

// mountOwnSysfs covers /sys with one that belongs to the thread's network
// namespace. Only /sys stops propagating, so that whatever else is mounted in
// the new mount namespace stays visible outside.
func mountOwnSysfs() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := unix.Mount("", "/sys", "none", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make /sys private: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return nil
}

func enterProcess(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("enter process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("enter process %d: open its root: %w", pid, err)
	}
	defer func() { _ = unix.Close(root) }()
	// setns(2) refuses a mount namespace to a thread that shares its root and
	// working folder with others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter process %d: %w", pid, err)
	}
	const all = unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWNS
	if err := unix.Setns(pidfd, all); err != nil {
		return fmt.Errorf("enter process %d: %w", pid, err)
	}
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("enter process %d: %w", pid, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter process %d: %w", pid, err)
	}
	return nil
}
