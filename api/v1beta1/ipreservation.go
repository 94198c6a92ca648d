package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPReservation holds addresses for a Service or a namespace: before the
// Service exists, while it does, and after it is gone.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipr,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.for.namespace`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.for.service`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.status.addresses`
// +kubebuilder:printcolumn:name="Until",type=string,JSONPath=`.spec.until`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPReservation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what is held, and for whom.
	// +required
	Spec IPReservationSpec `json:"spec"`
	// status is what Berth reports about the reservation.
	// +optional
	Status IPReservationStatus `json:"status,omitempty"`
}

// IPReservationSpec says what is held, and for whom.
//
// +kubebuilder:validation:XValidation:rule="has(self.addresses) != has(self.count)",message="give either addresses or count"
// +kubebuilder:validation:XValidation:rule="!has(self.count) || has(self.pool)",message="count needs the pool to take addresses from",fieldPath=".pool"
// +kubebuilder:validation:XValidation:rule="has(self.count) || !has(self.pool) && !has(self.family)",message="pool and family go with count; addresses say it themselves"
type IPReservationSpec struct {
	// addresses to hold, in the notation of a pool. Whether a pool has them
	// already does not matter.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Addresses []AddressRange `json:"addresses,omitempty"`

	// count is how many addresses of pool to hold, whichever are free.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1024
	Count *int32 `json:"count,omitempty"`
	// pool to take count addresses from.
	// +optional
	Pool ObjectName `json:"pool,omitempty"`
	// family of the addresses that count takes: IPv4 or IPv6. Without it, the
	// family of the pool, IPv4 where it has both.
	// +optional
	// +kubebuilder:validation:Enum=IPv4;IPv6
	Family string `json:"family,omitempty"`

	// for says who may have the addresses.
	// +required
	For ReservationTarget `json:"for"`

	// until is when the reservation ends. Without it, when it is deleted.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// ReservationTarget is a Service, or all Services of a namespace. Neither need
// exist.
type ReservationTarget struct {
	// namespace of the Service or Services.
	// +required
	Namespace ObjectName `json:"namespace"`
	// service is the name of the one Service; without it, all of the namespace.
	// +optional
	Service ObjectName `json:"service,omitempty"`
}

// IPReservationStatus is what Berth reports about a reservation.
type IPReservationStatus struct {
	// addresses that the reservation holds, as ranges. Those of a count are
	// kept for as long as the reservation lasts.
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`

	// conditions of the reservation. Accepted says whether it is in force.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// IPReservationList is a list of reservations.
//
// +kubebuilder:object:root=true
type IPReservationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPReservation `json:"items"`
}
