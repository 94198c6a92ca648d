package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
)

// apiServer answers as much of the Kubernetes API as the plugin uses, out of
// objects by the path of their list.
type apiServer struct {
	mu    sync.Mutex
	lists map[string][]any
	// refuse says with which status a path is refused.
	refuse map[string]int
	// patched is called with each patch, by the path of the object.
	patched func(path string, patch map[string]any)
	patches []string
	// written is called with each object that is created or replaced; it returns the
	// status of the answer.
	written func(r *http.Request) int
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if code := s.refuse[r.URL.Path]; code != 0 {
		s.fail(w, code)
		return
	}
	if r.Method == http.MethodPatch {
		var patch map[string]any
		if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
			s.fail(w, http.StatusBadRequest)
			return
		}
		text, _ := json.Marshal(patch)
		s.patches = append(s.patches, r.URL.Path+" "+string(text))
		if s.patched != nil {
			s.patched(r.URL.Path, patch)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"name": filepath.Base(r.URL.Path)}})
		return
	}
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if code := s.written(r); code != http.StatusOK {
			s.fail(w, code)
			return
		}
		_, _ = io.Copy(w, r.Body)
		return
	}
	if filepath.Base(filepath.Dir(r.URL.Path)) == "leases" {
		s.fail(w, http.StatusNotFound)
		return
	}
	items := s.lists[r.URL.Path]
	if items == nil {
		items = []any{}
	}
	list := map[string]any{"metadata": map[string]any{}, "items": items}
	if strings.HasPrefix(r.URL.Path, "/apis/metallb.io/") || strings.HasSuffix(r.URL.Path, "/configmaps/config") {
		list["apiVersion"], list["kind"] = "v1", "List" // without which nobody knows what it is
	}
	_ = json.NewEncoder(w).Encode(list)
}

func (s *apiServer) fail(w http.ResponseWriter, code int) {
	reason := map[int]metav1.StatusReason{
		http.StatusForbidden: metav1.StatusReasonForbidden, http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusUnprocessableEntity: metav1.StatusReasonInvalid,
		http.StatusConflict: metav1.StatusReasonConflict,
	}[code]
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: strings.ToLower(http.StatusText(code)),
	})
}

const (
	pathServices = "/api/v1/services"
	pathNodes    = "/api/v1/nodes"
	pathPools    = "/apis/berth.dev/v1beta1/ipaddresspools"
	pathStates   = "/apis/berth.dev/v1beta1/nodestates"
)

// run runs the plugin against the server.
func (s *apiServer) run(t *testing.T, args ...string) (out, errOut string, err error) {
	t.Helper()
	server := httptest.NewServer(s)
	defer server.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u","namespace":"shop"}}],
		"users":[{"name":"u","user":{"token":"t"}}]}`, server.URL)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	cmd := newCommand(newOptions(&stdout, &stderr))
	cmd.SetArgs(append([]string{"--kubeconfig", path}, args...))
	err = cmd.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func aService(namespace, name, addr string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr}}
	return s
}

func aNode(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }

func aNodeState(name string, owned int32) *v1beta1.NodeState {
	return &v1beta1.NodeState{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1beta1.NodeStateStatus{L2: &v1beta1.L2Status{OwnedIPv4: owned}}}
}

func TestCommandsReadTheCluster(t *testing.T) {
	s := &apiServer{lists: map[string][]any{
		pathServices:                       {aService("shop", "web", "192.0.2.1"), aService("lab", "other", "192.0.2.2")},
		"/api/v1/namespaces/shop/services": {aService("shop", "web", "192.0.2.1")},
		pathNodes:                          {aNode("node-1")},
		pathStates:                         {aNodeState("node-1", 3)},
		pathPools:                          {&v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, Spec: v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"192.0.2.0/24"}}}},
	}}
	for _, test := range []struct {
		args        []string
		has, hasNot string
	}{
		{[]string{"services"}, "192.0.2.2", ""},
		{[]string{"services", "-n", "shop"}, "192.0.2.1", "192.0.2.2"},
		{[]string{"services", "-o", "json"}, `"namespace": "shop"`, ""},
		{[]string{"services", "-o", "yaml"}, "namespace: shop", ""},
		{[]string{"nodes"}, "node-1", ""},
		{[]string{"pools", "-o", "wide"}, "192.0.2.0/24", ""},
		{[]string{"peers"}, "no BGP sessions", ""},
		{[]string{"routes"}, "No router", ""},
		{[]string{"version"}, "kubectl-berth dev", ""},
		{[]string{"completion", "bash"}, "kubectl-berth", ""},
	} {
		out, errOut, err := s.run(t, test.args...)
		if err != nil || errOut != "" {
			t.Errorf("%v: %v, %s", test.args, err, errOut)
		}
		if !strings.Contains(out, test.has) || test.hasNot != "" && strings.Contains(out, test.hasNot) {
			t.Errorf("%v says:\n%s", test.args, out)
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("%v writes colours where there is no terminal", test.args)
		}
	}
}

func TestColoursOnRequest(t *testing.T) {
	s := &apiServer{lists: map[string][]any{pathServices: {aService("shop", "web", "192.0.2.1")}}}
	if out, _, _ := s.run(t, "services", "--color", "always"); !strings.Contains(out, "\x1b[31m") {
		t.Errorf("no colour in %q", out)
	}
}

func TestWhatMayNotBeReadIsSaid(t *testing.T) {
	s := &apiServer{refuse: map[string]int{pathNodes: http.StatusForbidden}}
	out, errOut, err := s.run(t, "services")
	if err != nil || !strings.Contains(errOut, "cannot read nodes") || !strings.Contains(out, "no Services") {
		t.Errorf("got %q, %q, %v", out, errOut, err)
	}
	s.refuse[pathServices] = http.StatusForbidden
	if _, _, err = s.run(t, "services"); err == nil || !strings.Contains(err.Error(), "-n") {
		t.Errorf("got %v", err)
	}
}

func TestNotInstalled(t *testing.T) {
	s := &apiServer{refuse: map[string]int{pathPools: http.StatusNotFound}}
	if _, _, err := s.run(t, "pools"); !errors.Is(err, errNotInstalled) {
		t.Errorf("got %v", err)
	}
}

func TestStatusFails(t *testing.T) {
	out, _, err := (&apiServer{}).run(t, "status")
	if !errors.Is(err, errUnhealthy) || !strings.Contains(out, "not healthy") {
		t.Errorf("got %v, %s", err, out)
	}
}

func TestExplainCommand(t *testing.T) {
	s := &apiServer{lists: map[string][]any{
		pathServices:                       {aService("shop", "web", "192.0.2.1")},
		"/api/v1/namespaces/shop/services": {aService("shop", "web", "192.0.2.1")},
	}}
	for _, subject := range []string{"svc/web", "ip/192.0.2.1"} {
		out, _, err := s.run(t, "explain", subject)
		if err != nil || !strings.Contains(out, "shop/web") || !strings.Contains(out, "Fix:") {
			t.Errorf("%s: %v, %s", subject, err, out)
		}
	}
	for _, subject := range []string{"web", "pod/web", "svc/nobody", "ip/x"} {
		if _, _, err := s.run(t, "explain", subject); err == nil {
			t.Errorf("%s was explained", subject)
		}
	}
	out, _, err := s.run(t, "__complete", "explain", "")
	if err != nil || !strings.Contains(out, "svc/web") {
		t.Errorf("the completion is %q, %v", out, err)
	}
}

func TestDrainAndUndrain(t *testing.T) {
	s := &apiServer{lists: map[string][]any{pathStates: {aNodeState("node-1", 1)}}}
	s.patched = func(string, map[string]any) { s.lists[pathStates] = []any{aNodeState("node-1", 0)} }
	out, _, err := s.run(t, "drain", "node-1")
	if err != nil || !strings.Contains(out, "is drained") {
		t.Errorf("got %v, %s", err, out)
	}
	if _, _, err := s.run(t, "undrain", "node-1"); err != nil {
		t.Error(err)
	}
	want := []string{
		pathNodes + `/node-1 {"metadata":{"annotations":{"berth.dev/drain":"kubectl-berth"}}}`,
		pathNodes + `/node-1 {"metadata":{"annotations":{"berth.dev/drain":null}}}`,
	}
	if strings.Join(s.patches, "\n") != strings.Join(want, "\n") {
		t.Errorf("patched %v", s.patches)
	}
}

func TestDrainGivesUp(t *testing.T) {
	s := &apiServer{lists: map[string][]any{pathStates: {aNodeState("node-1", 1)}}}
	_, _, err := s.run(t, "drain", "node-1", "--timeout", "200ms")
	if err == nil || !strings.Contains(err.Error(), "owns 1 address") {
		t.Errorf("got %v", err)
	}
	if _, _, err = s.run(t, "drain", "node-2"); err == nil || !strings.Contains(err.Error(), "reports nothing") {
		t.Errorf("got %v", err)
	}
}

func TestRebalance(t *testing.T) {
	const path = "/apis/berth.dev/v1beta1/l2advertisements"
	s := &apiServer{lists: map[string][]any{
		pathStates: {aNodeState("node-1", 2), aNodeState("node-2", 0)},
		path:       {&v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "ethernet"}}},
	}}
	s.patched = func(string, map[string]any) {
		s.lists[pathStates] = []any{aNodeState("node-1", 1), aNodeState("node-2", 1)}
	}
	out, _, err := s.run(t, "rebalance", "-o", "json")
	if err != nil || !strings.Contains(out, `"before": 2`) || len(s.patches) != 1 || !strings.Contains(s.patches[0], path+`/ethernet {"metadata":{"annotations":{"berth.dev/rebalance":"20`) {
		t.Errorf("got %v, %s, %v", err, out, s.patches)
	}
	delete(s.lists, path)
	if _, _, err := s.run(t, "rebalance"); err == nil {
		t.Error("nothing was rebalanced without an error")
	}
}
