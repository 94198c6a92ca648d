package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// The codes of the capabilities that this package understands.
const (
	CapMultiprotocol   uint8 = 1  // RFC 4760
	CapRouteRefresh    uint8 = 2  // RFC 2918
	CapExtendedNextHop uint8 = 5  // RFC 8950
	CapGracefulRestart uint8 = 64 // RFC 4724
	CapFourOctetASN    uint8 = 65 // RFC 6793
)

const (
	// maxRestartTime is what fits into twelve bits, in seconds.
	maxRestartTime = 1<<12 - 1

	flagRestarting   = 0x80
	flagNotification = 0x40 // RFC 8538
	flagForwarding   = 0x80

	familiesPerRestart   = (255 - 2) / 4
	familiesPerExtension = 255 / 6
)

// Capabilities is what a speaker can do (RFC 5492).
type Capabilities struct {
	// Families are those of the multiprotocol capability. A speaker that lists
	// none means IPv4 unicast: see NegotiatedFamilies.
	Families     []Family
	RouteRefresh bool
	// ExtendedNextHop lists for which families a next hop may be of another.
	ExtendedNextHop []ExtendedNextHop
	// GracefulRestart is nil if the speaker does not know it.
	GracefulRestart *GracefulRestart
	FourOctetASN    bool
	// Other capabilities, in the order in which they came.
	Other []Capability

	asn uint32 // of the four-octet capability, while parsing
}

// An ExtendedNextHop says that routes of a family may have a next hop of another
// kind of address (RFC 8950 section 4).
type ExtendedNextHop struct {
	Family     Family
	NextHopAFI uint16
}

// GracefulRestart is the capability of RFC 4724 section 3.
type GracefulRestart struct {
	// Restarting is the R bit: the speaker has restarted, and its peer must not
	// wait for its End-of-RIB.
	Restarting bool
	// Notification is the N bit of RFC 8538.
	Notification bool
	// Time is in seconds, at most 4095.
	Time     uint16
	Families []RestartFamily
}

// A RestartFamily is a family whose routes outlive a restart.
type RestartFamily struct {
	Family Family
	// Forwarding is the F bit: packets were forwarded all the while.
	Forwarding bool
}

// A Capability is one that this package does not look into.
type Capability struct {
	Code  uint8
	Value []byte // at most 255 bytes
}

// Codes returns the codes of all capabilities, in rising order.
func (c *Capabilities) Codes() []uint8 {
	var codes []uint8
	for code, has := range map[uint8]bool{
		CapMultiprotocol:   len(c.Families) > 0,
		CapRouteRefresh:    c.RouteRefresh,
		CapExtendedNextHop: len(c.ExtendedNextHop) > 0,
		CapGracefulRestart: c.GracefulRestart != nil,
		CapFourOctetASN:    c.FourOctetASN,
	} {
		if has {
			codes = append(codes, code)
		}
	}
	for _, o := range c.Other {
		codes = append(codes, o.Code)
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// CapabilityName returns a short name for a capability's code.
func CapabilityName(code uint8) string {
	if name, ok := capabilityNames[code]; ok {
		return name
	}
	return fmt.Sprintf("capability-%d", code)
}

var capabilityNames = map[uint8]string{
	CapMultiprotocol:   "multiprotocol",
	CapRouteRefresh:    "route-refresh",
	CapExtendedNextHop: "extended-next-hop",
	6:                  "extended-message",
	9:                  "role",
	CapGracefulRestart: "graceful-restart",
	CapFourOctetASN:    "four-octet-asn",
	69:                 "add-path",
	70:                 "enhanced-route-refresh",
	71:                 "long-lived-graceful-restart",
	73:                 "hostname",
	75:                 "software-version",
	76:                 "paths-limit",
	128:                "route-refresh-cisco",
}

// NegotiatedFamilies returns the families that both speakers have.
func NegotiatedFamilies(a, b Capabilities) []Family {
	var both []Family
	for _, f := range a.families() {
		if slices.Contains(b.families(), f) {
			both = append(both, f)
		}
	}
	return both
}

// families returns IPv4 unicast for a speaker that does not know of families
// (RFC 4760 section 8).
func (c *Capabilities) families() []Family {
	if len(c.Families) == 0 {
		return []Family{IPv4Unicast}
	}
	return c.Families
}

// parse reads the capabilities of one optional parameter.
func (c *Capabilities) parse(b []byte) error {
	for len(b) > 0 {
		if len(b) < 2 || 2+int(b[1]) > len(b) {
			return newError(CodeOpen, SubcodeUnspecific, b, "capability is cut off")
		}
		one := b[:2+int(b[1])]
		if !c.add(one[0], one[2:]) {
			return newError(CodeOpen, SubcodeUnspecific, one, "capability %s is malformed", CapabilityName(one[0]))
		}
		b = b[len(one):]
	}
	return nil
}

// add takes up one capability and returns whether it is well-formed. Of those
// that may come but once the last one counts, as RFC 4724 section 3 says for its
// own.
func (c *Capabilities) add(code uint8, v []byte) bool {
	switch code {
	case CapMultiprotocol:
		if len(v) != 4 {
			return false
		}
		if f := (Family{AFI: binary.BigEndian.Uint16(v), SAFI: v[3]}); !slices.Contains(c.Families, f) {
			c.Families = append(c.Families, f)
		}
	case CapRouteRefresh:
		c.RouteRefresh = true
		return len(v) == 0
	case CapExtendedNextHop:
		if len(v) == 0 || len(v)%6 != 0 {
			return false
		}
		for ; len(v) > 0; v = v[6:] {
			// Here the SAFI has two bytes.
			if v[2] != 0 {
				return false
			}
			e := ExtendedNextHop{Family: Family{AFI: binary.BigEndian.Uint16(v), SAFI: v[3]}, NextHopAFI: binary.BigEndian.Uint16(v[4:])}
			if !slices.Contains(c.ExtendedNextHop, e) {
				c.ExtendedNextHop = append(c.ExtendedNextHop, e)
			}
		}
	case CapGracefulRestart:
		return c.addGracefulRestart(v)
	case CapFourOctetASN:
		if len(v) != 4 {
			return false
		}
		c.FourOctetASN, c.asn = true, binary.BigEndian.Uint32(v)
	default:
		c.Other = append(c.Other, Capability{Code: code, Value: slices.Clone(v)})
	}
	return true
}

func (c *Capabilities) addGracefulRestart(v []byte) bool {
	if len(v) < 2 || (len(v)-2)%4 != 0 {
		return false
	}
	gr := &GracefulRestart{
		Restarting:   v[0]&flagRestarting != 0,
		Notification: v[0]&flagNotification != 0,
		Time:         binary.BigEndian.Uint16(v) & maxRestartTime,
	}
	for v = v[2:]; len(v) > 0; v = v[4:] {
		f := Family{AFI: binary.BigEndian.Uint16(v), SAFI: v[2]}
		gr.Families = append(gr.Families, RestartFamily{Family: f, Forwarding: v[3]&flagForwarding != 0})
	}
	c.GracefulRestart = gr
	return true
}

// append appends the capabilities in the order of their codes, with what is not
// understood at the end.
func (c *Capabilities) append(b []byte, asn uint32) ([]byte, error) {
	for _, f := range c.Families {
		b = append(binary.BigEndian.AppendUint16(append(b, CapMultiprotocol, 4), f.AFI), 0, f.SAFI)
	}
	if c.RouteRefresh {
		b = append(b, CapRouteRefresh, 0)
	}
	for part := range slices.Chunk(c.ExtendedNextHop, familiesPerExtension) {
		b = append(b, CapExtendedNextHop, byte(6*len(part)))
		for _, e := range part {
			b = append(binary.BigEndian.AppendUint16(b, e.Family.AFI), 0, e.Family.SAFI)
			b = binary.BigEndian.AppendUint16(b, e.NextHopAFI)
		}
	}
	if gr := c.GracefulRestart; gr != nil {
		if len(gr.Families) > familiesPerRestart {
			return nil, fmt.Errorf("%d families of graceful restart do not fit", len(gr.Families))
		}
		b = gr.append(b)
	}
	if c.FourOctetASN {
		b = binary.BigEndian.AppendUint32(append(b, CapFourOctetASN, 4), asn)
	}
	for _, o := range c.Other {
		if len(o.Value) > 255 {
			return nil, fmt.Errorf("capability %s of %d bytes does not fit", CapabilityName(o.Code), len(o.Value))
		}
		b = append(append(b, o.Code, byte(len(o.Value))), o.Value...)
	}
	return b, nil
}

func (gr *GracefulRestart) append(b []byte) []byte {
	first := min(gr.Time, maxRestartTime)
	if gr.Restarting {
		first |= flagRestarting << 8
	}
	if gr.Notification {
		first |= flagNotification << 8
	}
	b = binary.BigEndian.AppendUint16(append(b, CapGracefulRestart, byte(2+4*len(gr.Families))), first)
	for _, f := range gr.Families {
		flags := byte(0)
		if f.Forwarding {
			flags = flagForwarding
		}
		b = append(binary.BigEndian.AppendUint16(b, f.Family.AFI), f.Family.SAFI, flags)
	}
	return b
}
