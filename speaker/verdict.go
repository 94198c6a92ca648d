package main

import corev1 "k8s.io/api/core/v1"

// verdict says whether a node may own an address, or the first reason why not.
type verdict uint8

const (
	eligible verdict = iota
	notSelected
	excluded
	networkUnavailable
	speakerDead
	speakerUnknown
	speakerJoining
	speakerAway
	noInterface
	noLocalEndpoint
	numVerdicts
)

// String says in words what is the matter with the node.
func (v verdict) String() string {
	switch v {
	case eligible:
		return "eligible"
	case notSelected:
		return "not selected by an L2Advertisement"
	case excluded:
		return "excluded by the label " + corev1.LabelNodeExcludeBalancers
	case networkUnavailable:
		return "NetworkUnavailable"
	case speakerDead:
		return "without a living speaker"
	case speakerUnknown:
		return "not heard from yet"
	case speakerJoining:
		return "still joining the other speakers"
	case speakerAway:
		return "waiting for their speaker to return"
	case noInterface:
		return "without a usable interface"
	case noLocalEndpoint:
		return "without an endpoint of their own, which externalTrafficPolicy Local needs"
	}
	return "unknown"
}
