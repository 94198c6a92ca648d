package wire

import "encoding/binary"

// A RouteRefresh asks for all routes of a family again (RFC 2918).
type RouteRefresh struct {
	Family Family
	// Subtype is zero for a request. Others belong to enhanced route refresh
	// (RFC 7313) and mean nothing unless that was negotiated.
	Subtype uint8
}

// ParseRouteRefresh reads a whole message. The error is an *Error.
func ParseRouteRefresh(msg []byte) (RouteRefresh, error) {
	b, err := body(msg, TypeRouteRefresh)
	if err != nil {
		return RouteRefresh{}, err
	}
	return RouteRefresh{Family: Family{AFI: binary.BigEndian.Uint16(b), SAFI: b[3]}, Subtype: b[2]}, nil
}

// Append appends the message.
func (r RouteRefresh) Append(b []byte) []byte {
	b, at := appendHeader(b, TypeRouteRefresh)
	b = append(binary.BigEndian.AppendUint16(b, r.Family.AFI), r.Subtype, r.Family.SAFI)
	return finish(b, at)
}
