package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Community gives names to BGP communities, for use in BGPAdvertisements. A name
// means the same in all of them.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Communities",type=string,JSONPath=`.spec.communities`
// +kubebuilder:printcolumn:name="Advertisements",type=integer,JSONPath=`.status.advertisements`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Community struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the names and what they mean.
	// +required
	Spec CommunitySpec `json:"spec"`
	// status is what Berth reports about the names.
	// +optional
	Status CommunityStatus `json:"status,omitempty"`
}

// CommunitySpec gives names to communities.
type CommunitySpec struct {
	// communities with their names.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Communities []CommunityAlias `json:"communities"`
}

// CommunityAlias is a community and its name.
type CommunityAlias struct {
	// name of the community.
	// +required
	Name CommunityName `json:"name"`
	// value of the community: "65000:100" (RFC 1997) or "large:65000:1:2" (RFC
	// 8092).
	// +required
	Value CommunityValue `json:"value"`
}

// CommunityName is a name for a community, and not a well-known one.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",message="must be a name: letters, digits, '-', '_' and '.', with a letter first and no sign at the end",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!(self in ['no-export', 'no-advertise', 'no-export-subconfed', 'no-peer', 'graceful-shutdown', 'blackhole', 'accept-own', 'accept-own-nexthop', 'llgr-stale', 'no-llgr'])",message="is a well-known community, which has its meaning already; choose another name",reason=FieldValueInvalid
type CommunityName string

// CommunityValue is a community in numbers.
//
// +kubebuilder:validation:MinLength=3
// +kubebuilder:validation:MaxLength=38
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{1,5}:[0-9]{1,5}$') ? self.split(':').all(n, int(n) <= 65535) : self.matches('^large:[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$') && self.substring(6).split(':').all(n, int(n) <= 4294967295)",message="must be two numbers up to 65535, such as 65000:100, or large: and three numbers up to 4294967295, such as large:65000:1:2",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!self.matches('^0*65535:0*6$')",message="is llgr-stale, which marks what a router keeps for one that is away; no router would be told the route (RFC 9494)",reason=FieldValueInvalid
type CommunityValue string

// CommunityRef is a community in numbers or by its name.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.contains(':') ? (self.matches('^[0-9]{1,5}:[0-9]{1,5}$') ? self.split(':').all(n, int(n) <= 65535) : self.matches('^large:[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$') && self.substring(6).split(':').all(n, int(n) <= 4294967295)) : self.matches('^[A-Za-z]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",message="must be two numbers up to 65535, such as 65000:100, large: and three numbers up to 4294967295, such as large:65000:1:2, or a name",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!self.matches('^(llgr-stale|0*65535:0*6)$')",message="is llgr-stale, which marks what a router keeps for one that is away; no router would be told the route (RFC 9494)",reason=FieldValueInvalid
type CommunityRef string

// CommunityStatus is what Berth reports about names of communities.
type CommunityStatus struct {
	// advertisements is how many BGPAdvertisements use one of the names.
	// +optional
	Advertisements int32 `json:"advertisements"`

	// conditions of the object. Accepted says whether it is in force.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// CommunityList is a list of Community objects.
//
// +kubebuilder:object:root=true
type CommunityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Community `json:"items"`
}
