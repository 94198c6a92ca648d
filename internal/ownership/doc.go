// Package ownership decides which node owns an address, and what one node has to do about it. Each speaker tells the
// others what it claims; the best claim of a node that is not down makes the owner, and it stays the owner until it goes
// down or may not own the address any more, so that nothing moves when a node returns, a speaker restarts or the API
// server is away. Who takes an address over claims it with a higher term than any that is known, which ends every
// dispute: all speakers compare claims alike. Where nobody may stay owner, all speakers that know the same elect the
// same node. The package is pure: it knows nothing of networks, clocks or Kubernetes.
package ownership
