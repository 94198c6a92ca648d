package membership

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// A node's claims travel in chunks that fit in a packet: gossip, relay and state exchange then work as for records, and a
// change sends one packet to each member however much the node claims.
//
//	chunk = 129 (1 byte) node epoch index seq whole *field
//	field = tag length value
//	name  = the bytes of a node's name                                       the value of tag 1
//	claim = flags, the 4 or 16 bytes of the address, term, to [ignored]      the value of tag 2
//
// Claims are in the order of their addresses; to is 0, or which of the names before it is meant, from 1 on.
//
// The first byte is none that a record has or will have: in a state exchange, who knows no chunks takes one for a record
// of another version.
const (
	chunkVersion = 129

	tagName  = 1
	tagClaim = 2

	flagIPv6        = 1 << 0
	flagProvisional = 1 << 1

	// maxChunk is the size of a chunk whose message just fits in a packet.
	maxChunk = maxGossip - 1
	// chunkLimit is how far the claims of a chunk may grow; the rest is for numbers in its head that may grow later.
	chunkLimit = maxChunk - 16
	// chunkFill is how far a chunk is filled with new addresses. The rest is for their claims to grow: an address should
	// stay in its chunk, lest the loss of one packet of two makes it seem unclaimed.
	chunkFill = 1000
	// maxChunks bounds the chunks of one node: some 130,000 IPv4 or 50,000 IPv6 addresses.
	maxChunks = 1024
)

// chunk is a part of what the process of node that started at epoch claimed at one moment. Chunks of the same process and
// index are ordered by seq, which counts over all chunks of a process: should an address be in two, the later one counts.
type chunk struct {
	node       string
	epoch, seq uint64
	index      int
	// whole is set in the chunk with index 0 as soon as the process has spoken for itself, and then stays the same: when
	// the chunks before this index are there, what former processes claimed is void.
	whole   int
	entries []entry // ordered by address
	raw     []byte  // as it travels
}

// outranks reports whether c counts if both have a claim to the same address.
func (c *chunk) outranks(o *chunk) bool {
	switch {
	case c.epoch != o.epoch:
		return c.epoch > o.epoch
	case c.seq != o.seq:
		return c.seq > o.seq
	}
	return c.index > o.index
}

// newChunk encodes the entries, which it puts in order.
func newChunk(head chunk, entries []entry) *chunk {
	slices.SortFunc(entries, compareEntries)
	c := &head
	c.entries = entries
	raw := append(make([]byte, 0, maxChunk), chunkVersion)
	raw = appendString(raw, c.node)
	raw = binary.AppendUvarint(raw, c.epoch)
	raw = binary.AppendUvarint(raw, uint64(c.index))
	raw = binary.AppendUvarint(raw, c.seq)
	raw = binary.AppendUvarint(raw, uint64(c.whole))
	names := map[string]uint64{"": 0}
	for _, e := range entries {
		to, known := names[e.claim.To]
		if !known {
			to = uint64(len(names))
			names[e.claim.To] = to
			raw = appendField(raw, tagName, []byte(e.claim.To))
		}
		var value [maxClaim]byte
		raw = appendField(raw, tagClaim, appendClaim(value[:0], e, to))
	}
	c.raw = slices.Clip(raw)
	return c
}

// maxClaim bounds the encoded claim.
const maxClaim = 1 + 16 + binary.MaxVarintLen64 + 2

func appendClaim(b []byte, e entry, to uint64) []byte {
	var flags byte
	if e.claim.Provisional {
		flags |= flagProvisional
	}
	if e.addr.Is4() {
		a := e.addr.As4()
		b = append(append(b, flags), a[:]...)
	} else {
		a := e.addr.As16()
		b = append(append(b, flags|flagIPv6), a[:]...)
	}
	b = binary.AppendUvarint(b, e.claim.Term)
	return binary.AppendUvarint(b, to)
}

// claimSize is how much longer a chunk becomes by the entry, without the name of the node it is offered to. There is no
// room for so many names that which of them is meant takes two bytes.
func claimSize(e entry) int {
	n := 2 + 1 + 4 + 1
	if !e.addr.Is4() {
		n += 12
	}
	for t := e.claim.Term; ; t >>= 7 {
		if n++; t < 1<<7 {
			return n
		}
	}
}

// nameSize bounds how much longer a chunk becomes by the name.
func nameSize(name string) int { return 3 + len(name) }

func chunkMessage(c *chunk) []byte { return append([]byte{kindChunk}, c.raw...) }

// decodeChunk reads a chunk, whose first byte is known. It keeps no part of b. If known, which may be nil, says by the head
// that the chunk is no news, it returns nil.
func decodeChunk(b []byte, known func(head *chunk) bool) (*chunk, error) {
	if len(b) > maxChunk {
		return nil, fmt.Errorf("decoding chunk: %d bytes are more than %d", len(b), maxChunk)
	}
	d := decoder{b: b[1:]}
	c := &chunk{node: d.string(maxNodeName), epoch: d.uint()}
	index, seq, whole := d.uint(), d.uint(), d.uint()
	if d.err == nil && (c.node == "" || c.epoch == math.MaxUint64 || index >= maxChunks || whole > maxChunks) {
		d.fail(fmt.Errorf("node %q, epoch %d, index %d of %d is not usable", c.node, c.epoch, index, whole))
	}
	c.index, c.seq, c.whole = int(index), seq, int(whole)
	if d.err == nil && known != nil && known(c) {
		return nil, nil //nolint:nilnil // nothing new is no error
	}
	names := []string{""}
	for d.err == nil && len(d.b) > 0 {
		tag, value := d.uint(), d.bytes(maxChunk)
		switch {
		case d.err != nil:
		case tag == tagName && len(value) <= maxNodeName:
			names = append(names, string(value))
		case tag == tagName:
			d.fail(fmt.Errorf("name of %d bytes", len(value)))
		case tag == tagClaim:
			d.err = c.decodeClaim(value, names)
		}
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding chunk of %q: %w", c.node, d.err)
	}
	c.entries = slices.Clip(c.entries)
	c.raw = slices.Clone(b)
	return c, nil
}

func (c *chunk) decodeClaim(value []byte, names []string) error {
	d := decoder{b: value}
	flags := d.uint()
	size := 4
	if flags&flagIPv6 != 0 {
		size = 16
	}
	addr, _ := netip.AddrFromSlice(d.take(size))
	claim := Claim{Provisional: flags&flagProvisional != 0, Term: d.uint()}
	to := d.uint()
	switch {
	case d.err != nil:
		return fmt.Errorf("claim: %w", d.err)
	case to >= uint64(len(names)):
		return fmt.Errorf("claim to %s: no name %d", addr, to)
	case addr.Is4In6():
		return fmt.Errorf("claim to %s: IPv4 in the form of IPv6", addr)
	case len(c.entries) > 0 && c.entries[len(c.entries)-1].addr.Compare(addr) >= 0:
		return fmt.Errorf("claim to %s: not in order", addr)
	}
	claim.To = names[to]
	c.entries = append(c.entries, entry{addr, claim})
	return nil
}
