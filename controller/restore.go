package main

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-kit/log/level"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
)

// restore records every existing allocation before the first is made, the
// oldest Service first: of two that claim one address the older keeps it. Those
// that share an address and ask for something that was refused come last,
// because what they have was granted by what they asked for before.
func (c *controller) restore() error {
	began := c.clock.Now()
	if err := c.configure(); err != nil {
		return err
	}
	services := c.cache.Services.List()
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(
			compareBools(refusedSharer(a), refusedSharer(b)),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time), ownerOf(a).Compare(ownerOf(b)),
		)
	})
	restored := 0
	for _, svc := range services {
		if !c.class.Owns(svc) {
			continue
		}
		owner := ownerOf(svc)
		if condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated); condition != nil {
			c.told[owner] = condition.Message
		}
		addrs := c.restorable(svc)
		c.renewed[owner] = svc.Annotations[v1beta1.AnnotationRenewed]
		c.contests.uids[owner] = svc.UID
		if len(addrs) == 0 {
			continue
		}
		if err := c.restoreOne(svc, addrs); err != nil {
			c.lost[owner] = err
			level.Warn(c.logger).Log("msg", "a Service cannot keep its address", "service", owner, "err", err)
		}
		if waitsToMove(svc) {
			c.allocator.AsksToMove(owner)
		}
		restored++
	}
	c.restoreRests()
	c.restored = true
	c.reserve() // only now: a count must not choose what somebody has
	level.Info(c.logger).Log("msg", "restored the existing allocations", "services", restored, "pools", len(c.snapshot.Pools), "took", c.clock.Since(began))
	return nil
}

func refusedSharer(svc *corev1.Service) bool {
	return svc.Annotations[v1beta1.AnnotationSharedIPKey] != "" &&
		meta.IsStatusConditionFalse(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
}

// compareBools orders false before true.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// restoreOne records the addresses of one Service. What it was granted may be
// other than what it asks for by now, and counts: Services that had an address
// together keep it together, and what was refused is not granted by a restart.
func (c *controller) restoreOne(svc *corev1.Service, addrs []ipam.Assigned) error {
	owner := ownerOf(svc)
	granted := svc.Annotations[v1beta1.AnnotationSharedIPKey]
	wishes, _ := config.ReadWishes(svc.Annotations, svc.Spec.LoadBalancerIP) // the key is there also if the rest is wrong
	if _, ours := svc.Annotations[v1beta1.AnnotationIPAllocatedFromPool]; ours || granted != "" {
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

// restorable returns the addresses that a Service keeps: those of a pool, and,
// where Berth or MetalLB put them there, those whose pool is gone. Others were
// written by some other load balancer and are not ours to announce.
func (c *controller) restorable(svc *corev1.Service) []ipam.Assigned {
	var assigned []ipam.Assigned
	shown := ingressOf(svc)
	if contested, found := svc.Annotations[v1beta1.AnnotationContestedIPs]; found {
		shown = parseAddresses(contested) // another controller's are in the status
	}
	for i, addr := range shown {
		pool, found := c.snapshot.PoolOf(addr)
		switch {
		case found && pool.MayAssign(addr):
			assigned = append(assigned, ipam.Assigned{Address: addr, Pool: pool.Name})
		case marked(svc):
			assigned = append(assigned, ipam.Assigned{Address: addr, Pool: c.poolBefore(svc, shown, i)})
		}
	}
	return assigned
}

// waitsToMove says that a Service names a pool that none of its addresses came
// from, and was refused: it wants to move once that pool has room.
func waitsToMove(svc *corev1.Service) bool {
	wishes, _ := config.ReadWishes(svc.Annotations, svc.Spec.LoadBalancerIP)
	return wishes.Pool != "" && meta.IsStatusConditionFalse(svc.Status.Conditions, v1beta1.ConditionAddressAllocated) &&
		!slices.Contains(strings.Split(svc.Annotations[v1beta1.AnnotationIPAllocatedFromPool], ","), wishes.Pool)
}

func parseAddresses(text string) []netip.Addr {
	var addrs []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		if addr, err := ipam.ParseAddr(strings.TrimSpace(part)); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// poolBefore returns the pool that the i-th of the addresses came from, as the
// annotation has it (see outcome.pools).
func (c *controller) poolBefore(svc *corev1.Service, shown []netip.Addr, i int) string {
	names := strings.Split(svc.Annotations[v1beta1.AnnotationIPAllocatedFromPool], ",")
	switch pool, found := c.snapshot.PoolOf(shown[i]); {
	case len(names) == len(shown):
		return names[i]
	case names[0] == "" && found:
		return pool.Name
	}
	return names[0]
}
