// Package netns makes, finds and removes named network namespaces, runs code
// and starts processes inside them, and finds the processes that live in them.
//
// Names live in the directory that `ip netns` uses, so its commands work on the
// lab's namespaces too. Linux keeps namespaces per thread: everything that
// enters one does so on a thread that is thrown away afterwards, so that no
// other goroutine ever finds itself in the wrong network.
package netns
