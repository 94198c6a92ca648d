package allocation

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// pass lets time go by and the controller notice.
func (c *cluster) pass(d time.Duration) {
	c.t.Helper()
	c.clock.SetTime(c.clock.Now().Add(d))
	c.tick()
}

func reservation(name, service string, addresses ...v1beta1.AddressRange) *v1beta1.IPReservation {
	return &v1beta1.IPReservation{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.IPReservationSpec{
		Addresses: addresses,
		For:       v1beta1.ReservationTarget{Namespace: "default", Service: v1beta1.ObjectName(service)},
	}}
}

// wantReservation checks the condition of a reservation.
func (c *cluster) wantReservation(name, reason, message string) {
	c.t.Helper()
	r := c.reservations[name]
	if r == nil {
		c.t.Errorf("there is no reservation %s", name)
		return
	}
	condition := meta.FindStatusCondition(r.Status.Conditions, v1beta1.ConditionAccepted)
	if condition == nil || condition.Reason != reason || !strings.Contains(condition.Message, message) {
		c.t.Errorf("reservation %s: condition is %v, want %s %q", name, condition, reason, message)
	}
}

func TestReservationHoldsAnAddress(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.3")
	c.putReservation(reservation("for-b", "b", "192.0.2.1"))
	c.service("a")
	c.want("a", "192.0.2.2", reasonAllocated, "")
	c.service("greedy", annotate("berth.dev/load-balancer-ips", "192.0.2.1"))
	c.want("greedy", "", reasonAddressReserved, "for-b")
	c.service("b")
	c.want("b", "192.0.2.1", reasonAllocated, "")
	c.delete("b")
	c.service("other")
	c.want("other", "192.0.2.3", reasonAllocated, "")
	c.service("b")
	c.want("b", "192.0.2.1", reasonAllocated, "")
	c.tick()
	c.wantReservation("for-b", v1beta1.ReasonAccepted, "in force")
	if got := c.pools["default"].Status.IPv4; got == nil || got.Total != 3 || got.Assigned != 3 || got.Reserved != 0 {
		t.Errorf("pool status: %+v", got)
	}
}

func TestReservationOfACount(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.4")
	r := reservation("two", "")
	r.Spec.Count, r.Spec.Pool, r.Spec.For.Namespace = ptr.To(int32(2)), "default", "team"
	c.putReservation(r)
	c.tick()
	if got := c.reservations["two"].Status.Addresses; strings.Join(got, " ") != "192.0.2.1-192.0.2.2" {
		t.Errorf("holds %v", got)
	}
	c.service("a")
	c.want("a", "192.0.2.3", reasonAllocated, "")
	c.restart()
	c.tick()
	if got := c.reservations["two"].Status.Addresses; strings.Join(got, " ") != "192.0.2.1-192.0.2.2" {
		t.Errorf("holds %v after a restart", got)
	}
	unknown := r.DeepCopy()
	unknown.Name, unknown.Spec.Pool = "unknown", "nope"
	c.putReservation(unknown)
	c.tick()
	c.wantReservation("unknown", v1beta1.ReasonUnknownPool, "no pool nope")
}

func TestReservationsConflict(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.putReservation(reservation("older", "a", "192.0.2.1-192.0.2.2"))
	c.putReservation(reservation("a-younger", "b", "192.0.2.2-192.0.2.3"))
	c.tick()
	c.wantReservation("older", v1beta1.ReasonAccepted, "")
	c.wantReservation("a-younger", v1beta1.ReasonConflict, "older")
}

func TestReservationEnds(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1")
	r := reservation("short", "b", "192.0.2.1")
	until := metav1.NewTime(c.clock.Now().Add(time.Hour))
	r.Spec.Until = &until
	c.putReservation(r)
	c.service("a")
	c.want("a", "", reasonPoolExhausted, "reserved")
	c.pass(time.Hour)
	c.want("a", "192.0.2.1", reasonAllocated, "")
	c.tick()
	c.wantReservation("short", v1beta1.ReasonExpired, "spec.until")
}

func TestReuseDelay(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.1").DeepCopy()
	p.Spec.ReuseDelay = "10m"
	c.putPool(p)
	c.pass(0)
	c.service("a")
	c.delete("a")
	c.service("b")
	c.want("b", "", reasonPoolExhausted, "resting")
	c.pass(time.Minute)
	c.restart()
	c.want("b", "", reasonPoolExhausted, "resting")
	c.service("a")
	c.want("a", "192.0.2.1", reasonAllocated, "")
	c.delete("a")
	c.pass(9 * time.Minute)
	c.restart()
	c.want("b", "", reasonPoolExhausted, "resting")
	c.pass(time.Minute)
	c.want("b", "192.0.2.1", reasonAllocated, "")
}

func TestQuota(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.0/24").DeepCopy()
	p.Spec.Quota = &v1beta1.PoolQuota{AddressesPerNamespace: ptr.To(int32(1))}
	c.putPool(p)
	c.service("a")
	c.service("b")
	c.want("b", "", reasonQuotaExceeded, "quota")
	c.delete("a")
	c.want("b", "192.0.2.0", reasonAllocated, "")
}

func TestDisabledPool(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.0/24").DeepCopy()
	c.service("a")
	p.Spec.Disabled = true
	c.putPool(p)
	c.want("a", "192.0.2.0", reasonAllocated, "")
	c.service("b")
	c.want("b", "", reasonPoolDisabled, "disabled")
}

func TestExcludedAndTakenAddresses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.nodes["node-1"] = &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"192.0.2.4/30"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "node-1"}}},
	}
	p := c.pool("default", "192.0.2.0/28").DeepCopy()
	p.Spec.ExcludeAddresses = []v1beta1.AddressRange{"192.0.2.0", "192.0.2.2-192.0.2.3"}
	c.putPool(p)
	c.service("a")
	c.want("a", "192.0.2.8", reasonAllocated, "")
	c.tick()
	accepted := meta.FindStatusCondition(c.pools["default"].Status.Conditions, v1beta1.ConditionAccepted)
	if accepted == nil || !strings.Contains(accepted.Message, "192.0.2.1 of node node-1, 192.0.2.4-192.0.2.7 of the Pods of node node-1") {
		t.Errorf("condition: %v", accepted)
	}
	c.service("b", annotate("berth.dev/load-balancer-ips", "192.0.2.1"))
	c.want("b", "", reasonAddressNotInPool, "192.0.2.1")
}

func TestRenew(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.2")
	c.service("a")
	c.edit("a", annotate("berth.dev/renew", "1"))
	c.want("a", "192.0.2.2", reasonAllocated, "")
	c.edit("a", annotate("example.com/unrelated", "x"))
	c.restart()
	c.want("a", "192.0.2.2", reasonAllocated, "")
	c.service("b")
	c.edit("a", annotate("berth.dev/renew", "2"))
	c.want("a", "192.0.2.2", reasonPoolExhausted, "keeps 192.0.2.2")
	c.delete("b")
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

func TestReassignOnShrink(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.0/24").DeepCopy()
	c.service("a")
	p.Spec.OnShrink, p.Spec.Addresses = v1beta1.ShrinkReassign, []v1beta1.AddressRange{"192.0.2.128/25"}
	c.putPool(p)
	c.want("a", "192.0.2.128", reasonAllocated, "")
}

// TestReassignLater: the policy is set when the address is out of pool already.
func TestReassignLater(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.0/24").DeepCopy()
	c.service("a")
	p.Spec.Addresses = []v1beta1.AddressRange{"192.0.2.128/25"}
	c.putPool(p)
	c.want("a", "192.0.2.0", reasonOutOfPool, "")
	p = p.DeepCopy()
	p.Spec.OnShrink = v1beta1.ShrinkReassign
	c.putPool(p)
	c.want("a", "192.0.2.128", reasonAllocated, "")
}

func TestOutOfPoolIsShown(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.pool("default", "192.0.2.0/24").DeepCopy()
	c.service("a")
	p.Spec.Addresses = []v1beta1.AddressRange{"192.0.2.128/25"}
	c.putPool(p)
	for _, when := range []string{"at once", "after a restart"} {
		c.tick()
		got := c.pools["default"].Status.OutOfPool
		if len(got) != 1 || got[0].Address != "192.0.2.0" || strings.Join(got[0].Services, " ") != "default/a" {
			t.Errorf("%s: out of pool are %v", when, got)
		}
		c.restart()
	}
}

func TestSharingAcrossNamespaces(t *testing.T) {
	t.Parallel()
	key := annotate("berth.dev/allow-shared-ip", "k")
	other := func(s *corev1.Service) { s.Namespace = "other"; s.Spec.Ports[0].Port = 443 }
	allow := map[string]string{v1beta1.AnnotationShareAcrossNamespaces: "true"}
	for name, test := range map[string]struct {
		arrange func(*cluster)
		want    string
	}{
		"forbidden": {func(*cluster) {}, "192.0.2.2"},
		"by the pool": {func(c *cluster) {
			p := c.pools["default"].DeepCopy()
			p.Spec.ShareAcrossNamespaces = true
			c.putPool(p)
		}, "192.0.2.1"},
		"by one namespace only": {func(c *cluster) {
			c.namespaces["default"] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Annotations: allow}}
		}, "192.0.2.2"},
		"by both namespaces": {func(c *cluster) {
			for _, ns := range []string{"default", "other"} {
				c.namespaces[ns] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Annotations: allow}}
			}
		}, "192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.pool("default", "192.0.2.1-192.0.2.9")
			test.arrange(c)
			c.service("a", key)
			c.service("a", key, other)
			for owner, svc := range c.services {
				if got := svc.Status.LoadBalancer.Ingress[0].IP; owner.Namespace == "other" && got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
			}
		})
	}
}

// TestContest: another controller rewrites the status. Berth answers once, then
// ever more rarely, and says so once.
func TestContest(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a")
	overwrite := func() {
		c.edit("a", func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
		})
	}
	ip := func() string { return c.get("a").Status.LoadBalancer.Ingress[0].IP }
	warned := func() (n int) {
		for _, e := range c.events {
			if strings.Contains(e, "StatusOverwritten") {
				n++
			}
		}
		return n
	}
	overwrite()
	if ip() != "192.0.2.1" || warned() != 1 {
		t.Errorf("after the first time: %s, %d events", ip(), warned())
	}
	condition := meta.FindStatusCondition(c.get("a").Status.Conditions, v1beta1.ConditionAddressAllocated)
	if condition.Reason != reasonContested || !strings.Contains(condition.Message, "replaced 192.0.2.1 by 10.0.0.1") {
		t.Errorf("condition: %v", condition)
	}
	overwrite()
	if ip() != "10.0.0.1" {
		t.Error("fights back at once the second time")
	}
	key := k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "a"}
	before := c.writes[key]
	for range 50 {
		c.pass(time.Second)
		overwrite()
	}
	if n := c.writes[key] - before; n > 1 {
		t.Errorf("%d writes within a minute", n)
	}
	c.pass(time.Minute)
	if ip() != "192.0.2.1" || warned() != 1 {
		t.Errorf("after a minute: %s, %d events", ip(), warned())
	}
	c.pass(contestQuiet)
	c.tick()
	c.want("a", "192.0.2.1", reasonAllocated, "")
}

// TestContestLetsUsersThrough: what a user asks for while another controller is
// quiet does not wait for the end of the contest.
func TestContestLetsUsersThrough(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("default", "192.0.2.1-192.0.2.9")
	c.service("a")
	c.edit("a", func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
	})
	c.want("a", "192.0.2.1", reasonContested, "")
	c.edit("a", annotate("berth.dev/renew", "1"))
	c.want("a", "192.0.2.2", reasonContested, "")
}
