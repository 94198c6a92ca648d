// Package watch decides, for every other node, whether it is Up, Orphaned (its speaker is gone but its kernel answers and
// its kube-proxy works, so nothing has to move) or Down. The nodes form a ring in the order of a hash of their names, and
// the next three living speakers behind a node watch it: they ask its kernel by ARP or NS every 100 ms, and hold an idle
// TCP connection to its speaker, which the node's kernel closes the moment that process dies. Who finds a node silent asks
// it once more, several times in quick succession, tells all others, and each of those asks for itself before it believes
// it. Before anybody is given up, somebody else has to have answered: a speaker that hears nobody takes itself for the one
// that is cut off. What membership finds out, more slowly, stands behind all of this and decides alone about nodes that
// cannot be asked. The decisions are machine's, which has neither clock nor sockets; Watch does what machine wants done.
package watch
