package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/bgp"
)

// checkASN says what is wrong with an AS number, as the schema does.
func checkASN(asn int64) error {
	switch {
	case asn < 1 || asn >= 1<<32-1:
		return fmt.Errorf("must be an AS number from 1 to %d", uint32(1<<32-2))
	case asn == 23456 || asn == 65535:
		return fmt.Errorf("%d is reserved (RFC 6793, RFC 7300) and cannot be an AS number of yours", asn)
	}
	return nil
}

// peerSpec reads a spec, collecting what is wrong.
type peerSpec struct {
	*v1beta1.BGPPeerSpec
	path *field.Path
	errs field.ErrorList
}

func (s *peerSpec) bad(name string, value any, problem string) {
	s.errs = append(s.errs, field.Invalid(s.path.Child(name), value, problem))
}

func newBGPPeer(object *v1beta1.BGPPeer) (*BGPPeer, field.ErrorList) {
	s := &peerSpec{BGPPeerSpec: &object.Spec, path: field.NewPath("spec")}
	selectors, errs := newSelectors(s.NodeSelectors, s.path.Child("nodeSelectors"))
	s.errs = errs
	p := &BGPPeer{
		Name: object.Name, object: object,
		myASNFrom: s.MyASNFrom, peerASNFrom: s.PeerASNFrom, addressFrom: s.PeerAddressFrom,
		sourceInterface: string(s.SourceInterface),
		dualStack:       s.DualStackAddressFamily,
		nodeSelectors:   selectors,
		session: bgp.Peer{
			Interface: string(s.Interface), VRF: string(s.VRF),
			Dynamic: bgp.DynamicASN(s.DynamicASN),
			Passive: s.Passive, Multihop: s.EBGPMultiHop,
			Password: bgp.Password(s.Password),
			Port:     s.port("peerPort", s.PeerPort),
		},
	}
	if s.Passive {
		p.session.LocalPort = s.port("listenPort", s.ListenPort)
	}
	s.asns(p)
	s.addresses(&p.session)
	s.times(&p.session)
	s.families(&p.session)
	if s.TTLSecurity < 0 || s.TTLSecurity > 254 {
		s.bad("ttlSecurity", s.TTLSecurity, "must be from 1 to 254 hops")
	}
	if s.TTLSecurity != 0 && s.EBGPMultiHop {
		s.bad("ttlSecurity", s.TTLSecurity, "goes without ebgpMultiHop; remove one of the two")
	}
	p.session.TTLSecurity = uint8(s.TTLSecurity)
	if s.Password != "" && s.PasswordSecret != nil {
		s.errs = append(s.errs, field.Forbidden(s.path.Child("password"), "goes without passwordSecret; remove one of the two"))
	}
	return p, s.errs
}

// port returns a TCP port; 0 stands for that of BGP.
func (s *peerSpec) port(name string, port int32) uint16 {
	if port < 0 || port > 65535 {
		s.bad(name, port, "must be a port from 1 to 65535")
		return 0
	}
	if port == 0 {
		return 179
	}
	return uint16(port)
}

func (s *peerSpec) asns(p *BGPPeer) {
	number := func(name string, from v1beta1.ASN, needed bool) uint32 {
		if from == 0 && !needed {
			return 0
		}
		if err := checkASN(int64(from)); err != nil {
			s.bad(name, from, err.Error())
			return 0
		}
		return uint32(from)
	}
	p.myASN = number("myASN", s.MyASN, s.MyASNFrom == nil)
	p.peerASN = number("peerASN", s.PeerASN, s.PeerASNFrom == nil && s.DynamicASN == "")
	p.localASN = number("localASN", s.LocalASN, false)
	switch s.DynamicASN {
	case "", v1beta1.DynamicInternal, v1beta1.DynamicExternal:
	default:
		s.bad("dynamicASN", s.DynamicASN, "must be internal or external")
	}
	if s.PeerASN != 0 && s.DynamicASN != "" {
		s.bad("dynamicASN", s.DynamicASN, "goes without peerASN; remove one of the two")
	}
	if p.localASN != 0 && (p.localASN == p.peerASN || s.DynamicASN == v1beta1.DynamicInternal) {
		s.bad("localASN", s.LocalASN, "is for external peers; for an internal one give it as myASN")
	}
}

func (s *peerSpec) addresses(peer *bgp.Peer) {
	given := 0
	for _, has := range []bool{s.PeerAddress != "", s.Interface != "", s.PeerAddressFrom != nil} {
		if has {
			given++
		}
	}
	if given != 1 {
		s.errs = append(s.errs, field.Required(s.path.Child("peerAddress"), "give exactly one of peerAddress, interface and peerAddressFrom"))
	}
	if s.PeerAddress != "" {
		addr, err := parsePeerAddress(string(s.PeerAddress))
		if err != nil {
			s.bad("peerAddress", s.PeerAddress, err.Error())
		}
		peer.Address = addr
	}
	if s.SourceAddress != "" {
		addr, err := netip.ParseAddr(string(s.SourceAddress))
		switch {
		case err != nil || addr.Zone() != "":
			s.bad("sourceAddress", s.SourceAddress, "must be an IP address")
		case peer.Address.IsValid() && bgp.FamilyOf(addr) != bgp.FamilyOf(peer.Address):
			s.bad("sourceAddress", s.SourceAddress, "must be of the family of peerAddress")
		}
		peer.SourceAddress = addr
	}
	if s.RouterID != "" {
		addr, err := netip.ParseAddr(string(s.RouterID))
		if err != nil || !addr.Is4() || addr.IsUnspecified() {
			s.bad("routerID", s.RouterID, "must be in the form of an IPv4 address, and not 0.0.0.0")
		}
		peer.RouterID = addr
	}
}

// parsePeerAddress parses the address of one host.
func parsePeerAddress(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil || addr.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is no IP address, such as 192.0.2.1, 2001:db8::1 or fe80::1%%eth0", text)
	case addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Errorf("%q is not the address of one host", text)
	case addr.Is6() && addr.IsLinkLocalUnicast() != (addr.Zone() != ""):
		return netip.Addr{}, fmt.Errorf("%q: a link-local address, and no other, is followed by %% and the interface that it is on", text)
	}
	return addr, nil
}

func (s *peerSpec) times(peer *bgp.Peer) {
	peer.HoldTime = s.time("holdTime", s.HoldTime, DefaultHoldTime)
	peer.KeepaliveTime = s.time("keepaliveTime", s.KeepaliveTime, 0)
	peer.ConnectTime = s.time("connectTime", s.ConnectTime, DefaultConnectTime)
	if t := peer.HoldTime; t != 0 && t < 3*time.Second || t > 65535*time.Second {
		s.bad("holdTime", s.HoldTime, "must be 0s or from 3s to 65535s (RFC 4271 section 4.2)")
	}
	if peer.KeepaliveTime > peer.HoldTime {
		s.bad("keepaliveTime", s.KeepaliveTime, fmt.Sprintf("must not be above the hold time, which is %s", peer.HoldTime))
	}
	if !s.EnableGracefulRestart {
		return
	}
	restart := s.time("gracefulRestartTime", s.GracefulRestartTime, DefaultGracefulRestartTime)
	if restart < time.Second || restart > 4095*time.Second {
		s.bad("gracefulRestartTime", s.GracefulRestartTime, "must be from 1s to 4095s (RFC 4724 section 3)")
	}
	peer.GracefulRestart = &bgp.GracefulRestart{RestartTime: restart}
}

// time parses a duration into whole seconds, which is what the messages of BGP
// are made of.
func (s *peerSpec) time(name string, from v1beta1.Duration, unset time.Duration) time.Duration {
	if from == "" {
		return unset
	}
	d, err := time.ParseDuration(string(from))
	if err != nil || d < 0 {
		s.bad(name, from, "must be a duration such as 90s")
		return unset
	}
	return d.Truncate(time.Second)
}

func (s *peerSpec) families(peer *bgp.Peer) {
	for i, f := range s.Families {
		family, ok := familyNamed(f)
		if !ok {
			s.errs = append(s.errs, field.NotSupported(s.path.Child("families").Index(i), f, []v1beta1.IPFamily{v1beta1.FamilyIPv4, v1beta1.FamilyIPv6}))
			continue
		}
		if !slices.Contains(peer.Families, family) {
			peer.Families = append(peer.Families, family)
		}
	}
	slices.Sort(peer.Families)
}

func familyNamed(f v1beta1.IPFamily) (bgp.Family, bool) {
	switch f {
	case v1beta1.FamilyIPv4:
		return bgp.IPv4, true
	case v1beta1.FamilyIPv6:
		return bgp.IPv6, true
	}
	return 0, false
}

func newBFDProfile(object *v1beta1.BFDProfile) (*BFDProfile, field.ErrorList) {
	var errs field.ErrorList
	path := field.NewPath("spec")
	number := func(name string, from *int32, least, unset, most int32) int32 {
		n := ptr.Deref(from, unset)
		if n < least || n > most {
			errs = append(errs, field.Invalid(path.Child(name), n, fmt.Sprintf("must be from %d to %d", least, most)))
			return unset
		}
		return n
	}
	interval := func(name string, from *int32, unset int32) time.Duration {
		return time.Duration(number(name, from, 10, unset, 60000)) * time.Millisecond
	}
	spec := &object.Spec
	return &BFDProfile{
		Name:             object.Name,
		Receive:          interval("receiveInterval", spec.ReceiveInterval, 300),
		Transmit:         interval("transmitInterval", spec.TransmitInterval, 300),
		Echo:             interval("echoInterval", spec.EchoInterval, 50),
		DetectMultiplier: uint8(number("detectMultiplier", spec.DetectMultiplier, 2, 3, 255)),
		MinimumTTL:       uint8(number("minimumTtl", spec.MinimumTTL, 1, 254, 254)),
		EchoMode:         spec.EchoMode,
		Passive:          spec.PassiveMode,
	}, errs
}

// maxCommunities is how many communities one advertisement may have.
const maxCommunities = 63

func newBGPAdvertisement(object *v1beta1.BGPAdvertisement, pools []*v1beta1.IPAddressPool, peers []*v1beta1.BGPPeer) (*BGPAdvertisement, field.ErrorList) {
	spec, path := &object.Spec, field.NewPath("spec")
	selection, errs := newPoolSelection(spec.IPAddressPools, spec.IPAddressPoolSelectors, path, pools)
	nodeSelectors, more := newSelectors(spec.NodeSelectors, path.Child("nodeSelectors"))
	errs = append(errs, more...)
	serviceSelectors, more := newSelectors(spec.ServiceSelectors, path.Child("serviceSelectors"))
	errs = append(errs, more...)
	peerSelectors, more := newSelectors(spec.PeerSelectors, path.Child("peerSelectors"))
	errs = append(errs, more...)
	number := func(name string, from *int64) *uint32 {
		if from == nil {
			return nil
		}
		if *from < 0 || *from >= 1<<32 {
			errs = append(errs, field.Invalid(path.Child(name), *from, "must be from 0 to 4294967295"))
			return nil
		}
		return ptr.To(uint32(*from))
	}
	length := func(name string, from *int32, whole int32) int {
		n := ptr.Deref(from, whole)
		if n < 1 || n > whole {
			errs = append(errs, field.Invalid(path.Child(name), n, fmt.Sprintf("must be from 1 to %d", whole)))
		}
		return int(n)
	}
	adv := &BGPAdvertisement{
		Name: object.Name, object: object,
		PoolSelection: selection,
		AllPeers:      len(spec.Peers)+len(spec.PeerSelectors) == 0,
		Peers:         plain(spec.Peers),
		NodeSelectors: nodeSelectors, ServiceSelectors: serviceSelectors,
		Length: map[bgp.Family]int{
			bgp.IPv4: length("aggregationLength", spec.AggregationLength, 32),
			bgp.IPv6: length("aggregationLengthV6", spec.AggregationLengthV6, 128),
		},
		Specific:  spec.IncludeSpecificRoutes,
		LocalPref: number("localPref", spec.LocalPref),
		MED:       number("med", spec.MED),
		Prepend:   uint8(spec.ASPathPrepend),
	}
	if spec.ASPathPrepend < 0 || spec.ASPathPrepend > 15 {
		errs = append(errs, field.Invalid(path.Child("asPathPrepend"), spec.ASPathPrepend, "must be from 0 to 15"))
	}
	if n := len(spec.Communities); n > maxCommunities {
		errs = append(errs, field.TooMany(path.Child("communities"), n, maxCommunities))
	}
	for _, peer := range peers {
		if matchesOne(peerSelectors, labels.Set(peer.Labels)) {
			adv.Peers = append(adv.Peers, peer.Name)
		}
	}
	slices.Sort(adv.Peers)
	adv.Peers = slices.Compact(adv.Peers)
	return adv, errs
}

// addCommunities gives the advertisement its communities. It names those that
// mean nothing now, and says whether all meant something at least before.
func (a *BGPAdvertisement) addCommunities(refs []v1beta1.CommunityRef, k *known) (unknown []string, usable bool) {
	usable = true
	for i, ref := range refs {
		text := string(ref)
		if c, ok := wellKnown(text); ok {
			text = c.String()
		}
		if !strings.Contains(text, ":") {
			value, found, fresh := recall(k.now.communities, k.before.communities, k.kept.communities, text)
			if !fresh {
				unknown = append(unknown, fmt.Sprintf("spec.communities[%d]: no Community in force has the name %s", i, text))
			}
			if !found {
				usable = false
				continue
			}
			text = string(value)
		}
		if err := a.addCommunity(text); err != nil {
			unknown = append(unknown, fmt.Sprintf("spec.communities[%d]: %v", i, err))
			usable = false
		}
	}
	a.sortCommunities()
	return unknown, usable
}

func (a *BGPAdvertisement) addCommunity(text string) error {
	standard, large, err := parseCommunity(text)
	switch {
	case err != nil:
		return err
	case large != nil:
		a.LargeCommunities = append(a.LargeCommunities, *large)
	default:
		a.Communities = append(a.Communities, standard)
	}
	return nil
}

func (a *BGPAdvertisement) sortCommunities() {
	r := bgp.Route{Communities: a.Communities, LargeCommunities: a.LargeCommunities}.Normalise()
	a.Communities, a.LargeCommunities = r.Communities, r.LargeCommunities
}

// parseCommunity parses "65000:1" or "large:65000:1:2".
func parseCommunity(text string) (bgp.Community, *bgp.LargeCommunity, error) {
	wrong := fmt.Errorf("%q is neither two numbers up to 65535, such as 65000:100, nor large: and three numbers up to 4294967295", text)
	rest, isLarge := strings.CutPrefix(text, "large:")
	parts, bits := strings.Split(rest, ":"), 16
	if isLarge {
		bits = 32
	}
	if isLarge && len(parts) != 3 || !isLarge && len(parts) != 2 {
		return 0, nil, wrong
	}
	var numbers [3]uint32
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, bits)
		if err != nil {
			return 0, nil, wrong
		}
		numbers[i] = uint32(n)
	}
	if isLarge {
		return 0, ptr.To(bgp.LargeCommunity(numbers)), nil
	}
	standard := bgp.Community(numbers[0]<<16 | numbers[1])
	if standard == llgrStale {
		return 0, nil, errLLGRStale
	}
	return standard, nil, nil
}

// llgrStale marks routes that a router keeps for another which is away. They may be
// told only to whom long-lived graceful restart was agreed on with (RFC 9494
// section 4.3), and that is nobody.
const llgrStale bgp.Community = 0xffff0006

var errLLGRStale = errors.New("65535:6 is llgr-stale, which marks what a router keeps for one that is away; no router would be told the route (RFC 9494 section 4.3)")

// wellKnown returns the communities that IANA gives names to ("BGP Well-known
// Communities").
func wellKnown(name string) (bgp.Community, bool) {
	switch name {
	case "graceful-shutdown": // RFC 8326
		return bgp.GracefulShutdown, true
	case "accept-own": // RFC 7611
		return 0xffff0001, true
	case "llgr-stale": // RFC 9494
		return llgrStale, true
	case "no-llgr": // RFC 9494
		return 0xffff0007, true
	case "accept-own-nexthop":
		return 0xffff0008, true
	case "blackhole": // RFC 7999
		return 0xffff029a, true
	case "no-export": // RFC 1997
		return 0xffffff01, true
	case "no-advertise": // RFC 1997
		return 0xffffff02, true
	case "no-export-subconfed": // RFC 1997
		return 0xffffff03, true
	case "no-peer": // RFC 3765
		return 0xffffff04, true
	}
	return 0, false
}

// IsWellKnownCommunity says whether a name has its meaning without a Community.
func IsWellKnownCommunity(name string) bool {
	_, is := wellKnown(name)
	return is
}

func checkAliases(object *v1beta1.Community) field.ErrorList {
	var errs field.ErrorList
	path, seen := field.NewPath("spec", "communities"), map[v1beta1.CommunityName]bool{}
	for i, alias := range object.Spec.Communities {
		if _, _, err := parseCommunity(string(alias.Value)); err != nil {
			errs = append(errs, field.Invalid(path.Index(i).Child("value"), alias.Value, err.Error()))
		}
		if _, taken := wellKnown(string(alias.Name)); taken {
			errs = append(errs, field.Invalid(path.Index(i).Child("name"), alias.Name, "is a well-known community; choose another name"))
		}
		if seen[alias.Name] {
			errs = append(errs, field.Duplicate(path.Index(i).Child("name"), alias.Name))
		}
		seen[alias.Name] = true
	}
	return errs
}
