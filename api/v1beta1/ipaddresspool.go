package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPAddressPool is a set of addresses that Services of type LoadBalancer are
// given their external addresses from.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=pool;pools,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Auto Assign",type=boolean,JSONPath=`.spec.autoAssign`
// +kubebuilder:printcolumn:name="Assigned",type=string,JSONPath=`.status.assigned`
// +kubebuilder:printcolumn:name="Available",type=string,JSONPath=`.status.available`
// +kubebuilder:printcolumn:name="Quarantined",type=integer,priority=1,JSONPath=`.status.quarantinedCount`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPAddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the pool holds and who may use it.
	// +required
	Spec IPAddressPoolSpec `json:"spec"`
	// status is what Berth reports about the pool.
	// +optional
	Status IPAddressPoolStatus `json:"status,omitempty"`
}

// IPAddressPoolSpec says which addresses a pool holds and who may use them.
type IPAddressPoolSpec struct {
	// addresses of the pool: CIDRs ("192.0.2.0/24", "2001:db8::/64"), ranges
	// with both ends included ("192.0.2.10-192.0.2.20") and single addresses
	// ("192.0.2.7"). Both families may be mixed in one pool, not in one range.
	// Addresses are handed out in the order of this list, lowest first.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Addresses []AddressRange `json:"addresses"`

	// excludeAddresses are never handed out though addresses contains them, in
	// the same notation.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	ExcludeAddresses []AddressRange `json:"excludeAddresses,omitempty"`

	// disabled keeps what is assigned and hands out nothing new.
	// +optional
	// +kubebuilder:default=false
	Disabled bool `json:"disabled,omitempty"`

	// autoAssign lets Services have an address of this pool without asking for
	// the pool or the address. With false the pool serves only those that ask.
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`

	// avoidBuggyIPs never hands out IPv4 addresses that end in .0 or .255,
	// which some old network equipment drops.
	// +optional
	// +kubebuilder:default=false
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`

	// reuseDelay is how long an address rests after a Service has given it up
	// before another Service may have it, so that clients with stale name
	// records do not meet a stranger. A Service of the same namespace and name
	// may have it back at once. A duration such as "10m"; 30 days at most.
	// +optional
	ReuseDelay Duration `json:"reuseDelay,omitempty"`

	// quota bounds what the Services of one namespace may have of this pool.
	// Lowering it takes nothing away.
	// +optional
	Quota *PoolQuota `json:"quota,omitempty"`

	// onShrink says what becomes of a Service whose address the pool no longer
	// has after an edit: Keep lets it keep the address, Reassign moves it to one
	// that the pool has.
	// +optional
	// +kubebuilder:default=Keep
	// +kubebuilder:validation:Enum=Keep;Reassign
	OnShrink ShrinkPolicy `json:"onShrink,omitempty"`

	// shareAcrossNamespaces lets Services of different namespaces share an
	// address of this pool when their sharing keys are equal. Without it they
	// may only if both namespaces have the annotation
	// berth.dev/share-across-namespaces: "true".
	// +optional
	// +kubebuilder:default=false
	ShareAcrossNamespaces bool `json:"shareAcrossNamespaces,omitempty"`

	// serviceAllocation prefers this pool for some Services and reserves it for
	// them. Without it the pool serves every Service, after those that have one.
	// +optional
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
}

// Duration is a span of time such as "90s", "10m" or "24h".
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) <= duration('720h')",message="must be a duration of at most 720h, such as 90s, 10m or 24h",reason=FieldValueInvalid
type Duration string

// ShrinkPolicy says what becomes of addresses that a pool no longer has.
type ShrinkPolicy string

// What becomes of addresses that a pool no longer has.
const (
	// ShrinkKeep: Services keep them.
	ShrinkKeep ShrinkPolicy = "Keep"
	// ShrinkReassign: Services get others.
	ShrinkReassign ShrinkPolicy = "Reassign"
)

// PoolQuota bounds what the Services of one namespace may have of a pool.
//
// +kubebuilder:validation:MinProperties=1
type PoolQuota struct {
	// addressesPerNamespace is how many addresses of the pool the Services of
	// one namespace may have together. One that they share counts once.
	// +optional
	// +kubebuilder:validation:Minimum=1
	AddressesPerNamespace *int32 `json:"addressesPerNamespace,omitempty"`
	// servicesPerNamespace is how many Services of one namespace may have an
	// address of the pool.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ServicesPerNamespace *int32 `json:"servicesPerNamespace,omitempty"`
}

// AddressRange is a CIDR, a range "first-last" (both included), or a single
// address.
//
// CEL has no order of addresses, so the last rule finds the first bit in which
// the ends differ: first < last when the block of first that ends with this bit
// is the lower half of last's block that ends before it, and last is not in it.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=79
// +kubebuilder:validation:XValidation:rule="self.contains('-') ? (self.split('-').size() == 2 && self.split('-').all(a, isIP(a))) : (isIP(self) || isCIDR(self))",message="must be a CIDR (192.0.2.0/24), a range of two addresses (192.0.2.10-192.0.2.20) or one address",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!self.contains('-') || self.split('-').size() != 2 || !self.split('-').all(a, isIP(a)) || ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family()",message="both ends of a range must be of the same family, IPv4 or IPv6",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule=`!(self.contains('-') && self.split('-').size() == 2 && self.split('-').all(a, isIP(a))) || ip(self.substring(0, self.indexOf('-'))).family() != ip(self.substring(self.indexOf('-') + 1)).family() || ip(self.substring(0, self.indexOf('-'))) == ip(self.substring(self.indexOf('-') + 1)) || [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,64,65,66,67,68,69,70,71,72,73,74,75,76,77,78,79,80,81,82,83,84,85,86,87,88,89,90,91,92,93,94,95,96,97,98,99,100,101,102,103,104,105,106,107,108,109,110,111,112,113,114,115,116,117,118,119,120,121,122,123,124,125,126,127].exists(n, (n < 32 || self.contains(':')) && cidr(self.substring(0, self.indexOf('-')) + '/' + ((n + 1) < 10 ? "" : (n + 1) < 100 ? '0123456789'.substring((n + 1) / 10, (n + 1) / 10 + 1) : '1' + '0123456789'.substring((n + 1) / 10 - 10, (n + 1) / 10 - 10 + 1)) + '0123456789'.substring((n + 1) % 10, (n + 1) % 10 + 1)).masked().ip() == cidr(self.substring(self.indexOf('-') + 1) + '/' + (n < 10 ? "" : n < 100 ? '0123456789'.substring(n / 10, n / 10 + 1) : '1' + '0123456789'.substring(n / 10 - 10, n / 10 - 10 + 1)) + '0123456789'.substring(n % 10, n % 10 + 1)).masked().ip() && !cidr(self.substring(0, self.indexOf('-')) + '/' + ((n + 1) < 10 ? "" : (n + 1) < 100 ? '0123456789'.substring((n + 1) / 10, (n + 1) / 10 + 1) : '1' + '0123456789'.substring((n + 1) / 10 - 10, (n + 1) / 10 - 10 + 1)) + '0123456789'.substring((n + 1) % 10, (n + 1) % 10 + 1)).containsIP(self.substring(self.indexOf('-') + 1)))`,message="the first address of a range must not be above the last: is it reversed?",reason=FieldValueInvalid
type AddressRange string

// ServiceAllocation says which Services a pool is for, and which pool comes
// first when several are for the same Service.
type ServiceAllocation struct {
	// priority of this pool among those that match a Service: 1 is tried first,
	// 0 or unset last. Pools of equal priority are tried in the order of their names.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	Priority int32 `json:"priority,omitempty"`

	// namespaces whose Services may use the pool, by name. With
	// namespaceSelectors, either may match. Without both, every namespace may.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Namespaces []ObjectName `json:"namespaces,omitempty"`

	// namespaceSelectors match namespaces by their labels; one match is enough.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	NamespaceSelectors []LabelSelector `json:"namespaceSelectors,omitempty"`

	// serviceSelectors match Services by their labels; one match is enough.
	// Without any, every Service of the namespaces matches.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	ServiceSelectors []LabelSelector `json:"serviceSelectors,omitempty"`
}

// IPAddressPoolStatus is what Berth reports about a pool.
type IPAddressPoolStatus struct {
	// assigned is the number of addresses of the pool that Services have, for
	// each family the pool holds: "3" or "3 IPv4, 1 IPv6".
	// +optional
	Assigned string `json:"assigned,omitempty"`
	// available is the number of addresses that can still be given out, in the
	// form of assigned. Numbers above a million are shortened to a power of two.
	// +optional
	Available string `json:"available,omitempty"`

	// assignedIPv4 is the number of IPv4 addresses that Services have.
	// +optional
	AssignedIPv4 int64 `json:"assignedIPv4"`
	// assignedIPv6 is the number of IPv6 addresses that Services have.
	// +optional
	AssignedIPv6 int64 `json:"assignedIPv6"`
	// availableIPv4 is the number of IPv4 addresses that can still be given out.
	// +optional
	AvailableIPv4 int64 `json:"availableIPv4"`
	// availableIPv6 is the number of IPv6 addresses that can still be given
	// out; 9223372036854775807 stands for that many or more.
	// +optional
	AvailableIPv6 int64 `json:"availableIPv6"`

	// ipv4 counts the pool's IPv4 addresses; absent where it has none.
	// +optional
	IPv4 *PoolFamilyStatus `json:"ipv4,omitempty"`
	// ipv6 counts the pool's IPv6 addresses; absent where it has none.
	// +optional
	IPv6 *PoolFamilyStatus `json:"ipv6,omitempty"`
	// outOfPool are addresses that Services keep though the pool no longer has
	// them, the first 32 of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	OutOfPool []OutOfPoolAddress `json:"outOfPool,omitempty"`

	// resting are addresses that were given up less than reuseDelay ago, the
	// latest 256 of them. The controller reads them when it starts.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Resting []RestingAddress `json:"resting,omitempty"`

	// quarantined are addresses of the pool that another host on the network had
	// before Berth announced them, the first 256 of them by address. They are
	// given to nobody until no node reports the other host any more.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Quarantined []QuarantinedAddress `json:"quarantined,omitempty"`
	// quarantinedCount is how many addresses of the pool are quarantined, also
	// those that Services keep.
	// +optional
	QuarantinedCount int32 `json:"quarantinedCount,omitempty"`

	// conditions of the pool. Accepted says whether the pool is in force.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PoolFamilyStatus counts the addresses of one family of a pool. total is the
// sum of assigned, reserved, resting, quarantined and available.
// 9223372036854775807 stands for that many or more.
type PoolFamilyStatus struct {
	// total is how many addresses the pool can hand out.
	Total int64 `json:"total"`
	// assigned is how many of them Services have.
	Assigned int64 `json:"assigned"`
	// reserved is how many are held by IPReservations and not assigned.
	Reserved int64 `json:"reserved"`
	// resting is how many were given up less than reuseDelay ago.
	Resting int64 `json:"resting"`
	// quarantined is how many another host on the network has, and no Service;
	// they count neither as reserved nor as available.
	// +optional
	Quarantined int64 `json:"quarantined"`
	// available is how many can be handed out now.
	Available int64 `json:"available"`
	// outOfPool is how many addresses Services keep that the pool no longer has.
	OutOfPool int64 `json:"outOfPool"`
}

// OutOfPoolAddress is an address that Services keep though its pool no longer
// has it.
type OutOfPoolAddress struct {
	// address that is kept.
	Address string `json:"address"`
	// services that have it, as namespace/name.
	// +optional
	// +listType=atomic
	Services []string `json:"services,omitempty"`
}

// RestingAddress is an address that was given up a while ago.
type RestingAddress struct {
	// address that rests.
	Address string `json:"address"`
	// service that had it, as namespace/name, and may have it back at once.
	Service string `json:"service"`
	// since is when it was given up.
	Since metav1.Time `json:"since"`
}

// QuarantinedAddress is an address that another host on the network has.
type QuarantinedAddress struct {
	// address that is quarantined.
	Address string `json:"address"`
	// mac is the link-layer address of the other host.
	MAC string `json:"mac"`
	// node that has heard the other host, the first of several.
	Node string `json:"node"`
	// since is when the node first heard it.
	Since metav1.Time `json:"since"`
}

// IPAddressPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type IPAddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAddressPool `json:"items"`
}
