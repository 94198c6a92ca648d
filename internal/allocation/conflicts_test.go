package allocation

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

const foreignMAC = "02:00:00:00:00:99"

// heard makes a node report other hosts that had these addresses first.
func (c *cluster) heard(node string, addresses ...string) {
	c.t.Helper()
	conflicts := make([]v1beta1.AddressConflict, len(addresses))
	for i, addr := range addresses {
		conflicts[i] = v1beta1.AddressConflict{
			Address: addr, MAC: foreignMAC, Interface: "eth0", Since: metav1.NewTime(c.clock.Now()), LastSeen: metav1.NewTime(c.clock.Now()), BeforeUse: true,
		}
	}
	c.putState(node, conflicts...)
}

func (c *cluster) putState(node string, conflicts ...v1beta1.AddressConflict) {
	c.t.Helper()
	c.states[node] = &v1beta1.NodeState{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: v1beta1.NodeStateStatus{AddressConflicts: conflicts}}
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindNodeState, Name: node})
	c.settle()
}

func (c *cluster) deleteState(node string) {
	c.t.Helper()
	delete(c.states, node)
	c.controller.cache.Add(k8s.Key{Kind: k8s.KindNodeState, Name: node})
	c.settle()
}

// asksFor makes a Service ask for an address, or for any.
func asksFor(addr string) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		annotate(v1beta1.AnnotationLoadBalancerIPs, addr)(svc)
		if addr == "" {
			delete(svc.Annotations, v1beta1.AnnotationLoadBalancerIPs)
		}
	}
}

// wantEvent checks that an event has all parts.
func (c *cluster) wantEvent(parts ...string) {
	c.t.Helper()
	if !slices.ContainsFunc(c.events, func(e string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(e, part) })
	}) {
		c.t.Errorf("no event has %q; there are: %s", parts, strings.Join(c.events, "; "))
	}
}

// wantQuarantined checks what the status of a pool says.
func (c *cluster) wantQuarantined(pool, addresses string, available int64) {
	c.t.Helper()
	c.tick()
	status := c.pools[pool].Status
	var got []string
	for _, q := range status.Quarantined {
		got = append(got, q.Address)
		if q.MAC != foreignMAC || q.Node == "" || q.Since.IsZero() {
			c.t.Errorf("pool %s lists %+v", pool, q)
		}
	}
	if text := strings.Join(got, " "); text != addresses || int(status.QuarantinedCount) != len(got) {
		c.t.Errorf("pool %s lists %q and counts %d, want %q", pool, text, status.QuarantinedCount, addresses)
	}
	if status.AvailableIPv4 != available {
		c.t.Errorf("pool %s has %d available, want %d", pool, status.AvailableIPv4, available)
	}
	if f := status.IPv4; f.Total != f.Assigned+f.Reserved+f.Resting+f.Quarantined+f.Available {
		c.t.Errorf("the counts of pool %s do not add up: %+v", pool, f)
	}
}

// TestQuarantine: nobody is given an address that another host has, as long as a
// node says so.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1-192.0.2.2")
	c.heard("n1", "192.0.2.1", "198.51.100.1", "nonsense")
	c.wantQuarantined("p", "192.0.2.1", 1)
	c.service("a")
	c.want("a", "192.0.2.2", reasonAllocated, "")
	c.service("b")
	c.want("b", "", reasonPoolExhausted, "all 2 addresses are assigned or another host's")
	c.service("asks", annotate(v1beta1.AnnotationLoadBalancerIPs, "192.0.2.1"))
	c.want("asks", "", reasonAddressConflict, "192.0.2.1 is in use by another host on the network, the host "+foreignMAC+" on the network of node n1 (eth0)")

	c.heard("n2", "192.0.2.1")
	c.deleteState("n1")
	c.wantQuarantined("p", "192.0.2.1", 0)
	c.want("asks", "", reasonAddressConflict, "node n2")

	c.restart()
	c.wantQuiet()
	c.wantQuarantined("p", "192.0.2.1", 0)

	c.heard("n2")
	c.want("b", "192.0.2.1", reasonAllocated, "")
	c.want("asks", "", reasonAddressInUse, "default/b")
	c.wantQuarantined("p", "", 0)
}

// TestConflictMoves: a Service that has any address gets another.
func TestConflictMoves(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.noDoubles = true
	c.pool("p", "192.0.2.1-192.0.2.3")
	c.service("a", annotate(v1beta1.AnnotationRetain, "1h"))
	c.service("b")
	c.heard("n1", "192.0.2.1")
	c.want("a", "192.0.2.3", reasonAllocated, "192.0.2.3 from pool p")
	c.want("b", "192.0.2.2", reasonAllocated, "")
	c.wantEvent("Warning AddressConflict default/a", foreignMAC, "node n1 (eth0)", "replaced by 192.0.2.3")
	c.wantEvent("Normal AddressAllocated default/a", "192.0.2.3")
	if kept := c.reservations["retained.default.a"].Spec.Addresses; len(kept) != 1 || kept[0] != "192.0.2.3" {
		t.Errorf("what is kept for it is %v", kept)
	}
	c.wantQuarantined("p", "192.0.2.1", 0)

	c.restart()
	c.wantQuiet()
	c.heard("n1")
	c.want("a", "192.0.2.3", reasonAllocated, "") // it does not go back
	c.wantQuarantined("p", "", 1)
}

// TestConflictLater: a host that came later moves nobody.
func TestConflictLater(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1-192.0.2.3")
	c.service("a")
	c.restart()
	c.putState("n1", v1beta1.AddressConflict{Address: "192.0.2.1", MAC: foreignMAC, Since: metav1.NewTime(c.clock.Now())})
	c.want("a", "192.0.2.1", reasonAllocated, "")
	c.wantQuiet()
	c.wantQuarantined("p", "", 2)
}

// TestConflictAsked: a Service keeps what it asks for, and is told who else has it.
func TestConflictAsked(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*cluster, string){
		"by annotation": func(c *cluster, addr string) {
			c.edit("a", asksFor(addr))
		},
		"by field": func(c *cluster, addr string) {
			c.edit("a", func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = addr })
		},
		"by reservation": func(c *cluster, addr string) {
			if addr != "" {
				c.putReservation(reservation("for-a", "a", v1beta1.AddressRange(addr)))
				return
			}
			delete(c.reservations, "for-a")
			c.controller.cache.Add(k8s.Key{Kind: k8s.KindIPReservation, Name: "for-a"})
			c.settle()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.pool("p", "192.0.2.1-192.0.2.3")
			c.service("a")
			ask(c, "192.0.2.1")
			c.heard("n1", "192.0.2.1")
			c.want("a", "192.0.2.1", reasonAddressConflict, foreignMAC)
			c.wantEvent("Warning AddressConflict default/a", foreignMAC, "node n1 (eth0)", "is what the Service asks for")
			c.wantQuarantined("p", "192.0.2.1", 2)
			c.restart()
			c.wantQuiet()
			c.want("a", "192.0.2.1", reasonAddressConflict, foreignMAC)
			ask(c, "") // from now on any will do
			c.want("a", "192.0.2.2", reasonAllocated, "")
		})
	}
}

// TestConflictWithoutReplacement: nothing is taken away without replacement.
func TestConflictWithoutReplacement(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1-192.0.2.2")
	c.service("a")
	c.service("b")
	c.heard("n1", "192.0.2.1")
	c.want("a", "192.0.2.1", reasonAddressConflict, "and is kept, because there is no other for it")
	c.wantEvent("Warning AddressConflict default/a", foreignMAC)
	c.restart()
	c.wantQuiet()
	c.service("c")
	c.want("c", "", reasonPoolExhausted, "")
	c.delete("b")
	c.want("a", "192.0.2.2", reasonAllocated, "") // it is older
	c.want("c", "", reasonPoolExhausted, "")
	c.heard("n1")
	c.want("c", "192.0.2.1", reasonAllocated, "")
}

// TestConflictRefused: a Service that is refused something keeps what it has, and is
// told of both.
func TestConflictRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1-192.0.2.2")
	c.service("a")
	c.edit("a", annotate(v1beta1.AnnotationAddressPool, "none"))
	c.heard("n1", "192.0.2.1")
	c.want("a", "192.0.2.1", reasonUnknownPool, "keeps 192.0.2.1 from pool p; 192.0.2.1 is in use by the host "+foreignMAC)
	c.edit("a", annotate(v1beta1.AnnotationAddressPool, "p"))
	c.want("a", "192.0.2.2", reasonAllocated, "")
}

// TestConflictShared: those that share an address move together or stay.
func TestConflictShared(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	shared := annotate(v1beta1.AnnotationAllowSharedIP, "k")
	c.pool("p", "192.0.2.1-192.0.2.3")
	c.service("a", shared, port(1))
	c.service("b", shared, port(2))
	c.service("c", shared, port(3), annotate(v1beta1.AnnotationLoadBalancerIPs, "192.0.2.1"))
	c.heard("n1", "192.0.2.1")
	for name, why := range map[string]string{"a": "it is what Service default/c asks for", "b": "default/c asks for", "c": "default/c asks for"} {
		c.want(name, "192.0.2.1", reasonAddressConflict, why)
	}
	c.service("d", shared, port(4)) // does not join them
	c.want("d", "192.0.2.2", reasonAllocated, "")
	c.restart()
	c.wantQuiet()
	c.edit("c", asksFor(""))
	for _, name := range []string{"a", "b", "c"} {
		c.want(name, "192.0.2.3", reasonAllocated, "")
		c.wantEvent("Warning AddressConflict default/"+name, "replaced by 192.0.2.3")
	}
}

// TestConflictDualStack: the address of the other family stays.
func TestConflictDualStack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.pool("p", "192.0.2.1-192.0.2.2", "2001:db8::1-2001:db8::2")
	c.service("a", families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
	c.heard("n1", "192.0.2.1")
	c.want("a", "192.0.2.2 2001:db8::1", reasonAllocated, "")
	c.heard("n1", "192.0.2.1", "2001:db8::1")
	c.want("a", "192.0.2.2 2001:db8::2", reasonAllocated, "")
}

// TestConflictFirst: of several hosts that have an address the one counts that was
// heard first.
func TestConflictFirst(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	state := func(node, mac string, since time.Duration) *v1beta1.NodeState {
		return &v1beta1.NodeState{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: v1beta1.NodeStateStatus{AddressConflicts: []v1beta1.AddressConflict{
			{Address: "192.0.2.1", MAC: mac, Since: metav1.NewTime(began.Add(since)), BeforeUse: true},
		}}}
	}
	states := []*v1beta1.NodeState{state("n1", "m1", time.Second), state("n3", "m3", 0), state("n2", "m2", 0)}
	for range states {
		states = append(states[1:], states[0])
		for addr, other := range conflictsIn(states) {
			if addr.String() != "192.0.2.1" || other.String() != "the host m2 on the network of node n2" {
				t.Errorf("%s is in use by %s", addr, other)
			}
		}
	}
}
