package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"github.com/berth-lb/berth/internal/lab/agent/volume"
	"github.com/berth-lb/berth/internal/lab/container"
)

// launch is all that determines how a container of a Pod is started.
type launch struct {
	pod       *corev1.Pod
	container *corev1.Container
	image     Image
	node      string
	nodeIPs   []netip.Addr
	podIPs    []netip.Addr
	services  map[string]string // variables that describe Services
	volumes   volume.Set
	source    volume.Source
	root      string // where the container's root is mounted
	message   string // the host's file for the termination message
}

// spec translates the Pod's specification into the container's.
func (l launch) spec(ctx context.Context) (container.Spec, error) {
	credentials, err := security(l.pod, l.container, l.image)
	if err != nil {
		return container.Spec{}, err
	}
	hostname := l.hostname()
	base := map[string]string{"PATH": defaultPath, "HOSTNAME": hostname, "HOME": home(credentials.UID)}
	for _, variable := range l.image.Env {
		name, value, _ := strings.Cut(variable, "=")
		base[name] = value
	}
	if l.container.TTY {
		base["TERM"] = "xterm"
	}
	maps.Copy(base, l.services)
	env := environment{pod: l.pod, podIPs: l.podIPs, nodeIPs: l.nodeIPs, source: l.source, base: base}
	variables, err := env.resolve(ctx, l.container)
	if err != nil {
		return container.Spec{}, err
	}
	mounts, err := l.mounts(variables)
	if err != nil {
		return container.Spec{}, err
	}
	dir := l.container.WorkingDir
	if dir == "" {
		dir = l.image.Dir
	}
	s := l.container.SecurityContext
	return container.Spec{
		Root:     l.root,
		Image:    l.image.Root,
		Hostname: hostname,
		Args:     l.args(variables),
		Env:      listed(variables),
		Dir:      dir,
		Files: map[string]string{
			"/etc/hosts": l.hosts(), "/etc/hostname": hostname + "\n", "/etc/resolv.conf": l.resolvConf(),
		},
		Mounts:       mounts,
		ReadOnlyRoot: s != nil && s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem,
		Credentials:  credentials,
	}, nil
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func home(uid uint32) string {
	if uid == 0 {
		return "/root"
	}
	return "/"
}

// hostname is the Pod's name. A Pod in the node's network has the node's, as it
// would share its UTS namespace.
func (l launch) hostname() string {
	switch {
	case l.pod.Spec.HostNetwork:
		return l.node
	case l.pod.Spec.Hostname != "":
		return l.pod.Spec.Hostname
	default:
		const longest = 63 // of a host's name, sethostname(2)
		name := l.pod.Name
		return strings.TrimRight(name[:min(len(name), longest)], "-.")
	}
}

// args are the command and its arguments: command replaces the image's entrypoint.
func (l launch) args(variables map[string]string) []string {
	mapping := expansion.MappingFuncFor(variables)
	own := expandAll(l.container.Args, mapping)
	if len(l.container.Command) > 0 {
		return append(expandAll(l.container.Command, mapping), own...)
	}
	return l.image.args(own)
}

// expandAll returns nil for none.
func expandAll(texts []string, mapping func(string) string) []string {
	if len(texts) == 0 {
		return nil
	}
	expanded := make([]string, len(texts))
	for i, text := range texts {
		expanded[i] = expansion.Expand(text, mapping)
	}
	return expanded
}

func (l launch) mounts(variables map[string]string) ([]container.Mount, error) {
	mounts := l.image.mounts()
	if path := l.container.TerminationMessagePath; path != "" {
		if err := os.WriteFile(l.message, nil, 0o666); err != nil {
			return nil, err
		}
		if err := os.Chmod(l.message, 0o666); err != nil { // past the umask
			return nil, err
		}
		mounts = append(mounts, container.Mount{Source: l.message, Target: path})
	}
	for _, m := range l.container.VolumeMounts {
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expansion.Expand(m.SubPathExpr, expansion.MappingFuncFor(variables))
		}
		source, readOnly, err := l.volumes.Resolve(l.pod, m, sub)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, container.Mount{Source: source, Target: filepath.Join("/", m.MountPath), ReadOnly: readOnly})
	}
	if len(l.container.VolumeDevices) > 0 {
		return nil, errors.New("volumeDevices are not supported here")
	}
	return mounts, nil
}

// hosts is /etc/hosts as a kubelet writes it.
func (l launch) hosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, ip := range l.podIPs {
		fmt.Fprintf(&b, "%s\t%s\n", ip, l.hostname())
	}
	for _, alias := range l.pod.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, " "))
	}
	return b.String()
}

// resolvConf only has what the Pod brings itself: the lab has no name server.
func (l launch) resolvConf() string {
	config := l.pod.Spec.DNSConfig
	if config == nil {
		return ""
	}
	var b strings.Builder
	for _, server := range config.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(config.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(config.Searches, " "))
	}
	for _, option := range config.Options {
		text := option.Name
		if option.Value != nil {
			text += ":" + *option.Value
		}
		fmt.Fprintf(&b, "options %s\n", text)
	}
	return b.String()
}
