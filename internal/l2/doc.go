// Package l2 makes this node answer for IP addresses on its Ethernets: ARP for
// IPv4 (RFC 826, RFC 5227) and neighbour discovery for IPv6 (RFC 4861, RFC
// 4862). An Announcer is told the complete set of addresses and converges to
// it, opening a responder for each usable interface, keeping a kernel socket
// filter in step so that packets for other addresses never wake the process,
// and sending paced gratuitous announcements when an address or a link arrives.
package l2
