package allocation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
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

// Tick reminds the controller of a cache of what is due by the clock, until ctx is
// done.
func Tick(ctx context.Context, cache *k8s.Cache) error {
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
func (c *Controller) reportConfiguration() error {
	if !c.count() && !c.poolsDirty {
		return nil
	}
	c.poolsDirty = false
	c.reserve()
	c.observe()
	outOfPool, resting := c.outOfPool(), c.resting()
	quarantined, quarantinedCount := c.quarantined()
	for _, object := range c.cache.IPAddressPools.List() {
		if _, judged := c.verdicts.IPAddressPools[object.Name]; !judged {
			continue // it came just now: its event is on its way
		}
		status := c.poolStatus(object)
		status.OutOfPool, status.Resting = outOfPool[object.Name], resting[object.Name]
		status.Quarantined, status.QuarantinedCount = quarantined[object.Name], quarantinedCount[object.Name]
		if err := c.report(k8s.KindIPAddressPool, object.Name, object.Status, status); err != nil {
			return err
		}
	}
	for _, object := range c.cache.IPReservations.List() {
		if _, judged := c.verdicts.IPReservations[object.Name]; !judged {
			continue
		}
		if err := c.report(k8s.KindIPReservation, object.Name, object.Status, c.reservationStatus(object)); err != nil {
			return err
		}
	}
	for _, o := range c.cache.L2Advertisements.List() {
		want, use := o.Status, c.census.uses.l2[o.Name]
		want.Services, want.Addresses = use.services, use.addresses
		if err := c.reportVerdict(&judged{k8s.KindL2Advertisement, &o.ObjectMeta, &o.Status, &want, &want.Conditions}, c.verdicts.L2Advertisements); err != nil {
			return err
		}
	}
	return c.reportBGP()
}

// Finish writes what the next leader is to know of the last second: which
// addresses rest.
func (c *Controller) Finish() error {
	if !c.restored {
		return nil
	}
	return c.reportConfiguration()
}

// report writes a status unless the object has it already.
func (c *Controller) report(kind k8s.Kind, name string, has, want any) error {
	key := k8s.Key{Kind: kind, Name: name}
	if equality.Semantic.DeepEqual(has, want) {
		c.writer.Set(key, nil)
		return nil
	}
	patch, err := statusPatch(has, want)
	if err != nil {
		return fmt.Errorf("composing the status of %s: %w", key, err)
	}
	c.writer.Set(key, patch)
	return nil
}

// statusPatch returns a JSON merge patch that makes a status be want. What has
// has and want leaves out must be said to go (RFC 7396 section 2).
func statusPatch(has, want any) ([]byte, error) {
	old, err := fieldsOf(has)
	if err != nil {
		return nil, err
	}
	status, err := fieldsOf(want)
	if err != nil {
		return nil, err
	}
	for name := range old {
		if _, stays := status[name]; !stays {
			status[name] = json.RawMessage("null")
		}
	}
	return json.Marshal(map[string]any{"status": status})
}

// fieldsOf returns the fields of a status as JSON has them.
func fieldsOf(status any) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(status)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	err = json.Unmarshal(text, &fields)
	return fields, err
}

func (c *Controller) poolStatus(object *v1beta1.IPAddressPool) v1beta1.IPAddressPoolStatus {
	stats, found := c.allocator.StatsOf(object.Name)
	if !found {
		stats = c.keptOf(object.Name) // it is not in force
	}
	return v1beta1.IPAddressPoolStatus{
		Assigned:      column(stats, func(f ipam.FamilyStats) ipam.Count { return ipam.CountOf(uint64(f.Assigned)) }),
		Available:     column(stats, func(f ipam.FamilyStats) ipam.Count { return f.Available }),
		AssignedIPv4:  int64(stats.IPv4.Assigned),
		AssignedIPv6:  int64(stats.IPv6.Assigned),
		AvailableIPv4: stats.IPv4.Available.Int64(),
		AvailableIPv6: stats.IPv6.Available.Int64(),
		IPv4:          familyStatus(stats.IPv4),
		IPv6:          familyStatus(stats.IPv6),
		Conditions:    c.acceptance(object.Status.Conditions, object.Generation, c.verdicts.IPAddressPools[object.Name]),
	}
}

// keptOf counts what is kept of a pool that is not in force.
func (c *Controller) keptOf(pool string) ipam.PoolStats {
	var stats ipam.PoolStats
	for _, a := range c.allocator.OutOfPoolAddresses() {
		switch {
		case a.Pool != pool:
		case a.Address.Is4():
			stats.IPv4.OutOfPool++
		default:
			stats.IPv6.OutOfPool++
		}
	}
	return stats
}

func familyStatus(s ipam.FamilyStats) *v1beta1.PoolFamilyStatus {
	if s.Total.IsZero() && s.OutOfPool == 0 {
		return nil
	}
	return &v1beta1.PoolFamilyStatus{
		Total: s.Total.Int64(), Assigned: int64(s.Assigned), Reserved: s.Reserved.Int64(), Resting: int64(s.Resting),
		Quarantined: int64(s.Quarantined), Available: s.Available.Int64(), OutOfPool: int64(s.OutOfPool),
	}
}

// outOfPool returns the addresses that are kept out of each pool, as many as a
// status lists.
func (c *Controller) outOfPool() map[string][]v1beta1.OutOfPoolAddress {
	const listed = 32
	kept := map[string][]v1beta1.OutOfPoolAddress{}
	for _, a := range c.allocator.OutOfPoolAddresses() {
		if len(kept[a.Pool]) >= listed {
			continue
		}
		entry := v1beta1.OutOfPoolAddress{Address: a.Address.String()}
		for _, owner := range a.Owners {
			entry.Services = append(entry.Services, owner.String())
		}
		kept[a.Pool] = append(kept[a.Pool], entry)
	}
	return kept
}

// resting returns the addresses of each pool that rest, the latest first, as
// many as a status lists.
func (c *Controller) resting() map[string][]v1beta1.RestingAddress {
	const listed = 256
	rests := c.allocator.Rests()
	slices.SortStableFunc(rests, func(a, b ipam.Rest) int { return b.Since.Truncate(time.Second).Compare(a.Since.Truncate(time.Second)) })
	resting := map[string][]v1beta1.RestingAddress{}
	for _, r := range rests {
		pool, found := c.allocator.PoolOf(r.Address)
		if !found || len(resting[pool]) >= listed {
			continue
		}
		resting[pool] = append(resting[pool], v1beta1.RestingAddress{
			Address: r.Address.String(), Service: r.Owner.String(), Since: metav1.NewTime(r.Since.Truncate(time.Second)),
		})
	}
	return resting
}

// restoreRests lets addresses rest on that did when the last controller ended.
func (c *Controller) restoreRests() {
	for _, object := range c.cache.IPAddressPools.List() {
		for _, r := range object.Status.Resting {
			namespace, name, _ := strings.Cut(r.Service, "/")
			if addr, err := ipam.ParseAddr(r.Address); err == nil {
				c.allocator.RestoreRest(ipam.Owner{Namespace: namespace, Name: name}, addr, r.Since.Time)
			}
		}
	}
}

// reservationStatus says what a reservation holds, and what stands against it.
func (c *Controller) reservationStatus(object *v1beta1.IPReservation) v1beta1.IPReservationStatus {
	status := v1beta1.IPReservationStatus{}
	for _, r := range c.reserved[object.Name].Held {
		status.Addresses = append(status.Addresses, r.String())
	}
	status.Conditions = c.acceptance(object.Status.Conditions, object.Generation, c.reservationVerdict(object.Name))
	return status
}

// reservationVerdict is the verdict about a reservation with what came of it.
func (c *Controller) reservationVerdict(name string) config.Verdict {
	verdict := c.verdicts.IPReservations[name]
	if !verdict.Accepted {
		return verdict
	}
	result := c.reserved[name] // one whose pool is away still holds what comes back with it
	var conflict *ipam.ReservationConflictError
	switch {
	case errors.As(result.Err, &conflict):
		return config.Verdict{Reason: v1beta1.ReasonConflict, Message: result.Err.Error()}
	case result.Err != nil:
		verdict.Reason, verdict.Message = v1beta1.ReasonPartlyHeld, result.Err.Error()
	default:
		verdict.Message += c.notInPool(result.Held)
	}
	return verdict
}

// notInPool adds to the message about a reservation that it is of no use yet.
func (c *Controller) notInPool(held []ipam.Range) string {
	for _, r := range held {
		for _, end := range []netip.Addr{r.From, r.To} {
			if _, found := c.allocator.PoolOf(end); !found {
				return fmt.Sprintf("; no pool in force has %s: nobody is given it before one does", end)
			}
		}
	}
	return ""
}

// acceptance returns the conditions of an object with the verdict about it.
func (c *Controller) acceptance(before []metav1.Condition, generation int64, v config.Verdict) []metav1.Condition {
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
	return fmt.Sprintf("~2^%.0f", math.Log2(n.Float64()))
}
