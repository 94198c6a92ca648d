package container

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// assume gives the calling thread, and only that one, the credentials. The caller
// has locked the thread and either executes the program on it or throws it away.
// The system calls are made raw because Go's own wrappers change all threads.
func (c Credentials) assume() error {
	if c.Seccomp { // first, while it is allowed to
		if err := confine(); err != nil {
			return err
		}
	}
	if err := c.Capabilities.bound(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	var groups unsafe.Pointer
	if len(c.Groups) > 0 {
		groups = unsafe.Pointer(&c.Groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(c.Groups)), uintptr(groups), 0); errno != 0 {
		return fmt.Errorf("set groups %v: %w", c.Groups, errno)
	}
	gid, uid := uintptr(c.GID), uintptr(c.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("set group %d: %w", c.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("set user %d: %w", c.UID, errno)
	}
	if err := c.setCapabilities(); err != nil {
		return err
	}
	if c.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	return nil
}

// bound takes everything else out of the bounding set, so that no program file
// can give it back.
func (s CapabilitySet) bound() error {
	for number := range 64 {
		if s.Has(1 << number) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // past the last one that this kernel knows
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", number, err)
		}
	}
	return nil
}

// setCapabilities leaves root with what the bounding set allows; everybody else
// has none from the moment of setresuid(2). The inheritable set stays empty, as
// container runtimes have it since CVE-2022-24769.
func (c Credentials) setCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range data {
		wanted := uint32(c.Capabilities >> (32 * i))
		if c.UID != 0 {
			wanted = 0
		}
		// What the machine itself withholds from root cannot be had.
		held := data[i].Permitted & wanted
		data[i] = unix.CapUserData{Effective: held, Permitted: held}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}
