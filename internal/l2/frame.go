package l2

import (
	"errors"
	"net/netip"

	"github.com/berth-lb/berth/internal/ether"
)

// MAC is an Ethernet address as a comparable value.
type MAC = ether.MAC

// etherLen is the length of an Ethernet header.
const etherLen = ether.HeaderLen

// self is how this node appears on one link.
type self struct{ mac MAC }

// A query asks to resolve an address.
type query struct {
	target netip.Addr
	// asker and askerMAC are where the answer goes. A probe for duplicates has
	// no asker: the address is unspecified.
	asker    netip.Addr
	askerMAC MAC
}

// A message is what a packet says: it asks for an address, tells who has one, or
// both.
type message struct {
	query
	asks bool // the query is one
	// claimed is valid if the packet says that claimant has it, or, as a probe
	// for duplicates of IPv6, is about to.
	claimed  netip.Addr
	claimant MAC
}

var (
	// errMalformed marks packets that violate their RFC.
	errMalformed = ether.ErrMalformed
	// errIgnored marks packets that are in order but not for us to answer.
	errIgnored = errors.New("not to be answered")
)

// addressed checks an Ethernet header. Frames that we sent ourselves, looped
// back by the network, are ignored, and so are those for another station, which
// an interface in promiscuous mode delivers too.
func (s self) addressed(frame []byte) error {
	if len(frame) < etherLen {
		return errMalformed
	}
	if dst := MAC(frame[0:6]); dst != s.mac && !dst.IsGroup() {
		return errIgnored
	}
	switch src := MAC(frame[6:12]); {
	case src.IsGroup():
		return errMalformed // IEEE 802.3 section 3.2.3: a source is one station
	case src == s.mac:
		return errIgnored
	}
	return nil
}
