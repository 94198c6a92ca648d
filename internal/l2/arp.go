package l2

import (
	"fmt"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/berth-lb/berth/internal/ether"
)

// parseARP reads a frame that came through FilterARP, trusting nothing. It
// returns what the packet says, or errMalformed, or errIgnored.
func (s self) parseARP(frame []byte) (message, error) {
	if err := s.addressed(frame); err != nil {
		return message{}, err
	}
	// A group other than everyone is nobody's way to send ARP.
	if dst := MAC(frame[0:6]); dst.IsGroup() && dst != ether.Broadcast {
		return message{}, errIgnored
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(frame[etherLen:]); err != nil {
		return message{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if p.HardwareType != 1 || p.ProtocolType != uint16(ethernet.EtherTypeIPv4) ||
		p.HardwareAddrLength != 6 || p.IPLength != 4 {
		return message{}, errMalformed
	}
	m := message{query: query{target: p.TargetIP, asker: p.SenderIP, askerMAC: MAC(p.SenderHardwareAddr)}}
	switch {
	case m.askerMAC.IsGroup():
		// The answer would go to many: RFC 1812 section 3.3.2 has hosts distrust it.
		return message{}, errMalformed
	case m.askerMAC == s.mac:
		return message{}, errIgnored
	}
	if !m.asker.IsUnspecified() {
		// Any packet tells who has the sender's address (RFC 5227 section 2.4),
		// but for a probe, which has none.
		m.claimed, m.claimant = m.asker, m.askerMAC
	}
	// With its own address as target it is an announcement, not a question:
	// another node takes the address over (RFC 5227 section 3). An answer would
	// contradict it.
	m.asks = p.Operation == arp.OperationRequest && m.asker != m.target
	if !m.asks && !m.claimed.IsValid() {
		return message{}, errIgnored
	}
	return m, nil
}

// appendARPReply appends the frame that answers q. It is unicast to the asker,
// also when q is a probe, whose sender address is 0.0.0.0 (RFC 5227 section
// 2.1.1). It says that the address is at is, and is sent from s.
func (s self) appendARPReply(b []byte, q query, is MAC) []byte {
	b = ether.AppendHeader(b, q.askerMAC, s.mac, uint16(ethernet.EtherTypeARP))
	return ether.AppendARP(b, arp.OperationReply, ether.ARPSide{MAC: is, IP: q.target}, ether.ARPSide{MAC: q.askerMAC, IP: q.asker})
}

// appendGratuitousARP appends a frame that updates the caches of those whom it
// is sent to, mostly everyone. As a request it is the announcement of RFC 5227 section 2.3; as a
// reply it follows RFC 5944 section 4.6, which wants the target hardware address
// to equal the sender's. Some hosts heed only the one, some only the other.
func (s self) appendGratuitousARP(b []byte, to MAC, op arp.Operation, addr netip.Addr) []byte {
	b = ether.AppendHeader(b, to, s.mac, uint16(ethernet.EtherTypeARP))
	target := ether.ARPSide{IP: addr}
	if op == arp.OperationReply {
		target.MAC = s.mac
	}
	return ether.AppendARP(b, op, ether.ARPSide{MAC: s.mac, IP: addr}, target)
}
