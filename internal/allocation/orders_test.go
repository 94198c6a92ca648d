package allocation

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// What happens in unlucky orders: restarts in between, late writes, quick
// changes.

// TestContestOverRestart: the address that Berth gave survives a restart in the
// middle of a contest, and the foreign one is not adopted.
func TestContestOverRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a")
	for range 2 {
		c.edit("a", func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
		})
	}
	c.restart()
	c.service("b")
	c.want("b", "192.0.2.2", reasonAllocated, "")
	c.want("a", "192.0.2.1", reasonContested, "")
}

// TestRecreatedIsNotContested: a Service that is deleted and created again
// between two looks starts without an address, and nobody is to blame.
func TestRecreatedIsNotContested(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a")
	again := c.get("a").DeepCopy()
	again.UID, again.Status, again.Annotations = "another", corev1.ServiceStatus{}, nil
	c.put(again)
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

// TestSharerKeepsShowing: what one sharer lets go another goes on showing.
func TestSharerKeepsShowing(t *testing.T) {
	t.Parallel()
	key := annotate("berth.dev/allow-shared-ip", "k")
	for range 20 {
		c := newCluster(t)
		c.pool("default", "192.0.2.1-192.0.2.9")
		c.service("a", key)
		c.service("b", key, port(443))
		before := c.writes[keyOf(ownerOf(c.get("b")))]
		c.controller.cache.Add(keyOf(ownerOf(c.get("b"))))
		c.edit("a", annotate("berth.dev/load-balancer-ips", "192.0.2.9"))
		c.want("a", "192.0.2.9", reasonAllocated, "")
		c.want("b", "192.0.2.1", reasonAllocated, "")
		if n := c.writes[keyOf(ownerOf(c.get("b")))] - before; n != 0 {
			t.Fatalf("the sharer that did nothing was written %d times", n)
		}
	}
}

// TestCountAfterRestart: a count that was made while no controller ran takes
// what is free.
func TestCountAfterRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a")
	r := reservation("two", "")
	r.Spec.Count, r.Spec.Pool, r.Spec.For.Namespace = ptr.To(int32(2)), "default", "team"
	c.reservations[r.Name] = r
	c.restart()
	c.tick()
	if got := strings.Join(c.reservations["two"].Status.Addresses, " "); got != "192.0.2.2-192.0.2.3" {
		t.Errorf("holds %s", got)
	}
}

// TestReassignLeavesTheOtherFamily: an address that was asked for is not moved,
// and the other family does not move in its stead.
func TestReassignLeavesTheOtherFamily(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.0/24", "2001:db8::/64").DeepCopy()
	c.service("a", families(corev1.IPFamilyPolicyPreferDualStack, dualStack...), annotate("berth.dev/load-balancer-ips", "192.0.2.5"))
	c.want("a", "192.0.2.5 2001:db8::", reasonAllocated, "")
	p.Spec.OnShrink, p.Spec.ExcludeAddresses = v1beta1.ShrinkReassign, []v1beta1.AddressRange{"192.0.2.5"}
	c.putPool(p)
	c.want("a", "192.0.2.5 2001:db8::", reasonOutOfPool, "")
}

// TestNodeAddressIsNotAdopted: another load balancer left a node's address, and a
// pool covers it.
func TestNodeAddressIsNotAdopted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.nodes["node-1"] = &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.3"}}},
	}
	c.pools["default"] = &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"192.0.2.1-192.0.2.9"}},
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80}},
	}, Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.3"}}}}}
	c.services[ownerOf(svc)] = svc
	c.restart()
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

// TestNamespaceAllowsLater: sharers that exist already may share across
// namespaces as soon as both namespaces allow it.
func TestNamespaceAllowsLater(t *testing.T) {
	t.Parallel()
	key := annotate("berth.dev/allow-shared-ip", "k")
	c := newCluster(t)
	c.pool("default", "192.0.2.1")
	c.service("a", key)
	c.service("b", key, func(s *corev1.Service) { s.Namespace = "other"; s.Spec.Ports[0].Port = 443 })
	allow := map[string]string{v1beta1.AnnotationShareAcrossNamespaces: "true"}
	for _, ns := range []string{"default", "other"} {
		c.namespaces[ns] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Annotations: allow}}
		c.controller.cache.Add(k8s.Key{Kind: k8s.KindNamespace, Name: ns})
		c.settle()
	}
	for owner, svc := range c.services {
		if got := svc.Status.LoadBalancer.Ingress; len(got) != 1 || got[0].IP != "192.0.2.1" {
			t.Errorf("%s has %v", owner, got)
		}
	}
}

// TestGivenUpBeforeItWasSeen: a Service gives up an address whose write is still
// on its way. Nobody else shows it before that has landed and was taken back.
func TestGivenUpBeforeItWasSeen(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.noDoubles = true
	c.pool("default", "192.0.2.1-192.0.2.2")
	a := loadBalancer(c, "a", annotate("berth.dev/load-balancer-ips", "192.0.2.1"))
	c.services[ownerOf(a)] = a
	c.handleOnly("a")
	onItsWay := c.pending[keyOf(ownerOf(a))]
	b := loadBalancer(c, "b", annotate("berth.dev/load-balancer-ips", "192.0.2.1"))
	c.services[ownerOf(b)] = b
	c.handleOnly("b")

	edited := c.services[ownerOf(a)].DeepCopy()
	annotate("berth.dev/load-balancer-ips", "192.0.2.2")(edited)
	c.services[ownerOf(a)] = edited
	c.handleOnly("a")
	c.handleOnly("b")
	c.apply(keyOf(ownerOf(a)), onItsWay)
	c.apply(keyOf(ownerOf(b)), c.pending[keyOf(ownerOf(b))]) // before a has let go
	c.settle()
	c.want("a", "192.0.2.2", reasonAllocated, "")
	c.tick()
	c.want("b", "192.0.2.1", reasonAllocated, "")
}
