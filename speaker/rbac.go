package main

// What a speaker may do at the API server: read what it announces and who else
// does, say on a Service that it is announced and in its NodeState how its
// sessions are doing, and read the Secrets of Berth's own namespace: the one with
// the membership key, and those with the passwords of peers, whose names nobody
// knows beforehand.
//
// +kubebuilder:rbac:groups="",resources=services;nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=services/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=berth.dev,resources=ipaddresspools;l2advertisements;bgppeers;bgpadvertisements;communities;bfdprofiles;nodestates,verbs=get;list;watch
// +kubebuilder:rbac:groups=berth.dev,resources=nodestates,verbs=create;patch
// +kubebuilder:rbac:groups=berth.dev,resources=nodestates/status,verbs=patch
// +kubebuilder:rbac:groups="",namespace=berth-system,resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=berth-system,resources=secrets,verbs=get;list;watch
