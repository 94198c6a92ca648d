package metallb

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
)

func (c *conversion) bgpPeer(s *source) v1beta1.BGPPeerSpec {
	from := decode[bgpPeerSpec](s)
	if strings.HasSuffix(s.object.GetAPIVersion(), "/v1beta1") {
		from.dropZeroTimes()
	}
	from.onInterface(s)
	to := v1beta1.BGPPeerSpec{
		MyASN: v1beta1.ASN(from.MyASN), PeerASN: v1beta1.ASN(from.PeerASN), LocalASN: v1beta1.ASN(from.LocalASN),
		DynamicASN:            v1beta1.DynamicASN(from.DynamicASN),
		PeerAddress:           v1beta1.PeerAddress(from.PeerAddress),
		Interface:             interfaceName(s, "spec.interface", from.Interface),
		SourceAddress:         v1beta1.IPAddress(from.SourceAddress),
		PeerPort:              number(s, "spec.peerPort", from.PeerPort, 0, 65535),
		HoldTime:              duration(s, "spec.holdTime", from.HoldTime),
		KeepaliveTime:         keepalive(s, from.KeepaliveTime),
		ConnectTime:           duration(s, "spec.connectTime", from.ConnectTime),
		RouterID:              v1beta1.IPAddress(from.RouterID),
		NodeSelectors:         selectors(s, "spec.nodeSelectors", from.NodeSelectors),
		Password:              from.Password,
		BFDProfile:            v1beta1.ObjectName(from.BFDProfile),
		EnableGracefulRestart: from.EnableGracefulRestart,
		EBGPMultiHop:          from.EBGPMultiHop,
		VRF:                   interfaceName(s, "spec.vrf", from.VRF),
	}
	if from.DualStackAddressFamily {
		to.DualStackAddressFamily = ptr.To(true)
	}
	if from.BFDProfile != "" {
		checkName(s, "spec.bfdProfile", from.BFDProfile)
	}
	c.password(s, &from, &to)
	remarkPeer(s, &from)
	return to
}

// onInterface drops what Berth does not take of a peer on an interface, where it
// makes no difference.
func (p *bgpPeerSpec) onInterface(s *source) {
	if p.Interface == "" {
		return
	}
	if p.VRF != "" {
		s.remark("spec.vrf", "dropped: the interface decides about the VRF")
	}
	if p.EBGPMultiHop {
		s.remark("spec.ebgpMultiHop", "dropped: a peer on an interface is one hop away")
	}
	if p.SourceAddress != "" {
		s.remark("spec.sourceAddress", "dropped: a peer on an interface is spoken to from the link-local address there, as MetalLB with FRR does")
	}
	p.VRF, p.EBGPMultiHop, p.SourceAddress = "", false, ""
}

// dropZeroTimes removes times that are zero, which in version v1beta1 are absent.
func (p *bgpPeerSpec) dropZeroTimes() {
	for _, t := range []**string{&p.HoldTime, &p.KeepaliveTime} {
		if *t != nil && isZero(**t) {
			*t = nil
		}
	}
}

// keepalive converts a keepaliveTime, of which BGP knows whole seconds only.
func keepalive(s *source, from *string) v1beta1.Duration {
	const field = "spec.keepaliveTime"
	to := duration(s, field, from)
	if d, err := time.ParseDuration(string(to)); err == nil && d > 0 && d < time.Second {
		s.refuse(field, "%s is less than a second", to)
	}
	return to
}

func isZero(duration string) bool {
	d, err := time.ParseDuration(duration)
	return err == nil && d == 0
}

func (c *conversion) password(s *source, from *bgpPeerSpec, to *v1beta1.BGPPeerSpec) {
	if len(from.Password) > mostPassword {
		s.refuse("spec.password", "is longer than the %d characters that TCP MD5 signatures allow", mostPassword)
	}
	if from.Password != "" {
		s.remark("spec.password", "in clear text, for everyone to read who may read BGPPeers; better put it into a Secret and name that as passwordSecret")
	}
	name := from.PasswordSecret.Name
	if name == "" {
		return
	}
	checkName(s, "spec.passwordSecret.name", name)
	to.PasswordSecret = &v1beta1.SecretReference{Name: v1beta1.ObjectName(name)}
	s.remark("spec.passwordSecret", "the Secret has to be in namespace %s", c.BerthNamespace)
	namespace := from.PasswordSecret.Namespace
	if namespace == "" {
		namespace = c.Namespace
	}
	warning := fmt.Sprintf("Secret %s: copy it into Berth's namespace:\n"+
		"  kubectl get secret %s -n %s -o jsonpath='{.data.password}' | base64 -d |\n"+
		"  kubectl create secret generic %s -n %s --type=kubernetes.io/basic-auth --from-file=password=/dev/stdin",
		name, name, namespace, name, c.BerthNamespace)
	c.Warnings = once(append(c.Warnings, warning))
}

// remarkPeer says what is different about a session. What depends on which of its
// ways to speak BGP MetalLB was started with, native or FRR, is not in the object.
func remarkPeer(s *source, from *bgpPeerSpec) {
	external := from.DynamicASN == "external" || from.PeerASN != 0 && from.PeerASN != from.MyASN
	if external && !from.EBGPMultiHop && from.Interface == "" {
		s.remark("spec.ebgpMultiHop", "the peer has to be one hop away. MetalLB's native mode does not mind; set it to true if the peer is further away")
	}
	if from.HoldTime != nil && isZero(*from.HoldTime) {
		s.remark("spec.holdTime", "0s: sessions never time out. Older versions of MetalLB take it for 90s; if yours does, remove it")
	}
	if from.ConnectTime != nil {
		s.remark("spec.connectTime", "is how long one attempt to connect may take; for MetalLB with FRR it is the time between two attempts")
	}
	if from.SourceAddress != "" {
		s.remark("spec.sourceAddress", "is in force, also if MetalLB runs with FRR, which ignores it; as a node's own address it needs nodeSelectors that select that node. For all nodes there is sourceInterface")
	}
	if from.LocalASN != 0 {
		s.remark("spec.localASN", "is in force, also if MetalLB runs with FRR, which ignores it")
	}
	if from.RouterID != "" && len(from.NodeSelectors) == 0 {
		s.remark("spec.routerID", "all nodes have the same towards this peer, as with MetalLB; routers may take them for one. Without it each has its own")
	}
	if from.EnableGracefulRestart {
		s.remark("spec.enableGracefulRestart", "peers are asked to wait for 120s; gracefulRestartTime changes that")
	}
	if from.DisableMP {
		s.remark("spec.disableMP", "dropped: a session has the routes of its own family only, unless dualStackAddressFamily is true")
	}
}

func bfdProfile(s *source) v1beta1.BFDProfileSpec {
	from := decode[bfdProfileSpec](s)
	return v1beta1.BFDProfileSpec{
		ReceiveInterval:  optional(s, "spec.receiveInterval", from.ReceiveInterval, 10, 60000),
		TransmitInterval: optional(s, "spec.transmitInterval", from.TransmitInterval, 10, 60000),
		DetectMultiplier: optional(s, "spec.detectMultiplier", from.DetectMultiplier, 2, 255),
		EchoInterval:     optional(s, "spec.echoInterval", from.EchoInterval, 10, 60000),
		EchoMode:         ptr.Deref(from.EchoMode, false),
		PassiveMode:      ptr.Deref(from.PassiveMode, false),
		MinimumTTL:       optional(s, "spec.minimumTtl", from.MinimumTTL, 1, 254),
	}
}

func (c *conversion) bgpAdvertisement(s *source) v1beta1.BGPAdvertisementSpec {
	from := decode[bgpAdvertisementSpec](s)
	to := v1beta1.BGPAdvertisementSpec{
		AggregationLength:      optional(s, "spec.aggregationLength", from.AggregationLength, 1, 32),
		AggregationLengthV6:    optional(s, "spec.aggregationLengthV6", from.AggregationLengthV6, 1, 128),
		IPAddressPools:         names(s, "spec.ipAddressPools", from.IPAddressPools),
		IPAddressPoolSelectors: selectors(s, "spec.ipAddressPoolSelectors", from.IPAddressPoolSelectors),
		NodeSelectors:          selectors(s, "spec.nodeSelectors", from.NodeSelectors),
		ServiceSelectors:       selectors(s, "spec.serviceSelectors", from.ServiceSelectors),
		Peers:                  names(s, "spec.peers", from.Peers),
	}
	if from.LocalPref != 0 { // which MetalLB cannot tell from absent
		to.LocalPref = ptr.To(from.LocalPref)
	}
	for _, name := range from.Communities {
		ref := name
		if value, unnamed := c.numbers[name]; unnamed {
			ref = value
			s.remark("spec.communities", "%s is written as %s, as Berth does not take that name", name, value)
		}
		if len(ref) > mostCommunityRef || !strings.Contains(ref, ":") && !namePattern.MatchString(ref) {
			s.refuse("spec.communities", "%q is neither a community nor a name of one that Berth takes", name)
		}
		to.Communities = append(to.Communities, v1beta1.CommunityRef(ref))
	}
	to.Communities = once(to.Communities)
	return to
}

var namePattern = regexp.MustCompile(`^[A-Za-z]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)

// community converts names of communities. Those that Berth does not take are
// replaced, where they are used, by what they mean.
func (c *conversion) community(s *source) v1beta1.CommunitySpec {
	from := decode[communitySpec](s)
	bound(s, "spec.communities", len(from.Communities), mostNames)
	var to v1beta1.CommunitySpec
	for _, alias := range from.Communities {
		if len(alias.Name) > mostCommunityRef || !namePattern.MatchString(alias.Name) || config.IsWellKnownCommunity(alias.Name) {
			c.numbers[alias.Name] = alias.Value
			s.remark("spec.communities", "%s is left out, as Berth does not take that name, and is written as %s where it is used", alias.Name, alias.Value)
			continue
		}
		to.Communities = append(to.Communities, v1beta1.CommunityAlias{Name: v1beta1.CommunityName(alias.Name), Value: v1beta1.CommunityValue(alias.Value)})
	}
	if len(to.Communities) == 0 {
		c.Remarks = append(c.Remarks, nameOf(s.object)+": nothing is left of it")
	}
	return to
}
