// Package crilog writes and reads container logs in the format of the Kubernetes
// container runtime interface: one line of output per line, after its time, its
// stream and whether the line is complete. Memory is bounded: a longer line is
// stored in parts. Files are not rotated.
package crilog
