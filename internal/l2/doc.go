// Package l2 makes this node answer for IP addresses on its Ethernets: ARP for
// IPv4 (RFC 826, RFC 5227) and neighbour discovery for IPv6 (RFC 4861, RFC
// 4862). An Announcer is told the complete set of addresses and converges to
// it, opening a responder for each usable interface, keeping a kernel socket
// filter in step so that packets for other addresses never wake the process,
// and sending paced gratuitous announcements when an address or a link arrives,
// again once in a while, and by unicast to those who asked of late.
//
// To an address this node is its owner; or a stand-in, which answers with the
// MAC of an owner whose speaker is away; or armed, which is to remember what is
// asked for a second, in case it becomes one of the former. Who else claims an
// address that is owned is reported as a rival.
package l2
