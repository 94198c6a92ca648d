package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// right is something that one of Berth's ServiceAccounts may or may not do.
type right struct {
	account   string
	verb      string
	group     string
	resource  string // with /subresource
	namespace string
	name      string
	allowed   bool
}

// rights that matter. What Berth needs is proved by everything else; this is
// about what it must not be able to do when one of its Pods is taken over.
func rights() []right {
	const speaker, controller, crd = "speaker", "controller", "berth.dev"
	table := []right{
		{account: speaker, verb: "get", resource: "secrets", namespace: berthNamespace, name: "berth-membership", allowed: true},
		{account: speaker, verb: "patch", resource: "services/status", namespace: "default", allowed: true},
		{account: controller, verb: "patch", resource: "services/status", namespace: "default", allowed: true},
		{account: controller, verb: "create", resource: "secrets", namespace: berthNamespace, allowed: true},
	}
	for _, account := range []string{speaker, controller} {
		for _, verb := range []string{"get", "list", "watch"} {
			table = append(table,
				right{account: account, verb: verb, resource: "secrets", namespace: "default"},
				// The passwords of BGP peers, under whatever names.
				right{account: account, verb: verb, resource: "secrets", namespace: berthNamespace, name: "another", allowed: true},
				right{account: account, verb: verb, resource: "secrets"},
				right{account: account, verb: verb, resource: "configmaps", namespace: "default"})
		}
		for _, verb := range []string{"create", "update", "patch", "delete"} {
			table = append(table,
				right{account: account, verb: verb, resource: "services", namespace: "default"},
				right{account: account, verb: verb, resource: "nodes"},
				right{account: account, verb: verb, resource: "nodes/status"},
				right{account: account, verb: verb, resource: "pods", namespace: berthNamespace},
				right{account: account, verb: verb, group: "discovery.k8s.io", resource: "endpointslices", namespace: "default"},
				right{account: account, verb: verb, group: crd, resource: "ipaddresspools"},
				right{account: account, verb: verb, group: crd, resource: "l2advertisements"},
				right{account: account, verb: verb, group: "rbac.authorization.k8s.io", resource: "clusterrolebindings"})
		}
		table = append(table,
			right{account: account, verb: "update", resource: "services/status", namespace: "default"},
			right{account: account, verb: "create", resource: "pods/exec", namespace: berthNamespace},
			right{account: account, verb: "create", resource: "serviceaccounts/token", namespace: berthNamespace},
			right{account: account, verb: "update", resource: "secrets", namespace: berthNamespace, name: "berth-membership"},
			right{account: account, verb: "delete", resource: "secrets", namespace: berthNamespace, name: "berth-membership"})
	}
	return append(table,
		right{account: speaker, verb: "patch", group: crd, resource: "ipaddresspools/status"},
		right{account: speaker, verb: "create", resource: "secrets", namespace: berthNamespace},
		right{account: speaker, verb: "update", group: "coordination.k8s.io", resource: "leases", namespace: berthNamespace, name: "berth-controller"},
		right{account: controller, verb: "update", group: "coordination.k8s.io", resource: "leases", namespace: berthNamespace, name: "another"},
		right{account: controller, verb: "update", group: "coordination.k8s.io", resource: "leases", namespace: "kube-node-lease", name: "node-1"})
}

// testRights asks the API server what Berth's ServiceAccounts may do.
func testRights(e *env) {
	for _, r := range rights() {
		resource, subresource, _ := strings.Cut(r.resource, "/")
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:" + berthNamespace + ":" + r.account,
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + berthNamespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: r.verb, Group: r.group, Resource: resource, Subresource: subresource, Namespace: r.namespace, Name: r.name,
			},
		}}
		review, err := e.lab.kube.AuthorizationV1().SubjectAccessReviews().Create(e.ctx, review, metav1.CreateOptions{})
		if err != nil {
			e.Fatal(err)
		}
		if review.Status.Allowed != r.allowed {
			e.Errorf("%s may %s %s %s in %q: %v (%s)", r.account, r.verb, r.resource, r.name, r.namespace, review.Status.Allowed, review.Status.Reason)
		}
	}
}

// testToken uses the token that a speaker really has.
func testToken(e *env) {
	pods, err := e.lab.kube.CoreV1().Pods(berthNamespace).List(e.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=speaker"})
	if err != nil || len(pods.Items) == 0 {
		e.Fatalf("speakers: %v (error %v)", pods, err)
	}
	token, err := e.lab.Exec(e.ctx, berthNamespace+"/"+pods.Items[0].Name, "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	if err != nil {
		e.Fatal(err)
	}
	e.createService("web")
	as := func(args ...string) (string, error) {
		out, err := e.lab.Kubectl(e.ctx, nil, append(args, "--token="+string(token), "--client-certificate=", "--client-key=")...)
		return string(out), err
	}
	if out, err := as("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"); err != nil || out != "system:serviceaccount:"+berthNamespace+":speaker" {
		e.Fatalf("the token is that of %q (error %v)", out, err)
	}
	if _, err := as("get", "service", "web", "--namespace", e.namespace); err != nil {
		e.Error(err)
	}
	for _, args := range [][]string{
		{"get", "secrets", "--all-namespaces"},
		{"patch", "service", "web", "--namespace", e.namespace, "--type=merge", "-p", `{"spec":{"externalIPs":["192.0.2.1"]}}`},
		{"delete", "service", "web", "--namespace", e.namespace},
	} {
		if out, err := as(args...); err == nil || !strings.Contains(err.Error(), "orbidden") {
			e.Errorf("kubectl %v as a speaker: %s (error %v)", args, out, err)
		}
	}
}

// checkLogs fails the test if any Pod of Berth was refused something by the API
// server, has crashed, or has logged a secret, in its present or its previous life.
func (l *testLab) checkLogs(t *testing.T) {
	t.Helper()
	l.checkLogsIn(t, berthNamespace)
}

// checkLogsIn is checkLogs for another namespace of Berth's.
func (l *testLab) checkLogsIn(t *testing.T, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	pods, err := l.kube.CoreV1().Pods(namespace).List(ctx, listAll)
	if err != nil {
		t.Error(err)
		return
	}
	if len(pods.Items) == 0 {
		return // Berth does not run there, and has no key
	}
	secrets := l.knownSecrets(ctx, t, namespace)
	for _, pod := range pods.Items {
		for _, previous := range []bool{false, true} {
			content, err := l.kube.CoreV1().Pods(namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Previous: previous}).DoRaw(ctx)
			if err != nil {
				continue // there is no previous life
			}
			for secret, what := range secrets {
				if bytes.Contains(content, []byte(secret)) {
					t.Errorf("%s on %s has logged %s", pod.Name, pod.Spec.NodeName, what)
				}
			}
			for line := range strings.Lines(string(content)) {
				for _, sign := range []string{"forbidden", "Forbidden", "panic:", "level=error", "DATA RACE"} {
					if strings.Contains(line, sign) {
						t.Errorf("%s on %s has logged: %s", pod.Name, pod.Spec.NodeName, strings.TrimSpace(line))
						break
					}
				}
			}
		}
	}
}

// knownSecrets returns what no log may have, with what it is: the passwords that
// tests have set, and the membership key however it may be written.
func (l *testLab) knownSecrets(ctx context.Context, t *testing.T, namespace string) map[string]string {
	t.Helper()
	secrets := map[string]string{}
	l.secrets.Range(func(secret, what any) bool {
		secrets[secret.(string)] = what.(string)
		return true
	})
	object, err := l.kube.CoreV1().Secrets(namespace).Get(ctx, "berth-membership", metav1.GetOptions{})
	if err != nil {
		t.Error(err)
		return secrets
	}
	key := object.Data["key"]
	if len(key) == 0 {
		t.Error("there is no membership key to look for")
	}
	for _, written := range []string{
		string(key), hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key), strings.Trim(fmt.Sprintf("%d", key), "[]"), strings.Trim(strconv.Quote(string(key)), `"`),
	} {
		secrets[written] = "the membership key"
	}
	return secrets
}
