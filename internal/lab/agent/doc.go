// Package agent is the lab's node agent: it registers a node with the Kubernetes
// API, keeps it alive there, and runs the Pods that are bound to it as processes,
// with the life cycle, probes, volumes, network and kubelet API that they would
// find on a real node.
//
// The node object and the exec protocol come from virtual-kubelet. Its Pod
// controller is not used, because it cannot be made to keep what the lab promises:
// it overlooks Pods that were deleted while the API was out of reach (it skips
// cache.DeletedFinalStateUnknown), so that their containers would run for ever; it
// deletes a terminating Pod whose containers wait to be restarted before they are
// stopped; it never repeats a status that somebody else overwrote, so that a Pod
// marked not ready during an outage would stay so; and it drops a status after a
// number of failed attempts. Neither is its lease controller, which after an outage
// may sleep for 14 s before it renews the lease: the node would be declared dead
// although it is back.
//
// Not supported, and said so in events: sidecars (init containers that always
// restart), host ports of Pods with a network of their own, volumes other than
// configMap, secret, projected, downwardAPI, emptyDir and hostPath, and gRPC probes.
// Accepted without effect: resource limits, AppArmor profiles, sysctls,
// hostPID, hostIPC and shareProcessNamespace, mount propagation, ephemeral
// containers, and changes of a running container's image. Of the variables that
// describe Services, containers only get those of the API server.
//
// Containers outlive an agent that is killed, as they do a kubelet, but nobody reads
// their output then, and the agent that takes its place ends them and starts anew,
// as if the node had been rebooted.
package agent
