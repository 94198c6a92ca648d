// The speaker runs on every node and answers for the addresses of Services
// that its node owns. What to announce is a pure function of the
// configuration, the Services and their endpoints, the nodes, what is thought of
// them (internal/watch) and what their speakers claim (internal/membership):
// plan.go, eligible.go and internal/ownership. A serial loop (speaker.go) computes
// it anew whenever any of these has changed, has internal/l2 converge to it, and
// tells the others what this node claims (holdings.go). Speakers that know the
// same decide the same, so none has to ask another who owns an address, and none
// needs the API server for failover. While a speaker is away others stand in for
// it (standin.go) and nothing moves.
package main
