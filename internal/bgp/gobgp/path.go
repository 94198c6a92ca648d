package gobgp

import (
	"fmt"
	"net/netip"

	api "github.com/osrg/gobgp/v3/api"
	bgppacket "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/berth-lb/berth/internal/bgp"
)

// nextHops are the next hops of a session's routes, by the routes' family. That
// of IPv4 may be an IPv6 address (RFC 8950).
type nextHops map[bgp.Family]netip.Addr

// A pathMaker turns routes into GoBGP's paths, as one peer is to be told.
type pathMaker struct {
	internal bool
	asn      uint32 // ours
	nextHops nextHops
}

// path returns r with its attributes. GoBGP puts our AS number in front once
// more for external peers, and sorts the attributes.
func (m pathMaker) path(r bgp.Route) (*api.Path, error) {
	nlri, err := encodeNLRI(r.Prefix)
	if err != nil {
		return nil, err
	}
	hop, ok := m.nextHops[r.Family()]
	if !ok {
		return nil, fmt.Errorf("announcing %s: there is no next hop for %s", r.Prefix, r.Family())
	}
	attributes := []bgppacket.PathAttributeInterface{
		bgppacket.NewPathAttributeOrigin(bgppacket.BGP_ORIGIN_ATTR_TYPE_IGP),
	}
	if hop.Is4() && r.Family() == bgp.IPv4 {
		attributes = append(attributes, bgppacket.NewPathAttributeNextHop(hop.String()))
	} else {
		// Zones are of no interest to anybody else.
		attributes = append(attributes, bgppacket.NewPathAttributeMpReachNLRI(hop.WithZone("").String(), []bgppacket.AddrPrefixInterface{nativeNLRI(r.Prefix)}))
	}
	if !m.internal && r.Prepend > 0 {
		asns := make([]uint32, r.Prepend)
		for i := range asns {
			asns[i] = m.asn
		}
		attributes = append(attributes, bgppacket.NewPathAttributeAsPath([]bgppacket.AsPathParamInterface{
			bgppacket.NewAs4PathParam(bgppacket.BGP_ASPATH_ATTR_TYPE_SEQ, asns),
		}))
	}
	if r.MED != nil {
		attributes = append(attributes, bgppacket.NewPathAttributeMultiExitDisc(*r.MED))
	}
	if m.internal && r.LocalPref != nil {
		attributes = append(attributes, bgppacket.NewPathAttributeLocalPref(*r.LocalPref))
	}
	attributes = append(attributes, communities(r)...)
	encoded := make([][]byte, len(attributes))
	for i, attribute := range attributes {
		if encoded[i], err = attribute.Serialize(); err != nil {
			return nil, fmt.Errorf("announcing %s: encoding attribute %s: %w", r.Prefix, attribute.GetType(), err)
		}
	}
	return &api.Path{Family: apiFamily(r.Family()), NlriBinary: nlri, PattrsBinary: encoded}, nil
}

func communities(r bgp.Route) []bgppacket.PathAttributeInterface {
	var attributes []bgppacket.PathAttributeInterface
	if len(r.Communities) > 0 {
		values := make([]uint32, len(r.Communities))
		for i, c := range r.Communities {
			values[i] = uint32(c)
		}
		attributes = append(attributes, bgppacket.NewPathAttributeCommunities(values))
	}
	if len(r.LargeCommunities) > 0 {
		values := make([]*bgppacket.LargeCommunity, len(r.LargeCommunities))
		for i, c := range r.LargeCommunities {
			values[i] = bgppacket.NewLargeCommunity(c[0], c[1], c[2])
		}
		attributes = append(attributes, bgppacket.NewPathAttributeLargeCommunities(values))
	}
	return attributes
}

// withdrawal returns what takes a prefix back.
func (m pathMaker) withdrawal(prefix netip.Prefix) (*api.Path, error) {
	nlri, err := encodeNLRI(prefix)
	if err != nil {
		return nil, err
	}
	return &api.Path{Family: apiFamily(bgp.FamilyOf(prefix.Addr())), NlriBinary: nlri, IsWithdraw: true}, nil
}

func nativeNLRI(p netip.Prefix) bgppacket.AddrPrefixInterface {
	if bgp.FamilyOf(p.Addr()) == bgp.IPv6 {
		return bgppacket.NewIPv6AddrPrefix(uint8(p.Bits()), p.Addr().String())
	}
	return bgppacket.NewIPAddrPrefix(uint8(p.Bits()), p.Addr().String())
}

func encodeNLRI(p netip.Prefix) ([]byte, error) {
	b, err := nativeNLRI(p).Serialize()
	if err != nil {
		return nil, fmt.Errorf("encoding prefix %s: %w", p, err)
	}
	return b, nil
}
