package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Spec says what to run and what it sees. Paths called Source are the host's.
type Spec struct {
	// Root is an empty folder on the host that the container's root is mounted
	// on, in its own mount namespace: the host keeps seeing an empty folder.
	Root string
	// Image is a folder on the host with the file system that the container sees and
	// changes a copy of. If it is empty, the container sees the host's programs.
	Image string
	// Hostname is the container's own, in its own UTS namespace.
	Hostname string
	// Args are the command and its arguments. A command without a slash is looked
	// for in the PATH of Env.
	Args []string
	// Env are NAME=value pairs; nothing else is inherited.
	Env []string
	// Dir is the working folder; "/" if empty.
	Dir string
	// Files are written into the container's root before Mounts are made: path to
	// content.
	Files map[string]string
	// Mounts are bound in, in the order of their depth.
	Mounts []Mount
	// ReadOnlyRoot makes everything but Mounts and /dev read-only.
	ReadOnlyRoot bool
	// Credentials are those of the first process and of all that Exec starts.
	Credentials Credentials
}

// Mount binds a file or folder of the host into the container.
type Mount struct {
	Source   string
	Target   string
	ReadOnly bool
}

// Credentials are what a process may do.
type Credentials struct {
	UID, GID uint32
	Groups   []uint32
	// Capabilities bound what the process and its children can ever hold.
	Capabilities CapabilitySet
	// NoNewPrivileges stops set-user-ID programs from gaining any (prctl(2)).
	NoNewPrivileges bool
	// Seccomp denies the system calls that the RuntimeDefault profile of container
	// runtimes is there to deny.
	Seccomp bool
	// Privileged shows the host's devices and leaves /proc and /sys writable.
	Privileged bool
}

// validate reports everything that is wrong with the spec.
func (s Spec) validate() error {
	var errs []error
	if len(s.Args) == 0 {
		errs = append(errs, errors.New("args: name a command"))
	}
	if !filepath.IsAbs(s.Root) {
		errs = append(errs, fmt.Errorf("root: %q is not an absolute path", s.Root))
	}
	if s.Image != "" && !filepath.IsAbs(s.Image) {
		errs = append(errs, fmt.Errorf("image: %q is not an absolute path", s.Image))
	}
	for i, m := range s.Mounts {
		if !filepath.IsAbs(m.Source) || !filepath.IsAbs(m.Target) {
			errs = append(errs, fmt.Errorf("mounts[%d]: %q on %q: use absolute paths", i, m.Source, m.Target))
		}
	}
	for i, variable := range s.Env {
		if !strings.Contains(variable, "=") || strings.ContainsRune(variable, 0) {
			errs = append(errs, fmt.Errorf("env[%d]: %q is not of the form name=value", i, variable))
		}
	}
	return errors.Join(errs...)
}
