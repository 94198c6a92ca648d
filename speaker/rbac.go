package main

// What a speaker may do at the API server: read what it announces and who else
// does, say on a Service that it is announced, and read the one Secret with the
// membership key.
//
// +kubebuilder:rbac:groups="",resources=services;nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=services/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=berth.dev,resources=ipaddresspools;l2advertisements,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=berth-system,resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=berth-system,resources=secrets,resourceNames=berth-membership,verbs=get;list;watch
