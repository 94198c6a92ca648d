package wire

import "fmt"

// A Family is an address family and its subsequent identifier (RFC 4760).
type Family struct {
	AFI  uint16
	SAFI uint8
}

// The address family identifiers of IP.
const (
	AFIIPv4 uint16 = 1
	AFIIPv6 uint16 = 2
)

// The families that are announced.
var (
	IPv4Unicast = Family{AFI: AFIIPv4, SAFI: 1}
	IPv6Unicast = Family{AFI: AFIIPv6, SAFI: 1}
)

// String returns such as "ipv4-unicast", or numbers for what is less common.
func (f Family) String() string {
	afi, ok := map[uint16]string{AFIIPv4: "ipv4", AFIIPv6: "ipv6", 25: "l2vpn", 16388: "ls"}[f.AFI]
	if !ok {
		afi = fmt.Sprintf("afi-%d", f.AFI)
	}
	safi, ok := map[uint8]string{
		1: "unicast", 2: "multicast", 4: "labeled-unicast", 70: "evpn", 128: "vpn", 132: "route-target", 133: "flowspec",
	}[f.SAFI]
	if !ok {
		safi = fmt.Sprintf("safi-%d", f.SAFI)
	}
	return afi + "-" + safi
}
