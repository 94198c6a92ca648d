package metallb

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Specs of MetalLB's kinds, with the fields that all of its versions have had.
// Selectors are Kubernetes' own; those of BGPPeer v1beta1 have the same shape.

type ipAddressPoolSpec struct {
	Addresses         []string           `json:"addresses,omitempty"`
	AutoAssign        *bool              `json:"autoAssign,omitempty"`
	AvoidBuggyIPs     bool               `json:"avoidBuggyIPs,omitempty"`
	ServiceAllocation *serviceAllocation `json:"serviceAllocation,omitempty"`
}

type serviceAllocation struct {
	Priority           int64                  `json:"priority,omitempty"`
	Namespaces         []string               `json:"namespaces,omitempty"`
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`
	ServiceSelectors   []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// addressPoolSpec is a pool of before v0.13, which says itself how its addresses
// are announced.
type addressPoolSpec struct {
	Protocol          string                `json:"protocol,omitempty"`
	Addresses         []string              `json:"addresses,omitempty"`
	AutoAssign        *bool                 `json:"autoAssign,omitempty"`
	AvoidBuggyIPs     bool                  `json:"avoidBuggyIPs,omitempty"`
	BGPAdvertisements []legacyAdvertisement `json:"bgpAdvertisements,omitempty"`
}

type legacyAdvertisement struct {
	AggregationLength   *int64   `json:"aggregationLength,omitempty"`
	AggregationLengthV6 *int64   `json:"aggregationLengthV6,omitempty"`
	LocalPref           int64    `json:"localPref,omitempty"`
	Communities         []string `json:"communities,omitempty"`
}

type l2AdvertisementSpec struct {
	IPAddressPools         []string                `json:"ipAddressPools,omitempty"`
	IPAddressPoolSelectors []metav1.LabelSelector  `json:"ipAddressPoolSelectors,omitempty"`
	NodeSelectors          []metav1.LabelSelector  `json:"nodeSelectors,omitempty"`
	Interfaces             []string                `json:"interfaces,omitempty"`
	ServiceSelectors       []metav1.LabelSelector  `json:"serviceSelectors,omitempty"`
	PreferredNodeSelectors []preferredNodeSelector `json:"preferredNodeSelectors,omitempty"`
}

type preferredNodeSelector struct {
	Weight     int64                `json:"weight"`
	Preference metav1.LabelSelector `json:"preference"`
}

type bgpAdvertisementSpec struct {
	legacyAdvertisement    `json:",inline"`
	IPAddressPools         []string               `json:"ipAddressPools,omitempty"`
	IPAddressPoolSelectors []metav1.LabelSelector `json:"ipAddressPoolSelectors,omitempty"`
	NodeSelectors          []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	ServiceSelectors       []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
	Peers                  []string               `json:"peers,omitempty"`
}

type bgpPeerSpec struct {
	MyASN                  int64                  `json:"myASN,omitempty"`
	PeerASN                int64                  `json:"peerASN,omitempty"`
	DynamicASN             string                 `json:"dynamicASN,omitempty"`
	LocalASN               int64                  `json:"localASN,omitempty"`
	PeerAddress            string                 `json:"peerAddress,omitempty"`
	Interface              string                 `json:"interface,omitempty"`
	SourceAddress          string                 `json:"sourceAddress,omitempty"`
	PeerPort               int64                  `json:"peerPort,omitempty"`
	HoldTime               *string                `json:"holdTime,omitempty"`
	KeepaliveTime          *string                `json:"keepaliveTime,omitempty"`
	ConnectTime            *string                `json:"connectTime,omitempty"`
	RouterID               string                 `json:"routerID,omitempty"`
	NodeSelectors          []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	Password               string                 `json:"password,omitempty"`
	PasswordSecret         secretReference        `json:"passwordSecret,omitempty"`
	BFDProfile             string                 `json:"bfdProfile,omitempty"`
	EnableGracefulRestart  bool                   `json:"enableGracefulRestart,omitempty"`
	EBGPMultiHop           bool                   `json:"ebgpMultiHop,omitempty"`
	VRF                    string                 `json:"vrf,omitempty"`
	DisableMP              bool                   `json:"disableMP,omitempty"`
	DualStackAddressFamily bool                   `json:"dualStackAddressFamily,omitempty"`
}

type secretReference struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

type bfdProfileSpec struct {
	ReceiveInterval  *int64 `json:"receiveInterval,omitempty"`
	TransmitInterval *int64 `json:"transmitInterval,omitempty"`
	DetectMultiplier *int64 `json:"detectMultiplier,omitempty"`
	EchoInterval     *int64 `json:"echoInterval,omitempty"`
	EchoMode         *bool  `json:"echoMode,omitempty"`
	PassiveMode      *bool  `json:"passiveMode,omitempty"`
	MinimumTTL       *int64 `json:"minimumTtl,omitempty"`
}

type communitySpec struct {
	Communities []communityAlias `json:"communities,omitempty"`
}

type communityAlias struct {
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
}
