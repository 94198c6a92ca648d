package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BFDProfile says how a BGP peer is watched by BFD (RFC 5880), so that its
// failure is noticed within a fraction of a second. BGPPeers name it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Receive",type=integer,JSONPath=`.spec.receiveInterval`
// +kubebuilder:printcolumn:name="Transmit",type=integer,JSONPath=`.spec.transmitInterval`
// +kubebuilder:printcolumn:name="Multiplier",type=integer,JSONPath=`.spec.detectMultiplier`
// +kubebuilder:printcolumn:name="Passive",type=boolean,JSONPath=`.spec.passiveMode`
// +kubebuilder:printcolumn:name="Echo",type=boolean,JSONPath=`.spec.echoMode`
// +kubebuilder:printcolumn:name="Peers",type=integer,JSONPath=`.status.peers`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BFDProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is how to watch.
	// +optional
	Spec BFDProfileSpec `json:"spec,omitempty"`
	// status is what Berth reports about the profile.
	// +optional
	Status BFDProfileStatus `json:"status,omitempty"`
}

// BFDProfileSpec says how a peer is watched. A failure is noticed after
// detectMultiplier times the interval that both sides agree on: the larger of
// what one can receive and the other wants to send (RFC 5880 section 6.8.4).
type BFDProfileSpec struct {
	// receiveInterval is the least time between two packets that the node can
	// take, in milliseconds.
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	ReceiveInterval *int32 `json:"receiveInterval,omitempty"`
	// transmitInterval is the least time between two packets that the node
	// sends, in milliseconds. Until the session is up it is at least 1000.
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	TransmitInterval *int32 `json:"transmitInterval,omitempty"`
	// detectMultiplier is how many packets of the node may be lost before the
	// peer takes it for dead.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	DetectMultiplier *int32 `json:"detectMultiplier,omitempty"`
	// echoInterval is the least time between two echo packets, in milliseconds.
	// +optional
	// +kubebuilder:default=50
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	EchoInterval *int32 `json:"echoInterval,omitempty"`
	// echoMode turns the echo function on (RFC 5880 section 6.4), where the peer
	// takes part and is one hop away.
	// +optional
	EchoMode bool `json:"echoMode,omitempty"`
	// passiveMode sends nothing before the peer has (RFC 5880 section 6.1).
	// +optional
	PassiveMode bool `json:"passiveMode,omitempty"`
	// minimumTtl is the least TTL that packets of a peer with ebgpMultiHop arrive
	// with (RFC 5883); those of others must have 255 (RFC 5881 section 5).
	// +optional
	// +kubebuilder:default=254
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	MinimumTTL *int32 `json:"minimumTtl,omitempty"`
}

// BFDProfileStatus is what Berth reports about a profile.
type BFDProfileStatus struct {
	// peers is how many BGPPeers name the profile.
	// +optional
	Peers int32 `json:"peers"`

	// conditions of the profile. Accepted says whether it is in force.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BFDProfileList is a list of profiles.
//
// +kubebuilder:object:root=true
type BFDProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BFDProfile `json:"items"`
}
