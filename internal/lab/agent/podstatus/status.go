package podstatus

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Failure ends a Pod from outside its containers, for example because it ran for
// longer than it may.
type Failure struct{ Reason, Message string }

// Input is all that a Pod's status depends on.
type Input struct {
	Pod *corev1.Pod
	// Init and Main are the states of the Pod's containers, in the order of its
	// specification and complete.
	Init, Main []corev1.ContainerStatus
	NodeIPs    []netip.Addr
	// PodIPs are empty as long as the Pod has no network.
	PodIPs []netip.Addr
	// Started is when this node took the Pod up.
	Started metav1.Time
	Failure *Failure
	// Previous is the last status computed; it dates conditions that stay the same.
	Previous corev1.PodStatus
	Now      metav1.Time
}

// Compute returns the status that the Pod should have. Conditions of other owners
// are not in it, see Merge.
func Compute(in Input) corev1.PodStatus {
	status := corev1.PodStatus{
		ObservedGeneration:    in.Pod.Generation,
		Phase:                 phase(in),
		StartTime:             &in.Started,
		InitContainerStatuses: in.Init,
		ContainerStatuses:     in.Main,
		QOSClass:              in.Pod.Status.QOSClass,
		NominatedNodeName:     in.Pod.Status.NominatedNodeName,
	}
	if in.Failure != nil {
		status.Reason, status.Message = in.Failure.Reason, in.Failure.Message
		if len(in.PodIPs) == 0 { // refused: it never had containers
			status.InitContainerStatuses, status.ContainerStatuses = nil, nil
		}
	}
	for i, ip := range in.NodeIPs {
		if i == 0 {
			status.HostIP = ip.String()
		}
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	for i, ip := range in.PodIPs {
		if i == 0 {
			status.PodIP = ip.String()
		}
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	status.Conditions = conditions(in, status.Phase)
	return status
}

// Terminal reports whether a phase is final.
func Terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// phase follows the kubelet's getPhase.
func phase(in Input) corev1.PodPhase {
	if in.Failure != nil {
		return corev1.PodFailed
	}
	policy := in.Pod.Spec.RestartPolicy
	for _, c := range in.Init {
		switch {
		case c.State.Terminated != nil && c.State.Terminated.ExitCode == 0:
		case c.State.Terminated != nil && policy == corev1.RestartPolicyNever:
			return corev1.PodFailed
		default:
			return corev1.PodPending
		}
	}
	var waiting, running, stopped, succeeded int
	for _, c := range in.Main {
		switch {
		case c.State.Running != nil:
			running++
		case c.State.Terminated != nil:
			stopped++
			if c.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case c.LastTerminationState.Terminated != nil: // waits to be restarted
			stopped++
		default:
			waiting++
		}
	}
	ending := in.Pod.DeletionTimestamp != nil
	switch {
	case waiting > 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case policy == corev1.RestartPolicyAlways && !ending:
		return corev1.PodRunning
	case stopped == succeeded:
		return corev1.PodSucceeded
	case policy == corev1.RestartPolicyOnFailure && !ending:
		return corev1.PodRunning
	default:
		return corev1.PodFailed
	}
}

func conditions(in Input, phase corev1.PodPhase) []corev1.PodCondition {
	containersReady := containersReady(in, phase)
	all := []corev1.PodCondition{
		networkReady(in, phase), initialized(in, phase), podReady(in, containersReady), containersReady,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	for i := range all {
		all[i].ObservedGeneration = in.Pod.Generation
		all[i].LastTransitionTime = in.Now
		for _, before := range append(slices.Clone(in.Previous.Conditions), in.Pod.Status.Conditions...) {
			if before.Type != all[i].Type {
				continue
			}
			if before.Status == all[i].Status {
				all[i].LastTransitionTime = before.LastTransitionTime
			}
			break
		}
	}
	return all
}

func condition(kind corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	if ok {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue}
	}
	return corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message}
}

func networkReady(in Input, phase corev1.PodPhase) corev1.PodCondition {
	return condition(corev1.PodReadyToStartContainers, len(in.PodIPs) > 0 && !Terminal(phase), "", "")
}

// podCompleted is the kubelet's reason for everything about a Pod that succeeded.
const podCompleted = "PodCompleted"

func initialized(in Input, phase corev1.PodPhase) corev1.PodCondition {
	if phase == corev1.PodSucceeded {
		return corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, Reason: podCompleted}
	}
	pending := names(in.Init, func(c corev1.ContainerStatus) bool {
		return c.State.Terminated == nil || c.State.Terminated.ExitCode != 0
	})
	return condition(corev1.PodInitialized, len(pending) == 0,
		"ContainersNotInitialized", "containers with incomplete status: "+list(pending))
}

func containersReady(in Input, phase corev1.PodPhase) corev1.PodCondition {
	switch phase {
	case corev1.PodSucceeded:
		return condition(corev1.ContainersReady, false, podCompleted, "")
	case corev1.PodFailed:
		return condition(corev1.ContainersReady, false, "PodFailed", "")
	}
	unready := names(in.Main, func(c corev1.ContainerStatus) bool { return !c.Ready })
	return condition(corev1.ContainersReady, len(unready) == 0,
		"ContainersNotReady", "containers with unready status: "+list(unready))
}

// podReady also asks for the Pod's readiness gates, conditions set by others.
func podReady(in Input, containers corev1.PodCondition) corev1.PodCondition {
	if containers.Status != corev1.ConditionTrue {
		return condition(corev1.PodReady, false, containers.Reason, containers.Message)
	}
	for _, gate := range in.Pod.Spec.ReadinessGates {
		met := slices.ContainsFunc(in.Pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == gate.ConditionType && c.Status == corev1.ConditionTrue
		})
		if !met {
			return condition(corev1.PodReady, false, "ReadinessGatesNotReady", "readiness gate "+string(gate.ConditionType)+" is not true")
		}
	}
	return condition(corev1.PodReady, true, "", "")
}

func names(statuses []corev1.ContainerStatus, wanted func(corev1.ContainerStatus) bool) []string {
	var found []string
	for _, c := range statuses {
		if wanted(c) {
			found = append(found, c.Name)
		}
	}
	return found
}

func list(names []string) string { return "[" + strings.Join(names, " ") + "]" }

// owned reports whether it is the node that writes a condition; all others belong
// to others.
func owned(kind corev1.PodConditionType) bool {
	switch kind {
	case corev1.PodScheduled, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady:
		return true
	default:
		return false
	}
}

// Merge adds to a computed status what belongs to others in the API's present one.
func Merge(computed, present corev1.PodStatus) corev1.PodStatus {
	merged := *computed.DeepCopy()
	for _, c := range present.Conditions {
		if !owned(c.Type) {
			merged.Conditions = append(merged.Conditions, c)
		}
	}
	if merged.QOSClass == "" {
		merged.QOSClass = present.QOSClass
	}
	merged.NominatedNodeName = present.NominatedNodeName
	merged.Resize, merged.EphemeralContainerStatuses = present.Resize, present.EphemeralContainerStatuses
	merged.ResourceClaimStatuses = present.ResourceClaimStatuses
	return merged
}
