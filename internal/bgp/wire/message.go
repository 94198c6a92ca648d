package wire

import (
	"encoding/binary"
	"fmt"
)

const (
	// HeaderLen is the length of a message's header, and of a KEEPALIVE.
	HeaderLen = 19
	// MaxLen is the length of the longest message without extended messages
	// (RFC 8654), which this package does not offer.
	MaxLen = 4096

	markerLen = 16
)

// A Type says what a message is.
type Type uint8

// The message types of RFC 4271 section 4.1 and RFC 2918 section 3.
const (
	TypeOpen         Type = 1
	TypeUpdate       Type = 2
	TypeNotification Type = 3
	TypeKeepalive    Type = 4
	TypeRouteRefresh Type = 5
)

// Types lists the types that ParseHeader lets pass.
func Types() []Type {
	return []Type{TypeOpen, TypeUpdate, TypeNotification, TypeKeepalive, TypeRouteRefresh}
}

// String returns the name that the RFCs give the type, in lower case.
func (t Type) String() string {
	switch t {
	case TypeOpen:
		return "open"
	case TypeUpdate:
		return "update"
	case TypeNotification:
		return "notification"
	case TypeKeepalive:
		return "keepalive"
	case TypeRouteRefresh:
		return "route-refresh"
	}
	return fmt.Sprintf("type-%d", uint8(t))
}

// lengths returns the limits for a whole message of the type (RFC 4271 section
// 6.1). ORF entries, which lengthen a ROUTE-REFRESH, are never negotiated.
func (t Type) lengths() (least, most int) {
	switch t {
	case TypeOpen:
		return 29, MaxLen
	case TypeUpdate:
		return 23, MaxLen
	case TypeNotification:
		return 21, MaxLen
	case TypeKeepalive:
		return HeaderLen, HeaderLen
	case TypeRouteRefresh:
		return 23, 23
	}
	return 0, 0
}

// A Header is the start of a message.
type Header struct {
	// Len is the length of the whole message in bytes, the header's included.
	Len int
	// Type is one of Types.
	Type Type
}

// ParseHeader reads and validates the first HeaderLen bytes of b as RFC 4271
// section 6.1 says. The error is an *Error.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, newError(CodeHeader, SubcodeBadLength, nil, "header has %d bytes", len(b))
	}
	for _, m := range b[:markerLen] {
		if m != 0xff {
			return Header{}, newError(CodeHeader, SubcodeNotSynchronized, nil, "marker is not all ones")
		}
	}
	h := Header{Len: int(binary.BigEndian.Uint16(b[markerLen:])), Type: Type(b[18])}
	if h.Len < HeaderLen || h.Len > MaxLen {
		return Header{}, newError(CodeHeader, SubcodeBadLength, b[markerLen:18], "message length %d is not in 19..4096", h.Len)
	}
	least, most := h.Type.lengths()
	if most == 0 {
		return Header{}, newError(CodeHeader, SubcodeBadType, b[18:19], "message type %d is unknown", b[18])
	}
	if h.Len < least || h.Len > most {
		return Header{}, newError(CodeHeader, SubcodeBadLength, b[markerLen:18], "%s cannot have length %d", h.Type, h.Len)
	}
	return h, nil
}

// AppendKeepalive appends a KEEPALIVE.
func AppendKeepalive(b []byte) []byte {
	b, at := appendHeader(b, TypeKeepalive)
	return finish(b, at)
}

// appendHeader appends a header without a length, which finish fills in.
func appendHeader(b []byte, t Type) (_ []byte, at int) {
	at = len(b)
	for range markerLen {
		b = append(b, 0xff)
	}
	return append(b, 0, 0, byte(t)), at
}

// finish sets the length of the message that begins at the given offset and
// reaches to the end of b.
func finish(b []byte, at int) []byte {
	binary.BigEndian.PutUint16(b[at+markerLen:], uint16(len(b)-at))
	return b
}

// body returns what follows the header of a whole message of type t, which must
// have the length that its header says.
func body(msg []byte, t Type) ([]byte, error) {
	h, err := ParseHeader(msg)
	if err != nil {
		return nil, err
	}
	if h.Type != t {
		return nil, newError(CodeHeader, SubcodeBadType, msg[18:19], "message is %s, not %s", h.Type, t)
	}
	if h.Len != len(msg) {
		return nil, newError(CodeHeader, SubcodeBadLength, msg[markerLen:18], "%s of %d bytes says it has %d", t, len(msg), h.Len)
	}
	return msg[HeaderLen:], nil
}
