// Package neighbor asks the kernels of other hosts on a link whether they answer
// for an address: by ARP requests for IPv4 (RFC 826) and neighbour solicitations
// for IPv6 (RFC 4861). A Prober does so continuously for the targets it is told
// to Watch, once for those it is told to Ask, and before an address is used for
// the first time it Detects whether somebody else has it (RFC 5227 section 2.1,
// RFC 4862 section 5.4).
//
// A verdict never comes from a Prober that had no time to listen. A probe counts
// as missed only if it was sent, the link had a carrier, its whole wait passed,
// and the socket, emptied after that, held no answer and had lost no frame: what
// the kernel received in time counts as an answer however late it is read. When
// the Prober wakes up late, each probe under way is given as much time again, up
// to its wait, because the kernel's receive path may have been as short of a CPU.
package neighbor
