package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"github.com/berth-lb/berth/internal/lab/agent/volume"
)

// environment resolves the variables of a container.
type environment struct {
	pod     *corev1.Pod
	podIPs  []netip.Addr
	nodeIPs []netip.Addr
	source  volume.Source
	// base are variables that the container gets without asking. Those that its own
	// specification sets replace them.
	base map[string]string
}

// resolve returns the container's variables, with $(NAME) replaced.
func (e environment) resolve(ctx context.Context, c *corev1.Container) (map[string]string, error) {
	own := map[string]string{}
	for _, from := range c.EnvFrom {
		if err := e.addAll(ctx, own, from); err != nil {
			return nil, fmt.Errorf("envFrom: %w", err)
		}
	}
	for _, variable := range c.Env {
		value, present, err := e.value(ctx, c, variable, own)
		if err != nil {
			return nil, fmt.Errorf("env %q: %w", variable.Name, err)
		}
		if present {
			own[variable.Name] = value
		}
	}
	all := maps.Clone(e.base)
	maps.Copy(all, own)
	return all, nil
}

func (e environment) value(ctx context.Context, c *corev1.Container, v corev1.EnvVar, own map[string]string) (value string, present bool, err error) {
	from := v.ValueFrom
	switch {
	case from == nil:
		return expansion.Expand(v.Value, expansion.MappingFuncFor(own, e.base)), true, nil
	case from.FieldRef != nil:
		value, err = e.field(from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		name := from.ResourceFieldRef.ContainerName
		if name == "" {
			name = c.Name
		}
		value, err = resourceapi.ExtractResourceValueByContainerNameAndNodeAllocatable(from.ResourceFieldRef, e.pod, name, capacity())
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		return e.configMapKey(ctx, from.ConfigMapKeyRef)
	case from.SecretKeyRef != nil:
		return e.secretKey(ctx, from.SecretKeyRef)
	default:
		return "", false, errors.New("this kind of valueFrom is not supported here; use fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef")
	}
}

// field returns a field of the Pod. Those that only its node knows while it starts
// are not taken from the API's object.
func (e environment) field(path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return e.pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return e.pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(e.nodeIPs), nil
	case "status.hostIPs":
		return join(e.nodeIPs), nil
	case "status.podIP":
		return first(e.podIPs), nil
	case "status.podIPs":
		return join(e.podIPs), nil
	default:
		return fieldpath.ExtractFieldPathAsString(e.pod, path)
	}
}

func first(addresses []netip.Addr) string {
	if len(addresses) == 0 {
		return ""
	}
	return addresses[0].String()
}

func join(addresses []netip.Addr) string {
	texts := make([]string, len(addresses))
	for i, address := range addresses {
		texts[i] = address.String()
	}
	return strings.Join(texts, ",")
}

func (e environment) configMapKey(ctx context.Context, ref *corev1.ConfigMapKeySelector) (string, bool, error) {
	object, err := e.source.ConfigMap(ctx, e.pod.Namespace, ref.Name)
	if err != nil {
		return "", false, fmt.Errorf("configmap %q: %w", ref.Name, err)
	}
	if object != nil {
		if value, found := object.Data[ref.Key]; found {
			return value, true, nil
		}
	}
	return "", false, missing(object == nil, "configmap", ref.Name, ref.Key, ref.Optional)
}

func (e environment) secretKey(ctx context.Context, ref *corev1.SecretKeySelector) (string, bool, error) {
	object, err := e.source.Secret(ctx, e.pod.Namespace, ref.Name)
	if err != nil {
		return "", false, fmt.Errorf("secret %q: %w", ref.Name, err)
	}
	if object != nil {
		if value, found := object.Data[ref.Key]; found {
			return string(value), true, nil
		}
	}
	return "", false, missing(object == nil, "secret", ref.Name, ref.Key, ref.Optional)
}

// missing is the error for an object or key that does not exist, unless it need not.
func missing(object bool, kind, name, key string, optional *bool) error {
	switch {
	case optional != nil && *optional:
		return nil
	case object:
		return fmt.Errorf("%s %q not found", kind, name)
	default:
		return fmt.Errorf("couldn't find key %q in %s %q", key, kind, name)
	}
}

func (e environment) addAll(ctx context.Context, into map[string]string, from corev1.EnvFromSource) error {
	switch {
	case from.ConfigMapRef != nil:
		object, err := e.source.ConfigMap(ctx, e.pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return fmt.Errorf("configmap %q: %w", from.ConfigMapRef.Name, err)
		}
		if object == nil {
			return missing(true, "configmap", from.ConfigMapRef.Name, "", from.ConfigMapRef.Optional)
		}
		for key, value := range object.Data {
			into[from.Prefix+key] = value
		}
	case from.SecretRef != nil:
		object, err := e.source.Secret(ctx, e.pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return fmt.Errorf("secret %q: %w", from.SecretRef.Name, err)
		}
		if object == nil {
			return missing(true, "secret", from.SecretRef.Name, "", from.SecretRef.Optional)
		}
		for key, value := range object.Data {
			into[from.Prefix+key] = string(value)
		}
	}
	return nil
}

// references lists the ConfigMaps and Secrets that the Pod's variables name.
func references(pod *corev1.Pod) (maps, hidden []string) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil {
				maps = append(maps, from.ConfigMapRef.Name)
			}
			if from.SecretRef != nil {
				hidden = append(hidden, from.SecretRef.Name)
			}
		}
		for _, v := range c.Env {
			if v.ValueFrom != nil && v.ValueFrom.ConfigMapKeyRef != nil {
				maps = append(maps, v.ValueFrom.ConfigMapKeyRef.Name)
			}
			if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
				hidden = append(hidden, v.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	return maps, hidden
}

// serviceVariables are those by which client-go finds the API server inside a Pod,
// from the Service of the same name.
func serviceVariables(kubernetes *corev1.Service) map[string]string {
	if len(kubernetes.Spec.Ports) == 0 {
		return map[string]string{}
	}
	host, port := kubernetes.Spec.ClusterIP, fmt.Sprint(kubernetes.Spec.Ports[0].Port)
	at := host + ":" + port
	if strings.Contains(host, ":") {
		at = "[" + host + "]:" + port
	}
	tcp := "KUBERNETES_PORT_" + port + "_TCP"
	return map[string]string{
		"KUBERNETES_SERVICE_HOST":       host,
		"KUBERNETES_SERVICE_PORT":       port,
		"KUBERNETES_SERVICE_PORT_HTTPS": port,
		"KUBERNETES_PORT":               "tcp://" + at,
		tcp:                             "tcp://" + at,
		tcp + "_PROTO":                  "tcp",
		tcp + "_PORT":                   port,
		tcp + "_ADDR":                   host,
	}
}

// listed turns variables into the form that execve(2) takes, in a fixed order.
func listed(variables map[string]string) []string {
	list := make([]string, 0, len(variables))
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		list = append(list, name+"="+variables[name])
	}
	return list
}
