// Package proc starts the lab's background processes and finds them again later,
// from another process. A record of each says which process it was, not only its
// id: ids are reused, and signalling a stranger is not an option.
package proc
