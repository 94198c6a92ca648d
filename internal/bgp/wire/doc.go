// Package wire reads and writes BGP messages (RFC 4271): the framing, OPEN with
// its capabilities, NOTIFICATION, KEEPALIVE, ROUTE-REFRESH, and of UPDATE only
// the End-of-RIB marker. Decoding is strict, allocates in proportion to the
// message, and fails with an *Error that says which NOTIFICATION the sender has
// deserved; encoding is canonical, so that a message which was decoded and
// encoded again carries nothing but what this package understood.
package wire
