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
//	        | node epoch                   kind 2: the speaker is leaving
//	        | *( length record )           kind 3: all records the sender has, in a state exchange
//	record  = version(1 byte) node epoch seq *field
//	field   = tag length value
//	link    = name flags count *prefix [ignored]          the value of tag 1
//	state   = flags [ignored]                             the value of tag 2; without it, no flag is set
//	session = the bytes of a name                         the value of tag 3
//	prefix  = 4 or 6 (1 byte), bits (1 byte), the 4 or 16 bytes of the address
//
// Releases differ in what they know, and run side by side during an upgrade: an unknown kind is ignored, an unknown
// field is skipped, bytes behind the known part of a link are ignored, and a record is passed on as it was received, so
// that a field which one speaker does not know still reaches those behind it. The version changes only if all that is
// not enough; a record of another version is ignored.

const (
	kindRecord = 1
	kindLeave  = 2
	kindState  = 3

	recordVersion = 1

	tagLink    = 1
	tagState   = 2
	tagSession = 3

	flagARP = 1 << 0
	flagNDP = 1 << 1

	flagAbstains = 1 << 0
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
	maxRecord   = 1 << 16

	// maxFrame bounds what a record has beside its links: version, node, epoch, seq, state and sessions.
	maxFrame = 1 + 2 + maxNodeName + 2*binary.MaxVarintLen64 + 16 + maxSessions*(1+2+maxSession)
)

var (
	errTruncated = errors.New("message is cut short")
	errVersion   = errors.New("record of an unknown version")
)

// record is what one speaker said about itself at one moment. Records of a speaker are ordered by (epoch, seq): the
// epoch is when its process started, and seq counts within it.
type record struct {
	node       string
	epoch, seq uint64
	info       Info
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
	if info.Abstains {
		raw = appendField(raw, tagState, []byte{flagAbstains})
	}
	for _, name := range info.Sessions {
		raw = appendField(raw, tagSession, []byte(name))
	}
	return &record{node: node, epoch: epoch, seq: seq, info: info, raw: raw}
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
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// recordMessage wraps the record for sending on its own.
func recordMessage(r *record) []byte {
	return append([]byte{kindRecord}, r.raw...)
}

func leaveMessage(node string, epoch uint64) []byte {
	return binary.AppendUvarint(appendString([]byte{kindLeave}, node), epoch)
}

func stateMessage(records []*record) []byte {
	b := []byte{kindState}
	for _, r := range records {
		b = binary.AppendUvarint(b, uint64(len(r.raw)))
		b = append(b, r.raw...)
	}
	return b
}

// leave says that the process of node which started at epoch is about to stop.
type leave struct {
	node  string
	epoch uint64
}

// message is a decoded message: records, or a leave, or nothing if its kind is unknown.
type message struct {
	records []*record
	leave   *leave
}

// decodeMessage takes a message apart. It keeps no part of b. Records of unknown versions are left out. What could be
// read is returned beside an error about the rest: one speaker's fault in a state exchange must not silence the others.
func decodeMessage(b []byte) (message, error) {
	if len(b) == 0 {
		return message{}, errTruncated
	}
	switch body := b[1:]; b[0] {
	case kindRecord:
		r, err := decodeRecord(body)
		if errors.Is(err, errVersion) {
			return message{}, nil
		}
		if err != nil {
			return message{}, err
		}
		return message{records: []*record{r}}, nil
	case kindLeave:
		return decodeLeave(body)
	case kindState:
		return decodeState(body)
	}
	return message{}, nil
}

func decodeLeave(b []byte) (message, error) {
	d := decoder{b: b}
	l := &leave{node: d.string(maxNodeName), epoch: d.uint()}
	if d.err != nil {
		return message{}, fmt.Errorf("decoding leave: %w", d.err)
	}
	return message{leave: l}, nil
}

func decodeState(b []byte) (message, error) {
	var m message
	var errs []error
	for d := (decoder{b: b}); len(d.b) > 0; {
		raw := d.bytes(uint64(len(b))) // one that is too large is skipped too, see decodeRecord
		if d.err != nil {
			errs = append(errs, fmt.Errorf("decoding state: %w", d.err))
			break // where the next record begins is not known
		}
		r, err := decodeRecord(raw)
		switch {
		case err == nil:
			m.records = append(m.records, r)
		case !errors.Is(err, errVersion):
			errs = append(errs, err)
		}
	}
	return m, errors.Join(errs...)
}

func decodeRecord(b []byte) (*record, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("decoding record: %w", errTruncated)
	}
	if len(b) > maxRecord {
		return nil, fmt.Errorf("decoding record: %d bytes are more than %d", len(b), maxRecord)
	}
	if b[0] != recordVersion {
		return nil, fmt.Errorf("decoding record: %w %d", errVersion, b[0])
	}
	d := decoder{b: b[1:]}
	r := &record{node: d.string(maxNodeName), epoch: d.uint(), seq: d.uint()}
	var info Info
	for d.err == nil && len(d.b) > 0 {
		tag, value := d.uint(), d.bytes(maxRecord)
		if d.err != nil {
			break
		}
		if err := info.decodeField(tag, value); err != nil {
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

func (i *Info) decodeField(tag uint64, value []byte) error {
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
		i.Abstains = d.uint()&flagAbstains != 0
		return d.err
	case tagSession:
		if len(value) > maxSession || len(i.Sessions) == maxSessions {
			return fmt.Errorf("more than %d sessions, or a name of more than %d bytes", maxSessions, maxSession)
		}
		i.Sessions = append(i.Sessions, string(value))
	}
	return nil
}

func decodeLink(b []byte) (Link, error) {
	d := decoder{b: b}
	l := Link{Name: d.string(maxLinkName)}
	flags, count := d.uint(), d.uint()
	l.ARP, l.NDP = flags&flagARP != 0, flags&flagNDP != 0
	if d.err == nil && count > maxPrefixes {
		return Link{}, fmt.Errorf("link %q has %d prefixes, more than %d", l.Name, count, maxPrefixes)
	}
	for ; d.err == nil && count > 0; count-- {
		if p := d.prefix(); d.err == nil {
			l.Prefixes = append(l.Prefixes, p)
		}
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
