// Package netnstest gives tests network namespaces of their own, joined by veth
// pairs. The namespaces have no name: the kernel removes them, and all links in
// them, with the last file descriptor, so that a test leaves nothing behind even
// when it is killed, and any number may run side by side. Tests that use it are
// skipped unless they run as root on Linux.
package netnstest
