// Package allocation gives Services of type LoadBalancer their external addresses.
// A Controller is one loop that reads a k8s.Cache, asks package config what is in
// force and package ipam for addresses, and leaves writing to others. Nothing here
// announces addresses: that is the speakers' part.
package allocation
