package wire

import "encoding/binary"

const (
	attrMPUnreach      = 15
	attrFlagOptional   = 0x80
	attrFlagExtended   = 0x10
	attrUnusedFlagBits = 0x0f
)

// EndOfRIB tells whether a whole UPDATE is the End-of-RIB marker of RFC 4724
// section 2, in the short form or in the one of MP_UNREACH_NLRI, and of which
// family. It looks at nothing else of an UPDATE, valid or not.
func EndOfRIB(msg []byte) (Family, bool) {
	b, err := body(msg, TypeUpdate)
	if err != nil || len(b) > 11 || binary.BigEndian.Uint16(b) != 0 {
		return Family{}, false
	}
	attrs := b[4:]
	if int(binary.BigEndian.Uint16(b[2:])) != len(attrs) {
		return Family{}, false
	}
	if len(attrs) == 0 {
		return IPv4Unicast, true
	}
	flags := attrs[0] &^ attrUnusedFlagBits
	var value []byte
	switch {
	case len(attrs) == 6 && flags == attrFlagOptional && attrs[2] == 3:
		value = attrs[3:]
	case len(attrs) == 7 && flags == attrFlagOptional|attrFlagExtended && binary.BigEndian.Uint16(attrs[2:]) == 3:
		value = attrs[4:]
	default:
		return Family{}, false
	}
	if attrs[1] != attrMPUnreach {
		return Family{}, false
	}
	return Family{AFI: binary.BigEndian.Uint16(value), SAFI: value[2]}, true
}

// AppendEndOfRIB appends the End-of-RIB marker of a family.
func AppendEndOfRIB(b []byte, f Family) []byte {
	b, at := appendHeader(b, TypeUpdate)
	if f == IPv4Unicast {
		return finish(append(b, 0, 0, 0, 0), at)
	}
	b = append(b, 0, 0, 0, 6, attrFlagOptional, attrMPUnreach, 3)
	b = append(binary.BigEndian.AppendUint16(b, f.AFI), f.SAFI)
	return finish(b, at)
}
