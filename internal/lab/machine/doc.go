// Package machine raises the few limits of the Linux kernel that network
// namespaces share and that a lab of many nodes exceeds, and puts them back.
package machine
