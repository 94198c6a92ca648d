// Command controller gives Services of type LoadBalancer their external
// addresses. One replica at a time, the holder of a Lease, watches Services,
// Namespaces and Berth's custom resources. What it then does is in
// internal/allocation.
//
// +kubebuilder:rbac:groups="",resources=services;namespaces;nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=services/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=berth.dev,resources=ipaddresspools;ipreservations;l2advertisements,verbs=get;list;watch
// +kubebuilder:rbac:groups=berth.dev,resources=ipaddresspools/status;ipreservations/status;l2advertisements/status,verbs=patch
// +kubebuilder:rbac:groups=berth.dev,resources=ipreservations,verbs=create;patch;delete
// +kubebuilder:rbac:groups=berth.dev,resources=nodestates,verbs=get;list;watch
// +kubebuilder:rbac:groups=berth.dev,resources=bgppeers;bgpadvertisements;communities;bfdprofiles,verbs=get;list;watch
// +kubebuilder:rbac:groups=berth.dev,resources=bgppeers/status;bgpadvertisements/status;communities/status;bfdprofiles/status,verbs=patch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=servicecidrs,verbs=get;list;watch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=berth-system,resources=leases,verbs=create
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=berth-system,resources=leases,resourceNames=berth-controller,verbs=get;update
// +kubebuilder:rbac:groups="",namespace=berth-system,resources=secrets,verbs=get;list;watch;create
package main
