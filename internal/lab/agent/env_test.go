package agent

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fakeSource has one ConfigMap and one Secret.
type fakeSource struct{}

func (fakeSource) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if name != "cm" {
		return nil, nil
	}
	return &corev1.ConfigMap{Data: map[string]string{"key": "from-map", "other": "2"}}, nil
}

func (fakeSource) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if name != "sec" {
		return nil, nil
	}
	return &corev1.Secret{Data: map[string][]byte{"pw": []byte("hidden")}}, nil
}

func (fakeSource) Token(context.Context, *corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	return "", time.Time{}, nil
}

func yes() *bool {
	v := true
	return &v
}

func no() *bool {
	v := false
	return &v
}

func number(n int64) *int64 { return &n }

func field(path string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
}

func mapKey(name, key string, optional *bool) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: optional,
	}}
}

func secretKey(name, key string, optional *bool) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: optional,
	}}
}

func amount(what string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: what}}
}

func fromMap(name, prefix string, optional *bool) corev1.EnvFromSource {
	return corev1.EnvFromSource{Prefix: prefix, ConfigMapRef: &corev1.ConfigMapEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: optional,
	}}
}

func fromSecret(name, prefix string, optional *bool) corev1.EnvFromSource {
	return corev1.EnvFromSource{Prefix: prefix, SecretRef: &corev1.SecretEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: optional,
	}}
}

func TestResolveEnvironment(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "shop", UID: "u-1", Labels: map[string]string{"tier": "front"}, Annotations: map[string]string{"note": "n"}},
		Spec:       corev1.PodSpec{NodeName: "node-1", ServiceAccountName: "robot"},
	}
	pod.Spec.Containers = []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")},
	}}}
	tests := map[string]struct {
		env     []corev1.EnvVar
		from    []corev1.EnvFromSource
		want    map[string]string
		problem string
	}{
		"base only":          {want: map[string]string{}},
		"value":              {env: []corev1.EnvVar{{Name: "A", Value: "1"}}, want: map[string]string{"A": "1"}},
		"own replaces base":  {env: []corev1.EnvVar{{Name: "HOST", Value: "mine"}}, want: map[string]string{"HOST": "mine"}},
		"refers to base":     {env: []corev1.EnvVar{{Name: "A", Value: "at $(HOST)!"}}, want: map[string]string{"A": "at base!"}},
		"refers to earlier":  {env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)2"}}, want: map[string]string{"A": "1", "B": "12"}},
		"refers to later":    {env: []corev1.EnvVar{{Name: "A", Value: "$(B)"}, {Name: "B", Value: "2"}}, want: map[string]string{"A": "$(B)", "B": "2"}},
		"escaped":            {env: []corev1.EnvVar{{Name: "A", Value: "$$(HOST) $HOST $(HOST"}}, want: map[string]string{"A": "$(HOST) $HOST $(HOST"}},
		"refers to envFrom":  {from: []corev1.EnvFromSource{fromMap("cm", "", nil)}, env: []corev1.EnvVar{{Name: "A", Value: "$(other)"}}, want: map[string]string{"key": "from-map", "other": "2", "A": "2"}},
		"env beats envFrom":  {from: []corev1.EnvFromSource{fromMap("cm", "", nil)}, env: []corev1.EnvVar{{Name: "key", Value: "x"}}, want: map[string]string{"key": "x", "other": "2"}},
		"prefix":             {from: []corev1.EnvFromSource{fromSecret("sec", "S_", nil)}, want: map[string]string{"S_pw": "hidden"}},
		"envFrom missing":    {from: []corev1.EnvFromSource{fromMap("none", "", nil)}, problem: `envFrom: configmap "none" not found`},
		"envFrom optional":   {from: []corev1.EnvFromSource{fromSecret("none", "", yes()), fromMap("none", "", yes())}, want: map[string]string{}},
		"map and secret":     {env: []corev1.EnvVar{{Name: "A", ValueFrom: mapKey("cm", "key", nil)}, {Name: "B", ValueFrom: secretKey("sec", "pw", nil)}}, want: map[string]string{"A": "from-map", "B": "hidden"}},
		"secret missing":     {env: []corev1.EnvVar{{Name: "A", ValueFrom: secretKey("none", "pw", nil)}}, problem: `env "A": secret "none" not found`},
		"key missing":        {env: []corev1.EnvVar{{Name: "A", ValueFrom: mapKey("cm", "z", nil)}}, problem: `couldn't find key "z" in configmap "cm"`},
		"key optional":       {env: []corev1.EnvVar{{Name: "A", ValueFrom: mapKey("cm", "z", yes())}, {Name: "B", ValueFrom: secretKey("none", "z", yes())}}, want: map[string]string{}},
		"name and namespace": {env: []corev1.EnvVar{{Name: "A", ValueFrom: field("metadata.name")}, {Name: "B", ValueFrom: field("metadata.namespace")}, {Name: "C", ValueFrom: field("metadata.uid")}}, want: map[string]string{"A": "web-0", "B": "shop", "C": "u-1"}},
		"label, annotation":  {env: []corev1.EnvVar{{Name: "A", ValueFrom: field("metadata.labels['tier']")}, {Name: "B", ValueFrom: field("metadata.annotations['note']")}}, want: map[string]string{"A": "front", "B": "n"}},
		"node and account":   {env: []corev1.EnvVar{{Name: "A", ValueFrom: field("spec.nodeName")}, {Name: "B", ValueFrom: field("spec.serviceAccountName")}}, want: map[string]string{"A": "node-1", "B": "robot"}},
		"addresses":          {env: []corev1.EnvVar{{Name: "A", ValueFrom: field("status.podIP")}, {Name: "B", ValueFrom: field("status.podIPs")}, {Name: "C", ValueFrom: field("status.hostIP")}, {Name: "D", ValueFrom: field("status.hostIPs")}}, want: map[string]string{"A": "10.0.0.2", "B": "10.0.0.2,fd00::2", "C": "192.0.2.1", "D": "192.0.2.1"}},
		"unknown field":      {env: []corev1.EnvVar{{Name: "A", ValueFrom: field("spec.nonsense")}}, problem: "unsupported fieldPath"},
		"resources":          {env: []corev1.EnvVar{{Name: "A", ValueFrom: amount("requests.memory")}, {Name: "B", ValueFrom: amount("limits.cpu")}}, want: map[string]string{"A": "1048576", "B": "32"}},
		"nothing to take":    {env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{}}}, problem: "not supported here"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := environment{
				pod: pod, source: fakeSource{}, base: map[string]string{"HOST": "base"},
				podIPs:  []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
				nodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			}
			got, err := e.resolve(t.Context(), &corev1.Container{Name: "main", Env: test.env, EnvFrom: test.from})
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Fatalf("error %v, want %q", err, test.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, set := test.want["HOST"]; !set {
				test.want["HOST"] = "base"
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("variables (-want +got):\n%s", diff)
			}
		})
	}
}

func TestServiceVariables(t *testing.T) {
	t.Parallel()
	service := func(ip string) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 443}}}}
	}
	got := serviceVariables(service("10.96.0.1"))
	if got["KUBERNETES_SERVICE_HOST"] != "10.96.0.1" || got["KUBERNETES_SERVICE_PORT"] != "443" || got["KUBERNETES_PORT"] != "tcp://10.96.0.1:443" {
		t.Errorf("IPv4: %v", got)
	}
	got = serviceVariables(service("fd00::1"))
	if got["KUBERNETES_SERVICE_HOST"] != "fd00::1" || got["KUBERNETES_PORT_443_TCP"] != "tcp://[fd00::1]:443" {
		t.Errorf("IPv6: %v", got)
	}
	if got := serviceVariables(&corev1.Service{}); len(got) != 0 {
		t.Errorf("no ports: %v", got)
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{fromMap("a", "", nil), fromSecret("b", "", nil)}}},
		Containers:     []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: mapKey("c", "k", nil)}, {ValueFrom: secretKey("d", "k", nil)}, {Value: "x"}}}},
	}}
	inMaps, inSecrets := references(pod)
	if diff := cmp.Diff([][]string{{"a", "c"}, {"b", "d"}}, [][]string{inMaps, inSecrets}); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
}
