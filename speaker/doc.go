// The speaker runs on every node and answers for the addresses of Services
// that its node owns. What to announce is a pure function of the
// configuration, the Services and their endpoints, the nodes, and the living
// speakers (plan.go, eligible.go); a serial loop (speaker.go) computes it anew
// whenever any of these has changed and has internal/l2 converge to it. All
// speakers compute the same plan, so none has to ask another who owns an
// address, and none needs the API server for failover.
package main
