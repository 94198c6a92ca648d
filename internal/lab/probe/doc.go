// Package probe measures, from a client's side, for how long a service is not
// there. It opens a new connection at every tick, whether earlier ones have been
// answered or not, so that an outage is seen from its first moment, and reports
// the longest time without a success, what failed and why, and who answered. A Holder
// does the opposite: it keeps one connection and reports whether that broke and for
// how long nothing came.
package probe
