package agent

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/internal/lab/container"
)

// security returns the credentials that a container asks for, in its own or its
// Pod's securityContext. Without a word about it, it runs as the user of its image.
func security(pod *corev1.Pod, c *corev1.Container, image Image) (container.Credentials, error) {
	shared, own := pod.Spec.SecurityContext, c.SecurityContext
	if shared == nil {
		shared = &corev1.PodSecurityContext{}
	}
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	uid, gid, err := image.user()
	if err != nil {
		return container.Credentials{}, err
	}
	credentials := container.Credentials{
		UID:             id(own.RunAsUser, shared.RunAsUser, uid),
		GID:             id(own.RunAsGroup, shared.RunAsGroup, gid),
		Privileged:      own.Privileged != nil && *own.Privileged,
		NoNewPrivileges: own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation,
	}
	if credentials.Seccomp, err = seccomp(own, shared, credentials.Privileged); err != nil {
		return container.Credentials{}, err
	}
	for _, group := range shared.SupplementalGroups {
		credentials.Groups = append(credentials.Groups, uint32(group))
	}
	if shared.FSGroup != nil {
		credentials.Groups = append(credentials.Groups, uint32(*shared.FSGroup))
	}
	if either(own.RunAsNonRoot, shared.RunAsNonRoot) && credentials.UID == 0 {
		return container.Credentials{}, errors.New("container has runAsNonRoot and its user would be root; set runAsUser to another")
	}
	credentials.Capabilities, err = capabilities(own, credentials.Privileged)
	return credentials, err
}

func capabilities(own *corev1.SecurityContext, privileged bool) (container.CapabilitySet, error) {
	if privileged {
		return container.AllCapabilities(), nil
	}
	set := container.DefaultCapabilities()
	if own.Capabilities == nil {
		return set, nil
	}
	set, err := set.Change(texts(own.Capabilities.Add), texts(own.Capabilities.Drop))
	if err != nil {
		return 0, fmt.Errorf("securityContext: %w", err)
	}
	return set, nil
}

func texts(capabilities []corev1.Capability) []string {
	list := make([]string, len(capabilities))
	for i, capability := range capabilities {
		list[i] = string(capability)
	}
	return list
}

// id is the container's own user or group if it has one, or the Pod's, or the
// image's.
func id(own, shared *int64, image uint32) uint32 {
	switch {
	case own != nil:
		return uint32(*own)
	case shared != nil:
		return uint32(*shared)
	default:
		return image
	}
}

// either is the container's own setting if it has one, or the Pod's.
func either(own, shared *bool) bool {
	if own != nil {
		return *own
	}
	return shared != nil && *shared
}

// seccomp reports whether the container's profile, or its Pod's, is RuntimeDefault.
func seccomp(own *corev1.SecurityContext, shared *corev1.PodSecurityContext, privileged bool) (bool, error) {
	profile := shared.SeccompProfile
	if own.SeccompProfile != nil {
		profile = own.SeccompProfile
	}
	if profile == nil || privileged {
		return false, nil
	}
	if profile.Type == corev1.SeccompProfileTypeLocalhost {
		return false, errors.New("securityContext: seccompProfile: there are no profiles on the lab's nodes; use RuntimeDefault")
	}
	return profile.Type == corev1.SeccompProfileTypeRuntimeDefault, nil
}
