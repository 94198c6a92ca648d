package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
)

// peer makes a BGPPeer that is age days old; change may be nil.
func peer(name string, age int, change func(*v1beta1.BGPPeerSpec)) *v1beta1.BGPPeer {
	created := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC).AddDate(0, 0, -age)
	p := &v1beta1.BGPPeer{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(created)},
		Spec:       v1beta1.BGPPeerSpec{MyASN: 64500, PeerASN: 64501, PeerAddress: "192.0.2.1", PeerPort: 179},
	}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func bgpAdvertisement(name string, change func(*v1beta1.BGPAdvertisementSpec)) *v1beta1.BGPAdvertisement {
	a := &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if change != nil {
		change(&a.Spec)
	}
	return a
}

func community(name string, age int, aliases ...v1beta1.CommunityAlias) *v1beta1.Community {
	created := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC).AddDate(0, 0, -age)
	return &v1beta1.Community{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(created)},
		Spec:       v1beta1.CommunitySpec{Communities: aliases},
	}
}

func profile(name string) *v1beta1.BFDProfile {
	return &v1beta1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func rack(value string) []v1beta1.LabelSelector {
	return []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"rack": v1beta1.LabelValue(value)}}}
}

func nodeIn(name, inRack string) Node {
	return Node{Name: name, Labels: map[string]string{"rack": inRack}}
}

type bgpSpec = v1beta1.BGPPeerSpec

func checkBGPVerdicts(t *testing.T, objects Objects, want map[string]string) {
	t.Helper()
	_, verdicts := Build(objects)
	got := map[string]Verdict{}
	for prefix, of := range map[string]map[string]Verdict{
		"peer/": verdicts.BGPPeers, "adv/": verdicts.BGPAdvertisements, "community/": verdicts.Communities, "profile/": verdicts.BFDProfiles,
	} {
		for name, v := range of {
			got[prefix+name] = v
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d verdicts, want %d: %v", len(got), len(want), got)
	}
	for key, want := range want {
		v := got[key]
		text := v.Reason + ": " + v.Message
		want, refused := strings.CutPrefix(want, "!")
		if v.Accepted == refused || !strings.Contains(text, want) {
			t.Errorf("%s: got accepted=%v %s, want %q", key, v.Accepted, text, want)
		}
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s: the message has a password: %s", key, text)
		}
	}
}

// TestBGPPeerVerdicts: a verdict that starts with "!" is a refusal.
func TestBGPPeerVerdicts(t *testing.T) {
	t.Parallel()
	nodes := []Node{nodeIn("node-1", "a"), nodeIn("node-2", "b")}
	secret := func(s *bgpSpec) { s.PasswordSecret = &v1beta1.SecretReference{Name: "router"} }
	tests := map[string]struct {
		objects Objects
		want    map[string]string
	}{
		"a good peer": {Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, nil)}, Nodes: nodes}, map[string]string{"peer/a": "Accepted: the peer is in force"}},
		"ASN 0 costs only its own peer": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{
				peer("bad", 2, func(s *bgpSpec) { s.PeerASN = 0 }), peer("bad2", 2, func(s *bgpSpec) { s.MyASN = 0 }), peer("good", 1, nil),
			}},
			map[string]string{"peer/bad": "!Invalid: spec.peerASN: Invalid value: 0: must be an AS number", "peer/bad2": "!Invalid: spec.myASN", "peer/good": "Accepted"},
		},
		"every wrong field is named": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, func(s *bgpSpec) {
				s.PeerASN, s.LocalASN, s.PeerAddress, s.HoldTime, s.RouterID, s.TTLSecurity = 23456, 65535, "fe80::1", "2s", "::1", 300
			})}},
			map[string]string{"peer/a": `!Invalid: spec.peerASN: Invalid value: 23456: 23456 is reserved (RFC 6793, RFC 7300) and cannot be an AS number of yours; ` +
				`spec.localASN: Invalid value: 65535: 65535 is reserved (RFC 6793, RFC 7300) and cannot be an AS number of yours; ` +
				`spec.peerAddress: Invalid value: "fe80::1": "fe80::1": a link-local address, and no other, is followed by % and the interface that it is on; ` +
				`spec.routerID: Invalid value: "::1": must be in the form of an IPv4 address, and not 0.0.0.0; ` +
				`spec.holdTime: Invalid value: "2s": must be 0s or from 3s to 65535s (RFC 4271 section 4.2); ` +
				`spec.ttlSecurity: Invalid value: 300: must be from 1 to 254 hops`},
		},
		"keepalive above hold time": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, func(s *bgpSpec) { s.HoldTime, s.KeepaliveTime = "9s", "10s" })}},
			map[string]string{"peer/a": "!Invalid: spec.keepaliveTime: Invalid value: \"10s\": must not be above the hold time, which is 9s"},
		},
		"no address at all": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, func(s *bgpSpec) { s.PeerAddress = "" })}},
			map[string]string{"peer/a": "!Invalid: spec.peerAddress: Required value"},
		},
		"unknown profile": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, func(s *bgpSpec) { s.BFDProfile = "fast" })}, BFDProfiles: []*v1beta1.BFDProfile{profile("slow")}},
			map[string]string{"peer/a": "!UnknownBFDProfile: spec.bfdProfile: no BFDProfile fast is in force; create it", "profile/slow": "Accepted"},
		},
		"known profile": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, func(s *bgpSpec) { s.BFDProfile = "fast" })}, BFDProfiles: []*v1beta1.BFDProfile{profile("fast")}},
			map[string]string{"peer/a": "Accepted", "profile/fast": "Accepted"},
		},
		"profile out of range": {
			Objects{BFDProfiles: []*v1beta1.BFDProfile{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1beta1.BFDProfileSpec{DetectMultiplier: ptr.To[int32](1)}}}},
			map[string]string{"profile/p": "!Invalid: spec.detectMultiplier: Invalid value: 1: must be from 2 to 255"},
		},
		"missing Secret": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 2, secret), peer("b", 1, func(s *bgpSpec) { s.PeerAddress = "192.0.2.2" })}, Nodes: nodes},
			map[string]string{"peer/a": "!SecretNotUsable: spec.passwordSecret: there is no Secret router of type kubernetes.io/basic-auth", "peer/b": "Accepted"},
		},
		"Secret without a password": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 2, secret)}, Secrets: []Secret{{Name: "router", Problem: "has no password"}}},
			map[string]string{"peer/a": "!SecretNotUsable: spec.passwordSecret: Secret router has no password"},
		},
		"good Secret": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 2, secret)}, Secrets: []Secret{{Name: "router", Password: "hunter2"}}, Nodes: nodes},
			map[string]string{"peer/a": "Accepted"},
		},
		"two passwords": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 2, func(s *bgpSpec) { secret(s); s.Password = "hunter2" })}, Secrets: []Secret{{Name: "router", Password: "hunter2"}}},
			map[string]string{"peer/a": "!Invalid: spec.password: Forbidden"},
		},
		"of two that are the same the younger is refused": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a-younger", 1, nil), peer("b-older", 2, nil)}, Nodes: nodes},
			map[string]string{
				"peer/a-younger": "!Duplicate: node node-1 has a session with 192.0.2.1 port 179 already, by the older BGPPeer b-older; remove one of the two, or give them nodeSelectors that no node has in common; node node-2 has",
				"peer/b-older":   "Accepted",
			},
		},
		"all that is wrong is told": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{
				peer("a", 2, nil), peer("b", 1, func(s *bgpSpec) { s.BFDProfile = "fast" }),
				peer("c", 1, func(s *bgpSpec) { secret(s); s.BFDProfile, s.PeerAddress = "fast", "192.0.2.3" }),
			}, Nodes: nodes[:1]},
			map[string]string{
				"peer/a": "Accepted",
				"peer/b": "!Duplicate: node node-1 has a session with 192.0.2.1 port 179 already, by the older BGPPeer a; remove one of the two, or give them nodeSelectors that no node has in common; spec.bfdProfile: no",
				"peer/c": "!SecretNotUsable: spec.passwordSecret: there is no Secret router of type kubernetes.io/basic-auth in the namespace of Berth; create it or correct the name. " +
					"Until then there are no sessions but those that speakers had before; spec.bfdProfile: no BFDProfile fast",
			},
		},
		"the same on different nodes": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{
				peer("a", 1, func(s *bgpSpec) { s.NodeSelectors = rack("a") }), peer("b", 2, func(s *bgpSpec) { s.NodeSelectors = rack("b") }),
			}, Nodes: nodes},
			map[string]string{"peer/a": "Accepted", "peer/b": "Accepted"},
		},
		"the same on some nodes": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{
				peer("all", 1, nil), peer("b", 2, func(s *bgpSpec) { s.NodeSelectors = rack("b") }),
			}, Nodes: nodes},
			map[string]string{"peer/all": "PartlyAccepted: the peer is in force on other nodes; node node-2 has", "peer/b": "Accepted"},
		},
		"another port, VRF or source is another peer": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{
				peer("a", 4, nil), peer("b", 3, func(s *bgpSpec) { s.PeerPort = 1179 }), peer("c", 2, func(s *bgpSpec) { s.VRF = "red" }),
				peer("d", 1, func(s *bgpSpec) { s.SourceAddress = "192.0.2.77" }),
			}, Nodes: nodes},
			map[string]string{"peer/a": "Accepted", "peer/b": "Accepted", "peer/c": "Accepted", "peer/d": "Accepted"},
		},
		"another source interface is another peer": { // though only the nodes know their addresses
			Objects{BGPPeers: []*v1beta1.BGPPeer{
				peer("a", 3, func(s *bgpSpec) { s.SourceInterface = "eth0" }), peer("b", 2, func(s *bgpSpec) { s.SourceInterface = "eth1" }),
				peer("c", 1, func(s *bgpSpec) { s.SourceInterface = "eth1" }),
			}, Nodes: nodes},
			map[string]string{"peer/a": "Accepted", "peer/b": "Accepted", "peer/c": "!Duplicate: node node-1 has a session with 192.0.2.1 port 179 already, by the older BGPPeer b"},
		},
		"no node": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, func(s *bgpSpec) { s.NodeSelectors = rack("z") })}, Nodes: nodes},
			map[string]string{"peer/a": "PartlyAccepted: the peer is in force, but spec.nodeSelectors match no node"},
		},
		"ASN 0 in a label": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, func(s *bgpSpec) {
				s.PeerASN, s.PeerASNFrom = 0, &v1beta1.NodeValue{NodeLabel: "asn"}
			})}, Nodes: []Node{{Name: "n", Labels: map[string]string{"asn": "0"}}}},
			map[string]string{"peer/a": "!Invalid: spec.peerASNFrom: label asn of node n: must be an AS number from 1"},
		},
		"a node without the annotation": {
			Objects{BGPPeers: []*v1beta1.BGPPeer{peer("a", 1, func(s *bgpSpec) {
				s.PeerAddress, s.PeerAddressFrom = "", &v1beta1.PeerAddressSource{NodeAnnotation: "example.com/tor"}
			})}, Nodes: []Node{{Name: "m", Annotations: map[string]string{"example.com/tor": "192.0.2.1"}}, {Name: "n"}}},
			map[string]string{"peer/a": "PartlyAccepted: the peer is in force on other nodes; spec.peerAddressFrom.nodeAnnotation: node n has no annotation example.com/tor; set it"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkBGPVerdicts(t, test.objects, test.want)
		})
	}
}

func TestBGPAdvertisementVerdicts(t *testing.T) {
	t.Parallel()
	type spec = v1beta1.BGPAdvertisementSpec
	with := func(refs ...v1beta1.CommunityRef) *v1beta1.BGPAdvertisement {
		return bgpAdvertisement("a", func(s *spec) { s.Communities = refs })
	}
	numbered := func(n int) (refs []v1beta1.CommunityRef) {
		for i := range n {
			refs = append(refs, v1beta1.CommunityRef(fmt.Sprintf("65000:%d", i)))
		}
		return refs
	}
	aliases := []*v1beta1.Community{community("c", 1, v1beta1.CommunityAlias{Name: "mine", Value: "65000:1"})}
	tests := map[string]struct {
		objects Objects
		want    map[string]string
	}{
		"empty":          {Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", nil)}}, map[string]string{"adv/a": "Accepted: the advertisement is in force"}},
		"community":      {Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{with("no-export", "65000:1", "large:1:2:4294967295")}}, map[string]string{"adv/a": "Accepted"}},
		"alias":          {Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{with("mine")}, Communities: aliases}, map[string]string{"adv/a": "Accepted", "community/c": "Accepted"}},
		"unknown alias":  {Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{with("mine", "yours")}, Communities: aliases}, map[string]string{"adv/a": "!UnknownCommunity: spec.communities[1]: no Community in force has the name yours; correct", "community/c": "Accepted"}},
		"llgr-stale":     {Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{with("no-export", "llgr-stale")}}, map[string]string{"adv/a": "!spec.communities[1]: 65535:6 is llgr-stale"}},
		"bad community":  {Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{with("65536:1")}}, map[string]string{"adv/a": "!spec.communities[0]: \"65536:1\" is neither"}},
		"63 communities": {Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{with(numbered(63)...)}}, map[string]string{"adv/a": "Accepted"}},
		"64 communities": {Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{with(numbered(64)...)}}, map[string]string{"adv/a": "!Invalid: spec.communities: Too many: 64: must have at most 63 items"}},
		"attributes out of range": {
			Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *spec) {
				s.AggregationLength, s.AggregationLengthV6, s.LocalPref, s.MED, s.ASPathPrepend = ptr.To[int32](0), ptr.To[int32](129), ptr.To[int64](-1), ptr.To[int64](1<<32), 16
			})}},
			map[string]string{"adv/a": "!Invalid: spec.aggregationLength: Invalid value: 0: must be from 1 to 32; spec.aggregationLengthV6: Invalid value: 129: must be from 1 to 128; " +
				"spec.localPref: Invalid value: -1: must be from 0 to 4294967295; spec.med: Invalid value: 4294967296: must be from 0 to 4294967295; spec.asPathPrepend: Invalid value: 16"},
		},
		"unknown pool": {
			Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *spec) { s.IPAddressPools = []v1beta1.ObjectName{"gone"} })}},
			map[string]string{"adv/a": "!UnknownPool: spec.ipAddressPools[0]: no pool gone is in force"},
		},
		"unknown peer": {
			Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *spec) { s.Peers = []v1beta1.ObjectName{"gone"} })}},
			map[string]string{"adv/a": "!UnknownPeer: spec.peers[0]: there is no BGPPeer gone"},
		},
		"one of two peers": {
			Objects{
				BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *spec) { s.Peers = []v1beta1.ObjectName{"gone", "p"} })},
				BGPPeers:          []*v1beta1.BGPPeer{peer("p", 1, nil)},
			},
			map[string]string{"adv/a": "PartlyAccepted: the advertisement is in force otherwise; spec.peers[0]: there is no BGPPeer gone", "peer/p": "Accepted"},
		},
		"aggregate wider than the pool": {
			Objects{
				BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *spec) { s.AggregationLength = ptr.To[int32](24) })},
				IPAddressPools:    []*v1beta1.IPAddressPool{pool("p", 1, "192.0.2.0/24", "198.51.100.128/25")},
			},
			map[string]string{"adv/a": "PartlyAccepted: the advertisement is in force otherwise; spec.aggregationLength: a prefix of /24 at an end of 198.51.100.128-198.51.100.255 of pool p reaches beyond the pool"},
		},
		"of two meanings of a name the younger is refused": {
			Objects{Communities: []*v1beta1.Community{
				community("a", 1, v1beta1.CommunityAlias{Name: "x", Value: "1:1"}), community("b", 2, v1beta1.CommunityAlias{Name: "x", Value: "1:2"}),
				community("c", 0, v1beta1.CommunityAlias{Name: "x", Value: "1:2"}),
			}},
			map[string]string{"community/a": "!Conflict: spec.communities[0]: x is 1:2 in the older Community b", "community/b": "Accepted", "community/c": "Accepted"},
		},
		"only the name that has another meaning is refused": {
			Objects{
				Communities: []*v1beta1.Community{
					community("a", 1, v1beta1.CommunityAlias{Name: "x", Value: "1:1"}, v1beta1.CommunityAlias{Name: "y", Value: "1:3"}),
					community("b", 2, v1beta1.CommunityAlias{Name: "x", Value: "1:2"}),
				},
				BGPAdvertisements: []*v1beta1.BGPAdvertisement{with("x", "y")},
			},
			map[string]string{
				"community/a": "PartlyAccepted: the other names are in force; spec.communities[0]: x is 1:2 in the older Community b; choose another name",
				"community/b": "Accepted", "adv/a": "Accepted",
			},
		},
		"bad names": {
			Objects{Communities: []*v1beta1.Community{community("a", 1, v1beta1.CommunityAlias{Name: "no-export", Value: "1:1"}, v1beta1.CommunityAlias{Name: "y", Value: "1"})}},
			map[string]string{"community/a": "!Invalid: spec.communities[0].name: Invalid value: \"no-export\": is a well-known community; choose another name; spec.communities[1].value"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkBGPVerdicts(t, test.objects, test.want)
		})
	}
}

// TestReferencesOutliveTheirObjects: who deletes a profile, a Secret or a
// Community that is in use takes down neither a session nor a route.
func TestReferencesOutliveTheirObjects(t *testing.T) {
	t.Parallel()
	objects := Objects{
		BGPPeers: []*v1beta1.BGPPeer{peer("p", 1, func(s *bgpSpec) {
			s.BFDProfile, s.PasswordSecret = "fast", &v1beta1.SecretReference{Name: "router"}
		})},
		BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement("a", func(s *v1beta1.BGPAdvertisementSpec) {
			s.Communities = []v1beta1.CommunityRef{"mine"}
		})},
		BFDProfiles: []*v1beta1.BFDProfile{profile("fast")},
		Secrets:     []Secret{{Name: "router", Password: "hunter2"}, {Name: "unused", Password: "hunter3"}},
		Communities: []*v1beta1.Community{community("c", 1, v1beta1.CommunityAlias{Name: "mine", Value: "65000:1"})},
	}
	first, _ := Build(objects)
	objects.BFDProfiles, objects.Secrets, objects.Communities, objects.Before = nil, nil, nil, first
	second, verdicts := Build(objects)
	objects.Before = second
	third, _ := Build(objects)
	for name, v := range map[string]Verdict{"peer": verdicts.BGPPeers["p"], "advertisement": verdicts.BGPAdvertisements["a"]} {
		if v.Accepted {
			t.Errorf("%s: accepted, though what it names is gone", name)
		}
	}
	for name, s := range map[string]*Snapshot{"first": first, "second": second, "third": third} {
		sessions, problems := SessionsOf(s, Node{Name: "n"})
		if len(sessions) != 1 || len(problems) != 0 || sessions[0].Password != "hunter2" || sessions[0].BFD == nil {
			t.Errorf("%s: sessions %v, problems %v", name, sessions, problems)
		}
		if len(s.BGPAdvertisements) != 1 || len(s.BGPAdvertisements[0].Communities) != 1 {
			t.Errorf("%s: advertisements %v", name, s.BGPAdvertisements)
		}
		if _, kept := s.memory.passwords["unused"]; kept {
			t.Errorf("%s: remembers a password that nobody uses", name)
		}
	}
	// A speaker that never knew them makes no session without the password, and
	// announces nothing without the community.
	objects.Before = nil
	fresh, _ := Build(objects)
	if sessions, problems := SessionsOf(fresh, Node{Name: "n"}); len(sessions) != 0 || len(problems) != 1 || len(fresh.BGPAdvertisements) != 0 {
		t.Errorf("fresh: sessions %v, problems %v, advertisements %v", sessions, problems, fresh.BGPAdvertisements)
	}
}

// TestNamingTooEarly: who changes an object to name what is not there yet takes
// down neither a session nor a route; the object stays in force as it was.
func TestNamingTooEarly(t *testing.T) {
	t.Parallel()
	peerWith := func(secret, address string) *v1beta1.BGPPeer {
		return peer("p", 1, func(s *bgpSpec) {
			s.PeerAddress = v1beta1.PeerAddress(address)
			if secret != "" {
				s.PasswordSecret = &v1beta1.SecretReference{Name: v1beta1.ObjectName(secret)}
			}
		})
	}
	advWith := func(med int64, refs ...v1beta1.CommunityRef) *v1beta1.BGPAdvertisement {
		return bgpAdvertisement("a", func(s *v1beta1.BGPAdvertisementSpec) {
			s.MED, s.Communities = ptr.To(med), refs
			s.IPAddressPoolSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"tier": "web"}}}
		})
	}
	secrets := []Secret{{Name: "old", Password: "hunter2"}}
	mine := []*v1beta1.Community{community("c", 1, v1beta1.CommunityAlias{Name: "mine", Value: "65000:1"})}
	tests := map[string]struct {
		// before and after are the objects; what is never there is named "new".
		peers          [2]*v1beta1.BGPPeer
		advertisements [2]*v1beta1.BGPAdvertisement
		// gone says that what was named before is deleted meanwhile.
		gone bool
		// want describes the session and the route; "" for none.
		session, route string
	}{
		"another Secret":                  {[2]*v1beta1.BGPPeer{peerWith("old", "192.0.2.1"), peerWith("new", "192.0.2.2")}, [2]*v1beta1.BGPAdvertisement{}, false, "192.0.2.1 hunter2", ""},
		"another Secret, and the old one": {[2]*v1beta1.BGPPeer{peerWith("old", "192.0.2.1"), peerWith("new", "192.0.2.1")}, [2]*v1beta1.BGPAdvertisement{}, true, "192.0.2.1 hunter2", ""},
		"the first Secret":                {[2]*v1beta1.BGPPeer{peerWith("", "192.0.2.1"), peerWith("new", "192.0.2.1")}, [2]*v1beta1.BGPAdvertisement{}, false, "192.0.2.1 ", ""},
		"a new peer":                      {[2]*v1beta1.BGPPeer{nil, peerWith("new", "192.0.2.1")}, [2]*v1beta1.BGPAdvertisement{}, false, "", ""},
		"another community":               {[2]*v1beta1.BGPPeer{}, [2]*v1beta1.BGPAdvertisement{advWith(1, "mine"), advWith(2, "new")}, false, "", "1 [65000:1]"},
		"another community, the old gone": {[2]*v1beta1.BGPPeer{}, [2]*v1beta1.BGPAdvertisement{advWith(1, "mine"), advWith(2, "mine", "new")}, true, "", "1 [65000:1]"},
		"a new advertisement":             {[2]*v1beta1.BGPPeer{}, [2]*v1beta1.BGPAdvertisement{nil, advWith(2, "new")}, false, "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var before *Snapshot
			for i, at := range []int{0, 1, 1, 1} { // once more after each edit of anything
				objects := Objects{Secrets: secrets, Communities: mine, Before: before}
				if test.gone && i > 0 {
					objects.Secrets, objects.Communities = nil, nil
				}
				if p := test.peers[at]; p != nil {
					objects.BGPPeers = append(objects.BGPPeers, p)
				}
				if a := test.advertisements[at]; a != nil {
					objects.BGPAdvertisements = append(objects.BGPAdvertisements, a)
				}
				if i > 1 { // a pool that the advertisement does not select
					objects.IPAddressPools = append(objects.IPAddressPools, pool("other", 1, "192.0.2.0/24"))
				}
				snapshot, verdicts := Build(objects)
				before = snapshot
				if i == 0 {
					continue
				}
				for name, v := range map[string]Verdict{"p": verdicts.BGPPeers["p"], "a": verdicts.BGPAdvertisements["a"]} {
					if v.Accepted {
						t.Errorf("%s is accepted: %s", name, v.Message)
					}
				}
				var session, route string
				sessions, _ := SessionsOf(snapshot, Node{Name: "n"})
				for _, s := range sessions {
					session += s.Address.String() + " " + string(s.Password)
				}
				for _, a := range snapshot.BGPAdvertisements {
					route += fmt.Sprint(*a.MED, " ", a.Communities)
					if i > 1 && a.SelectsPool("other") {
						t.Error("a pool that came later is announced")
					}
				}
				if session != test.session || route != test.route {
					t.Errorf("build %d: session %q, want %q; route %q, want %q", i, session, test.session, route, test.route)
				}
			}
		})
	}
}

// TestMessagesAreCut: a status with a message of more than 32768 bytes would be
// refused.
func TestMessagesAreCut(t *testing.T) {
	t.Parallel()
	var names []v1beta1.ObjectName
	var ranges []v1beta1.AddressRange
	for i := range 1000 {
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("é", 100))
		names, ranges = append(names, v1beta1.ObjectName(name)), append(ranges, v1beta1.AddressRange(name))
	}
	advertisement := func(name string, change func(*v1beta1.BGPAdvertisementSpec)) Objects {
		return Objects{BGPAdvertisements: []*v1beta1.BGPAdvertisement{bgpAdvertisement(name, change)}}
	}
	layer2 := &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1beta1.L2AdvertisementSpec{IPAddressPools: names}}
	for name, test := range map[string]struct {
		objects Objects
		want    string
	}{
		"pools":        {advertisement("a", func(s *v1beta1.BGPAdvertisementSpec) { s.IPAddressPools = names }), "and 996 more"},
		"layer 2":      {Objects{L2Advertisements: []*v1beta1.L2Advertisement{layer2}}, "and 996 more"},
		"peers":        {advertisement("a", func(s *v1beta1.BGPAdvertisementSpec) { s.Peers = names }), "and 996 more"},
		"wrong fields": {Objects{IPAddressPools: []*v1beta1.IPAddressPool{pool("a", 1, ranges...)}}, "… and more"},
		"one long value": {advertisement("a", func(s *v1beta1.BGPAdvertisementSpec) {
			s.Communities = []v1beta1.CommunityRef{v1beta1.CommunityRef(strings.Repeat("é", 40000))}
		}), "… and more"},
	} {
		_, verdicts := Build(test.objects)
		for _, of := range verdicts.all() {
			for _, v := range of {
				if len(v.Message) > 4096 || !utf8.ValidString(v.Message) || !strings.Contains(v.Message, test.want) {
					t.Errorf("%s: %d bytes: %.200s", name, len(v.Message), v.Message)
				}
			}
		}
	}
}

func TestNewSecret(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kind           corev1.SecretType
		data, password string
		problem        string
	}{
		"good":       {corev1.SecretTypeBasicAuth, "hunter2", "hunter2", ""},
		"line break": {corev1.SecretTypeBasicAuth, "hunter2\n", "hunter2", ""},
		"wrong type": {corev1.SecretTypeOpaque, "hunter2", "", "is of type Opaque and must be of type kubernetes.io/basic-auth"},
		"empty":      {corev1.SecretTypeBasicAuth, "\n", "", "has no password in its field password"},
		"too long":   {corev1.SecretTypeBasicAuth, strings.Repeat("x", 81), "", "has a password of 81 bytes; TCP MD5 takes 80 at most"},
	} {
		got := NewSecret(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Type: test.kind, Data: map[string][]byte{"password": []byte(test.data)}})
		if string(got.Password) != test.password || got.Problem != test.problem || got.Name != "s" {
			t.Errorf("%s: got %q, problem %q", name, string(got.Password), got.Problem)
		}
	}
}

func TestPasswordsAreNotPrinted(t *testing.T) {
	t.Parallel()
	secrets := []Secret{{Name: "router", Password: "hunter2"}}
	snapshot, verdicts := Build(Objects{
		BGPPeers: []*v1beta1.BGPPeer{
			peer("a", 1, func(s *bgpSpec) { s.PasswordSecret = &v1beta1.SecretReference{Name: "router"} }),
			peer("b", 2, func(s *bgpSpec) { s.PeerPort, s.Password = 180, "hunter2" }),
		},
		Secrets: secrets,
	})
	sessions, _ := SessionsOf(snapshot, Node{Name: "n"})
	if len(sessions) != 2 || sessions[0].Password != "hunter2" || sessions[1].Password != "hunter2" {
		t.Fatalf("sessions %v", sessions)
	}
	for _, value := range []any{snapshot, *snapshot, snapshot.BGPPeers, *snapshot.BGPPeers[0], sessions, sessions[0], secrets, verdicts} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			if text := fmt.Sprintf(format, value); strings.Contains(text, "hunter2") {
				t.Errorf("%s of %T has the password: %s", format, value, text)
			}
		}
	}
}
