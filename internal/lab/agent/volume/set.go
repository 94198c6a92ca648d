package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Set is the volumes of one Pod.
type Set struct {
	// Folder is the host's folder that holds them; it belongs to the Pod alone.
	Folder string
	Source Source
	// Allocatable answers a resourceFieldRef to a limit that a container lacks.
	Allocatable corev1.ResourceList
}

// Refresh creates the Pod's volumes, or brings those that come from the API up to
// date, and returns when to do it again at the latest, for the sake of tokens; zero
// if never. It reports everything that is missing.
func (s Set) Refresh(ctx context.Context, pod *corev1.Pod) (time.Time, error) {
	var renew time.Time
	var errs []error
	for _, v := range pod.Spec.Volumes {
		next, err := s.refreshOne(ctx, pod, v)
		if err != nil {
			errs = append(errs, fmt.Errorf("volume %q: %w", v.Name, err))
		}
		if renew.IsZero() || !next.IsZero() && next.Before(renew) {
			renew = next
		}
	}
	return renew, errors.Join(errs...)
}

func (s Set) refreshOne(ctx context.Context, pod *corev1.Pod, v corev1.Volume) (time.Time, error) {
	switch {
	case v.HostPath != nil:
		return time.Time{}, ensureHostPath(v.HostPath)
	case v.EmptyDir != nil:
		return time.Time{}, s.ensureEmpty(pod, v)
	}
	b := builder{pod: pod, source: s.Source, allocatable: s.Allocatable, payload: Payload{}}
	if err := b.build(ctx, v.VolumeSource); err != nil {
		return time.Time{}, err
	}
	return b.renew, Write(s.path(v), b.payload, group(pod))
}

// group is the Pod's fsGroup, or 0.
func group(pod *corev1.Pod) int64 {
	if c := pod.Spec.SecurityContext; c != nil && c.FSGroup != nil {
		return *c.FSGroup
	}
	return 0
}

func (s Set) path(v corev1.Volume) string {
	if v.HostPath != nil {
		return v.HostPath.Path
	}
	return filepath.Join(s.Folder, safeName(v.Name))
}

// ensureEmpty makes an emptyDir; one in memory (medium: Memory) lies on disk, too,
// and sizeLimit is not enforced.
func (s Set) ensureEmpty(pod *corev1.Pod, v corev1.Volume) error {
	path := s.path(v)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o777)
	if g := group(pod); g != 0 {
		if err := os.Chown(path, -1, int(g)); err != nil {
			return err
		}
		mode |= fs.ModeSetgid
	}
	return os.Chmod(path, mode)
}

// ensureHostPath follows the types of the API's hostPath volumes.
func ensureHostPath(v *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if v.Type != nil {
		kind = *v.Type
	}
	info, err := os.Stat(v.Path)
	if errors.Is(err, fs.ErrNotExist) {
		switch kind {
		case corev1.HostPathDirectoryOrCreate, corev1.HostPathUnset: // the latter as container runtimes do
			return os.MkdirAll(v.Path, 0o755)
		case corev1.HostPathFileOrCreate:
			return os.WriteFile(v.Path, nil, 0o644)
		}
	}
	if err != nil {
		return err
	}
	if !hostPathFits(kind, info.Mode()) {
		return fmt.Errorf("hostPath %s is not a %s", v.Path, strings.TrimSuffix(string(kind), "OrCreate"))
	}
	return nil
}

func hostPathFits(kind corev1.HostPathType, mode fs.FileMode) bool {
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return mode.IsRegular()
	case corev1.HostPathSocket:
		return mode&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		return mode&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		return mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	default:
		return true
	}
}

// Resolve returns the host's path that a volume mount shows, with subPath already
// expanded, and whether the container may not write to it.
func (s Set) Resolve(pod *corev1.Pod, mount corev1.VolumeMount, subPath string) (path string, readOnly bool, err error) {
	for _, v := range pod.Spec.Volumes {
		if v.Name != mount.Name {
			continue
		}
		path = s.path(v)
		if subPath != "" {
			path, err = s.subPath(path, subPath, v)
		}
		return path, mount.ReadOnly || fromAPI(v), err
	}
	return "", false, fmt.Errorf("volumeMount %q: the pod has no volume of that name", mount.Name)
}

// subPath finds or creates a path inside a volume without ever leaving it, however
// its content links.
func (s Set) subPath(volume, sub string, v corev1.Volume) (string, error) {
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("subPath %q must stay inside the volume", sub)
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	if _, err := root.Stat(sub); errors.Is(err, fs.ErrNotExist) && !fromAPI(v) {
		if err := root.MkdirAll(sub, 0o755); err != nil {
			return "", err
		}
		if v.EmptyDir != nil {
			if err := root.Chmod(sub, 0o777); err != nil {
				return "", err
			}
		}
	} else if err != nil {
		return "", fmt.Errorf("subPath %q: %w", sub, err)
	}
	// With the links resolved, the mount keeps showing what is there now.
	return filepath.EvalSymlinks(filepath.Join(volume, sub))
}
