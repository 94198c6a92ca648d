package allocation

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// TestRestartAdoptsNothingForeign: what another controller has written is not
// Berth's because Berth has said that it has nothing to give.
func TestRestartAdoptsNothingForeign(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := loadBalancer(c, "a")
	c.put(a)
	c.want("a", "", reasonNoPool, "")
	written := c.get("a").DeepCopy()
	written.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
	c.services[ownerOf(a)] = written
	c.restart()
	c.want("a", "", reasonNoPool, "")
	if held := c.controller.allocator.Allocation(ownerOf(a)); len(held) > 0 {
		t.Errorf("has adopted %v", held)
	}
}

// TestRestartGrantsNothingRefused: a sharing key that came with nonsense is not
// in force, before a restart and after.
func TestRestartGrantsNothingRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1")
	c.service("a")
	c.edit("a", func(s *corev1.Service) {
		annotate("berth.dev/allow-shared-ip", "k")(s)
		annotate("berth.dev/load-balancer-ips", "nonsense")(s)
	})
	joins := func() {
		t.Helper()
		c.service("b", annotate("berth.dev/allow-shared-ip", "k"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })
		c.want("b", "", reasonPoolExhausted, "")
		c.delete("b")
	}
	joins()
	c.restart()
	joins()
	c.want("a", "192.0.2.1", reasonInvalidRequest, "nonsense")
}

// TestWaitsToMoveOverRestart: a Service that asks for another pool gets there
// once there is room, restart or not.
func TestWaitsToMoveOverRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1")
	c.pool("q", "198.51.100.1")
	c.service("a", annotate("berth.dev/address-pool", "p"))
	c.service("b", annotate("berth.dev/address-pool", "q"))
	c.edit("a", annotate("berth.dev/address-pool", "q"))
	c.want("a", "192.0.2.1", reasonPoolExhausted, "keeps 192.0.2.1")
	c.restart()
	c.want("a", "192.0.2.1", reasonPoolExhausted, "keeps 192.0.2.1")
	c.delete("b")
	c.want("a", "198.51.100.1", reasonAllocated, "")
	c.restart()
	c.want("a", "198.51.100.1", reasonAllocated, "")
}

// TestReplacedUnseen: a Service that was deleted and created again between two
// looks does not inherit an address that it could not be given.
func TestReplacedUnseen(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.1")
	c.service("a")
	p = p.DeepCopy()
	p.Spec.Addresses = []v1beta1.AddressRange{"192.0.2.2"}
	c.putPool(p)
	c.want("a", "192.0.2.1", reasonOutOfPool, "")
	c.service("a") // with another UID
	c.want("a", "192.0.2.2", reasonAllocated, "")
}

// TestPoolEditedBeforeFirstWrite: where an address came from is known also if
// the pool has lost it by the time that the first write is sent.
func TestPoolEditedBeforeFirstWrite(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("q", "192.0.2.1")
	a := loadBalancer(c, "a")
	c.services[ownerOf(a)] = a
	c.handleOnly("a")
	p = p.DeepCopy()
	p.Spec.Addresses = []v1beta1.AddressRange{"192.0.2.2"}
	c.putPool(p)
	c.want("a", "192.0.2.1", reasonOutOfPool, "")
	if from := c.get("a").Annotations[v1beta1.AnnotationIPAllocatedFromPool]; from != "q" {
		t.Errorf("came from %q", from)
	}
}

// TestRestartKnowsWhereFrom: of several addresses of pools that are gone.
func TestRestartKnowsWhereFrom(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("four", "192.0.2.1-192.0.2.2")
	six := c.pool("six", "2001:db8::1")
	c.service("a", annotate("berth.dev/load-balancer-ips", "192.0.2.1,192.0.2.2,2001:db8::1"), func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	})
	c.deletePool("four")
	six = six.DeepCopy()
	six.Spec.Addresses = []v1beta1.AddressRange{"2001:db8::2"}
	c.putPool(six)
	for _, when := range []string{"before", "after"} {
		if from := c.get("a").Annotations[v1beta1.AnnotationIPAllocatedFromPool]; from != "four,four,six" {
			t.Errorf("%s the restart they came from %q", when, from)
		}
		c.tick()
		if got := c.pools["six"].Status.OutOfPool; len(got) != 1 || got[0].Address != "2001:db8::1" {
			t.Errorf("%s the restart, out of pool six are %v", when, got)
		}
		c.restart()
	}
}

// TestWaitsToMoveInPart: one of two addresses is of the pool that is asked for.
func TestWaitsToMoveInPart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("four", "192.0.2.1")
	six := c.pool("six", "2001:db8::1")
	c.service("a", func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	})
	c.edit("a", annotate("berth.dev/address-pool", "six"))
	c.want("a", "192.0.2.1 2001:db8::1", reasonPoolExhausted, "")
	c.restart()
	c.want("a", "192.0.2.1 2001:db8::1", reasonPoolExhausted, "")
	six = six.DeepCopy()
	six.Spec.Addresses = append(six.Spec.Addresses, "198.51.100.1")
	c.putPool(six)
	c.want("a", "198.51.100.1 2001:db8::1", reasonAllocated, "")
}

// TestPoolForOthersNow: a pool that a Service names, and has an address of, is
// given to others. Nothing changes, before a restart and after.
func TestPoolForOthersNow(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("p", "192.0.2.1")
	c.service("a", annotate("berth.dev/address-pool", "p"))
	p = p.DeepCopy()
	p.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{Namespaces: []v1beta1.ObjectName{"other"}}
	c.putPool(p)
	c.edit("a", func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })
	c.want("a", "192.0.2.1", reasonAllocated, "")
	c.restart()
	c.want("a", "192.0.2.1", reasonAllocated, "")
	c.wantQuiet()
}

// TestRestoreBetweenTheWritesOfSharers: the write of the Service that joins lands,
// that of the one it joins does not.
func TestRestoreBetweenTheWritesOfSharers(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.2")
	c.service("b")
	shared := c.get("b").DeepCopy()
	annotate("berth.dev/allow-shared-ip", "k")(shared)
	c.services[ownerOf(shared)] = shared
	c.handleOnly("b")
	c.pending = map[k8s.Key][]byte{}
	a := loadBalancer(c, "a", annotate("berth.dev/allow-shared-ip", "k"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })
	c.services[ownerOf(a)] = a
	c.handleOnly("a")
	c.apply(keyOf(ownerOf(a)), c.pending[keyOf(ownerOf(a))])
	c.restart()
	c.want("a", "192.0.2.1", reasonAllocated, "")
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

// TestPortsOfARefusedRequest: a Service serves what its spec says, also while
// what it asks for is refused.
func TestPortsOfARefusedRequest(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.2")
	key := annotate("berth.dev/allow-shared-ip", "k")
	c.service("b", key)
	c.edit("b", func(s *corev1.Service) {
		annotate("berth.dev/load-balancer-ips", "nonsense")(s)
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 443, Protocol: corev1.ProtocolTCP})
	})
	c.service("a", key, func(s *corev1.Service) { s.Spec.Ports[0].Port = 443 })
	c.want("a", "192.0.2.2", reasonAllocated, "")
}

// TestForgedAnnotations: what users can write takes nothing from others.
func TestForgedAnnotations(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.2")
	c.service("old")
	c.service("victim")
	forged := c.get("old").DeepCopy()
	annotate("berth.dev/contested-ips", "192.0.2.2")(forged)
	annotate("berth.dev/ip-allocated-from-pool", "x")(forged)
	annotate("berth.dev/shared-ip-key", "k")(forged)
	c.services[ownerOf(forged)] = forged
	c.restart()
	c.want("old", "192.0.2.1", reasonAllocated, "192.0.2.1 from pool default")
	c.want("victim", "192.0.2.2", reasonAllocated, "")
}

// TestOverwrittenWhileNobodyLeads: what another controller writes meanwhile is
// not adopted, costs nobody an address, and is told.
func TestOverwrittenWhileNobodyLeads(t *testing.T) {
	t.Parallel()
	for name, ingress := range map[string]corev1.LoadBalancerIngress{"an address": {IP: "203.0.113.99"}, "a host name": {Hostname: "lb.example.com"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.pool("default", "192.0.2.1-192.0.2.9")
			c.service("first")
			c.service("a")
			c.delete("first")
			overwritten := c.get("a").DeepCopy()
			overwritten.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{ingress}
			c.services[ownerOf(overwritten)] = overwritten
			c.restart()
			c.want("a", "192.0.2.2", reasonContested, "another controller has replaced 192.0.2.2 by")
			if all := strings.Join(c.events, "\n"); !strings.Contains(all, "Warning StatusOverwritten default/a") {
				t.Errorf("events: %s", all)
			}
		})
	}
}
