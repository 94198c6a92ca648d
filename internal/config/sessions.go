package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
)

// Session is a BGP session that one node is to have.
type Session struct {
	bgp.Peer
	// Object is the name of the BGPPeer.
	Object string
	// BFD watches the session, unless it is nil.
	BFD *BFDProfile
}

// SessionProblem says why a BGPPeer that selects a node makes no session there.
type SessionProblem struct {
	// Name of the session that is missing, and of the BGPPeer.
	Name, Object string
	// Reason is one of the reasons of the Accepted condition.
	Reason string
	// Message tells a person what is wrong and what to do.
	Message string
}

// SessionsOf returns the sessions that a node is to have, in the order of their
// names, and what stands against others. An older BGPPeer goes before a younger
// one where both are the same.
func SessionsOf(snapshot *Snapshot, node Node) ([]Session, []SessionProblem) {
	var sessions []Session
	var problems []SessionProblem
	taken := map[sessionKey]string{}
	for _, p := range snapshot.BGPPeers {
		if !p.selects(node) {
			continue
		}
		made, wrong := p.sessionsOn(node)
		problems = append(problems, wrong...)
		for _, s := range made {
			key := p.keyOf(s)
			if older, exists := taken[key]; exists {
				problems = append(problems, SessionProblem{
					Name: s.Name, Object: p.Name, Reason: v1beta1.ReasonDuplicate,
					Message: fmt.Sprintf("node %s has a session with %s port %d%s already, by the older BGPPeer %s; remove one of the two, or give them nodeSelectors that no node has in common",
						node.Name, s.Where(), s.Port, in(s.VRF), older),
				})
				continue
			}
			taken[key] = p.Name
			sessions = append(sessions, s)
		}
	}
	slices.SortFunc(sessions, func(a, b Session) int { return strings.Compare(a.Name, b.Name) })
	slices.SortStableFunc(problems, func(a, b SessionProblem) int { return strings.Compare(a.Name, b.Name) })
	return sessions, problems
}

// sessionKey is what tells the sessions of a node apart: for a router, one
// neighbour is one address.
type sessionKey struct {
	address         netip.Addr
	device, vrf     string
	port, localPort uint16
	source          netip.Addr
	// sourceInterface stands in for source while only the node knows that.
	sourceInterface string
}

func (p *BGPPeer) keyOf(s Session) sessionKey {
	k := sessionKey{address: s.Address, device: s.Interface, vrf: s.VRF, port: s.Port, localPort: s.LocalPort, source: s.SourceAddress}
	if k.localPort == 179 {
		k.localPort = 0 // as those have that are not passive
	}
	if s.Address.IsValid() {
		k.device = "" // it is in the zone
	}
	if !s.SourceAddress.IsValid() {
		k.sourceInterface = p.sourceInterface
	}
	return k
}

func in(vrf string) string {
	if vrf == "" {
		return ""
	}
	return " in " + vrf
}

func (p *BGPPeer) selects(node Node) bool {
	return MatchesAny(p.nodeSelectors, labels.Set(node.Labels))
}

// sessionsOn resolves the peer for a node that it selects.
func (p *BGPPeer) sessionsOn(node Node) ([]Session, []SessionProblem) {
	fail := func(reason, message string) ([]Session, []SessionProblem) {
		return nil, []SessionProblem{{Name: p.Name, Object: p.Name, Reason: reason, Message: message}}
	}
	if p.noPassword != "" {
		return fail(v1beta1.ReasonSecretNotUsable, p.noPassword)
	}
	base := Session{Peer: p.session.Clone(), Object: p.Name, BFD: p.bfd}
	base.Name = p.Name
	if err := p.resolveASNs(&base.Peer, node); err != nil {
		return fail(v1beta1.ReasonInvalid, err.Error())
	}
	if !base.RouterID.IsValid() {
		base.RouterID = routerIDOf(node)
	}
	if p.addressFrom == nil {
		s, err := p.finish(base, node)
		if err != nil {
			return fail(v1beta1.ReasonInvalid, err.Error())
		}
		return []Session{s}, nil
	}
	addresses, err := p.addressesOf(node)
	if err != nil {
		return fail(v1beta1.ReasonInvalid, err.Error())
	}
	var sessions []Session
	var problems []SessionProblem
	for _, addr := range addresses {
		s := base
		s.Peer = base.Clone()
		s.Address = addr
		// Even if it is the only one: a second must not change its name, which would
		// reset it.
		s.Name = p.Name + "@" + addr.String()
		s, err := p.finish(s, node)
		if err != nil {
			problems = append(problems, SessionProblem{Name: s.Name, Object: p.Name, Reason: v1beta1.ReasonInvalid, Message: err.Error()})
			continue
		}
		sessions = append(sessions, s)
	}
	return sessions, problems
}

func (p *BGPPeer) resolveASNs(peer *bgp.Peer, node Node) error {
	own, err := asnOf(p.myASN, p.myASNFrom, "myASNFrom", node)
	if err != nil {
		return err
	}
	peer.LocalASN = cmp.Or(p.localASN, own)
	if peer.Dynamic != "" {
		return nil
	}
	if peer.PeerASN, err = asnOf(p.peerASN, p.peerASNFrom, "peerASNFrom", node); err != nil {
		return err
	}
	if p.localASN != 0 && p.localASN == peer.PeerASN {
		return fmt.Errorf("spec.localASN: is the AS number that node %s gives its peer; localASN is for external peers", node.Name)
	}
	return nil
}

func asnOf(number uint32, from *v1beta1.NodeValue, name string, node Node) (uint32, error) {
	if number != 0 || from == nil {
		return number, nil
	}
	text, where, err := node.value(string(from.NodeAnnotation), string(from.NodeLabel), "spec."+name)
	if err != nil {
		return 0, err
	}
	asn, err := strconv.ParseInt(text, 10, 64)
	if err == nil {
		err = checkASN(asn)
	} else {
		err = fmt.Errorf("%q is no AS number", text)
	}
	if err != nil {
		return 0, fmt.Errorf("spec.%s: %s: %w", name, where, err)
	}
	return uint32(asn), nil
}

// value returns the value of an annotation or a label, and says where it is.
func (n Node) value(annotation, label, path string) (value, where string, err error) {
	set, name, what, child := n.Annotations, annotation, "annotation", "nodeAnnotation"
	if annotation == "" {
		set, name, what, child = n.Labels, label, "label", "nodeLabel"
	}
	where = fmt.Sprintf("%s %s of node %s", what, name, n.Name)
	if value = strings.TrimSpace(set[name]); value == "" {
		return "", where, fmt.Errorf("%s.%s: node %s has no %s %s; set it, or narrow nodeSelectors", path, child, n.Name, what, name)
	}
	return value, where, nil
}

// maxAddresses is how many peers an annotation may name.
const maxAddresses = 16

// addressesOf returns the addresses of the node's peers, in order.
func (p *BGPPeer) addressesOf(node Node) ([]netip.Addr, error) {
	if p.addressFrom.DefaultGateway != "" {
		return p.gateways(node)
	}
	text, where, err := node.value(string(p.addressFrom.NodeAnnotation), string(p.addressFrom.NodeLabel), "spec.peerAddressFrom")
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		addr, err := parsePeerAddress(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("spec.peerAddressFrom: %s: %w", where, err)
		}
		addresses = append(addresses, addr)
	}
	if len(addresses) > maxAddresses {
		return nil, fmt.Errorf("spec.peerAddressFrom: %s names %d peers; %d are the most", where, len(addresses), maxAddresses)
	}
	return inOrder(addresses), nil
}

func (p *BGPPeer) gateways(node Node) ([]netip.Addr, error) {
	family, _ := familyNamed(p.addressFrom.DefaultGateway)
	var addresses []netip.Addr
	for _, addr := range node.Gateways {
		if bgp.FamilyOf(addr) == family {
			addresses = append(addresses, addr)
		}
	}
	switch {
	case len(addresses) > 0:
	case !node.Local:
		return nil, nil // only the node itself knows
	default:
		return nil, fmt.Errorf("spec.peerAddressFrom.defaultGateway: node %s has no %s default route with a gateway", node.Name, p.addressFrom.DefaultGateway)
	}
	return inOrder(addresses), nil
}

func inOrder(addresses []netip.Addr) []netip.Addr {
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
}

// finish completes a session whose peer's address is known.
func (p *BGPPeer) finish(s Session, node Node) (Session, error) {
	if zone := s.Address.Zone(); zone != "" {
		s.Interface = zone
	}
	own := bgp.IPv6 // unnumbered peers are spoken to by their link-local addresses
	if s.Address.IsValid() {
		own = bgp.FamilyOf(s.Address)
	}
	if p.sourceInterface != "" && node.Local {
		addr, found := node.addressOn(p.sourceInterface, own)
		if !found {
			return s, fmt.Errorf("spec.sourceInterface: node %s has no %s address on %s", node.Name, familyName(own), p.sourceInterface)
		}
		s.SourceAddress = addr
	}
	if s.SourceAddress.IsValid() && s.Address.IsValid() && bgp.FamilyOf(s.SourceAddress) != own {
		return s, fmt.Errorf("spec.sourceAddress: %s is not of the family of the peer's address %s", s.SourceAddress, s.Address)
	}
	if len(s.Families) == 0 {
		s.Families = p.familiesFor(s, own)
	}
	for _, family := range s.Families {
		if addr, found := node.nextHop(family, s.Peer); found && family != own {
			if s.NextHops == nil {
				s.NextHops = map[bgp.Family]netip.Addr{}
			}
			s.NextHops[family] = addr
		}
	}
	if s.BFD != nil && s.BFD.EchoMode && s.Multihop { // RFC 5883 section 3
		without := *s.BFD
		without.EchoMode = false
		s.BFD = &without
	}
	return s, nil
}

func (p *BGPPeer) familiesFor(s Session, own bgp.Family) []bgp.Family {
	both := !s.Address.IsValid()
	if p.dualStack != nil {
		both = *p.dualStack
	}
	if both {
		return []bgp.Family{bgp.IPv4, bgp.IPv6}
	}
	return []bgp.Family{own}
}

func familyName(f bgp.Family) v1beta1.IPFamily {
	if f == bgp.IPv4 {
		return v1beta1.FamilyIPv4
	}
	return v1beta1.FamilyIPv6
}

// IsDefaultGateway says whether the peers are the nodes' default gateways.
func (p *BGPPeer) IsDefaultGateway() bool {
	return p.addressFrom != nil && p.addressFrom.DefaultGateway != ""
}

// peers accepts BGPPeers. Those that name a BFDProfile that is not there stay in
// force without being watched; those that name a password that is not there make
// the sessions that they made before, if any.
func (b *builder) peers(objects []*v1beta1.BGPPeer, nodes []Node, k *known) {
	notes := map[string][]Verdict{}
	for _, object := range byAge(objects) {
		peer, errs := newBGPPeer(object)
		if len(errs) > 0 {
			b.verdicts.BGPPeers[object.Name] = invalid(errs)
			continue
		}
		notes[object.Name] = peer.refer(k)
		if object, was := k.former.peers[object.Name]; was && peer.noPassword != "" {
			if former, errs := newBGPPeer(object); len(errs) == 0 {
				former.refer(k)
				peer = former
			}
		}
		b.snapshot.BGPPeers = append(b.snapshot.BGPPeers, peer)
	}
	onNodes := judgeOnNodes(b.snapshot, nodes)
	for _, peer := range b.snapshot.BGPPeers {
		verdict := onNodes[peer.Name].verdict(len(nodes) > 0)
		b.verdicts.BGPPeers[peer.Name] = worst(notes[peer.Name], verdict)
	}
}

// worst makes one verdict of what a peer names and is not there, and of how it
// fares on the nodes. No session at all is worse than one that is not watched.
func worst(notes []Verdict, onNodes Verdict) Verdict {
	if !onNodes.Accepted && onNodes.Reason != v1beta1.ReasonSecretNotUsable {
		notes = append(notes, onNodes)
	}
	if len(notes) == 0 {
		return onNodes
	}
	slices.SortStableFunc(notes, func(a, b Verdict) int {
		return cmp.Compare(rankOf(a.Reason), rankOf(b.Reason))
	})
	messages := make([]string, len(notes))
	for i, v := range notes {
		messages[i] = v.Message
	}
	return Verdict{Reason: notes[0].Reason, Message: strings.Join(messages, "; ")}
}

func rankOf(reason string) int {
	return slices.Index([]string{v1beta1.ReasonInvalid, v1beta1.ReasonDuplicate, v1beta1.ReasonSecretNotUsable, v1beta1.ReasonUnknownBFDProfile}, reason)
}

// refer gives the peer what it names, and says what is not there.
func (p *BGPPeer) refer(k *known) []Verdict {
	object := p.object
	var missing []Verdict
	if name := string(object.Spec.BFDProfile); name != "" {
		profile, found, fresh := recall(k.now.profiles, k.before.profiles, k.kept.profiles, name)
		if found {
			p.bfd = profile
		}
		if !fresh {
			missing = append(missing, Verdict{Reason: v1beta1.ReasonUnknownBFDProfile, Message: fmt.Sprintf(
				"spec.bfdProfile: no BFDProfile %s is in force; create it or correct the name. Until then the sessions are not watched, or as they were before", name)})
		}
	}
	if object.Spec.PasswordSecret == nil {
		return missing
	}
	name := string(object.Spec.PasswordSecret.Name)
	password, found, fresh := recall(k.now.passwords, k.before.passwords, k.kept.passwords, name)
	p.session.Password = password
	if fresh {
		return missing
	}
	problem := fmt.Sprintf("spec.passwordSecret: there is no Secret %s of type kubernetes.io/basic-auth in the namespace of Berth; create it or correct the name", name)
	if what, known := k.problems[name]; known {
		problem = fmt.Sprintf("spec.passwordSecret: Secret %s %s", name, what)
	}
	if !found {
		p.noPassword = problem
	}
	return append(missing, Verdict{
		Reason:  v1beta1.ReasonSecretNotUsable,
		Message: problem + ". Until then there are no sessions but those that speakers had before",
	})
}

// nodesVerdict is how a peer fares on the nodes that it selects.
type nodesVerdict struct {
	selected, failing int
	reason            string
	messages          []string
}

func judgeOnNodes(snapshot *Snapshot, nodes []Node) map[string]*nodesVerdict {
	all := make(map[string]*nodesVerdict, len(snapshot.BGPPeers))
	for _, p := range snapshot.BGPPeers {
		all[p.Name] = &nodesVerdict{}
	}
	sorted := slices.SortedFunc(slices.Values(nodes), func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	for _, node := range sorted {
		for _, p := range snapshot.BGPPeers {
			if p.selects(node) {
				all[p.Name].selected++
			}
		}
		_, problems := SessionsOf(snapshot, node)
		failed := map[string]bool{}
		for _, problem := range problems {
			v := all[problem.Object]
			if !failed[problem.Object] {
				failed[problem.Object] = true
				v.failing++
			}
			v.reason = cmp.Or(v.reason, problem.Reason)
			v.messages = append(v.messages, problem.Message)
		}
	}
	return all
}

func (v *nodesVerdict) verdict(known bool) Verdict {
	switch {
	case known && v.selected == 0:
		return Verdict{Accepted: true, Reason: v1beta1.ReasonPartlyAccepted, Message: "the peer is in force, but spec.nodeSelectors match no node"}
	case v.failing == 0:
		return accepted("the peer is in force")
	case v.failing == v.selected:
		return Verdict{Reason: v.reason, Message: few(v.messages)}
	}
	return Verdict{Accepted: true, Reason: v1beta1.ReasonPartlyAccepted, Message: "the peer is in force on other nodes; " + few(v.messages)}
}
