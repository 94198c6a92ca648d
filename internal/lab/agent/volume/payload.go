package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
)

// Source is where content comes from. ConfigMap and Secret return nil for an
// object that does not exist.
type Source interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token returns a token of the Pod's ServiceAccount and when to ask again.
	Token(ctx context.Context, pod *corev1.Pod, projection *corev1.ServiceAccountTokenProjection) (token string, renew time.Time, err error)
}

// defaultMode is that of the API for all kinds of volumes.
const defaultMode = 0o644

// builder collects the content of one volume.
type builder struct {
	pod         *corev1.Pod
	source      Source
	allocatable corev1.ResourceList
	payload     Payload
	renew       time.Time // earliest time at which a token has to be replaced; zero if none
}

// build fills the payload from a volume that comes from the API. It reports
// everything that is missing.
func (b *builder) build(ctx context.Context, v corev1.VolumeSource) error {
	switch {
	case v.ConfigMap != nil:
		projection := &corev1.ConfigMapProjection{LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items, Optional: v.ConfigMap.Optional}
		return b.configMap(ctx, projection, mode(v.ConfigMap.DefaultMode, defaultMode))
	case v.Secret != nil:
		projection := &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items, Optional: v.Secret.Optional}
		return b.secret(ctx, projection, mode(v.Secret.DefaultMode, defaultMode))
	case v.DownwardAPI != nil:
		return b.downward(v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode, defaultMode))
	case v.Projected != nil:
		var errs []error
		for _, projection := range v.Projected.Sources {
			errs = append(errs, b.project(ctx, projection, mode(v.Projected.DefaultMode, defaultMode)))
		}
		return errors.Join(errs...)
	default:
		return errors.New("this kind of volume is not supported here; use configMap, secret, projected, downwardAPI, emptyDir or hostPath")
	}
}

func (b *builder) project(ctx context.Context, p corev1.VolumeProjection, fallback os.FileMode) error {
	switch {
	case p.ConfigMap != nil:
		return b.configMap(ctx, p.ConfigMap, fallback)
	case p.Secret != nil:
		return b.secret(ctx, p.Secret, fallback)
	case p.DownwardAPI != nil:
		return b.downward(p.DownwardAPI.Items, fallback)
	case p.ServiceAccountToken != nil:
		return b.token(ctx, p.ServiceAccountToken, fallback)
	default:
		return errors.New("this kind of projection is not supported here; use configMap, secret, downwardAPI or serviceAccountToken")
	}
}

func (b *builder) configMap(ctx context.Context, p *corev1.ConfigMapProjection, fallback os.FileMode) error {
	object, err := b.source.ConfigMap(ctx, b.pod.Namespace, p.Name)
	if err != nil {
		return fmt.Errorf("configmap %q: %w", p.Name, err)
	}
	optional := p.Optional != nil && *p.Optional
	if object == nil {
		if optional {
			return nil
		}
		return fmt.Errorf("configmap %q not found", p.Name)
	}
	data := make(map[string][]byte, len(object.Data)+len(object.BinaryData))
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	for key, value := range object.BinaryData {
		data[key] = value
	}
	if err := b.add(data, p.Items, fallback, optional); err != nil {
		return fmt.Errorf("configmap %q: %w", p.Name, err)
	}
	return nil
}

func (b *builder) secret(ctx context.Context, p *corev1.SecretProjection, fallback os.FileMode) error {
	object, err := b.source.Secret(ctx, b.pod.Namespace, p.Name)
	if err != nil {
		return fmt.Errorf("secret %q: %w", p.Name, err)
	}
	optional := p.Optional != nil && *p.Optional
	if object == nil {
		if optional {
			return nil
		}
		return fmt.Errorf("secret %q not found", p.Name)
	}
	if err := b.add(object.Data, p.Items, fallback, optional); err != nil {
		return fmt.Errorf("secret %q: %w", p.Name, err)
	}
	return nil
}

// add puts in all keys, or those that items name.
func (b *builder) add(data map[string][]byte, items []corev1.KeyToPath, fallback os.FileMode, optional bool) error {
	if len(items) == 0 {
		for key, value := range data {
			b.payload[key] = File{Data: value, Mode: fallback}
		}
		return nil
	}
	for _, item := range items {
		value, found := data[item.Key]
		if found {
			b.payload[item.Path] = File{Data: value, Mode: mode(item.Mode, fallback)}
		} else if !optional {
			return fmt.Errorf("it has no key %q", item.Key)
		}
	}
	return nil
}

func (b *builder) downward(items []corev1.DownwardAPIVolumeFile, fallback os.FileMode) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = fieldpath.ExtractFieldPathAsString(b.pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			ref := item.ResourceFieldRef
			value, err = resourceapi.ExtractResourceValueByContainerNameAndNodeAllocatable(ref, b.pod, ref.ContainerName, b.allocatable)
		default:
			err = errors.New("set fieldRef or resourceFieldRef")
		}
		if err != nil {
			return fmt.Errorf("downwardAPI item %q: %w", item.Path, err)
		}
		b.payload[item.Path] = File{Data: []byte(value), Mode: mode(item.Mode, fallback)}
	}
	return nil
}

func (b *builder) token(ctx context.Context, p *corev1.ServiceAccountTokenProjection, fallback os.FileMode) error {
	token, renew, err := b.source.Token(ctx, b.pod, p)
	if err != nil {
		return fmt.Errorf("serviceAccountToken %q: %w", p.Path, err)
	}
	b.payload[p.Path] = File{Data: []byte(token), Mode: fallback}
	if b.renew.IsZero() || renew.Before(b.renew) {
		b.renew = renew
	}
	return nil
}

func mode(asked *int32, fallback os.FileMode) os.FileMode {
	if asked == nil {
		return fallback
	}
	return os.FileMode(*asked).Perm()
}

// References lists the ConfigMaps and Secrets that the Pod's volumes name.
func References(pod *corev1.Pod) (configMaps, secrets []string) {
	for _, v := range pod.Spec.Volumes {
		projections := []corev1.VolumeProjection{}
		if v.Projected != nil {
			projections = v.Projected.Sources
		}
		if v.ConfigMap != nil {
			configMaps = append(configMaps, v.ConfigMap.Name)
		}
		if v.Secret != nil {
			secrets = append(secrets, v.Secret.SecretName)
		}
		for _, p := range projections {
			if p.ConfigMap != nil {
				configMaps = append(configMaps, p.ConfigMap.Name)
			}
			if p.Secret != nil {
				secrets = append(secrets, p.Secret.Name)
			}
		}
	}
	return configMaps, secrets
}

// fromAPI reports whether a volume's content comes from the API and can change.
func fromAPI(v corev1.Volume) bool {
	return v.EmptyDir == nil && v.HostPath == nil
}

// safeName is the folder of a volume; names are DNS labels, but better safe.
func safeName(name string) string { return strings.ReplaceAll(name, "/", "_") }
