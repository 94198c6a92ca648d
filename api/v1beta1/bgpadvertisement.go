package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPAdvertisement announces addresses of pools to BGP peers, from every node
// that can serve them, so that the routers spread the traffic.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bgpadv;bgpadvs,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.ipAddressPools`
// +kubebuilder:printcolumn:name="Peers",type=string,JSONPath=`.spec.peers`
// +kubebuilder:printcolumn:name="Communities",type=string,JSONPath=`.spec.communities`
// +kubebuilder:printcolumn:name="Services",type=integer,JSONPath=`.status.services`
// +kubebuilder:printcolumn:name="Addresses",type=integer,JSONPath=`.status.addresses`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPAdvertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is announced, to whom and how.
	// +optional
	Spec BGPAdvertisementSpec `json:"spec,omitempty"`
	// status is what Berth reports about the advertisement.
	// +optional
	Status BGPAdvertisementStatus `json:"status,omitempty"`
}

// BGPAdvertisementSpec says which addresses are announced, by which nodes, to
// which peers and with which attributes. An empty spec announces every pool from
// every node to every peer.
//
// +kubebuilder:validation:XValidation:rule="!has(self.includeSpecificRoutes) || !self.includeSpecificRoutes || has(self.aggregationLength) && self.aggregationLength < 32 || has(self.aggregationLengthV6) && self.aggregationLengthV6 < 128",message="goes with an aggregationLength below 32 or an aggregationLengthV6 below 128; without an aggregate only the specific routes are announced anyway",fieldPath=".includeSpecificRoutes"
type BGPAdvertisementSpec struct {
	// aggregationLength is the length of the IPv4 prefixes that are announced. One
	// below 32 announces the prefix of that length around an address instead of
	// the address, provided that the pool has all of it.
	// +optional
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	AggregationLength *int32 `json:"aggregationLength,omitempty"`
	// aggregationLengthV6 is the length of the IPv6 prefixes that are announced, as
	// aggregationLength is of the IPv4 ones.
	// +optional
	// +kubebuilder:default=128
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`
	// includeSpecificRoutes announces each address beside its aggregate, so that
	// the routers send traffic to the nodes that can serve it, and the aggregate
	// can be what they tell others.
	// +optional
	IncludeSpecificRoutes bool `json:"includeSpecificRoutes,omitempty"`

	// localPref is the LOCAL_PREF of the routes towards internal peers (RFC 4271
	// section 5.1.5); the higher is preferred. External peers are not told. Without
	// it, internal peers are told 100.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`
	// med is the MULTI_EXIT_DISC of the routes (RFC 4271 section 5.1.4); the lower
	// is preferred. Without it, none is sent.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`
	// asPathPrepend is how many times the AS number of the node is put in front of
	// the AS_PATH in addition to the once that is due, 0 to 15. The longer path is
	// less preferred. Internal peers are sent an empty path, and are not told.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=15
	ASPathPrepend int32 `json:"asPathPrepend,omitempty"`
	// communities of the routes: "65000:100" (RFC 1997), "large:65000:1:2" (RFC
	// 8092), a well-known one by its name (no-export, no-advertise,
	// no-export-subconfed, no-peer, graceful-shutdown, blackhole, accept-own,
	// accept-own-nexthop, no-llgr), or a name that a Community object gives to one.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=63
	Communities []CommunityRef `json:"communities,omitempty"`

	// ipAddressPools whose addresses are announced, by name. Together with
	// ipAddressPoolSelectors, either may match. Without both, all pools.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	IPAddressPools []ObjectName `json:"ipAddressPools,omitempty"`
	// ipAddressPoolSelectors match pools by their labels; one match is enough.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	IPAddressPoolSelectors []LabelSelector `json:"ipAddressPoolSelectors,omitempty"`

	// nodeSelectors match the nodes that may announce, by their labels; one
	// match is enough. Without any, all nodes.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	NodeSelectors []LabelSelector `json:"nodeSelectors,omitempty"`

	// peers are the names of the BGPPeers that are told. Together with
	// peerSelectors, either may match. Without both, all peers.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Peers []ObjectName `json:"peers,omitempty"`
	// peerSelectors match BGPPeers by their labels; one match is enough.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	PeerSelectors []LabelSelector `json:"peerSelectors,omitempty"`

	// serviceSelectors match the Services whose addresses are announced, by
	// their labels; one match is enough. Without any, all Services. An address
	// that several Services share is announced when one of them matches.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	ServiceSelectors []LabelSelector `json:"serviceSelectors,omitempty"`
}

// BGPAdvertisementStatus is what Berth reports about an advertisement.
type BGPAdvertisementStatus struct {
	// services is how many Services have an address that the advertisement is for,
	// wherever there is a node that can announce it.
	// +optional
	Services int32 `json:"services"`
	// addresses is how many addresses these Services have that it is for. One that
	// several Services share counts once.
	// +optional
	Addresses int32 `json:"addresses"`

	// conditions of the advertisement. Accepted says whether it is in force.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPAdvertisementList is a list of BGP advertisements.
//
// +kubebuilder:object:root=true
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}
