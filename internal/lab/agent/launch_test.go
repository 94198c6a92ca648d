package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/lab/agent/volume"
	"github.com/berth-lb/berth/internal/lab/container"
)

// newLaunch is one of a container that asks for nothing.
func newLaunch(t *testing.T) launch {
	t.Helper()
	return launch{
		pod:       &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "default"}},
		container: &corev1.Container{Name: "main"},
		image:     Image{Entrypoint: []string{"/opt/agnhost"}},
		node:      "node-1",
		podIPs:    []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
		services:  map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1"},
		volumes:   volume.Set{Folder: t.TempDir(), Source: fakeSource{}},
		source:    fakeSource{},
		root:      "/root-folder",
		message:   filepath.Join(t.TempDir(), "message"),
	}
}

func TestLaunchArguments(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		command, args []string
		want          string
	}{
		"entrypoint":         {nil, nil, "/agnhost"},
		"arguments":          {nil, []string{"netexec", "--port=$(PORT)"}, "/agnhost|netexec|--port=8080"},
		"command":            {[]string{"/bin/sh", "-c", "echo $$(PORT) $(NOT_SET)"}, nil, "/bin/sh|-c|echo $(PORT) $(NOT_SET)"},
		"command, arguments": {[]string{"/agnhost"}, []string{"pause"}, "/agnhost|pause"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLaunch(t)
			l.container.Command, l.container.Args = test.command, test.args
			l.container.Env = []corev1.EnvVar{{Name: "PORT", Value: "8080"}}
			spec, err := l.spec(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(spec.Args, "|"); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestLaunchSpec(t *testing.T) {
	t.Parallel()
	l := newLaunch(t)
	l.pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	l.pod.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"nine", "neuf"}}}
	l.pod.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.53"}, Searches: []string{"a", "b"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &l.node}}}
	l.container.TerminationMessagePath = "/dev/termination-log"
	l.container.WorkingDir = "/tmp"
	l.container.Env = []corev1.EnvVar{{Name: "WHO", Value: "me"}}
	l.container.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "data", SubPathExpr: "of-$(WHO)", ReadOnly: true}}
	l.container.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: yes(), RunAsUser: number(7)}
	if _, err := l.volumes.Refresh(t.Context(), l.pod); err != nil {
		t.Fatal(err)
	}
	got, err := l.spec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := container.Spec{
		Root:     "/root-folder",
		Hostname: "web-0",
		Args:     []string{"/agnhost"},
		Env: []string{
			"HOME=/", "HOSTNAME=web-0", "KUBERNETES_SERVICE_HOST=10.96.0.1",
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "WHO=me",
		},
		Dir: "/tmp",
		Files: map[string]string{
			"/etc/hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.2\tweb-0\nfd00::2\tweb-0\n192.0.2.9\tnine neuf\n",
			"/etc/hostname":    "web-0\n",
			"/etc/resolv.conf": "nameserver 192.0.2.53\nsearch a b\noptions ndots:node-1\n",
		},
		Mounts: []container.Mount{
			{Source: "/opt/agnhost", Target: "/agnhost", ReadOnly: true},
			{Source: l.message, Target: "/dev/termination-log"},
			{Source: filepath.Join(l.volumes.Folder, "data", "of-me"), Target: "/data", ReadOnly: true},
		},
		ReadOnlyRoot: true,
		Credentials:  container.Credentials{UID: 7, Capabilities: container.DefaultCapabilities()},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(l.message); err != nil {
		t.Error(err)
	}
}

// An image with a file system brings what its configuration says, and nothing of
// the host.
func TestLaunchImage(t *testing.T) {
	t.Parallel()
	l := newLaunch(t)
	l.image = Image{
		Root: "/images/web", Entrypoint: []string{"/web"}, Cmd: []string{"serve"}, Env: []string{"PATH=/", "A=image", "B=image"}, User: "7:8", Dir: "/data",
	}
	l.container.Env = []corev1.EnvVar{{Name: "B", Value: "pod, not $(A)"}}
	got, err := l.spec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := container.Spec{
		Root: "/root-folder", Image: "/images/web", Hostname: "web-0", Args: []string{"/web", "serve"}, Dir: "/data", Files: got.Files,
		Env:         []string{"A=image", "B=pod, not image", "HOME=/", "HOSTNAME=web-0", "KUBERNETES_SERVICE_HOST=10.96.0.1", "PATH=/"},
		Credentials: container.Credentials{UID: 7, GID: 8, Capabilities: container.DefaultCapabilities()},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	l.container.Args, l.container.WorkingDir = []string{"probe"}, "/elsewhere"
	if got, err = l.spec(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got.Args, " ") != "/web probe" || got.Dir != "/elsewhere" {
		t.Errorf("arguments and folder of the Pod's: %v in %s", got.Args, got.Dir)
	}
}

func TestLaunchHostname(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"the pod's name": {func(*corev1.Pod) {}, "web-0"},
		"of its own":     {func(p *corev1.Pod) { p.Spec.Hostname = "own" }, "own"},
		"the node's":     {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "node-1"},
		"shortened":      {func(p *corev1.Pod) { p.Name = strings.Repeat("a", 62) + ".b" }, strings.Repeat("a", 62)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLaunch(t)
			test.change(l.pod)
			if got := l.hostname(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestLaunchFails(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*corev1.Container)
		want   string
	}{
		"no such volume": {func(c *corev1.Container) { c.VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/x"}} }, "no volume of that name"},
		"devices":        {func(c *corev1.Container) { c.VolumeDevices = []corev1.VolumeDevice{{Name: "x"}} }, "volumeDevices"},
		"no such secret": {func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("none", "k", nil)}}
		}, "not found"},
		"root": {func(c *corev1.Container) { c.SecurityContext = &corev1.SecurityContext{RunAsNonRoot: yes()} }, "runAsNonRoot"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLaunch(t)
			test.change(l.container)
			if _, err := l.spec(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}
