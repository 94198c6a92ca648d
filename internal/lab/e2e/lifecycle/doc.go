// Package lifecycle tests that labs come and go without a trace, whatever happens
// to them in between, and that their faults are what they say. The tests start
// labs from the binaries in bin/ and need root.
package lifecycle
