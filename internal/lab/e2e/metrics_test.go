package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/internal/lab/pki"
)

// documented is a row of docs/metrics.md, and exposed a metric as a program
// introduces it.
var (
	documented = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([a-z]+) \\|")
	exposed    = regexp.MustCompile(`(?m)^# TYPE (berth_[a-z0-9_]+) ([a-z]+)$`)
)

// testMetricsDocumented: the reference has every metric that the programs serve,
// with the right type.
func testMetricsDocumented(e *env) {
	page, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		e.Fatal(err)
	}
	kinds := map[string]string{}
	for _, match := range documented.FindAllStringSubmatch(string(page), -1) {
		kinds[match[1]] = match[2]
	}
	for port, pod := range map[int]*corev1.Pod{7958: e.leader(), 7957: e.speakerOn(e.lab.Plan().Nodes()[0].Name)} {
		text, err := e.lab.get(e.ctx, pod.Spec.NodeName, fmt.Sprintf("http://%s/metrics", net.JoinHostPort(pod.Status.PodIP, fmt.Sprint(port))))
		if err != nil {
			e.Fatal(err)
		}
		served := exposed.FindAllStringSubmatch(text, -1)
		if len(served) == 0 {
			e.Errorf("%s serves no metric of Berth:\n%s", pod.Name, text)
		}
		for _, match := range served {
			if kinds[match[1]] != match[2] {
				e.Errorf("%s serves the %s %s; docs/metrics.md says %q", pod.Name, match[2], match[1], kinds[match[1]])
			}
		}
	}
}

// metricsHost is whom the certificate for metrics is for.
const metricsHost = "metrics.berth.test"

// testMetricsAccess: with the flags for it, metrics are served over TLS and to those
// who may read them, and the kubelet still learns how the Pod is. A standby of a
// lead that nobody gives up serves them as well as any other.
func testMetricsAccess(e *env) {
	authority, err := pki.NewAuthority(time.Now())
	if err != nil {
		e.Fatal(err)
	}
	pair, err := authority.IssueServer([]string{metricsHost}, nil)
	if err != nil {
		e.Fatal(err)
	}
	e.installAccess()
	e.waitingStandby(pair)
	pod := e.waitPodReady("standby")

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Certificate())
	client := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext: e.lab.inside(pod.Spec.NodeName).DialContext, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: metricsHost},
		},
	}
	url := "https://" + net.JoinHostPort(pod.Status.PodIP, "7958")
	for _, test := range []struct {
		who, path, token string
		status           int
		body             string
	}{
		{who: "nobody", path: "/metrics", status: http.StatusUnauthorized, body: "a bearer token is needed"},
		{who: "a forger", path: "/metrics", token: "forged", status: http.StatusUnauthorized, body: "does not know this token"},
		{who: "a stranger", path: "/metrics", token: e.tokenOf("stranger"), status: http.StatusForbidden, body: e.namespace + ":stranger may not get /metrics"},
		{who: "a reader", path: "/metrics", token: e.tokenOf("reader"), status: http.StatusOK, body: "berth_controller_leader 0\n"},
		{who: "nobody", path: "/healthz", status: http.StatusOK, body: "ok"},
	} {
		status, body := e.fetch(client, url+test.path, test.token)
		if status != test.status || !strings.Contains(body, test.body) {
			e.Errorf("%s gets %s: %d %.300s, want %d with %q", test.who, test.path, status, body, test.status, test.body)
		}
	}
	if body, err := e.lab.get(e.ctx, pod.Spec.NodeName, "http"+strings.TrimPrefix(url, "https")+"/metrics"); err == nil {
		e.Errorf("metrics are served in the clear:\n%.300s", body)
	}
}

// fetch gets a page with a bearer token, if there is one.
func (e *env) fetch(client *http.Client, url, token string) (status int, body string) {
	e.Helper()
	request, err := http.NewRequestWithContext(e.ctx, http.MethodGet, url, nil)
	if err != nil {
		e.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		e.Fatal(err)
	}
	return response.StatusCode, string(content)
}

// installAccess applies what the overlay secure-metrics and the chart install, and
// binds its roles to accounts in the test's namespace.
func (e *env) installAccess() {
	e.Helper()
	access, err := os.ReadFile("../../../config/monitoring/access/access.yaml")
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 10*time.Second)
		defer cancel()
		if _, err := e.lab.Kubectl(ctx, bytes.NewReader(access), "delete", "-f", "-"); err != nil {
			e.Error(err)
		}
	})
	if _, err := e.lab.Kubectl(e.ctx, bytes.NewReader(access), "apply", "--server-side", "-f", "-"); err != nil {
		e.Fatal(err)
	}
	for account, role := range map[string]string{"berth": "berth-metrics-reviewer", "reader": "berth-metrics-reader", "stranger": ""} {
		_, err := e.lab.kube.CoreV1().ServiceAccounts(e.namespace).Create(e.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
		if err != nil {
			e.Fatal(err)
		}
		if role != "" {
			e.bindClusterRole(role, account)
		}
	}
}

// bindClusterRole gives a role to an account of the test's namespace, for as long
// as the test runs.
func (e *env) bindClusterRole(role, account string) {
	e.Helper()
	bindings := e.lab.kube.RbacV1().ClusterRoleBindings()
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: e.namespace + "-" + account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: e.namespace, Name: account}},
	}
	if _, err := bindings.Create(e.ctx, binding, metav1.CreateOptions{}); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 5*time.Second)
		defer cancel()
		if err := bindings.Delete(ctx, binding.Name, metav1.DeleteOptions{}); err != nil {
			e.Error(err)
		}
	})
}

// waitingStandby runs a controller that waits for a Lease of its own, in the test's
// namespace, which is held for longer than the test runs.
func (e *env) waitingStandby(pair pki.Pair) {
	e.Helper()
	_, err := e.lab.kube.CoordinationV1().Leases(e.namespace).Create(e.ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "berth-controller"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To("nobody"), LeaseDurationSeconds: ptr.To(int32(3600)), RenewTime: &metav1.MicroTime{Time: time.Now()},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "berth"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get"}}},
	}
	if _, err := e.lab.kube.RbacV1().Roles(e.namespace).Create(e.ctx, role, metav1.CreateOptions{}); err != nil {
		e.Fatal(err)
	}
	_, err = e.lab.kube.RbacV1().RoleBindings(e.namespace).Create(e.ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "berth"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "berth"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: e.namespace, Name: "berth"}},
	}, metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	_, err = e.lab.kube.CoreV1().Secrets(e.namespace).Create(e.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "berth-metrics"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.Key},
	}, metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	if _, err := e.lab.kube.CoreV1().Pods(e.namespace).Create(e.ctx, e.standby(), metav1.CreateOptions{}); err != nil {
		e.Fatal(err)
	}
}

// standby is the Pod of a controller as secure-metrics has it.
func (e *env) standby() *corev1.Pod {
	image := e.leader().Spec.Containers[0].Image
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "standby"},
		Spec: corev1.PodSpec{
			ServiceAccountName:            "berth",
			TerminationGracePeriodSeconds: ptr.To(int64(0)),
			Containers: []corev1.Container{{
				Name: "controller", Image: image,
				Args: []string{
					"--namespace=" + e.namespace, "--identity=standby", "--metrics-auth",
					"--metrics-tls-cert-file=/etc/berth/metrics/tls.crt", "--metrics-tls-private-key-file=/etc/berth/metrics/tls.key",
				},
				Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: 7958}},
				ReadinessProbe: &corev1.Probe{
					PeriodSeconds: 1,
					ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromString("metrics"), Scheme: corev1.URISchemeHTTPS}},
				},
				VolumeMounts: []corev1.VolumeMount{{Name: "metrics-tls", MountPath: "/etc/berth/metrics", ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{{Name: "metrics-tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "berth-metrics"}}}},
		},
	}
}

// waitPodReady returns a Pod of the test's namespace once it is ready.
func (e *env) waitPodReady(name string) *corev1.Pod {
	e.Helper()
	var pod *corev1.Pod
	e.waitFor("Pod "+name+" to be ready", 30*time.Second, func(ctx context.Context) (bool, string) {
		var err error
		if pod, err = e.lab.kube.CoreV1().Pods(e.namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return false, err.Error()
		}
		return podReady(pod), fmt.Sprintf("%+v", pod.Status.ContainerStatuses)
	})
	return pod
}

// tokenOf returns a token of an account of the test's namespace.
func (e *env) tokenOf(account string) string {
	e.Helper()
	request, err := e.lab.kube.CoreV1().ServiceAccounts(e.namespace).CreateToken(e.ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](600)},
	}, metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	return request.Status.Token
}
