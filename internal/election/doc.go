// Package election decides, without any conversation between nodes, which node should own an address: every node that
// knows the same candidates computes the same ranking. It is highest-random-weight (rendezvous) hashing over the pair
// (address, node), so a node that leaves gives up only its own addresses and a node that joins takes only those that it
// then ranks first for. The package is pure and imports nothing of Berth. The hash is part of the contract between
// releases: speakers of different versions run side by side during an upgrade and have to agree.
package election
