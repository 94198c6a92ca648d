package membership

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
)

// What speakers send each other. All integers are unsigned varints; a string is its length and its bytes.
//
//	message = kind(1 byte) body
//	body    = record                       kind 1: what a speaker says about itself
//	        | leave                        kind 2: the speaker is leaving
//	        | *( length item )             kind 3: all that the sender knows, in a state exchange
//	        | chunk                        kind 4: a part of what a speaker claims; see chunk.go
//	        | node epoch flags by          kind 5: a verdict [ignored]
//	item    = record | chunk | departure   which of them, its first byte tells
//	record  = version(1 byte) node epoch seq *field
//	field   = tag length value
//	link    = name flags count *prefix mac addr addr [ignored]          the value of tag 1
//	state   = flags [ignored]                             the value of tag 2; without it, no flag is set
//	session = the bytes of a name                         the value of tag 3
//	port    = port [ignored]                              the value of tag 4; without it, there is none
//	mute    = the bytes of a node's name                  the value of tag 5
//	prefix  = 4 or 6 (1 byte), bits (1 byte), the 4 or 16 bytes of the address
//	mac     = 6 bytes, all 0 if there is none             addr = a string of 0, 4 or 16 bytes
//	leave     = node epoch flags standIn [ignored]
//	departure = 130 (1 byte) node epoch flags standIn milliseconds [ignored]       who failed or left, and how long ago
//
// The first release knew no chunks, departures and verdicts, and said no more than node and epoch in a leave, nor anything
// behind the prefixes of a link.
//
// Releases differ in what they know, and run side by side during an upgrade: an unknown kind is ignored, an unknown
// field is skipped, bytes behind the known part of a link are ignored, and a record is passed on as it was received, so
// that a field which one speaker does not know still reaches those behind it. The version changes only if all that is
// not enough; a record of another version is ignored.

const (
	kindRecord  = 1
	kindLeave   = 2
	kindState   = 3
	kindChunk   = 4
	kindVerdict = 5

	recordVersion    = 1
	departureVersion = 130

	tagLink    = 1
	tagState   = 2
	tagSession = 3
	tagPort    = 4
	tagMute    = 5

	flagARP      = 1 << 0
	flagNDP      = 1 << 1
	flagARPFails = 1 << 2
	flagNDPFails = 1 << 3

	flagAbstains  = 1 << 0
	flagProxyDown = 1 << 1
	// flagClaims says that the speaker is of a release that tells its claims.
	flagClaims = 1 << 2

	flagReturns = 1 << 0
	flagLeft    = 1 << 1

	flagSilent = 1 << 0
)

// Bounds on what is taken from the network. Whoever holds the key may speak, but a fault of one speaker must not become
// a fault of all. A node's name is a DNS subdomain, and an interface's name is shorter than IFNAMSIZ (16).
const (
	maxNodeName = 253
	maxLinkName = 15
	maxLinks    = 256
	maxPrefixes = 1024 // of one link
	maxSession  = 260  // the name of an object and a family
	maxSessions = 100
	maxMute     = 8
	maxRecord   = 1 << 16

	// maxFrame bounds what a record has beside its links: version, node, epoch, seq, state, port, sessions and mute nodes.
	maxFrame = 1 + 2 + maxNodeName + 2*binary.MaxVarintLen64 + 32 + maxSessions*(1+2+maxSession) + maxMute*(1+2+maxNodeName)
)

var errTruncated = errors.New("message is cut short")

// record is what one speaker said about itself at one moment. Records of a speaker are ordered by (epoch, seq): the
// epoch is when its process started, and seq counts within it.
type record struct {
	node       string
	epoch, seq uint64
	info       Info
	claims     bool   // whether the speaker is of a release that tells its claims
	raw        []byte // as it travels, from the version byte on
}

// newerThan reports whether r was said after other.
func (r *record) newerThan(other *record) bool {
	if r.epoch != other.epoch {
		return r.epoch > other.epoch
	}
	return r.seq > other.seq
}

// newRecord encodes what node says.
func newRecord(node string, epoch, seq uint64, info Info) *record {
	raw := []byte{recordVersion}
	raw = appendString(raw, node)
	raw = binary.AppendUvarint(raw, epoch)
	raw = binary.AppendUvarint(raw, seq)
	for i := range info.Links {
		raw = appendField(raw, tagLink, appendLink(nil, &info.Links[i]))
	}
	flags := byte(flagClaims)
	if info.Abstains {
		flags |= flagAbstains
	}
	if info.ProxyDown {
		flags |= flagProxyDown
	}
	raw = appendField(raw, tagState, []byte{flags})
	if info.WatchPort != 0 {
		raw = appendField(raw, tagPort, binary.AppendUvarint(nil, uint64(info.WatchPort)))
	}
	for _, name := range info.Sessions {
		raw = appendField(raw, tagSession, []byte(name))
	}
	for _, name := range info.Mute {
		raw = appendField(raw, tagMute, []byte(name))
	}
	return &record{node: node, epoch: epoch, seq: seq, info: info, claims: true, raw: raw}
}

func appendField(b []byte, tag uint64, value []byte) []byte {
	b = binary.AppendUvarint(b, tag)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func appendLink(b []byte, l *Link) []byte {
	var flags uint64
	if l.ARP {
		flags |= flagARP
	}
	if l.NDP {
		flags |= flagNDP
	}
	if l.ARPFails {
		flags |= flagARPFails
	}
	if l.NDPFails {
		flags |= flagNDPFails
	}
	b = appendString(b, l.Name)
	b = binary.AppendUvarint(b, flags)
	b = binary.AppendUvarint(b, uint64(len(l.Prefixes)))
	for _, p := range l.Prefixes {
		family := byte(6)
		if p.Addr().Is4() {
			family = 4
		}
		b = append(b, family, byte(p.Bits()))
		b = append(b, p.Addr().AsSlice()...)
	}
	b = append(b, l.MAC[:]...)
	b = appendString(b, string(l.Addr4.AsSlice()))
	return appendString(b, string(l.Addr6.AsSlice()))
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// recordMessage wraps the record for sending on its own.
func recordMessage(r *record) []byte {
	return append([]byte{kindRecord}, r.raw...)
}

// stateMessage wraps items for a state exchange.
func stateMessage(items ...[]byte) []byte {
	size := 1
	for _, raw := range items {
		size += binary.MaxVarintLen32 + len(raw)
	}
	b := append(make([]byte, 0, size), kindState)
	for _, raw := range items {
		b = binary.AppendUvarint(b, uint64(len(raw)))
		b = append(b, raw...)
	}
	return b
}

// message is a decoded message: what it is about, or nothing if its kind is unknown.
type message struct {
	records    []*record
	chunks     []*chunk
	departures []notice // in a state exchange
	leave      *notice
	verdict    *Verdict

	known func(head *chunk) bool
}

// decodeMessage takes a message apart. It keeps no part of b. Items that are unknown are left out, and chunks of which
// known, if it is not nil, says by their head that they are no news: of a state exchange that is nearly all. What could be
// read is returned beside an error about the rest: one speaker's fault in a state exchange must not silence the others.
func decodeMessage(b []byte, known func(head *chunk) bool) (message, error) {
	if len(b) == 0 {
		return message{}, errTruncated
	}
	m := message{known: known}
	var err error
	switch body := b[1:]; b[0] {
	case kindRecord, kindChunk:
		err = m.decodeItem(body)
	case kindLeave:
		m.leave, err = decodeLeave(body)
	case kindState:
		err = m.decodeState(body)
	case kindVerdict:
		m.verdict, err = decodeVerdict(body)
	}
	return m, err
}

func (m *message) decodeState(b []byte) error {
	var errs []error
	for d := (decoder{b: b}); len(d.b) > 0; {
		raw := d.bytes(uint64(len(b))) // one that is too large is skipped too, see decodeRecord
		if d.err != nil {
			errs = append(errs, fmt.Errorf("decoding state: %w", d.err))
			break // where the next item begins is not known
		}
		if err := m.decodeItem(raw); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (m *message) decodeItem(raw []byte) error {
	if len(raw) == 0 {
		return fmt.Errorf("decoding item: %w", errTruncated)
	}
	switch raw[0] {
	case recordVersion:
		r, err := decodeRecord(raw)
		if err != nil {
			return err
		}
		m.records = append(m.records, r)
	case chunkVersion:
		c, err := decodeChunk(raw, m.known)
		if err != nil {
			return err
		}
		if c != nil {
			m.chunks = append(m.chunks, c)
		}
	case departureVersion:
		n, err := decodeDeparture(raw)
		if err != nil {
			return err
		}
		m.departures = append(m.departures, *n)
	}
	return nil // else it is from a later release
}

func decodeRecord(b []byte) (*record, error) {
	if len(b) > maxRecord {
		return nil, fmt.Errorf("decoding record: %d bytes are more than %d", len(b), maxRecord)
	}
	d := decoder{b: b[1:]}
	r := &record{node: d.string(maxNodeName), epoch: d.uint(), seq: d.uint()}
	var info Info
	for d.err == nil && len(d.b) > 0 {
		tag, value := d.uint(), d.bytes(maxRecord)
		if d.err != nil {
			break
		}
		if err := r.decodeField(&info, tag, value); err != nil {
			return nil, fmt.Errorf("decoding record of %q: %w", r.node, err)
		}
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding record: %w", d.err)
	}
	// A speaker that hears an echo of itself from the future steps over it (see store.merge); there has to be room.
	if r.node == "" || r.epoch == math.MaxUint64 || r.seq == math.MaxUint64 {
		return nil, fmt.Errorf("decoding record of %q: epoch %d, seq %d are not usable", r.node, r.epoch, r.seq)
	}
	r.info = info.normalized()
	r.raw = append([]byte(nil), b...)
	return r, nil
}

func (r *record) decodeField(i *Info, tag uint64, value []byte) error {
	switch tag {
	case tagLink:
		if len(i.Links) == maxLinks {
			return fmt.Errorf("more than %d links", maxLinks)
		}
		link, err := decodeLink(value)
		if err != nil {
			return err
		}
		i.Links = append(i.Links, link)
	case tagState:
		d := decoder{b: value}
		flags := d.uint()
		i.Abstains, i.ProxyDown = flags&flagAbstains != 0, flags&flagProxyDown != 0
		r.claims = flags&flagClaims != 0
		return d.err
	case tagPort:
		d := decoder{b: value}
		port := d.uint()
		if d.err == nil && port > math.MaxUint16 {
			return fmt.Errorf("port %d", port)
		}
		i.WatchPort = uint16(port)
		return d.err
	case tagSession:
		if len(value) > maxSession || len(i.Sessions) == maxSessions {
			return fmt.Errorf("more than %d sessions, or a name of more than %d bytes", maxSessions, maxSession)
		}
		i.Sessions = append(i.Sessions, string(value))
	case tagMute:
		if len(value) > maxNodeName || len(i.Mute) == maxMute {
			return fmt.Errorf("more than %d mute nodes, or a name of more than %d bytes", maxMute, maxNodeName)
		}
		i.Mute = append(i.Mute, string(value))
	}
	return nil
}

func decodeLink(b []byte) (Link, error) {
	d := decoder{b: b}
	l := Link{Name: d.string(maxLinkName)}
	flags, count := d.uint(), d.uint()
	l.ARP, l.NDP = flags&flagARP != 0, flags&flagNDP != 0
	l.ARPFails, l.NDPFails = flags&flagARPFails != 0, flags&flagNDPFails != 0
	if d.err == nil && count > maxPrefixes {
		return Link{}, fmt.Errorf("link %q has %d prefixes, more than %d", l.Name, count, maxPrefixes)
	}
	for ; d.err == nil && count > 0; count-- {
		if p := d.prefix(); d.err == nil {
			l.Prefixes = append(l.Prefixes, p)
		}
	}
	if d.err == nil && len(d.b) > 0 {
		copy(l.MAC[:], d.take(len(l.MAC)))
		l.Addr4, _ = netip.AddrFromSlice(d.bytes(4))
		l.Addr6, _ = netip.AddrFromSlice(d.bytes(16))
	}
	if d.err != nil {
		return Link{}, fmt.Errorf("link %q: %w", l.Name, d.err)
	}
	return l, nil
}

// decoder reads from the front of b. After the first error it returns zero values.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errTruncated)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(limit uint64) []byte {
	n := d.uint()
	if n > limit {
		d.fail(fmt.Errorf("length %d is more than %d", n, limit))
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) string(limit uint64) string { return string(d.bytes(limit)) }

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail(errTruncated)
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) prefix() netip.Prefix {
	head := d.take(2)
	if head == nil {
		return netip.Prefix{}
	}
	size := 16
	switch head[0] {
	case 4:
		size = 4
	case 6:
	default:
		d.fail(fmt.Errorf("prefix of unknown family %d", head[0]))
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(d.take(size))
	p := netip.PrefixFrom(addr, int(head[1]))
	if d.err == nil && !p.IsValid() {
		d.fail(fmt.Errorf("prefix length %d is not valid for %s", head[1], addr))
	}
	return p
}
