// Package e2e has the end-to-end tests of Berth: each proves something that
// users see, in labs of three nodes each, one after the other for IPv4, IPv6
// and both. It consists of tests only. Faults are measured once by default and
// several times with -args -runs=N; -args -lab=NAME uses a lab that runs
// already, which shortens the time from an edit to its effect.
package e2e
