// Package forward carries TCP connections from the machine into a lab. Its
// listener belongs to the machine's own network, the process that serves it lives
// in the lab's: a socket stays in the namespace it was made in.
package forward
