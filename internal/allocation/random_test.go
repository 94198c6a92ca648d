package allocation

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// TestRandomLife: whatever users, other controllers, the network and the clock do, the
// promises of docs/allocation.md are kept. See chaos.checkWrite and chaos.checkRest
// for what is checked.
func TestRandomLife(t *testing.T) {
	t.Parallel()
	if err := sameLives(); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		c := newChaos(t)
		t.Repeat(map[string]func(*rapid.T){
			"create Service":   c.createService,
			"edit Service":     c.editService,
			"edit a Service":   c.editService,
			"remove Service":   c.removeService,
			"put pool":         c.putPool,
			"remove pool":      c.removePool,
			"put reservation":  c.putReservation,
			"del reservation":  c.removeReservation,
			"edit namespace":   c.editNamespace,
			"edit node":        c.editNode,
			"hear hosts":       c.hearHosts,
			"foreign write":    c.foreignWrite,
			"pass time":        c.passTime,
			"restart":          c.restart,
			"work":             c.work,
			"work some":        c.work,
			"work more":        c.work,
			"rest":             func(*rapid.T) { c.rest() },
			"rest a long time": c.restLong,
		})
		c.rest()
	})
}

// sameLives makes random lives be the same every time. To see others:
// -rapid.seed=N -rapid.checks=20000.
var sameLives = sync.OnceValue(func() error {
	if seed := flag.Lookup("rapid.seed"); seed.Value.String() == "0" {
		return seed.Value.Set("1")
	}
	return nil
})

// chaos is the world around a controller, and what is to be expected of it.
type chaos struct {
	t     *rapid.T
	clock *clocktesting.FakePassiveClock
	api   *lagging
	// replica is the controller that runs now.
	replica *replica
	// services is what is known of each Service, by its UID.
	services map[types.UID]*life
	// reassigned are the pools that have wanted to move Services since the last rest.
	reassigned map[string]bool
	// ranges are those that each pool has ever had; recent are those that any has
	// had since the last rest.
	ranges map[string][]v1beta1.AddressRange
	recent []v1beta1.AddressRange
	// held is what reservations held at the last rest, by reservation.
	held map[string]*v1beta1.IPReservation
	// quarantined are the addresses that were in quarantine at the last rest and
	// still are, with the Services that had them then; lately are those that were in
	// quarantine at any time since.
	quarantined map[string][]types.UID
	lately      map[string]bool
	// foreign are the addresses that another controller wrote.
	foreign map[string]bool
	log     []string
}

// life is what is known of one Service.
type life struct {
	// mayMove says why it may lose what it shows; "" if it may not.
	mayMove string
	// foreign says that another controller wrote what it shows.
	foreign bool
	// fooled says that another controller has ever written to it.
	fooled bool
	// changedType says that it was something else than a LoadBalancer for a while:
	// a write on its way cannot tell.
	changedType bool
	// replaced says that a user has dropped the annotations that Berth wrote.
	replaced bool
	// had are all addresses that Berth has ever shown for it; joined are those that
	// it was given to share.
	had, joined map[string]bool
}

// unsure says that nobody can hold Berth to what the Service shows.
func (l *life) unsure() bool { return l.foreign || l.changedType || l.replaced }

func newChaos(t *rapid.T) *chaos {
	c := &chaos{
		t: t, clock: clocktesting.NewFakePassiveClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
		services: map[types.UID]*life{}, reassigned: map[string]bool{}, ranges: map[string][]v1beta1.AddressRange{},
		held: map[string]*v1beta1.IPReservation{}, foreign: map[string]bool{},
		lately: map[string]bool{},
	}
	c.api = &lagging{
		fatalf: c.fatalf, now: c.clock.Now, objects: map[k8s.Key]object{}, news: map[k8s.Kind][]change{}, onChange: c.changed,
	}
	for _, ns := range namespaces {
		c.api.create(k8s.Key{Kind: k8s.KindNamespace, Name: ns}, &corev1.Namespace{})
	}
	c.start(t)
	return c
}

func (c *chaos) fatalf(format string, args ...any) {
	c.t.Helper()
	for _, line := range c.log {
		c.t.Log(line)
	}
	c.t.Fatalf(format, args...)
}

func (c *chaos) note(format string, args ...any) {
	c.log = append(c.log, c.clock.Now().Format("15:04:05.0 ")+fmt.Sprintf(format, args...))
}

// start starts a replica. Its lists of the kinds are not of one moment.
func (c *chaos) start(t *rapid.T) {
	r := newReplica(c.api, c.clock)
	r.onEvent = c.told
	for _, kind := range rapid.Permutation(watchedKinds).Draw(t, "lists") {
		r.list(kind)
		if oneIn(t, 10, "meanwhile") {
			c.userAction(t)
		}
	}
	c.note("a controller starts")
	c.replica = r
	r.restore()
}

// restart replaces the controller. What it was writing may have arrived or not.
func (c *chaos) restart(t *rapid.T) {
	if rapid.Bool().Draw(t, "in good order") {
		c.note("the controller ends and writes what it has decided")
		if err := c.replica.controller.Finish(); err != nil {
			c.fatalf("finishing: %v", err)
		}
		c.replica.flush()
	} else {
		for _, w := range c.replica.writers() {
			for _, key := range keysOf(w.sent) {
				if rapid.Bool().Draw(t, "arrives") {
					c.note("the write of %s arrives, and", key)
					w.arrive(key, true)
				}
			}
		}
		c.note("the controller dies")
	}
	c.replica = nil
	for range rapid.IntRange(0, 2).Draw(t, "away") {
		c.userAction(t)
	}
	for _, life := range c.services {
		if life.foreign {
			life.mayMove = "its address was another controller's at a restart"
		}
	}
	c.start(t)
}

func (c *chaos) userAction(t *rapid.T) {
	actions := []func(*rapid.T){
		c.createService, c.editService, c.removeService, c.putPool, c.removePool, c.putReservation, c.removeReservation,
		c.editNamespace, c.editNode, c.hearHosts, c.foreignWrite,
	}
	actions[rapid.IntRange(0, len(actions)-1).Draw(t, "user action")](t)
}

// work lets a few of the things happen that are due, in any order.
func (c *chaos) work(t *rapid.T) {
	for range rapid.IntRange(1, 8).Draw(t, "steps") {
		steps := c.replica.steps(c, t)
		if len(steps) == 0 {
			return
		}
		steps[rapid.IntRange(0, len(steps)-1).Draw(t, "step")]()
	}
}

// steps are the things that can happen next.
func (r *replica) steps(c *chaos, t *rapid.T) []func() {
	var steps []func()
	for _, kind := range watchedKinds {
		if len(r.api.news[kind]) > 0 {
			steps = append(steps, func() {
				c.note("the controller sees %s", r.api.news[kind][0].key)
				r.deliver(kind)
			})
		}
	}
	if n := r.controller.cache.Pending(); n > 0 {
		handle := func() { c.note("the controller deals with %s", r.handle(rapid.IntRange(0, n-1).Draw(t, "key"))) }
		steps = append(steps, handle, handle)
	}
	for _, w := range r.writers() {
		for _, key := range w.unsent() {
			steps = append(steps, func() {
				c.note("a write of %s is sent", key)
				w.send(key)
			})
		}
		for _, key := range keysOf(w.sent) {
			steps = append(steps, func() { c.landing(t, w, key) })
		}
	}
	return steps
}

func (c *chaos) landing(t *rapid.T, w *lateWriter, key k8s.Key) {
	switch rapid.IntRange(0, 5).Draw(t, "how it ends") {
	case 5:
		c.note("the write of %s is lost", key)
		w.fail(key)
	case 4:
		c.note("the write of %s arrives, its answer does not", key)
		w.arrive(key, false)
	default:
		c.note("the write of %s arrives", key)
		w.arrive(key, true)
	}
}

// passTime passes some time, after which the controller's clock ticks.
func (c *chaos) passTime(t *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{
		300 * time.Millisecond, time.Second, 11 * time.Second, 30 * time.Second, time.Minute, 10 * time.Minute, time.Hour,
	}).Draw(t, "time")
	c.note("%s pass", d)
	c.pass(d)
}

func (c *chaos) pass(d time.Duration) {
	c.clock.SetTime(c.clock.Now().Add(d))
	c.replica.controller.cache.Add(k8s.Key{Kind: kindTick})
}

// rest lets all come to rest, and checks what must hold then.
func (c *chaos) rest() {
	c.replica.rest()
	if c.anyLeaving() {
		// An address may be held back for an answer to another controller, which is
		// then overtaken, and may land yet.
		for _, wait := range []time.Duration{contestAnswer, landingTime} {
			c.pass(wait)
			c.replica.rest()
		}
	}
	c.note("all is at rest")
	c.checkRest()
}

// restLong waits until every contest is over.
func (c *chaos) restLong(*rapid.T) {
	c.rest()
	c.note("three quiet hours pass")
	for range 18 {
		c.pass(10 * time.Minute)
		c.replica.rest()
	}
	if n := len(c.replica.controller.contests.open); n > 0 {
		c.fatalf("%d contests are still open after three quiet hours", n)
	}
	c.checkRest()
}

// services returns the Services that there are, by name.
func (c *chaos) all() []*corev1.Service { return ofKind[*corev1.Service](c.api.objects) }

// lifeOf returns what is known of a Service.
func (c *chaos) lifeOf(svc *corev1.Service) *life {
	l := c.services[svc.UID]
	if l == nil {
		l = &life{had: map[string]bool{}, joined: map[string]bool{}}
		c.services[svc.UID] = l
	}
	return l
}

func serviceKey(namespace, name string) k8s.Key {
	return k8s.Key{Kind: k8s.KindService, Namespace: namespace, Name: name}
}
