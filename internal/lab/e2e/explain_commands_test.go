package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/api/v1beta1"
)

// viewer is the ClusterRole with the rights that the plugin needs to read.
const viewer = "berth-viewer"

// reportArgs are the commands that change nothing, with what their JSON has at the
// top.
func reportArgs(subject string) map[string][]string {
	return map[string][]string{
		"checks": {"status"}, "pools": {"pools"}, "services": {"services"}, "nodes": {"nodes"},
		"sessions": {"peers"}, "routes": {"routes"}, "version": {"version"}, "steps": {"explain", subject},
	}
}

// testCommands: each command answers in each format, to whoever may read, and in
// colours only on a terminal.
func (x *explained) testCommands(e *env) {
	x.layer2(e, func(s *v1beta1.L2AdvertisementSpec) { s.NodeSelectors = onNode("node-1") })
	x.web(e)
	e.waitAnnounced("web")
	token := e.reader()
	if _, err := e.clientWith(token).CoreV1().Secrets(berthNamespace).List(e.ctx, listAll); !apierrors.IsForbidden(err) {
		e.Errorf("whoever may use the plugin may read Secrets (error %v)", err)
	}
	kubeconfig := e.kubeconfigOf(token)
	for top, args := range reportArgs("svc/web") {
		for _, format := range []string{"table", "wide", "json", "yaml"} {
			e.expectFormat(top, format, append([]string{"--kubeconfig", kubeconfig, "-n", e.namespace, "-o", format}, args...)...)
		}
	}
	x.expectExplained(e, situation{name: "nothing-wrong"})
	e.expectColours()
}

// expectFormat runs the plugin and looks whether what it writes is of the format:
// its JSON has something under the name.
func (e *env) expectFormat(top, format string, args ...string) {
	e.Helper()
	out, status := e.plugin(args...)
	if status != 0 && top != "checks" { // other situations are broken meanwhile
		e.Errorf("kubectl berth %s ends with %d", strings.Join(args, " "), status)
	}
	var object map[string]any
	var err error
	switch format {
	case "json":
		err = json.Unmarshal([]byte(out), &object)
	case "yaml":
		err = yaml.UnmarshalStrict([]byte(out), &object)
	default:
		if len(out) == 0 || strings.Contains(out, "\x1b") || strings.HasPrefix(out, "{") {
			e.Errorf("kubectl berth %s writes %q", strings.Join(args, " "), out)
		}
		return
	}
	if err != nil || object[top] == nil {
		e.Errorf("kubectl berth %s writes no %s with %s (error %v):\n%s", strings.Join(args, " "), format, top, err, out)
	}
}

// reader makes a ServiceAccount that may read what the plugin does and nothing else,
// and returns a token of it.
func (e *env) reader() string {
	e.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader"}}
	if _, err := e.lab.kube.CoreV1().ServiceAccounts(e.namespace).Create(e.ctx, account, metav1.CreateOptions{}); err != nil {
		e.Fatal(err)
	}
	bindings := e.lab.kube.RbacV1().ClusterRoleBindings()
	_, err := bindings.Create(e.ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: e.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: viewer},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: e.namespace, Name: account.Name}},
	}, metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = bindings.Delete(context.WithoutCancel(e.ctx), e.namespace, metav1.DeleteOptions{}) })
	token, err := e.lab.kube.CoreV1().ServiceAccounts(e.namespace).CreateToken(e.ctx, account.Name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](600)},
	}, metav1.CreateOptions{})
	if err != nil {
		e.Fatal(err)
	}
	e.waitReading(token.Status.Token)
	return token.Status.Token
}

// waitReading returns when a token allows to read: the API server learns of a new
// binding a moment after it has stored it.
func (e *env) waitReading(token string) {
	e.Helper()
	client := e.clientWith(token)
	e.waitFor("the API server to know of the new reader", 20*time.Second, func(ctx context.Context) (bool, string) {
		review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "list", Group: v1beta1.GroupVersion().Group, Resource: "ipaddresspools",
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			return false, err.Error()
		}
		return review.Status.Allowed, fmt.Sprintf("%+v", review.Status)
	})
}

// kubeconfigOf writes a kubeconfig that has nothing but a token.
func (e *env) kubeconfigOf(token string) string {
	e.Helper()
	config, err := clientcmd.LoadFromFile(e.lab.Kubeconfig())
	if err != nil {
		e.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		*user = clientcmdapi.AuthInfo{Token: token}
	}
	path := filepath.Join(e.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		e.Fatal(err)
	}
	return path
}

// expectColours runs the plugin on a terminal. That there are none elsewhere is seen
// with all other commands.
func (e *env) expectColours() {
	e.Helper()
	line := strings.Join([]string{e.lab.pluginPath(), "explain", "svc/web", "-n", e.namespace}, " ")
	cmd := exec.CommandContext(e.ctx, "script", "--quiet", "--return", "--command", line, "/dev/null")
	cmd.Env = append(e.lab.KubectlEnv(), "TERM=xterm")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "\x1b[32m") {
		e.Errorf("on a terminal there are no colours (error %v): %q", err, out)
	}
}

// testActions: what changes things says in each format what it has done.
func (x *explained) testActions(e *env) {
	x.layer2(e, nil)
	x.web(e)
	e.waitAnnounced("web")
	defer e.undrain("node-1") // whatever becomes of the test
	e.expectFormat("node", "json", "drain", "node-1", "--timeout", "20s", "-o", "json")
	e.expectFormat("node", "yaml", "drain", "node-1", "--timeout", "20s", "-o", "yaml")
	e.expectFormat("node", "yaml", "undrain", "node-1", "-o", "yaml")
	e.expectFormat("node", "json", "undrain", "node-1", "-o", "json")
	e.expectFormat("nodes", "json", "rebalance", e.namespace, "--timeout", "25s", "-o", "json")
	e.waitFor("kubectl berth status to find nothing wrong", explainLimit, func(context.Context) (bool, string) {
		e.pause(lookAgain, "each look costs half a second of a processor")
		out, status := e.plugin("status")
		return status == 0 && strings.Contains(out, "Berth is healthy"), fmt.Sprintf("it ends with %d:\n%s", status, out)
	})
}
