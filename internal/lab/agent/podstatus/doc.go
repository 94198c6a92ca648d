// Package podstatus computes the status of a Pod from the states of its
// containers, with the rules of a kubelet. It is pure: no clock, no client.
package podstatus
