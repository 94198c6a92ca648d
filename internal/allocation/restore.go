package allocation

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-kit/log/level"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
)

// restore records every existing allocation before the first is made, the
// oldest Service first: of two that claim one address the older keeps it. Those
// that share an address and ask for something that was refused come last, because
// what they have was granted by what they asked for before: see refusedSharer.
func (c *Controller) restore() error {
	began := c.clock.Now()
	if err := c.configure(); err != nil {
		return err
	}
	services := c.cache.Services.List()
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(
			cmp.Compare(refusedSharer(a), refusedSharer(b)),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time), ownerOf(a).Compare(ownerOf(b)),
		)
	})
	restored, joined := 0, joinedUnder(services)
	for _, svc := range services {
		if !c.class.Owns(svc) {
			continue
		}
		owner := ownerOf(svc)
		if condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated); condition != nil {
			c.told[owner] = news(condition.Message)
		}
		addrs := c.restorable(svc)
		c.renewed[owner] = renewedOf(svc)
		c.contests.uids[owner] = svc.UID
		if len(addrs) == 0 {
			continue
		}
		if err := c.restoreOne(svc, addrs, joined); err != nil {
			c.lost[owner] = err
			level.Warn(c.logger).Log("msg", "a Service cannot keep its address", "service", owner, "err", err)
		}
		if granted := (outcome{addresses: addrs}); meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated) != nil {
			c.contests.confirmed[owner] = granted.ingress() // what it should show, and did
		}
		if waitsToMove(svc, addrs) {
			c.allocator.AsksToMove(owner)
		}
		restored++
	}
	c.restoreRests()
	c.restored = true
	c.quarantine()
	c.reserve() // only now: a count must not choose what somebody has
	level.Info(c.logger).Log("msg", "restored the existing allocations", "services", restored, "pools", len(c.snapshot.Pools), "took", c.clock.Since(began))
	return nil
}

// renewedOf returns the value of berth.dev/renew that was acted on before. Where a
// user has replaced the Service by what is in a file, that is what it says there.
func renewedOf(svc *corev1.Service) string {
	if replacedByFile(svc) {
		return strings.TrimSpace(svc.Annotations[v1beta1.AnnotationRenew])
	}
	return svc.Annotations[v1beta1.AnnotationRenewed]
}

// replacedByFile says that a Service was given addresses and has none of the
// annotations that Berth writes.
func replacedByFile(svc *corev1.Service) bool {
	noted := svc.Annotations[v1beta1.AnnotationRenewed] + svc.Annotations[v1beta1.AnnotationSharedIPKey] +
		svc.Annotations[v1beta1.AnnotationIPAllocatedFromPool]
	return noted == "" && len(grantedTo(svc)) > 0
}

// refusedSharer returns 0 unless a Service shares an address and asks for something
// that was refused: then 2 if that is for its ports or Pods, which others that
// share the address stand against and have a right to keep, otherwise 1.
func refusedSharer(svc *corev1.Service) int {
	granted := svc.Annotations[v1beta1.AnnotationSharedIPKey]
	condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	if granted == "" || condition == nil || condition.Status != metav1.ConditionFalse {
		return 0
	}
	wishes, _ := config.ReadWishes(svc.Annotations, svc.Spec.LoadBalancerIP)
	if condition.Reason == reasonAddressInUse && wishes.SharingKey == granted {
		return 2
	}
	return 1
}

// sharedAddress is an address that a Service shows and shares under a key.
type sharedAddress struct {
	address netip.Addr
	key     string
}

func joinedUnder(services []*corev1.Service) map[sharedAddress]bool {
	joined := map[sharedAddress]bool{}
	for _, svc := range services {
		if key := svc.Annotations[v1beta1.AnnotationSharedIPKey]; key != "" {
			for _, addr := range ingressOf(svc) {
				joined[sharedAddress{addr, key}] = true
			}
		}
	}
	return joined
}

// restoreOne records the addresses of one Service. What it was granted may be
// other than what it asks for by now, and counts: Services that had an address
// together keep it together, and what was refused is not granted by a restart.
func (c *Controller) restoreOne(svc *corev1.Service, addrs []ipam.Assigned, joined map[sharedAddress]bool) error {
	owner := ownerOf(svc)
	granted := svc.Annotations[v1beta1.AnnotationSharedIPKey]
	wishes, _ := config.ReadWishes(svc.Annotations, svc.Spec.LoadBalancerIP) // the key is there also if the rest is wrong
	if replacedByFile(svc) {
		granted = wishes.SharingKey
	}
	// Writes of different Services are not ordered: one that has joined another
	// shows that the other was granted its key, also if it does not say so yet.
	isJoined := slices.ContainsFunc(addrs, func(a ipam.Assigned) bool { return joined[sharedAddress{a.Address, wishes.SharingKey}] })
	if _, ours := svc.Annotations[v1beta1.AnnotationIPAllocatedFromPool]; !isJoined && (ours || granted != "") {
		wishes.SharingKey = granted
	}
	ns, _ := c.cache.Namespaces.Get("", svc.Namespace)
	err := c.allocator.RestoreFrom(owner, addrs, sharingOf(svc, ns, wishes.SharingKey))
	var inUse *ipam.InUseError
	if granted == "" || !errors.As(err, &inUse) {
		return err
	}
	if other := c.allocator.SharingOf(inUse.Owner); other != nil && other.Key == granted {
		c.allocator.Release(owner) // of an address that is not shared, restored with the ports of now
		return c.allocator.RestoreFrom(owner, addrs, &ipam.Sharing{Key: granted, Backend: other.Backend})
	}
	return err
}

// restorable returns the addresses that a Service keeps: those that the condition
// says Berth has given it, which only who may write statuses can change, and not
// what the status shows: others write there too. Where Berth has said nothing yet,
// those of a pool, and those that MetalLB has marked.
func (c *Controller) restorable(svc *corev1.Service) []ipam.Assigned {
	if meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated) != nil {
		granted := grantedTo(svc)
		for i, a := range granted {
			granted[i].Pool = a.From
			if pool, found := c.snapshot.PoolOf(a.Address); found && pool.MayAssign(a.Address) {
				granted[i].Pool = pool.Name
			}
		}
		return granted
	}
	var assigned []ipam.Assigned
	for _, addr := range ingressOf(svc) {
		pool, found := c.snapshot.PoolOf(addr)
		switch {
		case found && (marked(svc) || pool.MayAssign(addr)):
			assigned = append(assigned, ipam.Assigned{Address: addr, Pool: pool.Name})
		case marked(svc):
			assigned = append(assigned, ipam.Assigned{Address: addr})
		}
	}
	return assigned
}

// waitsToMove says that a Service names a pool that not all of its addresses came
// from, and was refused for want of room there: it is to move once there is some.
// Any other refusal says nothing about what it had asked for before.
func waitsToMove(svc *corev1.Service, addrs []ipam.Assigned) bool {
	wishes, err := config.ReadWishes(svc.Annotations, svc.Spec.LoadBalancerIP)
	condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	if err != nil || wishes.Pool == "" || condition == nil || condition.Status != metav1.ConditionFalse {
		return false
	}
	switch condition.Reason {
	case reasonPoolExhausted, reasonQuotaExceeded, reasonPoolDisabled:
		return slices.ContainsFunc(addrs, func(a ipam.Assigned) bool { return a.Pool != wishes.Pool })
	}
	return false
}
