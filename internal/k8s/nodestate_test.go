package k8s

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/berth-lb/berth/api/v1beta1"
)

// stateServer answers as an API server does that has NodeStates once they are
// created.
type stateServer struct {
	t *testing.T

	mu       sync.Mutex
	exists   bool
	requests []string
}

func (s *stateServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/apis/berth.dev/v1beta1/")
	s.requests = append(s.requests, r.Method+" "+path)
	if got := r.Header.Get("Content-Type"); got != "application/apply-patch+yaml" || r.URL.Query().Get("fieldManager") != "berth-speaker" || r.URL.Query().Get("force") != "true" {
		s.t.Errorf("%s as %s", r.URL, got)
	}
	var object v1beta1.NodeState
	body, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(body, &object); err != nil || object.Kind != "NodeState" || len(object.OwnerReferences) != 1 || object.OwnerReferences[0].UID != "uid-1" || object.Status.BGPUp != "1/2" {
		s.t.Errorf("%v: got %s", err, body)
	}
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(path, "/status") && !s.exists {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
		return
	}
	s.exists = true
	_, _ = w.Write(body)
}

func TestApplyNodeStateCreatesWhatIsMissing(t *testing.T) {
	t.Parallel()
	api := &stateServer{t: t}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	clients, err := NewClients(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-1"}}
	key, patch, err := NodeStateOf(node, v1beta1.NodeStateStatus{BGPUp: "1/2"})
	if err != nil {
		t.Fatal(err)
	}
	apply := ApplyNodeState(clients, "berth-speaker")
	for range 2 {
		if err := apply(t.Context(), key, patch); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"PATCH nodestates/node-1/status", "PATCH nodestates/node-1", "PATCH nodestates/node-1/status", // the first time
		"PATCH nodestates/node-1/status",
	}
	if diff := cmp.Diff(want, api.requests); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestCacheTakesOnlyTheSecretsOfPeers(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: "router", Namespace: "berth-system",
			Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"stringData":{"password":"hunter2"}}`},
		},
		Type: corev1.SecretTypeBasicAuth,
		Data: map[string][]byte{"username": []byte("u"), "password": []byte("hunter2")},
	})
	watched := make(chan string, 10)
	client.PrependReactor("list", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		l := action.(clienttesting.ListAction)
		watched <- l.GetNamespace() + " " + l.GetListRestrictions().Fields.String()
		return false, nil, nil
	})
	cache, err := NewCache(CacheConfig{Clients: &Clients{Kube: client}, Kinds: []Kind{KindSecret}, SecretNamespace: "berth-system"})
	if err != nil {
		t.Fatal(err)
	}
	runCache(t, cache)
	if got := <-watched; got != "berth-system type=kubernetes.io/basic-auth" {
		t.Errorf("lists %q", got)
	}
	secret, found := cache.Secrets.Get("berth-system", "router")
	if !found || string(secret.Data["password"]) != "hunter2" || len(secret.Data) != 1 || len(secret.Annotations) != 0 {
		t.Errorf("the cache holds %v", secret)
	}
	if _, err := NewCache(CacheConfig{Clients: &Clients{Kube: client}, Kinds: []Kind{KindSecret}}); err == nil {
		t.Error("mirrors the Secrets of all namespaces")
	}
}

func TestCacheKeepsAnnotationsOfNodes(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{
		"example.com/tor": "192.0.2.1", "example.com/large": strings.Repeat("x", 1025),
	}}})
	cache := mirror(t, client, KindNode)
	if node, _ := cache.Nodes.Get("", "n"); len(node.Annotations) != 1 || node.Annotations["example.com/tor"] != "192.0.2.1" {
		t.Errorf("the cache holds %v", node.Annotations)
	}
}
