// Package container runs a container as a plain process: new PID, mount, UTS and
// IPC namespaces, a private root made of read-only binds of the host's programs
// and libraries, and the credentials and capabilities that a container runtime
// would give it. There are no resource limits, and of seccomp profiles only what
// RuntimeDefault forbids. Everything a container mounts lives in its own mount namespace and
// ends with its first process, whose end also ends all others.
package container
