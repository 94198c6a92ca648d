package v1beta1

// Annotations on a Service. Where MetalLB has the same one, its two older names
// are read as well: see the aliases in internal/config.
const (
	// AnnotationAddressPool asks for an address from one pool, by its name.
	AnnotationAddressPool = "berth.dev/address-pool"
	// AnnotationLoadBalancerIPs asks for addresses: one, or one of each family
	// separated by a comma.
	AnnotationLoadBalancerIPs = "berth.dev/load-balancer-ips"
	// AnnotationAllowSharedIP is the sharing key: Services of a namespace with
	// the same key may have the same address as long as their ports differ.
	AnnotationAllowSharedIP = "berth.dev/allow-shared-ip"
	// AnnotationRetain keeps the Service's addresses reserved for its name after
	// it is deleted: for a duration such as "24h", or "forever".
	AnnotationRetain = "berth.dev/retain"
	// AnnotationRenew asks for other addresses than the Service has, each time
	// its value changes.
	AnnotationRenew = "berth.dev/renew"
	// AnnotationRenewed is written by Berth: the value of AnnotationRenew that it
	// has acted on.
	AnnotationRenewed = "berth.dev/renewed"
	// AnnotationSharedIPKey is written by Berth: the sharing key under which the
	// Service has its addresses, which is not the one that it asks for while that
	// is refused.
	AnnotationSharedIPKey = "berth.dev/shared-ip-key"
	// AnnotationIPAllocatedFromPool is written by Berth: the pool or pools
	// (separated by a comma) that the Service's addresses came from.
	AnnotationIPAllocatedFromPool = "berth.dev/ip-allocated-from-pool"
)

// AnnotationShareAcrossNamespaces on a Namespace, with the value "true", lets
// its Services share addresses with those of other namespaces that have it too.
const AnnotationShareAcrossNamespaces = "berth.dev/share-across-namespaces"

// AnnotationDrain on a Node moves its addresses to other nodes and takes its routes
// back from routers until it is removed. No new connection fails by it. Its value
// is yours.
const AnnotationDrain = "berth.dev/drain"

// AnnotationRebalance on an L2Advertisement spreads its addresses over the nodes
// anew, once for each new value. No new connection fails by it.
const AnnotationRebalance = "berth.dev/rebalance"

// LabelRetained marks the IPReservations that Berth makes for Services with
// AnnotationRetain.
const LabelRetained = "berth.dev/retained"

// Condition types.
const (
	// ConditionAccepted on a custom resource: True when it is in force.
	ConditionAccepted = "Accepted"
	// ConditionAddressAllocated on a Service: True when it has every address
	// that it asks for.
	ConditionAddressAllocated = "berth.dev/AddressAllocated"
	// ConditionAnnounced on a Service: True when its addresses are announced;
	// the message says by which node, interface and protocol, or why not: under
	// ReasonAddressConflict which other host has an address.
	ConditionAnnounced = "berth.dev/Announced"
	// ConditionBGPReady on a NodeState: True when every BGP session that the
	// BGPPeers ask of the node is established.
	ConditionBGPReady = "BGPReady"
	// ConditionKubeProxyReady on a NodeState: False when the node's kube-proxy has
	// not said for a while that its rules are up to date.
	ConditionKubeProxyReady = "KubeProxyReady"
)

// Reasons of ConditionAccepted.
const (
	// ReasonAccepted: the object is in force.
	ReasonAccepted = "Accepted"
	// ReasonInvalid: a field of the object is wrong; the message names it.
	ReasonInvalid = "Invalid"
	// ReasonOverlap: the pool shares addresses with an older pool.
	ReasonOverlap = "Overlap"
	// ReasonConflict: the reservation holds an address that an older one holds,
	// older Communities give all names of the Community to other values, or another
	// advertisement, which is in force as well, gives other attributes to a route.
	ReasonConflict = "Conflict"
	// ReasonPartlyHeld: some of the reservation's addresses are not held yet; the
	// message says why.
	ReasonPartlyHeld = "PartlyHeld"
	// ReasonExpired: the reservation's time is over.
	ReasonExpired = "Expired"
	// ReasonUnknownPool: the advertisement names pools of which none is in force.
	ReasonUnknownPool = "UnknownPool"
	// ReasonPartlyAccepted: the object is in force, but for something that the
	// message names.
	ReasonPartlyAccepted = "PartlyAccepted"
	// ReasonUnknownPeer: the advertisement names peers of which none is in force.
	ReasonUnknownPeer = "UnknownPeer"
	// ReasonUnknownCommunity: the advertisement uses a name that no Community in
	// force gives to a community.
	ReasonUnknownCommunity = "UnknownCommunity"
	// ReasonUnknownBFDProfile: the peer names a BFDProfile that is not in force.
	ReasonUnknownBFDProfile = "UnknownBFDProfile"
	// ReasonSecretNotUsable: the peer names a Secret that is not there or that
	// holds no password.
	ReasonSecretNotUsable = "SecretNotUsable"
	// ReasonDuplicate: an older peer is the same.
	ReasonDuplicate = "Duplicate"
)

// ReasonAddressConflict of ConditionAnnounced and ConditionAddressAllocated: a
// host that is not Berth's has an address of the Service; the message says which.
const ReasonAddressConflict = "AddressConflict"

// PreparingText is what the message of ConditionAnnounced says of an address that will
// be announced in a moment: it is being made sure that no other host has it and that
// kube-proxy serves it.
const PreparingText = "about to be announced"

// LoadBalancerClass is the class of Services that are Berth's even when it is
// not the cluster's default load balancer.
const LoadBalancerClass = "berth.dev/berth"

// ObjectName is the name of a Kubernetes object (an RFC 1123 subdomain).
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="!format.dns1123Subdomain().validate(self).hasValue()",message="must be an object name: lower case letters, digits, '-' and '.'",reason=FieldValueInvalid
type ObjectName string

// InterfaceName is the name of a network interface on a node.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=15
// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\s/:]+$') && self != '.' && self != '..'",message="must be an interface name as Linux has it: at most 15 characters, no space, '/' or ':'",reason=FieldValueInvalid
type InterfaceName string
