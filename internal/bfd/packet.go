package bfd

import (
	"encoding/binary"
	"errors"
	"time"
)

// packetSize is the length of a control packet without authentication.
const packetSize = 24

// Bits of the second byte (RFC 5880 section 4.1).
const (
	bitPoll = 1 << (5 - iota)
	bitFinal
	bitControlPlaneIndependent
	bitAuthentication
	bitDemand
	bitMultipoint
)

// Reasons to discard a packet (RFC 5880 section 6.8.6).
var (
	errShort          = errors.New("packet is shorter than a control packet")
	errVersion        = errors.New("version is not 1")
	errLength         = errors.New("length field does not fit")
	errMultiplier     = errors.New("detect multiplier is zero")
	errMultipoint     = errors.New("multipoint bit is set")
	errDiscriminator  = errors.New("my discriminator is zero")
	errUnexpected     = errors.New("your discriminator is zero in a session that is not down")
	errAuthentication = errors.New("authentication is not in use")
)

// Packet is a BFD control packet (RFC 5880 section 4.1) without authentication.
// Intervals are whole microseconds that fit 32 bits.
type Packet struct {
	Diagnostic              Diagnostic
	State                   State
	Poll, Final             bool
	ControlPlaneIndependent bool
	Demand                  bool
	DetectMultiplier        uint8
	// MyDiscriminator is the sender's number for the session, YourDiscriminator
	// the receiver's, 0 if the sender does not know it.
	MyDiscriminator, YourDiscriminator uint32
	// DesiredMinTx is the interval at which the sender would like to send,
	// RequiredMinRx the shortest that it can receive, 0 if it wants none.
	DesiredMinTx, RequiredMinRx time.Duration
	// RequiredMinEchoRx is the shortest interval of echo packets that the
	// sender forwards back, 0 if it does not.
	RequiredMinEchoRx time.Duration
}

// AppendTo appends the packet's wire form to b.
func (p *Packet) AppendTo(b []byte) []byte {
	flags := byte(p.State) << 6
	for _, f := range [...]struct {
		set bool
		bit byte
	}{{p.Poll, bitPoll}, {p.Final, bitFinal}, {p.ControlPlaneIndependent, bitControlPlaneIndependent}, {p.Demand, bitDemand}} {
		if f.set {
			flags |= f.bit
		}
	}
	b = append(b, 1<<5|byte(p.Diagnostic)&0x1f, flags, p.DetectMultiplier, packetSize)
	b = binary.BigEndian.AppendUint32(b, p.MyDiscriminator)
	b = binary.BigEndian.AppendUint32(b, p.YourDiscriminator)
	for _, d := range [...]time.Duration{p.DesiredMinTx, p.RequiredMinRx, p.RequiredMinEchoRx} {
		b = binary.BigEndian.AppendUint32(b, uint32(d/time.Microsecond))
	}
	return b
}

// Parse reads a packet and makes those checks of RFC 5880 section 6.8.6 that
// need no session. On error, p is not to be used.
func (p *Packet) Parse(b []byte) error {
	if len(b) < packetSize {
		return errShort
	}
	flags, length := b[1], int(b[3])
	*p = Packet{
		Diagnostic:              Diagnostic(b[0] & 0x1f),
		State:                   State(flags >> 6),
		Poll:                    flags&bitPoll != 0,
		Final:                   flags&bitFinal != 0,
		ControlPlaneIndependent: flags&bitControlPlaneIndependent != 0,
		Demand:                  flags&bitDemand != 0,
		DetectMultiplier:        b[2],
		MyDiscriminator:         binary.BigEndian.Uint32(b[4:]),
		YourDiscriminator:       binary.BigEndian.Uint32(b[8:]),
		DesiredMinTx:            microseconds(b[12:]),
		RequiredMinRx:           microseconds(b[16:]),
		RequiredMinEchoRx:       microseconds(b[20:]),
	}
	switch {
	case b[0]>>5 != 1:
		return errVersion
	case length < packetSize || length > len(b):
		return errLength
	case p.DetectMultiplier == 0:
		return errMultiplier
	case flags&bitMultipoint != 0:
		return errMultipoint
	case p.MyDiscriminator == 0:
		return errDiscriminator
	case p.YourDiscriminator == 0 && p.State != Down && p.State != AdminDown:
		return errUnexpected
	case flags&bitAuthentication != 0:
		return errAuthentication
	}
	return nil
}

func microseconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Microsecond
}
