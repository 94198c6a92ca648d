package allocation

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/daemon"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// StatusWriter sends the latest status patch of an object in the background;
// k8s.Writer is one.
type StatusWriter interface {
	Set(key k8s.Key, patch []byte)
}

// EventSender tells users of transitions; k8s.Events is one.
type EventSender interface {
	Normal(svc *corev1.Service, reason, message string)
	Warning(svc *corev1.Service, reason, message string)
}

// Reasons of events on Services.
const (
	eventAllocated = "AddressAllocated"
	eventFailed    = "AllocationFailed"
	eventLost      = "AddressLost"
	eventReleased  = "AddressReleased"
	eventContested = "StatusOverwritten"
	eventOutOfPool = "OutOfPool"
	eventConflict  = "AddressConflict"
)

// kindTick is the kind of the key with which a timer reminds the loop of the
// pool statuses.
const kindTick k8s.Kind = "Tick"

// Config is what a Controller works with.
type Config struct {
	Cache  *k8s.Cache
	Writer StatusWriter
	// Reservations writes and deletes the IPReservations of retained Services.
	Reservations StatusWriter
	Events       EventSender
	Class        k8s.Class
	Clock        clock.PassiveClock
	Logger       log.Logger
	Health       *daemon.Health
	Metrics      *Metrics
}

// Controller owns who has which address. All its methods run in one loop.
type Controller struct {
	cache        *k8s.Cache
	writer       StatusWriter
	reservations StatusWriter
	events       EventSender
	class        k8s.Class
	clock        clock.PassiveClock
	logger       log.Logger
	health       *daemon.Health
	metrics      *Metrics

	allocator *ipam.Allocator
	snapshot  *config.Snapshot
	verdicts  config.Verdicts
	// told is what each Service was told last: the message of its condition.
	told map[ipam.Owner]string
	// waiting are Services that lack something, to be tried again when
	// something becomes free.
	waiting map[ipam.Owner]bool
	// names is the pool that each Service names which names one.
	names map[ipam.Owner]string
	// lost is why a Service could not keep an address at the start.
	lost map[ipam.Owner]error
	// renewed is the last value of berth.dev/renew that was acted on, where the
	// cache may not show it yet.
	renewed  map[ipam.Owner]string
	contests contests
	handover handover
	// seen is when each Service that has no address in its status yet was first
	// seen, for the latency metric.
	seen map[ipam.Owner]time.Time
	// reserved is what came of each reservation.
	reserved map[string]ipam.Reserved
	// retaining are the reservations of Services as they should be, where the
	// cache does not show them so yet.
	retaining map[ipam.Owner]reservationApply

	// conflicts are the addresses that other hosts have.
	conflicts map[netip.Addr]conflict
	// stranded are the Services that have such addresses, with why they keep them.
	stranded map[ipam.Owner]map[netip.Addr]string

	// census is what the configuration is used for.
	census census

	configDirty, waitingDirty, poolsDirty, conflictsDirty bool
	// reservationsDirty: there are reservations to read, at leisure.
	reservationsDirty bool
	// restored says that every existing allocation is known.
	restored bool
}

// New returns a controller that knows nothing yet.
func New(cfg Config) *Controller {
	c := &Controller{
		cache: cfg.Cache, writer: cfg.Writer, reservations: cfg.Reservations, events: cfg.Events, class: cfg.Class,
		clock: cfg.Clock, logger: cfg.Logger, health: cfg.Health, metrics: cfg.Metrics,
		allocator: ipam.New(),
		snapshot:  &config.Snapshot{},
		told:      map[ipam.Owner]string{},
		waiting:   map[ipam.Owner]bool{},
		names:     map[ipam.Owner]string{},
		lost:      map[ipam.Owner]error{},
		renewed:   map[ipam.Owner]string{},
		contests:  newContests(),
		handover:  newHandover(),
		seen:      map[ipam.Owner]time.Time{},
		retaining: map[ipam.Owner]reservationApply{},
		stranded:  map[ipam.Owner]map[netip.Addr]string{},
	}
	c.census.uses = c.usesNow() // none
	return c
}

// Run restores what is assigned, then deals with changes until the cache stops.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.cache.WaitForSync(ctx); err != nil {
		return err
	}
	began, caughtUp := c.clock.Now(), false
	if err := c.restore(); err != nil {
		return err
	}
	for {
		key, ok := c.cache.Next()
		if !ok || ctx.Err() != nil {
			return nil
		}
		c.health.Queued()
		c.metrics.queue.Set(float64(c.cache.Pending()))
		if err := c.handle(key); err != nil {
			return err
		}
		c.cache.Done(key)
		if err := c.settle(); err != nil {
			return err
		}
		if c.cache.Pending() == 0 {
			c.health.Applied()
			if !caughtUp {
				caughtUp = true
				level.Info(c.logger).Log("msg", "every Service is dealt with", "services", c.allocator.Len(), "took", c.clock.Since(began))
			}
		}
	}
}

// handle deals with one changed object. Changes of the configuration are only
// noted: many come at once, and one reading deals with all of them.
func (c *Controller) handle(key k8s.Key) error {
	// What is released from here on is released now.
	if c.allocator.Expire(c.clock.Now()) {
		c.waitingDirty, c.poolsDirty = true, true
	}
	switch key.Kind {
	case k8s.KindService:
		return c.reconcile(key)
	case k8s.KindIPAddressPool, k8s.KindL2Advertisement, k8s.KindNode, k8s.KindServiceCIDR,
		k8s.KindBGPPeer, k8s.KindBGPAdvertisement, k8s.KindCommunity, k8s.KindBFDProfile, k8s.KindSecret:
		c.configDirty = true
	case k8s.KindNodeState:
		c.conflictsDirty, c.census.stale = true, true
	case k8s.KindIPReservation:
		if c.ownReservation(key.Name) {
			c.reservationsDirty = true
		} else {
			c.configDirty = true
		}
		return c.followRetained(key)
	case k8s.KindNamespace:
		c.waitingDirty = true // its labels may open a pool to its Services
		c.wakeSharers(key.Name)
		c.wakeNamingIn(key.Name)
	case kindTick:
		return c.tick()
	}
	return nil
}

// tick does what is due by the clock.
func (c *Controller) tick() error {
	now := c.clock.Now()
	c.wake(c.contests.due(now))
	c.wake(c.handover.givers())
	if err := c.endReservations(now); err != nil {
		return err
	}
	if c.reservationsDirty {
		if err := c.configure(); err != nil {
			return err
		}
	}
	return c.reportConfiguration()
}

// settle does what was only noted, once nothing else is pending.
func (c *Controller) settle() error {
	if c.cache.Pending() > 0 {
		return nil
	}
	if c.configDirty {
		if err := c.configure(); err != nil {
			return err
		}
	}
	if c.conflictsDirty {
		c.quarantine()
	}
	if c.waitingDirty {
		c.waitingDirty = false
		for _, owner := range c.waitingByAge() {
			if err := c.reconcile(keyOf(owner)); err != nil {
				return err
			}
		}
	}
	return nil
}

// configure reads the custom resources. No Service loses an address by it,
// unless the pool says so.
func (c *Controller) configure() error {
	c.configDirty, c.reservationsDirty, c.poolsDirty = false, false, true
	objects := config.Objects{
		IPAddressPools:   c.cache.IPAddressPools.List(),
		IPReservations:   c.reservationObjects(),
		L2Advertisements: c.cache.L2Advertisements.List(),
		Taken:            takenByCluster(c.cache),
		Now:              c.clock.Now(),
	}
	c.addBGP(&objects)
	snapshot, verdicts := config.Build(objects)
	if !reflect.DeepEqual(verdicts.IPAddressPools, c.verdicts.IPAddressPools) {
		c.waitingDirty = true // it is part of what those are told who wait
	}
	c.wakeNaming(snapshot, verdicts)
	c.verdicts = verdicts
	if reflect.DeepEqual(snapshot, c.snapshot) {
		return nil // only a status changed, most likely by our own hand
	}
	c.snapshot = snapshot
	pools := make([]ipam.Pool, 0, len(c.snapshot.Pools))
	for _, p := range c.snapshot.Pools {
		pools = append(pools, ipam.Pool{
			Name: p.Name, Ranges: p.Assignable, Disabled: p.Disabled, ReuseDelay: p.ReuseDelay,
			ShareAcrossNamespaces: p.ShareAcrossNamespaces,
			Quota:                 ipam.Quota{Addresses: p.AddressQuota, Services: p.ServiceQuota},
		})
	}
	moved, err := c.allocator.SetPools(pools)
	if err != nil {
		return fmt.Errorf("applying the pools to the allocator: %w", err)
	}
	c.wake(moved)
	for _, kept := range c.allocator.OutOfPoolAddresses() {
		if pool, found := c.snapshot.Pool(kept.Pool); found && pool.Reassign {
			c.wake(kept.Owners)
		}
	}
	if c.restored {
		c.reserve()
	}
	c.waitingDirty = true
	return nil
}

// reconcile makes one Service have what it asks for, as far as that can be.
func (c *Controller) reconcile(key k8s.Key) error {
	owner := ipam.Owner{Namespace: key.Namespace, Name: key.Name}
	svc, found := c.cache.Services.Get(key.Namespace, key.Name)
	if !found || !c.class.Owns(svc) {
		return c.dismiss(key, owner, svc)
	}
	if uid, known := c.contests.uids[owner]; known && uid != svc.UID {
		// Deleted and created again before anybody looked: what the old one had by
		// way of its history is not the new one's.
		if err := c.dismiss(key, owner, nil); err != nil {
			return err
		}
	}
	if c.configDirty {
		if err := c.configure(); err != nil {
			return err
		}
	}
	if c.conflictsDirty {
		c.quarantine()
	}
	c.observeLatency(svc, owner)
	result, unknown, err := c.allocate(svc)
	var o outcome
	switch {
	case err != nil:
		o = refusedOutcome(result.Addresses, c.foreignTo(owner, result.Addresses), err)
	default:
		o = allocatedOutcome(result.Addresses, c.foreignTo(owner, result.Addresses), result.Missing)
	}
	if len(unknown) > 0 {
		o.message += "; ignored, because Berth has no such annotation: " + strings.Join(unknown, ", ")
	}
	if err != nil || result.Missing != nil {
		c.waiting[owner] = true
	} else {
		delete(c.waiting, owner)
	}
	o.renewed = c.renewed[owner]
	if sharing := c.allocator.SharingOf(owner); sharing != nil {
		o.sharedKey = sharing.Key
	}
	c.contests.saw(svc)
	c.wake(c.handover.left(owner, lettingGo(svc, c.contests.landing(owner, c.clock.Now()), o.addresses)))
	o = c.handover.hold(owner, ingressOf(svc), o)
	c.tell(svc, owner, o)
	if err := c.retain(owner, svc); err != nil {
		return err
	}
	return c.publish(key, svc, o)
}

// observeLatency measures how long a Service waits for its address to be in
// its status, where the API server has it.
func (c *Controller) observeLatency(svc *corev1.Service, owner ipam.Owner) {
	since, waits := c.seen[owner]
	switch {
	case len(svc.Status.LoadBalancer.Ingress) == 0 && !waits:
		c.seen[owner] = c.clock.Now()
	case len(svc.Status.LoadBalancer.Ingress) > 0 && waits:
		c.metrics.latency.Observe(c.clock.Since(since).Seconds())
		delete(c.seen, owner)
	}
}

// allocate asks the allocator. The refusal is nil if the Service has all it
// asks for. It also returns the Service's annotations that mean nothing.
func (c *Controller) allocate(svc *corev1.Service) (ipam.Result, []string, *refusal) {
	owner := ownerOf(svc)
	ns, _ := c.cache.Namespaces.Get("", svc.Namespace)
	req, err := newRequest(svc, ns, c.snapshot, c.verdicts, c.allocator.Allocation(owner))
	var result ipam.Result
	delete(c.stranded, owner)
	c.names[owner] = req.named
	if req.named == "" {
		delete(c.names, owner)
	}
	if err == nil {
		req.Renew = c.renew(req)
		result, err = c.allocator.Allocate(req.Request)
	} else {
		result.Addresses = c.allocator.Allocation(owner)
	}
	if err == nil {
		c.renewed[owner] = req.renew
	}
	c.handover.release(owner, result.Released)
	if err == nil && c.leaveConflicts(owner) {
		req.Renew = false
		again, failed := c.allocator.Allocate(req.Request) // for what it has now, and why something is missing
		again.Freed, err = again.Freed || result.Freed, failed
		result = again
	}
	if result.Freed {
		c.waitingDirty = true
	}
	c.poolsDirty = true
	if err != nil {
		if held := c.allocator.SharingOf(owner); held != nil && c.allocator.Reshare(owner, sharingOf(svc, ns, held.Key)) {
			c.waitingDirty = true
		}
		refused := c.explainQuarantine(explain(err, req, c.snapshot, c.verdicts), err)
		c.metrics.refused(refused.reason)
		return result, req.unknown, refused
	}
	return result, req.unknown, nil
}

// dismiss frees what a Service has that is gone, or not ours any more.
func (c *Controller) dismiss(key k8s.Key, owner ipam.Owner, svc *corev1.Service) error {
	released := c.allocator.Release(owner)
	delete(c.waiting, owner)
	delete(c.names, owner)
	delete(c.told, owner)
	delete(c.lost, owner)
	delete(c.renewed, owner)
	delete(c.seen, owner)
	delete(c.stranded, owner)
	c.contests.forget(owner) // no write on its way is taken of a Service that is gone or of another type
	c.wake(c.handover.left(owner, lettingGo(svc, nil, nil)))
	if len(released) > 0 {
		c.waitingDirty, c.poolsDirty = true, true
	}
	if err := c.retain(owner, nil); err != nil {
		return err
	}
	if _, kept := c.retaining[owner]; kept || c.reservationsDirty {
		c.configDirty = true // before another Service is given what is kept
	}
	if svc == nil {
		c.writer.Set(key, nil)
		return nil
	}
	if len(released) > 0 {
		c.events.Normal(svc, eventReleased, fmt.Sprintf("released %s: the Service is not Berth's any more", join(released)))
	}
	patch, err := farewellFor(svc)
	if err != nil {
		return fmt.Errorf("composing the status of %s: %w", key, err)
	}
	c.writer.Set(key, patch)
	return nil
}

// tell sends an event when a Service's situation is another than it was told.
func (c *Controller) tell(svc *corev1.Service, owner ipam.Owner, o outcome) {
	lost, wasLost := c.lost[owner]
	delete(c.lost, owner)
	if wasLost {
		c.events.Warning(svc, eventLost, lost.Error())
	}
	if c.told[owner] == news(o.message) {
		return
	}
	c.told[owner] = news(o.message)
	switch {
	case o.reason == reasonOutOfPool:
		c.events.Warning(svc, eventOutOfPool, o.message)
	case o.allocated && o.reason == reasonAddressConflict:
		c.events.Warning(svc, eventConflict, o.message)
	case o.allocated:
		c.events.Normal(svc, eventAllocated, o.message)
	case o.reason != reasonAddressLeaving: // that passes in a moment
		c.events.Warning(svc, eventFailed, o.message)
	}
}

// news is the part of a message that is worth an event when it changes: which
// pools are for others is not.
func news(message string) string {
	text, _, _ := strings.Cut(message, notTried)
	return text
}

func (c *Controller) publish(key k8s.Key, svc *corev1.Service, o outcome) error {
	contest, begun, leave := c.contests.judge(svc, o.ingress(), c.clock.Now())
	if contest != nil {
		o.allocated, o.reason, o.message = false, reasonContested, keeping(o.addresses)+contest.message
	}
	if begun {
		c.events.Warning(svc, eventContested, contest.message)
	}
	if leave && contest.answering(c.clock.Now()) {
		contest.held = true
		return nil
	}
	if leave {
		c.contests.overtaken(ownerOf(svc), c.clock.Now())
	}
	patch, err := patchFor(svc, o, leave, metav1.NewTime(c.clock.Now()))
	if err != nil {
		return fmt.Errorf("composing the status of %s: %w", key, err)
	}
	c.writer.Set(key, patch)
	return nil
}

func addressesOf(assigned []ipam.Assigned) []netip.Addr {
	addrs := make([]netip.Addr, len(assigned))
	for i, a := range assigned {
		addrs[i] = a.Address
	}
	return addrs
}

func join(addrs []netip.Addr) string {
	var text string
	for i, a := range addrs {
		if i > 0 {
			text += ", "
		}
		text += a.String()
	}
	return text
}
