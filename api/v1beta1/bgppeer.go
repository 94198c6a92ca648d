package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPPeer is a router that the speakers have BGP sessions with (RFC 4271), one
// from each node that it selects.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bgppeer,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.peerAddress`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`
// +kubebuilder:printcolumn:name="ASN",type=integer,JSONPath=`.spec.peerASN`
// +kubebuilder:printcolumn:name="My ASN",type=integer,JSONPath=`.spec.myASN`
// +kubebuilder:printcolumn:name="BFD",type=string,JSONPath=`.spec.bfdProfile`
// +kubebuilder:printcolumn:name="Up",type=string,JSONPath=`.status.up`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is who the peer is and how to talk to it.
	// +required
	Spec BGPPeerSpec `json:"spec"`
	// status is what Berth reports about the peer. How its sessions are doing
	// is in the NodeStates.
	// +optional
	Status BGPPeerStatus `json:"status,omitempty"`
}

// BGPPeerSpec says who the peer is and how to talk to it.
//
// +kubebuilder:validation:XValidation:rule="has(self.myASN) != has(self.myASNFrom)",message="give either myASN or myASNFrom: the AS number of the nodes",fieldPath=".myASN"
// +kubebuilder:validation:XValidation:rule="[has(self.peerASN), has(self.dynamicASN), has(self.peerASNFrom)].filter(x, x).size() == 1",message="give exactly one of peerASN, dynamicASN and peerASNFrom: the AS number of the peer",fieldPath=".peerASN"
// +kubebuilder:validation:XValidation:rule="[has(self.peerAddress), has(self.interface), has(self.peerAddressFrom)].filter(x, x).size() == 1",message="give exactly one of peerAddress, interface and peerAddressFrom: where the peer is",fieldPath=".peerAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.localASN) || !has(self.peerASN) || self.localASN != self.peerASN",message="localASN is for external peers and cannot be the AS number of the peer; for an internal peer give it as myASN",fieldPath=".localASN"
// +kubebuilder:validation:XValidation:rule="!has(self.localASN) || !has(self.dynamicASN) || self.dynamicASN != 'internal'",message="localASN is for external peers and does not go with dynamicASN internal; for an internal peer give it as myASN",fieldPath=".localASN"
// +kubebuilder:validation:XValidation:rule="!(has(self.sourceAddress) && has(self.sourceInterface))",message="give either sourceAddress or sourceInterface",fieldPath=".sourceAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.sourceAddress) && !has(self.sourceInterface)",message="a peer on an interface is spoken to from the link-local address of that interface; remove sourceAddress and sourceInterface",fieldPath=".interface"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.vrf)",message="the interface decides about the VRF already; remove vrf",fieldPath=".vrf"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.ebgpMultiHop) || !self.ebgpMultiHop",message="a peer on an interface is one hop away; remove ebgpMultiHop",fieldPath=".ebgpMultiHop"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.peerAddress) || !isIP(self.sourceAddress) || !isIP(self.peerAddress) || ip(self.sourceAddress).family() == ip(self.peerAddress).family()",message="must be of the same family, IPv4 or IPv6, as peerAddress",fieldPath=".sourceAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveTime) || !self.keepaliveTime.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') || has(self.holdTime) && !self.holdTime.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') || duration(self.keepaliveTime) <= duration(has(self.holdTime) ? self.holdTime : '90s')",message="must not be above holdTime (90s unless given); a third of it is usual",fieldPath=".keepaliveTime"
// +kubebuilder:validation:XValidation:rule="!(has(self.password) && has(self.passwordSecret))",message="give either password or passwordSecret",fieldPath=".password"
// +kubebuilder:validation:XValidation:rule="!has(self.gracefulRestartTime) || has(self.enableGracefulRestart) && self.enableGracefulRestart",message="goes with enableGracefulRestart: true",fieldPath=".gracefulRestartTime"
// +kubebuilder:validation:XValidation:rule="!has(self.ttlSecurity) || !has(self.ebgpMultiHop) || !self.ebgpMultiHop",message="goes without ebgpMultiHop: it says itself how many hops away the peer may be",fieldPath=".ttlSecurity"
// +kubebuilder:validation:XValidation:rule="!has(self.listenPort) || has(self.passive) && self.passive",message="goes with passive: true; Berth listens for passive peers only",fieldPath=".listenPort"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.passive) || !self.passive",message="does not go with interface: nothing is known of the peer before it is spoken to; give its peerAddress, such as fe80::1%eth0",fieldPath=".passive"
// +kubebuilder:validation:XValidation:rule="!(has(self.families) && has(self.dualStackAddressFamily))",message="give either families or dualStackAddressFamily",fieldPath=".families"
type BGPPeerSpec struct {
	// myASN is the AS number of the nodes.
	// +optional
	MyASN ASN `json:"myASN,omitempty"`
	// myASNFrom takes the AS number of each node from its annotations or labels.
	// +optional
	MyASNFrom *NodeValue `json:"myASNFrom,omitempty"`

	// peerASN is the AS number of the peer. When it is that of the nodes, the
	// session is internal (iBGP).
	// +optional
	PeerASN ASN `json:"peerASN,omitempty"`
	// dynamicASN takes the peer with whatever AS number it has: internal, if it
	// is that of the nodes; external, if it is another.
	// +optional
	// +kubebuilder:validation:Enum=internal;external
	DynamicASN DynamicASN `json:"dynamicASN,omitempty"`
	// peerASNFrom takes the AS number of each node's peer from the annotations
	// or labels of the node.
	// +optional
	PeerASNFrom *NodeValue `json:"peerASNFrom,omitempty"`

	// localASN stands in for myASN towards this peer, in the OPEN message and in
	// the AS_PATH. It is for external peers that know the nodes by another number.
	// +optional
	LocalASN ASN `json:"localASN,omitempty"`

	// peerAddress is the IP address of the peer. A link-local one comes with the
	// interface of the nodes that it is on: "fe80::1%eth0".
	// +optional
	PeerAddress PeerAddress `json:"peerAddress,omitempty"`
	// interface of the nodes that the peer is on, as the only BGP router
	// (unnumbered): the peer is known by its router advertisements (RFC 4861)
	// and spoken to at its link-local address.
	// +optional
	Interface InterfaceName `json:"interface,omitempty"`
	// peerAddressFrom takes the address of each node's peer from the node, so
	// that one BGPPeer serves nodes with different routers.
	// +optional
	PeerAddressFrom *PeerAddressSource `json:"peerAddressFrom,omitempty"`

	// sourceAddress is the node's address that the session comes from. It is for
	// peers of a single node; where there are more, use sourceInterface.
	// +optional
	SourceAddress IPAddress `json:"sourceAddress,omitempty"`
	// sourceInterface of the node, whose first address of the peer's family the
	// session comes from.
	// +optional
	SourceInterface InterfaceName `json:"sourceInterface,omitempty"`

	// peerPort is the TCP port of the peer.
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PeerPort int32 `json:"peerPort,omitempty"`

	// holdTime is how long the session outlives the last sign of life of the
	// peer: "0s" for ever, otherwise 3s to 65535s. The smaller of both sides'
	// proposals counts (RFC 4271 section 4.2). Without it, 90s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') || duration(self) == duration('0s') || duration(self) >= duration('3s') && duration(self) <= duration('65535s')",message="must be 0s or from 3s to 65535s (RFC 4271 section 4.2)",reason=FieldValueInvalid
	HoldTime Duration `json:"holdTime,omitempty"`
	// keepaliveTime is the time between two signs of life of the node, at most
	// holdTime. It is shortened to a third of the hold time that was agreed on.
	// Without it, that third.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') || duration(self) == duration('0s') || duration(self) >= duration('1s') && duration(self) <= duration('21845s')",message="must be 0s or from 1s to 21845s (RFC 4271 section 4.4)",reason=FieldValueInvalid
	KeepaliveTime Duration `json:"keepaliveTime,omitempty"`
	// connectTime is how long one attempt to connect may take. Without it, 10s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') || duration(self) >= duration('1s') && duration(self) <= duration('65535s')",message="must be from 1s to 65535s",reason=FieldValueInvalid
	ConnectTime Duration `json:"connectTime,omitempty"`

	// routerID is the BGP identifier of the node in the form of an IPv4 address.
	// Without it, the node's IPv4 address, and on a node without one a number
	// made from its name (RFC 6286).
	// +optional
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || ip(self).family() == 4 && !ip(self).isUnspecified()",message="must be in the form of an IPv4 address, and not 0.0.0.0",reason=FieldValueInvalid
	RouterID IPAddress `json:"routerID,omitempty"`

	// nodeSelectors match the nodes that speak to the peer, by their labels; one
	// match is enough. Without any, all nodes.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	NodeSelectors []LabelSelector `json:"nodeSelectors,omitempty"`

	// password for TCP MD5 signatures (RFC 2385), in clear text for everyone to
	// read who may read BGPPeers. Prefer passwordSecret.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=80
	Password string `json:"password,omitempty"`
	// passwordSecret names a Secret of type kubernetes.io/basic-auth in the
	// namespace of Berth, whose field password is the password.
	// +optional
	PasswordSecret *SecretReference `json:"passwordSecret,omitempty"`

	// bfdProfile names the BFDProfile by which the sessions are watched. Without
	// it they are not.
	// +optional
	BFDProfile ObjectName `json:"bfdProfile,omitempty"`

	// enableGracefulRestart asks the peer to keep the routes while a speaker
	// restarts (RFC 4724).
	// +optional
	EnableGracefulRestart bool `json:"enableGracefulRestart,omitempty"`
	// gracefulRestartTime is how long the peer is to wait for the speaker, 1s to
	// 4095s. Without it, 120s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') || duration(self) >= duration('1s') && duration(self) <= duration('4095s')",message="must be from 1s to 4095s (RFC 4724 section 3)",reason=FieldValueInvalid
	GracefulRestartTime Duration `json:"gracefulRestartTime,omitempty"`

	// ebgpMultiHop lets an external peer be more than one hop away.
	// +optional
	EBGPMultiHop bool `json:"ebgpMultiHop,omitempty"`
	// ttlSecurity is how many hops away the peer may be: packets that have come
	// further, by their TTL, are dropped (GTSM, RFC 5082). The peer has to send
	// with a TTL of 255.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	TTLSecurity int32 `json:"ttlSecurity,omitempty"`

	// passive waits for the peer to connect instead of connecting to it.
	// +optional
	Passive bool `json:"passive,omitempty"`
	// listenPort is the TCP port on which a node waits for a passive peer. Without it,
	// 179.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ListenPort int32 `json:"listenPort,omitempty"`

	// vrf is the network device of the VRF that the peer is reached in.
	// +optional
	VRF InterfaceName `json:"vrf,omitempty"`

	// families of the routes that the peer is told: IPv4, IPv6 or both (RFC 4760).
	// Without it and dualStackAddressFamily, that of the peer's address, and both
	// for a peer on an interface.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	Families []IPFamily `json:"families,omitempty"`
	// dualStackAddressFamily true is the same as families IPv4 and IPv6, false
	// the same as only that of the peer's address.
	// +optional
	DualStackAddressFamily *bool `json:"dualStackAddressFamily,omitempty"`
}

// ASN is the number of an autonomous system (RFC 6793).
//
// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 4294967294 && self != 23456 && self != 65535",message="must be an AS number: 1 to 4294967294, but for 23456 and 65535, which are reserved (RFC 6793, RFC 7300, RFC 7607)",reason=FieldValueInvalid
type ASN int64

// DynamicASN says which AS numbers of a peer are taken.
type DynamicASN string

// Which AS numbers of a peer are taken.
const (
	// DynamicInternal: that of the node.
	DynamicInternal DynamicASN = "internal"
	// DynamicExternal: any but that of the node.
	DynamicExternal DynamicASN = "external"
)

// IPFamily is IPv4 or IPv6.
//
// +kubebuilder:validation:Enum=IPv4;IPv6
type IPFamily string

// The families.
const (
	FamilyIPv4 IPFamily = "IPv4"
	FamilyIPv6 IPFamily = "IPv6"
)

// IPAddress is an IPv4 or IPv6 address.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=39
// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an IP address, such as 192.0.2.1 or 2001:db8::1",reason=FieldValueInvalid
type IPAddress string

// PeerAddress is an IPv4 or IPv6 address of another host; a link-local IPv6
// address is followed by "%" and the interface that it is on (RFC 4007).
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=55
// +kubebuilder:validation:XValidation:rule="self.contains('%') ? self.matches('^[^%]+%[^%/:\\\\s]{1,15}$') && isIP(self.split('%')[0]) : isIP(self)",message="must be an IP address, such as 192.0.2.1, 2001:db8::1 or fe80::1%eth0",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!isIP(self) || ip(self).family() != 6 || !ip(self).isLinkLocalUnicast()",message="a link-local address needs the interface that it is on, such as fe80::1%eth0",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!self.contains('%') || !isIP(self.split('%')[0]) || ip(self.split('%')[0]).family() == 6 && ip(self.split('%')[0]).isLinkLocalUnicast()",message="only a link-local IPv6 address goes with an interface; remove the % and what follows",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!isIP(self) || ip(self).isGlobalUnicast() || ip(self).isLoopback() || ip(self).isLinkLocalUnicast()",message="must be the address of one host, not a multicast, broadcast or unspecified one",reason=FieldValueInvalid
type PeerAddress string

// NodeValue is the value of an annotation or of a label of a node.
//
// +kubebuilder:validation:XValidation:rule="has(self.nodeAnnotation) != has(self.nodeLabel)",message="give either nodeAnnotation or nodeLabel"
type NodeValue struct {
	// nodeAnnotation is the name of an annotation.
	// +optional
	NodeAnnotation QualifiedName `json:"nodeAnnotation,omitempty"`
	// nodeLabel is the name of a label.
	// +optional
	NodeLabel QualifiedName `json:"nodeLabel,omitempty"`
}

// PeerAddressSource says where the address of a node's peer comes from.
//
// +kubebuilder:validation:XValidation:rule="[has(self.nodeAnnotation), has(self.nodeLabel), has(self.defaultGateway)].filter(x, x).size() == 1",message="give exactly one of nodeAnnotation, nodeLabel and defaultGateway"
type PeerAddressSource struct {
	// nodeAnnotation is the name of an annotation of the node, whose value is one
	// address or several separated by commas: a session is made with each.
	// +optional
	NodeAnnotation QualifiedName `json:"nodeAnnotation,omitempty"`
	// nodeLabel is the name of a label of the node, whose value is an IPv4
	// address. (A label cannot hold an IPv6 address.)
	// +optional
	NodeLabel QualifiedName `json:"nodeLabel,omitempty"`
	// defaultGateway is the family of the node's default route, whose gateways
	// are the peers: IPv4 or IPv6.
	// +optional
	DefaultGateway IPFamily `json:"defaultGateway,omitempty"`
}

// QualifiedName is the name of a label or an annotation.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=317
// +kubebuilder:validation:XValidation:rule="!format.qualifiedName().validate(self).hasValue()",message="must be the name of a label or an annotation, such as rack or example.com/rack",reason=FieldValueInvalid
type QualifiedName string

// SecretReference names a Secret in the namespace of Berth.
type SecretReference struct {
	// name of the Secret.
	// +required
	Name ObjectName `json:"name"`
}

// BGPPeerStatus is what Berth reports about a peer.
type BGPPeerStatus struct {
	// up is how many of the sessions with the peer are established, of all that
	// nodes report: "2/3". Absent while none is reported.
	// +optional
	Up string `json:"up,omitempty"`
	// established is how many sessions with the peer are established.
	// +optional
	Established int32 `json:"established"`
	// sessions is how many sessions with the peer nodes report, established or not.
	// +optional
	Sessions int32 `json:"sessions"`

	// conditions of the peer. Accepted says whether it is in force.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPPeerList is a list of peers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}
