// Package podnet connects Pods to their node: one network namespace each, on a
// bridge in the node's namespace that is their gateway.
//
// A Pod's address has the full prefix length and its default route points on-link
// to the bridge, so that even two Pods on one node reach each other through the
// node's routing. kube-proxy's address translation then sees both directions of
// every connection, without the bridge-netfilter module, which is switched off.
package podnet
