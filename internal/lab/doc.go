// Package lab runs a real Kubernetes cluster in network namespaces of one Linux
// machine: control plane, nodes with kube-proxy and a kubelet, a client beside
// them and another behind a router. Up starts a lab, Open finds a running one;
// its methods run commands and probes anywhere in it, and break it in the ways
// that real clusters break. Everything a lab consists of is tied to its name, so
// that Down can remove it from any state, and labs can run side by side.
package lab
