package l2

import (
	"fmt"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/berth-lb/berth/internal/ether"
)

// parseARP reads a frame that came through FilterARP, trusting nothing. It
// returns the query in it, or errMalformed, or errIgnored.
func (s self) parseARP(frame []byte) (query, error) {
	if err := s.addressed(frame); err != nil {
		return query{}, err
	}
	// A group other than everyone is nobody's way to send ARP.
	if dst := mac(frame[0:6]); dst.IsGroup() && dst != ether.Broadcast {
		return query{}, errIgnored
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(frame[etherLen:]); err != nil {
		return query{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if p.HardwareType != 1 || p.ProtocolType != uint16(ethernet.EtherTypeIPv4) ||
		p.HardwareAddrLength != 6 || p.IPLength != 4 {
		return query{}, errMalformed
	}
	if p.Operation != arp.OperationRequest {
		return query{}, errIgnored
	}
	q := query{target: p.TargetIP, asker: p.SenderIP, askerMAC: mac(p.SenderHardwareAddr)}
	switch {
	case q.askerMAC.IsGroup():
		// The answer would go to many: RFC 1812 section 3.3.2 has hosts distrust it.
		return query{}, errMalformed
	case q.askerMAC == s.mac:
		return query{}, errIgnored
	case q.asker == q.target:
		// An announcement, not a question: another node takes the address
		// over (RFC 5227 section 3). An answer would contradict it.
		return query{}, errIgnored
	}
	return q, nil
}

// appendARPReply appends the frame that answers q. It is unicast to the asker,
// also when q is a probe, whose sender address is 0.0.0.0 (RFC 5227 section
// 2.1.1).
func (s self) appendARPReply(b []byte, q query) []byte {
	b = ether.AppendHeader(b, q.askerMAC, s.mac, uint16(ethernet.EtherTypeARP))
	return ether.AppendARP(b, arp.OperationReply, ether.ARPSide{MAC: s.mac, IP: q.target}, ether.ARPSide{MAC: q.askerMAC, IP: q.asker})
}

// appendGratuitousARP appends a broadcast frame that updates the caches of all
// neighbours. As a request it is the announcement of RFC 5227 section 2.3; as a
// reply it follows RFC 5944 section 4.6, which wants the target hardware address
// to equal the sender's. Some hosts heed only the one, some only the other.
func (s self) appendGratuitousARP(b []byte, op arp.Operation, addr netip.Addr) []byte {
	b = ether.AppendHeader(b, ether.Broadcast, s.mac, uint16(ethernet.EtherTypeARP))
	target := ether.ARPSide{IP: addr}
	if op == arp.OperationReply {
		target.MAC = s.mac
	}
	return ether.AppendARP(b, op, ether.ARPSide{MAC: s.mac, IP: addr}, target)
}
