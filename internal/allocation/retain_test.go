package allocation

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

func TestRetain(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	keep := annotate("berth.dev/retain", "1h")
	c.service("a", keep)
	if c.reservations["retained.default.a"] == nil {
		t.Fatal("no reservation while the Service lives")
	}
	c.delete("a")
	c.service("b")
	c.want("b", "192.0.2.2", reasonAllocated, "")
	c.restart()
	c.service("a", keep)
	c.want("a", "192.0.2.1", reasonAllocated, "")
	if until := c.reservations["retained.default.a"].Spec.Until; until != nil {
		t.Errorf("the reservation ends at %s while the Service lives", until)
	}

	c.delete("a")
	c.pass(59 * time.Minute)
	if c.reservations["retained.default.a"] == nil {
		t.Error("the reservation ended early")
	}
	c.pass(time.Minute)
	if c.reservations["retained.default.a"] != nil {
		t.Error("the reservation did not end")
	}
	c.service("next")
	c.want("next", "192.0.2.1", reasonAllocated, "")
}

// TestRetainWhileAway: the Service is deleted while no controller runs.
func TestRetainWhileAway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a", annotate("berth.dev/retain", "forever"))
	delete(c.services, ownerOf(c.get("a")))
	c.restart()
	c.service("b")
	c.want("b", "192.0.2.2", reasonAllocated, "")
	c.pass(1000 * time.Hour)
	c.service("a")
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

func TestRetainNoMore(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a", annotate("berth.dev/retain", "1h"))
	c.edit("a", annotate("berth.dev/retain", "some day"))
	c.want("a", "192.0.2.1", reasonInvalidRequest, "berth.dev/retain: \"some day\"")
	if c.reservations["retained.default.a"] == nil {
		t.Error("a bad value took the reservation away")
	}
	c.edit("a", func(s *corev1.Service) { delete(s.Annotations, "berth.dev/retain") })
	if c.reservations["retained.default.a"] != nil {
		t.Error("the reservation stays without the annotation")
	}
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

// TestRetainThroughRefusal: the Service comes back without the annotation and
// is refused for something else. What is kept stays until it has it again.
func TestRetainThroughRefusal(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a", annotate("berth.dev/retain", "1h"))
	c.delete("a")
	c.service("a", annotate("berth.dev/address-pool", "nope"))
	c.want("a", "", reasonUnknownPool, "there is no IPAddressPool of that name")
	c.service("b")
	c.want("b", "192.0.2.2", reasonAllocated, "")
	c.edit("a", func(s *corev1.Service) { delete(s.Annotations, "berth.dev/address-pool") })
	c.want("a", "192.0.2.1", reasonAllocated, "")
	if c.reservations["retained.default.a"] != nil {
		t.Error("the reservation stays though the Service does not ask for it")
	}
}

// TestRetainSharers: each of two Services that share an address keeps it.
func TestRetainSharers(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]string{"as before": {"a", "b"}, "the other way round": {"b", "a"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.pool("default", "192.0.2.1-192.0.2.9")
			create := func(name string) {
				c.service(name, annotate("berth.dev/retain", "1h"), annotate("berth.dev/allow-shared-ip", "k"),
					func(s *corev1.Service) { s.Spec.Ports[0].Port = int32(name[0]) })
			}
			create("a")
			create("b")
			c.want("b", "192.0.2.1", reasonAllocated, "")
			c.tick()
			for _, name := range order {
				c.wantReservation("retained.default."+name, v1beta1.ReasonAccepted, "in force")
				c.delete(name)
			}
			c.restart()
			c.service("other")
			c.want("other", "192.0.2.2", reasonAllocated, "")
			for _, name := range order {
				create(name)
				c.want(name, "192.0.2.1", reasonAllocated, "")
			}
		})
	}
}

// TestRetainBeforeItIsWritten: a Service goes before the API server has its
// reservation, and another waits for the address.
func TestRetainBeforeItIsWritten(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1")
	a := loadBalancer(c, "a", annotate("berth.dev/retain", "1h"))
	c.services[ownerOf(a)] = a
	c.handleOnly("a")
	delete(c.services, ownerOf(a))
	c.service("b")
	c.want("b", "", reasonPoolExhausted, "reserved")
	if r := c.reservations["retained.default.a"]; r == nil || r.Spec.Until == nil {
		t.Errorf("what is kept is %v", r)
	}
	c.pass(time.Hour)
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

// handleOnly has the controller deal with a Service, whose writes wait.
func (c *cluster) handleOnly(name string) {
	c.t.Helper()
	c.refresh()
	key := keyOf(ipam.Owner{Namespace: "default", Name: name})
	if err := c.controller.handle(key); err != nil {
		c.t.Fatal(err)
	}
	c.controller.cache.Add(key)
}

// TestRetainManyReadsOnce: the reservations that Berth makes of what Services
// have cost no reading of the configuration each.
func TestRetainManyReadsOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.0/24")
	c.service("a", annotate("berth.dev/retain", "1h"))
	if !c.controller.reservationsDirty || c.controller.configDirty {
		t.Error("the reservation is not left for the next second")
	}
	c.tick()
	c.wantReservation("retained.default.a", v1beta1.ReasonAccepted, "in force")
	c.delete("a")
	c.service("b")
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

// TestRetainedDeletedByHand: the reservation of a Service that lives is made
// anew.
func TestRetainedDeletedByHand(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1")
	c.service("a", annotate("berth.dev/retain", "1h"))
	deleteByHand := func() {
		delete(c.reservations, "retained.default.a")
		c.controller.cache.Add(k8s.Key{Kind: k8s.KindIPReservation, Name: "retained.default.a"})
		c.settle()
	}
	deleteByHand()
	if c.reservations["retained.default.a"] == nil {
		t.Error("the reservation is gone while the Service lives")
	}
	c.delete("a")
	deleteByHand()
	c.service("b")
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

// TestRetainedIsNotKeptTwice: what is kept for a Service that came back and was
// refused goes when a user deletes the reservation.
func TestRetainedIsNotKeptTwice(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1")
	c.service("a", annotate("berth.dev/retain", "1h"))
	again := loadBalancer(c, "a", annotate("berth.dev/address-pool", "nope"))
	c.put(again) // deleted and created before anybody looked
	c.want("a", "", reasonUnknownPool, "")
	delete(c.reservations, "retained.default.a")
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindIPReservation, Name: "retained.default.a"})
	c.settle()
	c.service("b")
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

// TestRetainWithinQuota: nobody has all of a pool by creating and deleting.
func TestRetainWithinQuota(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.1-192.0.2.4").DeepCopy()
	p.Spec.Quota = &v1beta1.PoolQuota{AddressesPerNamespace: ptr.To(int32(1))}
	c.putPool(p)
	for _, name := range []string{"a", "b", "c", "d"} {
		c.service(name, annotate("berth.dev/retain", "forever"))
		c.delete(name)
	}
	if len(c.reservations) != 1 || c.reservations["retained.default.a"] == nil {
		t.Errorf("kept are %v", c.reservations)
	}
	c.service("a", annotate("berth.dev/retain", "forever"))
	c.want("a", "192.0.2.1", reasonAllocated, "")
}
