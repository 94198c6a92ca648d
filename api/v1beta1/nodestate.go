package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeState is what the speaker of one node reports. It has the name of the
// node and goes with it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Owned",type=string,JSONPath=`.status.l2.owned`
// +kubebuilder:printcolumn:name="Conflicts",type=string,priority=1,JSONPath=`.status.addressConflicts[*].address`
// +kubebuilder:printcolumn:name="BGP Up",type=string,JSONPath=`.status.bgpUp`
// +kubebuilder:printcolumn:name="BGP Down",type=string,JSONPath=`.status.bgpDown`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="BGPReady")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="BGPReady")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeState struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// status is what the speaker of the node reports.
	// +optional
	Status NodeStateStatus `json:"status,omitempty"`
}

// NodeStateStatus is what the speaker of a node reports.
type NodeStateStatus struct {
	// bgpUp is how many of the node's BGP sessions are established: "2/3".
	// +optional
	BGPUp string `json:"bgpUp,omitempty"`
	// bgpDown are the names of those that are not.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	BGPDown []string `json:"bgpDown,omitempty"`

	// bgpSessions of the node, in the order of their names, the first 128.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=128
	BGPSessions []BGPSessionStatus `json:"bgpSessions,omitempty"`

	// l2 sums up what the node does on layer 2.
	// +optional
	L2 *L2Status `json:"l2,omitempty"`
	// addressConflicts are the addresses of Services that a host which is not
	// Berth's speaks for, as this node hears it, in the order of the addresses,
	// the first 256. One that is no longer heard goes after a while.
	// +optional
	// +listType=map
	// +listMapKey=address
	// +kubebuilder:validation:MaxItems=256
	AddressConflicts []AddressConflict `json:"addressConflicts,omitempty"`

	// conditions of the node. BGPReady says whether every session that the
	// BGPPeers ask for is established, and KubeProxyReady whether kube-proxy
	// answers that its rules are up to date.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// L2Status sums up what a node does on layer 2.
type L2Status struct {
	// owned is how many addresses the node owns, that is, answers for: "3", or
	// "3 IPv4, 1 IPv6" where it owns some of both families.
	// +optional
	Owned string `json:"owned,omitempty"`
	// ownedIPv4 is how many IPv4 addresses the node owns.
	// +optional
	OwnedIPv4 int32 `json:"ownedIPv4"`
	// ownedIPv6 is how many IPv6 addresses the node owns.
	// +optional
	OwnedIPv6 int32 `json:"ownedIPv6"`
	// standingInFor are the nodes without a speaker for whose addresses this one
	// answers, with their MAC addresses.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	StandingInFor []string `json:"standingInFor,omitempty"`
}

// AddressConflict is an address of Services that a host which is not Berth's
// speaks for (RFC 5227; for IPv6 RFC 4862 section 5.4).
type AddressConflict struct {
	// address that both have.
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`
	// mac is the link-layer address of the other host.
	// +kubebuilder:validation:MaxLength=64
	MAC string `json:"mac"`
	// interface of the node that the other host is heard on.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`
	// since is when the other host was first heard.
	Since metav1.Time `json:"since"`
	// lastSeen is when the other host was last heard, give or take some minutes.
	LastSeen metav1.Time `json:"lastSeen"`
	// beforeUse says that the other host had the address before any node
	// announced it. The controller then gives it to nobody, and gives another to
	// Services that have it without having asked for just this one.
	// +optional
	BeforeUse bool `json:"beforeUse"`
}

// BGPSessionStatus is the state of one BGP session.
type BGPSessionStatus struct {
	// name of the session: that of the BGPPeer, followed by "@" and the address
	// if that comes from peerAddressFrom.
	Name string `json:"name"`
	// peer is the name of the BGPPeer.
	Peer string `json:"peer"`
	// address of the peer, or the interface that it is on while its address is
	// not known.
	// +optional
	Address string `json:"address,omitempty"`
	// localAddress that the node speaks from.
	// +optional
	LocalAddress string `json:"localAddress,omitempty"`
	// vrf that the peer is reached in.
	// +optional
	VRF string `json:"vrf,omitempty"`

	// state of the session (RFC 4271 section 8.2.2): Idle, Connect, Active,
	// OpenSent, OpenConfirm or Established. Invalid where there can be none; then
	// lastError says why.
	// +kubebuilder:validation:Enum=Invalid;Idle;Connect;Active;OpenSent;OpenConfirm;Established
	State BGPState `json:"state"`
	// since is when the session came into this state.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// lastError is what last ended the session, or kept it from coming up.
	// +optional
	LastError *SessionError `json:"lastError,omitempty"`

	// localASN is the AS number that the peer is told.
	// +optional
	LocalASN int64 `json:"localASN,omitempty"`
	// peerASN is the AS number that the peer has said, or should say.
	// +optional
	PeerASN int64 `json:"peerASN,omitempty"`
	// localRouterID is the BGP identifier of the node.
	// +optional
	LocalRouterID string `json:"localRouterID,omitempty"`
	// peerRouterID is the BGP identifier of the peer.
	// +optional
	PeerRouterID string `json:"peerRouterID,omitempty"`
	// holdTime that was agreed on: "1m30s".
	// +optional
	HoldTime string `json:"holdTime,omitempty"`
	// families that both sides take part in.
	// +optional
	// +listType=atomic
	Families []string `json:"families,omitempty"`
	// capabilities of the peer (RFC 5492).
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Capabilities []string `json:"capabilities,omitempty"`
	// announcedPrefixes is how many prefixes the peer is told.
	// +optional
	AnnouncedPrefixes int32 `json:"announcedPrefixes"`

	// bfd is the state of the BFD session that watches the peer.
	// +optional
	BFD *BFDSessionStatus `json:"bfd,omitempty"`
}

// BGPState is the state of a BGP session (RFC 4271 section 8.2.2).
type BGPState string

// The states of a BGP session.
const (
	// BGPInvalid is no state of the RFC: the configuration gives no session.
	BGPInvalid     BGPState = "Invalid"
	BGPIdle        BGPState = "Idle"
	BGPConnect     BGPState = "Connect"
	BGPActive      BGPState = "Active"
	BGPOpenSent    BGPState = "OpenSent"
	BGPOpenConfirm BGPState = "OpenConfirm"
	BGPEstablished BGPState = "Established"
)

// SessionError is what ended a session or kept it from coming up.
type SessionError struct {
	// time of the error.
	Time metav1.Time `json:"time"`
	// reason in one word: SessionLost, HeldDown (kept from coming up, by BFD say),
	// NotAnnounced (established, but something is not told), or why the configuration
	// gives no session.
	Reason string `json:"reason"`
	// message tells what happened and what to do.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// BFDSessionStatus is the state of a BFD session (RFC 5880).
type BFDSessionStatus struct {
	// profile is the name of the BFDProfile.
	Profile string `json:"profile"`
	// state: AdminDown, Down, Init or Up.
	// +kubebuilder:validation:Enum=AdminDown;Down;Init;Up
	State string `json:"state"`
	// since is when the session came into this state.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// diagnostic says why the session was last down (RFC 5880 section 4.1).
	// +optional
	Diagnostic string `json:"diagnostic,omitempty"`
	// detectionTime after which the node takes the peer for dead: "900ms".
	// +optional
	DetectionTime string `json:"detectionTime,omitempty"`
}

// NodeStateList is a list of node states.
//
// +kubebuilder:object:root=true
type NodeStateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeState `json:"items"`
}
