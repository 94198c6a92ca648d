package container

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CapabilitySet has bit n set for capability number n of capabilities(7).
type CapabilitySet uint64

// capabilityNumbers are the names of capabilities(7) without their prefix.
func capabilityNumbers() map[string]int {
	return map[string]int{
		"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
		"FOWNER": unix.CAP_FOWNER, "FSETID": unix.CAP_FSETID, "KILL": unix.CAP_KILL, "SETGID": unix.CAP_SETGID,
		"SETUID": unix.CAP_SETUID, "SETPCAP": unix.CAP_SETPCAP, "LINUX_IMMUTABLE": unix.CAP_LINUX_IMMUTABLE,
		"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "NET_BROADCAST": unix.CAP_NET_BROADCAST, "NET_ADMIN": unix.CAP_NET_ADMIN,
		"NET_RAW": unix.CAP_NET_RAW, "IPC_LOCK": unix.CAP_IPC_LOCK, "IPC_OWNER": unix.CAP_IPC_OWNER,
		"SYS_MODULE": unix.CAP_SYS_MODULE, "SYS_RAWIO": unix.CAP_SYS_RAWIO, "SYS_CHROOT": unix.CAP_SYS_CHROOT,
		"SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYS_PACCT": unix.CAP_SYS_PACCT, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
		"SYS_BOOT": unix.CAP_SYS_BOOT, "SYS_NICE": unix.CAP_SYS_NICE, "SYS_RESOURCE": unix.CAP_SYS_RESOURCE,
		"SYS_TIME": unix.CAP_SYS_TIME, "SYS_TTY_CONFIG": unix.CAP_SYS_TTY_CONFIG, "MKNOD": unix.CAP_MKNOD,
		"LEASE": unix.CAP_LEASE, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "AUDIT_CONTROL": unix.CAP_AUDIT_CONTROL,
		"SETFCAP": unix.CAP_SETFCAP, "MAC_OVERRIDE": unix.CAP_MAC_OVERRIDE, "MAC_ADMIN": unix.CAP_MAC_ADMIN,
		"SYSLOG": unix.CAP_SYSLOG, "WAKE_ALARM": unix.CAP_WAKE_ALARM, "BLOCK_SUSPEND": unix.CAP_BLOCK_SUSPEND,
		"AUDIT_READ": unix.CAP_AUDIT_READ, "PERFMON": unix.CAP_PERFMON, "BPF": unix.CAP_BPF,
		"CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
	}
}

// AllCapabilities is every capability that this package knows the name of.
func AllCapabilities() CapabilitySet {
	var set CapabilitySet
	for _, number := range capabilityNumbers() {
		set |= 1 << number
	}
	return set
}

// DefaultCapabilities are those that containerd gives a container which asks for
// nothing.
func DefaultCapabilities() CapabilitySet {
	var set CapabilitySet
	numbers := capabilityNumbers()
	for _, name := range []string{
		"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
		"SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
	} {
		set |= 1 << numbers[name]
	}
	return set
}

// Change returns the set after adding and then dropping capabilities by name, in
// any case, with or without CAP_. The order is containerd's: what is both added
// and dropped is dropped. ALL stands for every capability, and is looked at first:
// adding ALL leaves out what is dropped by name, dropping ALL leaves what is added
// by name.
func (s CapabilitySet) Change(add, drop []string) (CapabilitySet, error) {
	if slices.ContainsFunc(add, isAll) {
		s = AllCapabilities()
	}
	if slices.ContainsFunc(drop, isAll) {
		s = 0
	}
	for _, name := range add {
		bit, err := capabilityBit(name)
		if err != nil {
			return 0, fmt.Errorf("capabilities.add: %w", err)
		}
		s |= bit
	}
	for _, name := range drop {
		bit, err := capabilityBit(name)
		if err != nil {
			return 0, fmt.Errorf("capabilities.drop: %w", err)
		}
		s &^= bit
	}
	return s, nil
}

// Has reports whether all of other are in the set.
func (s CapabilitySet) Has(other CapabilitySet) bool { return s&other == other }

func isAll(name string) bool { return strings.EqualFold(name, "ALL") }

// capabilityBit is 0 for ALL, which Change handles by itself.
func capabilityBit(name string) (CapabilitySet, error) {
	if isAll(name) {
		return 0, nil
	}
	short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	number, known := capabilityNumbers()[short]
	if !known {
		return 0, fmt.Errorf("capability %q is unknown; use a name from capabilities(7) without CAP_, or ALL", name)
	}
	return 1 << number, nil
}
