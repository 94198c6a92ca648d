package k8s

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/berth-lb/berth/api/v1beta1"
)

func mirror(t *testing.T, client *fake.Clientset, kinds ...Kind) *Cache {
	t.Helper()
	cache, err := NewCache(CacheConfig{
		Clients: &Clients{Kube: client}, Kinds: kinds, PodNamespace: "berth-system", PodSelector: labels.SelectorFromSet(labels.Set{"app": "speaker"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	runCache(t, cache)
	return cache
}

// runCache runs a cache until the test ends, and returns when it is in sync.
func runCache(t *testing.T, cache *Cache) {
	t.Helper()
	done := make(chan error)
	go func() { done <- cache.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if err := cache.WaitForSync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCacheTellsOfRelevantChangesOnly(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	cache := mirror(t, client, KindNode)
	nodes := client.CoreV1().Nodes()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: "1"}}
	if _, err := nodes.Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want := Key{Kind: KindNode, Name: "n"}
	take := func() {
		t.Helper()
		if key, ok := cache.Next(); !ok || key != want {
			t.Fatalf("got %v %v, want %v", key, ok, want)
		}
		cache.Done(want)
	}
	take()

	node.ResourceVersion = "2"
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	if _, err := nodes.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	node.ResourceVersion = "3"
	node.Labels = map[string]string{"zone": "a"}
	if _, err := nodes.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The heartbeat told nothing, or the label would be the second key.
	take()
	if got, _ := cache.Nodes.Get("", "n"); got.Labels["zone"] != "a" || len(got.Status.Conditions) != 0 {
		t.Errorf("the cache holds %v", got)
	}
	if n := cache.Pending(); n != 0 {
		t.Errorf("%d more keys", n)
	}
}

func TestCacheKeepsLittle(t *testing.T) {
	t.Parallel()
	name := "node-1"
	meta := metav1.ObjectMeta{
		Name: "x", Namespace: "berth-system", Labels: map[string]string{"app": "speaker"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		Annotations:   map[string]string{"berth.dev/address-pool": "a", "metallb.io/address-pool": "b", "metallb.universe.tf/address-pool": "c", "example.com/large": "d"},
	}
	client := fake.NewClientset(
		&corev1.Service{ObjectMeta: meta},
		&corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: name, Containers: []corev1.Container{{Name: "c"}}}, Status: corev1.PodStatus{PodIP: "192.0.2.1"}},
		&discoveryv1.EndpointSlice{ObjectMeta: meta, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &name, TargetRef: &corev1.ObjectReference{}}}},
	)
	cache := mirror(t, client, KindService, KindPod, KindEndpointSlice)

	svc, found := cache.Services.Get("berth-system", "x")
	if !found || len(svc.ManagedFields) > 0 || len(svc.Annotations) != 3 || svc.Annotations["example.com/large"] != "" {
		t.Errorf("Service: %v", svc)
	}
	pod, found := cache.Pods.Get("berth-system", "x")
	if !found || pod.Spec.NodeName != name || pod.Status.PodIP != "192.0.2.1" || len(pod.Spec.Containers) > 0 {
		t.Errorf("Pod: %v", pod)
	}
	slice, found := cache.EndpointSlices.Get("berth-system", "x")
	if !found || *slice.Endpoints[0].NodeName != name || slice.Endpoints[0].TargetRef != nil {
		t.Errorf("EndpointSlice: %v", slice)
	}
}

// TestNodeStateHeardAgain: what a NodeState says besides which hosts were heard and
// which sessions are established is no change.
func TestNodeStateHeardAgain(t *testing.T) {
	t.Parallel()
	state := func(version, mac string, session v1beta1.BGPState, seen time.Duration) any {
		object := &v1beta1.NodeState{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: version}}
		object.Status.BGPUp = version
		object.Status.L2 = &v1beta1.L2Status{Owned: version}
		object.Status.AddressConflicts = []v1beta1.AddressConflict{{
			Address: "192.0.2.1", MAC: mac, LastSeen: metav1.NewTime(time.Unix(0, 0).Add(seen)), BeforeUse: true,
		}}
		object.Status.BGPSessions = []v1beta1.BGPSessionStatus{{Name: "a", Peer: "a", State: session, HoldTime: version}}
		out, err := strip(object)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := state("1", "02:00:00:00:00:01", "Connect", 0)
	if !sameForUs(before, state("2", "02:00:00:00:00:01", "OpenSent", time.Hour)) {
		t.Error("another count, seen later, another attempt at a session: is a change")
	}
	if sameForUs(before, state("3", "02:00:00:00:00:02", "Connect", 0)) {
		t.Error("another host: is no change")
	}
	if sameForUs(before, state("4", "02:00:00:00:00:01", v1beta1.BGPEstablished, 0)) {
		t.Error("an established session: is no change")
	}
}

func TestCacheTakesOnlyTheChosenPods(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	restrictions := make(chan string, 10)
	client.PrependWatchReactor("pods", watchRecorder(restrictions))
	mirror(t, client, KindPod)
	if got := <-restrictions; got != "berth-system app=speaker" {
		t.Errorf("watches %q", got)
	}
}

func TestClassOwns(t *testing.T) {
	t.Parallel()
	ours, other := "berth.dev/berth", "example.com/other"
	for name, test := range map[string]struct {
		class *string
		kind  corev1.ServiceType
		// asDefault and alone: is it ours where Berth is the cluster's default, and where it is not?
		asDefault, alone bool
	}{
		"no class":       {nil, corev1.ServiceTypeLoadBalancer, true, false},
		"our class":      {&ours, corev1.ServiceTypeLoadBalancer, true, true},
		"another class":  {&other, corev1.ServiceTypeLoadBalancer, false, false},
		"ClusterIP":      {nil, corev1.ServiceTypeClusterIP, false, false},
		"NodePort, ours": {&ours, corev1.ServiceTypeNodePort, false, false},
	} {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: test.kind, LoadBalancerClass: test.class}}
		if got := (Class{Name: ours, Default: true}).Owns(svc); got != test.asDefault {
			t.Errorf("%s, as the default: got %v", name, got)
		}
		if got := (Class{Name: ours}).Owns(svc); got != test.alone {
			t.Errorf("%s, not as the default: got %v", name, got)
		}
	}
}
