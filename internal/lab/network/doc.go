// Package network lays out and builds the lab's network: which host has which
// addresses (Plan, pure arithmetic), and the namespaces, bridges, cables and
// routes that make it real (Build). It also breaks and mends cables, divides the
// Ethernet, and has hosts misbehave on it.
//
// Every lab uses the same private addresses, because namespaces keep labs apart
// as they keep them apart from the machine:
//
//	Ethernet   172.20.0.0/16     fd00:172:20::/64    .0.1 router, .0.2 control-plane, .0.3 client, .0.4 router2, .0.5 stranger, .0.11 node-1 …
//	for pools  172.20.128.0/17   fd00:172:20:0:1::/80
//	far side   172.21.0.0/24     fd00:172:21::/64    .1 router, .2 wan-client, .3 router2
//	Pods       10.244.N.0/24     fd00:10:244:N::/64  on node-N
//	Services   10.96.0.0/16      fd00:10:96::/112
package network
