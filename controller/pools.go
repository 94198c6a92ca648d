package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/bits"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// poolStatusInterval bounds the writes of pool statuses: one per pool in this
// time, however many Services come and go.
const poolStatusInterval = time.Second

// tick reminds the loop to report, until ctx is done.
func tick(ctx context.Context, cache *k8s.Cache) error {
	ticker := time.NewTicker(poolStatusInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			cache.Add(k8s.Key{Kind: kindTick})
		}
	}
}

// reportConfiguration writes the status of every custom resource whose status
// says something else than it should.
func (c *controller) reportConfiguration() error {
	if !c.poolsDirty {
		return nil
	}
	c.poolsDirty = false
	c.metrics.observe(c.allocator)
	for _, object := range c.cache.IPAddressPools.List() {
		status := c.poolStatus(object)
		if equality.Semantic.DeepEqual(status, object.Status) {
			continue
		}
		if err := c.writeStatus(k8s.Key{Kind: k8s.KindIPAddressPool, Name: object.Name}, status); err != nil {
			return err
		}
	}
	for _, object := range c.cache.L2Advertisements.List() {
		status := v1beta1.L2AdvertisementStatus{
			Conditions: c.acceptance(object.Status.Conditions, object.Generation, c.verdicts.L2Advertisements[object.Name]),
		}
		if equality.Semantic.DeepEqual(status, object.Status) {
			continue
		}
		if err := c.writeStatus(k8s.Key{Kind: k8s.KindL2Advertisement, Name: object.Name}, status); err != nil {
			return err
		}
	}
	return nil
}

func (c *controller) writeStatus(key k8s.Key, status any) error {
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return fmt.Errorf("composing the status of %s: %w", key, err)
	}
	c.writer.Set(key, patch)
	return nil
}

func (c *controller) poolStatus(object *v1beta1.IPAddressPool) v1beta1.IPAddressPoolStatus {
	stats, _ := c.allocator.StatsOf(object.Name) // zero for a pool that is not in force
	return v1beta1.IPAddressPoolStatus{
		Assigned:      column(stats, func(f ipam.FamilyStats) ipam.Count { return ipam.CountOf(uint64(f.Assigned)) }),
		Available:     column(stats, func(f ipam.FamilyStats) ipam.Count { return f.Available }),
		AssignedIPv4:  int64(stats.IPv4.Assigned),
		AssignedIPv6:  int64(stats.IPv6.Assigned),
		AvailableIPv4: stats.IPv4.Available.Int64(),
		AvailableIPv6: stats.IPv6.Available.Int64(),
		Conditions:    c.acceptance(object.Status.Conditions, object.Generation, c.verdicts.IPAddressPools[object.Name]),
	}
}

// acceptance returns the conditions of an object with the verdict about it.
func (c *controller) acceptance(before []metav1.Condition, generation int64, v config.Verdict) []metav1.Condition {
	conditions := append([]metav1.Condition(nil), before...)
	status := metav1.ConditionFalse
	if v.Accepted {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&conditions, metav1.Condition{
		Type:               v1beta1.ConditionAccepted,
		Status:             status,
		Reason:             v.Reason,
		Message:            v.Message,
		ObservedGeneration: generation,
		LastTransitionTime: metav1.NewTime(c.clock.Now().Truncate(time.Second)),
	})
	return conditions
}

// column renders the counts of a pool's families: only the number where the
// pool has one family.
func column(stats ipam.PoolStats, count func(ipam.FamilyStats) ipam.Count) string {
	four, six := short(count(stats.IPv4)), short(count(stats.IPv6))
	switch {
	case stats.IPv6.Total.IsZero():
		return four
	case stats.IPv4.Total.IsZero():
		return six
	}
	return four + " IPv4, " + six + " IPv6"
}

// short renders counts that nobody reads to the last digit as a power of two.
func short(n ipam.Count) string {
	const exactUpTo = 1_000_000
	if n.Compare(ipam.CountOf(exactUpTo)) <= 0 {
		return n.String()
	}
	exponent := 0
	if n.Compare(ipam.CountOf(1<<63)) >= 0 {
		for f := n.Float64(); f >= 2; f /= 2 {
			exponent++
		}
	} else {
		exponent = bits.Len64(n.Uint64()) - 1
	}
	return fmt.Sprintf("~2^%d", exponent)
}
