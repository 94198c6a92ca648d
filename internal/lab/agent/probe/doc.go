// Package probe asks containers whether they have started, are alive and are
// ready, as often as their Pod says, and reports when the answer changes.
//
// One thing differs from a kubelet: during the first two seconds, a container that
// has not yet answered well is asked again every 100 ms, and its failures do not
// count. A program that takes 50 ms to start is ready after 100 ms then, and not
// after periodSeconds, which are 10 by default.
package probe
