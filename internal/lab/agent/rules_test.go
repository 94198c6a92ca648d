package agent

import (
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/lab/container"
)

func TestFindImage(t *testing.T) {
	t.Parallel()
	images := map[string]Image{"agnhost": {Entrypoint: []string{"/opt/bin/agnhost"}}, "pause": {Entrypoint: []string{"/opt/bin/agnhost", "pause"}}}
	tests := map[string]struct{ image, want string }{
		"bare":                 {"agnhost", "/agnhost"},
		"tag":                  {"agnhost:2.53", "/agnhost"},
		"registry and tag":     {"registry.k8s.io/e2e-test-images/agnhost:2.53", "/agnhost"},
		"registry with a port": {"localhost:5000/agnhost", "/agnhost"},
		"digest":               {"ghcr.io/x/agnhost@sha256:0123", "/agnhost"},
		"tag and digest":       {"ghcr.io/x/agnhost:v1@sha256:0123", "/agnhost"},
		"fixed arguments":      {"registry.k8s.io/pause:3.10", "/agnhost pause"},
		"unknown":              {"nginx:1", ""},
		"nothing":              {"", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := findImage(images, test.image)
			if test.want == "" {
				if err == nil || !strings.Contains(err.Error(), "known images: agnhost, pause") {
					t.Errorf("error %v", err)
				}
				return
			}
			want := []container.Mount{{Source: "/opt/bin/agnhost", Target: "/agnhost", ReadOnly: true}}
			if err != nil || strings.Join(got.args(nil), " ") != test.want || !slices.Equal(got.mounts(), want) {
				t.Errorf("got %+v, %v; want %s", got, err, test.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	var b backoff
	var got []time.Duration
	for range 8 {
		got = append(got, b.next(time.Second))
	}
	const s = time.Second
	if diff := cmp.Diff([]time.Duration{0, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s, 300 * s}, got); diff != "" {
		t.Errorf("pauses (-want +got):\n%s", diff)
	}
	if pause := b.next(10 * time.Minute); pause != 0 {
		t.Errorf("after a long run the pause is %s", pause)
	}
	if pause := b.next(time.Second); pause != 10*s {
		t.Errorf("then it is %s", pause)
	}
}

func TestRestarts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		policy corev1.RestartPolicy
		init   bool
		code   int
		want   bool
	}{
		{corev1.RestartPolicyAlways, false, 0, true},
		{corev1.RestartPolicyAlways, false, 1, true},
		{corev1.RestartPolicyAlways, true, 0, false},
		{corev1.RestartPolicyAlways, true, 1, true},
		{corev1.RestartPolicyOnFailure, false, 0, false},
		{corev1.RestartPolicyOnFailure, false, 1, true},
		{corev1.RestartPolicyOnFailure, true, 1, true},
		{corev1.RestartPolicyNever, false, 1, false},
		{corev1.RestartPolicyNever, true, 1, false},
	}
	for _, test := range tests {
		if got := restarts(test.policy, test.init, test.code); got != test.want {
			t.Errorf("%s, init %v, code %d: %v", test.policy, test.init, test.code, got)
		}
	}
}

func seccompOf(profile corev1.SeccompProfileType) *corev1.SeccompProfile {
	return &corev1.SeccompProfile{Type: profile}
}

func TestSecurity(t *testing.T) {
	t.Parallel()
	standard := container.DefaultCapabilities()
	netRaw, err := standard.Change([]string{"NET_RAW"}, []string{"ALL"})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		pod     *corev1.PodSecurityContext
		own     *corev1.SecurityContext
		user    string // of the image
		want    container.Credentials
		problem string
	}{
		"nothing said": {want: container.Credentials{Capabilities: standard}},
		"of the pod": {
			pod:  &corev1.PodSecurityContext{RunAsUser: number(10), RunAsGroup: number(11), SupplementalGroups: []int64{12}, FSGroup: number(13)},
			want: container.Credentials{UID: 10, GID: 11, Groups: []uint32{12, 13}, Capabilities: standard},
		},
		"of the image": {
			own: &corev1.SecurityContext{RunAsNonRoot: yes()}, user: "20:21",
			want: container.Credentials{UID: 20, GID: 21, Capabilities: standard},
		},
		"own beats the image's": {
			own: &corev1.SecurityContext{RunAsUser: number(30)}, user: "20:21",
			want: container.Credentials{UID: 30, GID: 21, Capabilities: standard},
		},
		"own beats the pod's": {
			pod:  &corev1.PodSecurityContext{RunAsUser: number(10), RunAsNonRoot: yes()},
			own:  &corev1.SecurityContext{RunAsUser: number(0), RunAsNonRoot: no()},
			want: container.Credentials{Capabilities: standard},
		},
		"root refused": {
			own: &corev1.SecurityContext{RunAsNonRoot: yes()}, problem: "runAsNonRoot",
		},
		"not root": {
			pod:  &corev1.PodSecurityContext{RunAsNonRoot: yes()},
			own:  &corev1.SecurityContext{RunAsUser: number(65532)},
			want: container.Credentials{UID: 65532, Capabilities: standard},
		},
		"one capability, no escalation": {
			own: &corev1.SecurityContext{
				AllowPrivilegeEscalation: no(),
				Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_RAW"}},
			},
			want: container.Credentials{Capabilities: netRaw, NoNewPrivileges: true},
		},
		"seccomp of the pod": {
			pod:  &corev1.PodSecurityContext{SeccompProfile: seccompOf(corev1.SeccompProfileTypeRuntimeDefault)},
			want: container.Credentials{Capabilities: standard, Seccomp: true},
		},
		"own seccomp beats the pod's": {
			pod:  &corev1.PodSecurityContext{SeccompProfile: seccompOf(corev1.SeccompProfileTypeRuntimeDefault)},
			own:  &corev1.SecurityContext{SeccompProfile: seccompOf(corev1.SeccompProfileTypeUnconfined)},
			want: container.Credentials{Capabilities: standard},
		},
		"seccomp of the node": {
			own:     &corev1.SecurityContext{SeccompProfile: seccompOf(corev1.SeccompProfileTypeLocalhost)},
			problem: "seccompProfile",
		},
		"unknown capability": {
			own:     &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"FLY"}}},
			problem: `securityContext: capabilities.add: capability "FLY"`,
		},
		"privileged": {
			own:  &corev1.SecurityContext{Privileged: yes()},
			want: container.Credentials{Capabilities: container.AllCapabilities(), Privileged: true},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := security(&corev1.Pod{Spec: corev1.PodSpec{SecurityContext: test.pod}}, &corev1.Container{SecurityContext: test.own}, Image{User: test.user})
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Fatalf("error %v, want %q", err, test.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseLogQuery(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	got, err := parseLogQuery(url.Values{
		"tailLines": {"0"}, "limitBytes": {"7"}, "sinceSeconds": {"60"}, "timestamps": {"true"}, "follow": {"true"}, "previous": {"false"},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	o := got.options
	if o.Tail == nil || *o.Tail != 0 || o.LimitBytes != 7 || !o.Since.Equal(now.Add(-time.Minute)) || !o.Timestamps || !got.follow || got.previous {
		t.Errorf("got %+v", got)
	}
	if got, err := parseLogQuery(url.Values{}, now); err != nil || got.options.Tail != nil || got.follow {
		t.Errorf("empty: %+v, %v", got, err)
	}
	for key, value := range map[string]string{"tailLines": "-1", "limitBytes": "x", "sinceTime": "yesterday", "follow": "maybe"} {
		if _, err := parseLogQuery(url.Values{key: {value}}, now); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s=%s: error %v", key, value, err)
		}
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	always := corev1.ContainerRestartPolicyAlways
	port := corev1.Container{Ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}}
	tests := map[string]struct {
		spec corev1.PodSpec
		want string
	}{
		"ordinary":                      {corev1.PodSpec{Containers: []corev1.Container{{}}}, ""},
		"host port":                     {corev1.PodSpec{Containers: []corev1.Container{port}}, "HostPortNotSupported"},
		"host port in the node network": {corev1.PodSpec{Containers: []corev1.Container{port}, HostNetwork: true}, ""},
		"sidecar":                       {corev1.PodSpec{InitContainers: []corev1.Container{{RestartPolicy: &always}}}, "SidecarNotSupported"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := refuse(&corev1.Pod{Spec: test.spec})
			if (got == nil) != (test.want == "") || got != nil && got.Reason != test.want {
				t.Errorf("got %+v, want %q", got, test.want)
			}
		})
	}
}

func TestGraceOf(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		object corev1.Pod
		want   time.Duration
	}{
		"of the pod":        {corev1.Pod{Spec: corev1.PodSpec{TerminationGracePeriodSeconds: number(30)}}, 30 * time.Second},
		"of the deletion":   {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionGracePeriodSeconds: number(5)}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: number(30)}}, 5 * time.Second},
		"none":              {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionGracePeriodSeconds: number(0)}}, time.Second},
		"nothing said":      {corev1.Pod{}, time.Second},
		"of the pod, of no": {corev1.Pod{Spec: corev1.PodSpec{TerminationGracePeriodSeconds: number(0)}}, time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := graceOf(&test.object); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	r := records{folder: filepath.Join(t.TempDir(), "pods")}
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleeper.Process.Kill() }) // it has ended already unless the test fails
	if err := r.killLeftovers(); err != nil {
		t.Fatalf("without a folder: %v", err)
	}
	ticks, err := startTicks(sleeper.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	old := podRecord{Namespace: "default", Name: "web", UID: "1"}
	current := podRecord{Namespace: "default", Name: "web", UID: "2", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Containers: []containerRecord{
		{Name: "other", PID: os.Getpid(), StartTicks: "another process with this number"},
		{Name: "main", PID: sleeper.Process.Pid, StartTicks: ticks},
	}}
	for _, record := range []podRecord{old, current} {
		if err := r.write(record); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.remove(old); err != nil {
		t.Fatal(err)
	}
	got, err := readRecord(filepath.Join(r.folder, "default_web.json"))
	if err != nil {
		t.Fatalf("removing an old pod's record removed the new one's: %v", err)
	}
	if diff := cmp.Diff(current, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if err := r.killLeftovers(); err != nil {
		t.Fatal(err)
	}
	state, err := sleeper.Process.Wait()
	if err != nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the recorded process ended with %v, %v", state, err)
	}
	if left, err := os.ReadDir(r.folder); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := r.remove(current); err != nil {
		t.Errorf("removing what does not exist: %v", err)
	}
}

func TestConfigIsValidated(t *testing.T) {
	t.Parallel()
	err := Config{StateDir: "x", PodCIDRs: make([]netip.Prefix, 1), Images: map[string]Image{
		"a": {Entrypoint: []string{"b"}}, "c": {Root: "d"}, "e": {Root: "/f", User: "nobody"}, "g": {Root: "/h", User: "1:"},
	}}.validate()
	for _, want := range []string{
		"node:", "kubeconfig:", `stateDir: "x"`, "nodeIPs:", "podCIDRs:", "netnsPrefix:",
		"images[a]: start the entrypoint", `images[c]: root: "d"`, `images[e]: user: "nobody"`, `images[g]: user: "1:"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %s", err, want)
		}
	}
}
