package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// L2Advertisement announces addresses of pools on the Ethernet of the nodes: one
// node at a time answers ARP (IPv4) or NDP (IPv6) for each address.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=l2adv;l2advs,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.ipAddressPools`
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.spec.interfaces`
// +kubebuilder:printcolumn:name="Services",type=integer,JSONPath=`.status.services`
// +kubebuilder:printcolumn:name="Addresses",type=integer,JSONPath=`.status.addresses`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type L2Advertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is announced, from where.
	// +optional
	Spec L2AdvertisementSpec `json:"spec,omitempty"`
	// status is what Berth reports about the advertisement.
	// +optional
	Status L2AdvertisementStatus `json:"status,omitempty"`
}

// L2AdvertisementSpec says which addresses are announced, by which nodes and on
// which of their interfaces. An empty spec announces every pool from every node.
//
// The annotation berth.dev/rebalance on an advertisement, with a value that it
// did not have before, spreads its addresses over the nodes anew, once.
type L2AdvertisementSpec struct {
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

	// interfaces to announce on, by name. A node that has none of them is not
	// eligible. Without any, a node announces an address on those of its
	// interfaces that have the address's subnet.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Interfaces []InterfaceName `json:"interfaces,omitempty"`

	// serviceSelectors match the Services whose addresses are announced, by
	// their labels; one match is enough. Without any, all Services. An address
	// that several Services share is announced when one of them matches.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	ServiceSelectors []LabelSelector `json:"serviceSelectors,omitempty"`

	// preferredNodeSelectors prefer some of the eligible nodes: the highest sum
	// of the weights that match a node wins, ties are spread by hash.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	PreferredNodeSelectors []PreferredNodeSelector `json:"preferredNodeSelectors,omitempty"`

	// onConflict says what the owner of an address does when another host, not
	// one of Berth, answers or announces for it as well (RFC 5227 section 2.4).
	// Defend announces the address again, at most every 10 seconds, and keeps
	// it. Yield stops answering for as long as the other host speaks for it. Of
	// two advertisements for one address that disagree, Yield wins.
	// +optional
	// +kubebuilder:default=Defend
	// +kubebuilder:validation:Enum=Defend;Yield
	OnConflict ConflictPolicy `json:"onConflict,omitempty"`
}

// ConflictPolicy says what to do about another host that has one of our
// addresses.
type ConflictPolicy string

// What to do about another host that has one of our addresses.
const (
	// ConflictDefend: announce it again, at most every 10 seconds, and keep it
	// (RFC 5227 section 2.4 (c)).
	ConflictDefend ConflictPolicy = "Defend"
	// ConflictYield: stop answering for it while the other host speaks for it.
	ConflictYield ConflictPolicy = "Yield"
)

// PreferredNodeSelector gives nodes a weight.
type PreferredNodeSelector struct {
	// weight that a matching node gains. The node with the highest sum is preferred.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`
	// preference matches nodes by their labels.
	// +required
	Preference LabelSelector `json:"preference"`
}

// L2AdvertisementStatus is what Berth reports about an advertisement.
type L2AdvertisementStatus struct {
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

// L2AdvertisementList is a list of layer-2 advertisements.
//
// +kubebuilder:object:root=true
type L2AdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Advertisement `json:"items"`
}
