package allocation

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// Whatever has happened, a controller that lives and its successor must come to the
// same conclusions. TestRandomLife found where they did not; these are the cases.

// editReservation changes a reservation as a user does.
func (c *cluster) editReservation(name string, change func(*v1beta1.IPReservation)) {
	c.t.Helper()
	r := c.reservations[name].DeepCopy()
	change(r)
	c.reservations[name] = r
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindIPReservation, Name: name})
	c.settle()
}

// TestCountHoldsNothingOfOtherPools: what a reservation holds of a pool that is away
// is nothing of another pool that has the address by now.
func TestCountHoldsNothingOfOtherPools(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("q", "192.0.2.1")
	c.putReservation(reservation("x", "somebody", "192.0.2.1"))
	c.tick()
	c.service("a")
	c.want("a", "", reasonPoolExhausted, "")
	c.editReservation("x", func(r *v1beta1.IPReservation) {
		r.Spec.Addresses, r.Spec.Count, r.Spec.Pool = nil, ptr.To(int32(1)), "away"
	})
	c.want("a", "192.0.2.1", reasonAllocated, "")
	c.restart()
	c.want("a", "192.0.2.1", reasonAllocated, "")
	c.wantQuiet()
}

// TestCountComesBackWithItsPool: over a restart as well.
func TestCountComesBackWithItsPool(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("p", "192.0.2.1-192.0.2.3")
	c.service("a")
	c.putReservation(&v1beta1.IPReservation{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: v1beta1.IPReservationSpec{
		Count: ptr.To(int32(1)), Pool: "p", For: v1beta1.ReservationTarget{Namespace: "default", Service: "somebody"},
	}})
	c.tick()
	c.delete("a")
	c.deletePool("p")
	c.tick()
	c.wantReservation("x", v1beta1.ReasonUnknownPool, "")
	c.restart()
	c.putPool(p)
	c.tick()
	if held := c.reservations["x"].Status.Addresses; len(held) != 1 || held[0] != "192.0.2.2" {
		t.Errorf("the reservation holds %v, want what it held before", held)
	}
}

// TestNamedPoolGoes: who names a pool is told what becomes of it, also if the
// address was out of the pool before.
func TestNamedPoolGoes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("p", "192.0.2.1")
	c.service("a", annotate(v1beta1.AnnotationAddressPool, "p"))
	with := func(addresses ...v1beta1.AddressRange) {
		p = p.DeepCopy()
		p.Spec.Addresses = addresses
		c.putPool(p)
	}
	with("192.0.2.2")
	c.want("a", "192.0.2.1", reasonOutOfPool, "")
	with("nonsense")
	c.want("a", "192.0.2.1", reasonUnknownPool, "nonsense")
	with("192.0.2.2")
	c.want("a", "192.0.2.1", reasonOutOfPool, "")
}

// TestReplacedByFile: a user writes a Service back without what Berth has noted on it,
// while no controller runs. That asks for nothing new.
func TestReplacedByFile(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1-192.0.2.9")
	c.service("a")
	c.edit("a", annotate(v1beta1.AnnotationRenew, "1"))
	c.want("a", "192.0.2.2", reasonAllocated, "")
	replaced := c.get("a").DeepCopy()
	replaced.Annotations = map[string]string{v1beta1.AnnotationRenew: "1"}
	c.services[ownerOf(replaced)] = replaced
	c.restart()
	c.want("a", "192.0.2.2", reasonAllocated, "")
	c.edit("a", annotate(v1beta1.AnnotationRenew, "2"))
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

// TestSharerReplacedByFile: the same for one that shares an address. A port that
// another uses does not cost it the address.
func TestSharerReplacedByFile(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	shared := annotate(v1beta1.AnnotationAllowSharedIP, "k")
	c.pool("p", "192.0.2.1")
	c.service("a", shared, port(1))
	c.service("b", shared, port(2))
	replaced := c.get("b").DeepCopy()
	replaced.Annotations = map[string]string{v1beta1.AnnotationAllowSharedIP: "k"}
	port(1)(replaced)
	c.services[ownerOf(replaced)] = replaced
	c.restart()
	c.want("b", "192.0.2.1", reasonAddressInUse, "TCP port 1")
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

// TestPortOfRefusedSharer: a port that a Service has no more is free for others, also
// if what it asks for is refused and it would not share any more.
func TestPortOfRefusedSharer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	shared := annotate(v1beta1.AnnotationAllowSharedIP, "k")
	c.pool("p", "192.0.2.1")
	c.service("a", shared, port(1))
	c.edit("a", func(s *corev1.Service) {
		delete(s.Annotations, v1beta1.AnnotationAllowSharedIP)
		asksFor("198.51.100.1")(s)
		port(2)(s)
	})
	c.want("a", "192.0.2.1", reasonAddressNotInPool, "")
	c.service("b", shared, port(1))
	c.want("b", "192.0.2.1", reasonAllocated, "")
	c.restart()
	c.wantQuiet()
}

// TestRetainedDeletedWhileServiceLives: what a user deletes is not kept for a Service
// that waits for something else.
func TestRetainedDeletedWhileServiceLives(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1")
	c.service("a", annotate(v1beta1.AnnotationRetain, "1h"))
	a := c.get("a").DeepCopy()
	c.delete("a")
	const name = "retained.default.a"
	if c.reservations[name] == nil {
		t.Fatal("nothing is kept")
	}
	c.service("b")
	c.want("b", "", reasonPoolExhausted, "")
	// Its end is still on its way when it is deleted, and the Service is back.
	c.controller.retaining[ownerOf(a)] = *reservationOf(ownerOf(a), c.reservations[name])
	delete(c.reservations, name)
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindIPReservation, Name: name})
	c.service("a", annotate(v1beta1.AnnotationAddressPool, "nope"))
	c.want("a", "", reasonUnknownPool, "")
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

// TestRestartOfSharersThatDisagree: who keeps a port keeps it over a restart, though
// it is refused something else, and who was refused that port is again.
func TestRestartOfSharersThatDisagree(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	shared := annotate(v1beta1.AnnotationAllowSharedIP, "k")
	c.pool("p", "192.0.2.1")
	c.service("older", shared, port(1))
	c.service("younger", shared, port(2))
	c.edit("younger", func(s *corev1.Service) { delete(s.Annotations, v1beta1.AnnotationAllowSharedIP) })
	c.edit("older", port(2))
	for range 2 {
		c.want("younger", "192.0.2.1", reasonAddressInUse, "no sharing key")
		c.want("older", "192.0.2.1", reasonAddressInUse, "TCP port 2")
		c.restart()
		c.wantQuiet()
	}
}

// TestContestHoldsBack: what is not written while an answer may be on its way is
// written after that.
func TestContestHoldsBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1")
	c.service("a")
	overwrite := func() {
		c.edit("a", func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
		})
	}
	overwrite()
	overwrite()
	c.edit("a", annotate(v1beta1.AnnotationAllowSharedIP, "k"))
	if key := c.get("a").Annotations[v1beta1.AnnotationSharedIPKey]; key != "" {
		t.Fatalf("key %q is written while an answer may be on its way", key)
	}
	c.pass(contestAnswer)
	if key := c.get("a").Annotations[v1beta1.AnnotationSharedIPKey]; key != "k" {
		t.Errorf("key %q is written, want k", key)
	}
}

func contestant(addrs ...string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", UID: types.UID("uid")}}
	for _, addr := range addrs {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr})
	}
	return svc
}

// TestContestForthAndBack: a Service moves forth and back faster than it is written.
// The write that lands late is Berth's.
func TestContestForthAndBack(t *testing.T) {
	t.Parallel()
	c, now := newContests(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	step := func(shows, wants string) {
		t.Helper()
		svc := contestant(shows)
		c.saw(svc)
		if open, _, _ := c.judge(svc, contestant(wants).Status.LoadBalancer.Ingress, now); open != nil {
			t.Fatalf("shows %s, wants %s: %s", shows, wants, open.message)
		}
	}
	step("192.0.2.1", "192.0.2.1")
	step("192.0.2.1", "192.0.2.2")
	step("192.0.2.1", "192.0.2.1")
	step("192.0.2.1", "192.0.2.1")
	step("192.0.2.2", "192.0.2.1")
	step("192.0.2.1", "192.0.2.1")
}

// TestContestOvertaken: an address that is not written any more does not keep another
// Service waiting.
func TestContestOvertaken(t *testing.T) {
	t.Parallel()
	c, now := newContests(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	owner := ipam.Owner{Namespace: "default", Name: "a"}
	c.wrote(owner, contestant("192.0.2.1").Status.LoadBalancer.Ingress, now)
	now = now.Add(time.Hour)
	if len(c.landing(owner, now)) != 1 {
		t.Error("what is to be written cannot land")
	}
	c.overtaken(owner, now)
	if len(c.landing(owner, now)) != 1 {
		t.Error("what was overtaken just now cannot land")
	}
	now = now.Add(landingTime)
	c.overtaken(owner, now)
	if landing := c.landing(owner, now); len(landing) > 0 {
		t.Errorf("%s may land for ever", landing)
	}
	c.wrote(owner, contestant("192.0.2.1").Status.LoadBalancer.Ingress, now)
	if len(c.landing(owner, now.Add(time.Hour))) != 1 {
		t.Error("what is to be written again cannot land")
	}
}
