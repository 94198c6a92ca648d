package allocation

import (
	"cmp"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// waitingByAge returns the Services that lack something, or would have something
// else, the oldest first.
func (c *Controller) waitingByAge() []ipam.Owner {
	type waiter struct {
		owner ipam.Owner
		since metav1.Time
	}
	waiters := make([]waiter, 0, len(c.waiting)+len(c.stranded))
	add := func(owner ipam.Owner) {
		w := waiter{owner: owner}
		if svc, found := c.cache.Services.Get(owner.Namespace, owner.Name); found {
			w.since = svc.CreationTimestamp
		}
		waiters = append(waiters, w)
	}
	for owner := range c.waiting {
		add(owner)
	}
	for owner := range c.stranded {
		if !c.waiting[owner] {
			add(owner)
		}
	}
	slices.SortFunc(waiters, func(a, b waiter) int {
		return cmp.Or(a.since.Compare(b.since.Time), a.owner.Compare(b.owner))
	})
	owners := make([]ipam.Owner, len(waiters))
	for i, w := range waiters {
		owners[i] = w.owner
	}
	return owners
}

// wakeSharers has the Services of a namespace dealt with again whose right to
// share goes by the namespace.
func (c *Controller) wakeSharers(namespace string) {
	for _, svc := range c.cache.Services.List() {
		if svc.Namespace == namespace && svc.Annotations[v1beta1.AnnotationSharedIPKey] != "" {
			c.cache.Add(keyOf(ownerOf(svc)))
		}
	}
}

// wakeNaming has Services dealt with again that name a pool about which something
// else is said than so far: what they have may be what they ask for no more, or
// again.
func (c *Controller) wakeNaming(snapshot *config.Snapshot, verdicts config.Verdicts) {
	for owner, name := range c.names {
		before, _ := c.snapshot.Pool(name)
		after, _ := snapshot.Pool(name)
		if c.verdicts.IPAddressPools[name] != verdicts.IPAddressPools[name] || !reflect.DeepEqual(before, after) {
			c.cache.Add(keyOf(owner))
		}
	}
}

// wakeNamingIn does that with those of a namespace, whose labels have changed.
func (c *Controller) wakeNamingIn(namespace string) {
	for owner := range c.names {
		if owner.Namespace == namespace {
			c.cache.Add(keyOf(owner))
		}
	}
}

// wake has Services dealt with again.
func (c *Controller) wake(owners []ipam.Owner) {
	for _, owner := range owners {
		c.cache.Add(keyOf(owner))
	}
}

func keyOf(owner ipam.Owner) k8s.Key {
	return k8s.Key{Kind: k8s.KindService, Namespace: owner.Namespace, Name: owner.Name}
}
