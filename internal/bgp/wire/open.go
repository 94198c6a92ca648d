package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

const (
	version = 4
	// asTrans stands for an AS number that does not fit (RFC 6793 section 9).
	asTrans = 23456
	// minHoldTime is the shortest hold time in seconds that is not none at all
	// (RFC 4271 section 4.2).
	minHoldTime = 3

	paramCapabilities = 2
	// paramExtended, as the first parameter's type, says that lengths of two
	// bytes follow (RFC 9072).
	paramExtended = 255
)

// An Open is what a speaker says of itself when a session begins.
type Open struct {
	// ASN is the speaker's AS number: that of the capability if there is one.
	ASN uint32
	// HoldTime is in seconds: 0 or at least 3.
	HoldTime uint16
	// RouterID is an IPv4 address, not 0.0.0.0.
	RouterID     netip.Addr
	Capabilities Capabilities
}

// ParseOpen reads a whole message. The error is an *Error.
func ParseOpen(msg []byte) (Open, error) {
	b, err := body(msg, TypeOpen)
	if err != nil {
		return Open{}, err
	}
	if b[0] != version {
		return Open{}, newError(CodeOpen, SubcodeVersion, []byte{0, version}, "version is %d, not 4", b[0])
	}
	as := binary.BigEndian.Uint16(b[1:])
	o := Open{
		ASN:      uint32(as),
		HoldTime: binary.BigEndian.Uint16(b[3:]),
		RouterID: netip.AddrFrom4([4]byte(b[5:9])),
	}
	if o.HoldTime > 0 && o.HoldTime < minHoldTime {
		return Open{}, newError(CodeOpen, SubcodeHoldTime, nil, "hold time of %d s is neither 0 nor at least 3", o.HoldTime)
	}
	if o.RouterID.IsUnspecified() {
		return Open{}, newError(CodeOpen, SubcodeBadIdentifier, nil, "BGP identifier is 0.0.0.0")
	}
	if err := parseParameters(b[9:], &o.Capabilities); err != nil {
		return Open{}, err
	}
	if o.Capabilities.FourOctetASN {
		o.ASN, o.Capabilities.asn = o.Capabilities.asn, 0
	}
	// RFC 7607 forbids zero; RFC 6793 section 4.2.1 says what the short field
	// holds, and that nobody is called AS_TRANS.
	switch {
	case o.ASN == 0 || as == 0:
		return Open{}, newError(CodeOpen, SubcodeBadPeerAS, nil, "AS number is 0")
	case o.ASN == asTrans:
		return Open{}, newError(CodeOpen, SubcodeBadPeerAS, nil, "AS number is AS_TRANS")
	case as != asTrans && uint32(as) != o.ASN:
		return Open{}, newError(CodeOpen, SubcodeBadPeerAS, nil, "AS number is %d in the message and %d in the capability", as, o.ASN)
	}
	return o, nil
}

// Append appends the message. It fails if something of o does not fit.
func (o Open) Append(b []byte) ([]byte, error) {
	if !o.RouterID.Is4() {
		return nil, fmt.Errorf("encoding OPEN: router ID %s is not an IPv4 address", o.RouterID)
	}
	as := uint16(asTrans)
	if o.ASN <= 0xffff {
		as = uint16(o.ASN)
	} else if !o.Capabilities.FourOctetASN {
		return nil, fmt.Errorf("encoding OPEN: AS number %d needs the four-octet capability", o.ASN)
	}
	b, at := appendHeader(b, TypeOpen)
	b = binary.BigEndian.AppendUint16(append(b, version), as)
	b = binary.BigEndian.AppendUint16(b, o.HoldTime)
	b = append(b, o.RouterID.AsSlice()...)
	caps, err := o.Capabilities.append(nil, o.ASN)
	if err != nil {
		return nil, fmt.Errorf("encoding OPEN: %w", err)
	}
	switch n := len(caps); {
	case n == 0:
		b = append(b, 0)
	case n <= 253:
		b = append(b, byte(n+2), paramCapabilities, byte(n))
	case n <= MaxLen-HeaderLen-10-6:
		b = append(b, 255, paramExtended)
		b = binary.BigEndian.AppendUint16(b, uint16(n+3))
		b = append(b, paramCapabilities)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		return nil, fmt.Errorf("encoding OPEN: %d bytes of capabilities do not fit", n)
	}
	return finish(append(b, caps...), at), nil
}

// Clone returns a copy that shares no memory with o.
func (o Open) Clone() Open {
	c := &o.Capabilities
	c.Families = slices.Clone(c.Families)
	c.ExtendedNextHop = slices.Clone(c.ExtendedNextHop)
	if c.GracefulRestart != nil {
		gr := *c.GracefulRestart
		gr.Families = slices.Clone(gr.Families)
		c.GracefulRestart = &gr
	}
	c.Other = slices.Clone(c.Other)
	for i := range c.Other {
		c.Other[i].Value = slices.Clone(c.Other[i].Value)
	}
	return o
}

// parseParameters reads the optional parameters, with their length in front, of
// which capabilities are the only ones that are in use (RFC 5492 section 4).
func parseParameters(b []byte, caps *Capabilities) error {
	n, b, width := int(b[0]), b[1:], 1
	if n != 0 && len(b) >= 3 && b[0] == paramExtended {
		n, b, width = int(binary.BigEndian.Uint16(b[1:])), b[3:], 2
	}
	if n != len(b) {
		return newError(CodeOpen, SubcodeUnspecific, nil, "optional parameters have %d bytes but say %d", len(b), n)
	}
	for len(b) > 0 {
		if len(b) < 1+width {
			return newError(CodeOpen, SubcodeUnspecific, nil, "optional parameter is cut off")
		}
		kind, length := b[0], int(b[1])
		if width == 2 {
			length = int(binary.BigEndian.Uint16(b[1:]))
		}
		if b = b[1+width:]; length > len(b) {
			return newError(CodeOpen, SubcodeUnspecific, nil, "optional parameter %d is cut off", kind)
		}
		if kind != paramCapabilities {
			return newError(CodeOpen, SubcodeOptionalParameter, nil, "optional parameter %d is unknown", kind)
		}
		if err := caps.parse(b[:length]); err != nil {
			return err
		}
		b = b[length:]
	}
	return nil
}
