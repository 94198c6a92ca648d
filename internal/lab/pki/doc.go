// Package pki makes the keys and certificates of a lab's control plane: a
// certificate authority of the lab's own, serving certificates signed by it, and
// the key pair that signs ServiceAccount tokens.
package pki
