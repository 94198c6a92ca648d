// Package ether holds what responders and askers on an Ethernet share: hardware
// addresses as comparable values, and the frames of ARP (RFC 826) and ICMPv6
// (RFC 4861), built without allocating and taken apart trusting nothing.
package ether
