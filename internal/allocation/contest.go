package allocation

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/internal/ipam"
)

// A Service that another controller rewrites is contested. Berth writes its
// addresses back once; after that it waits, twice as long each time, so that
// two controllers never write against each other in a loop, and says so on the
// Service until the other has been quiet for contestQuiet.
const (
	contestFirstWait = time.Minute
	contestLongest   = time.Hour
	contestQuiet     = 10 * time.Minute
	// contestAnswer is how long an answer may be on its way. Nothing else is
	// written to the Service meanwhile, which would take its place.
	contestAnswer = 10 * time.Second
)

// contest is what is known about a Service that another controller rewrites.
type contest struct {
	strikes  int       // how often it was rewritten
	last     time.Time // when it was rewritten last
	answered time.Time // when Berth wrote its addresses back last
	held     bool      // that something else was not written meanwhile
	message  string
}

// wait is how long to wait after the last answer before the next. The first is
// given at once.
func (c *contest) wait() time.Duration {
	wait := contestFirstWait
	for range c.strikes - 2 {
		if wait *= 2; wait >= contestLongest {
			return contestLongest
		}
	}
	return wait
}

// contests watches over the statuses of all Services.
type contests struct {
	// confirmed is what each Service was seen to have after Berth wrote it.
	confirmed map[ipam.Owner][]corev1.LoadBalancerIngress
	// own is what Berth wrote to each Service lately, the newest last: a write that
	// arrives late is not another controller's.
	own  map[ipam.Owner][]ownWrite
	open map[ipam.Owner]*contest
	// emptied is when a Service was last found without what it had. A user who
	// changes its type and back does that too.
	emptied map[ipam.Owner]time.Time
	// uids tell a Service from a later one of the same name.
	uids map[ipam.Owner]types.UID
}

func newContests() contests {
	return contests{
		confirmed: map[ipam.Owner][]corev1.LoadBalancerIngress{},
		own:       map[ipam.Owner][]ownWrite{},
		open:      map[ipam.Owner]*contest{},
		emptied:   map[ipam.Owner]time.Time{},
		uids:      map[ipam.Owner]types.UID{},
	}
}

func (c *contests) forget(owner ipam.Owner) {
	delete(c.confirmed, owner)
	delete(c.own, owner)
	delete(c.open, owner)
	delete(c.emptied, owner)
	delete(c.uids, owner)
}

// ownWrite is what Berth wrote to a Service.
type ownWrite struct {
	ingress []corev1.LoadBalancerIngress
	// replaced is when something else was written instead; zero while that is what
	// is to be written.
	replaced time.Time
	// shown says that the Service showed it already: then it need not be a write of
	// Berth's that made it do so.
	shown bool
}

// landingTime is how long after it was replaced a write may still land: one that
// was on its way is given up after ten seconds.
const landingTime = 15 * time.Second

// wrote notes what Berth is about to write.
func (c *contests) wrote(owner ipam.Owner, ingress []corev1.LoadBalancerIngress, now time.Time) {
	c.note(owner, ownWrite{ingress: ingress}, now)
}

func (c *contests) note(owner ipam.Owner, w ownWrite, now time.Time) {
	const remembered = 16
	own := c.own[owner]
	if n := len(own); n > 0 {
		if sameIngress(own[n-1].ingress, w.ingress) {
			own[n-1].replaced, own[n-1].shown = time.Time{}, own[n-1].shown && w.shown
			return
		}
		c.overtaken(owner, now)
	}
	own = append(own, w)
	c.own[owner] = own[max(0, len(own)-remembered):]
}

// overtaken notes that what was to be written last is not written any more.
func (c *contests) overtaken(owner ipam.Owner, now time.Time) {
	own := c.own[owner]
	if n := len(own); n > 0 && own[n-1].replaced.IsZero() {
		own[n-1].replaced = now
	}
}

// saw notes what a Service shows. The writes of one object are in order: what was
// written before that cannot land any more. Of several writes of the same it may
// be any.
func (c *contests) saw(svc *corev1.Service) {
	own := c.own[ownerOf(svc)]
	for i := range own {
		if !own[i].shown && sameIngress(own[i].ingress, svc.Status.LoadBalancer.Ingress) {
			c.own[ownerOf(svc)] = own[i:]
			return
		}
	}
}

// landing returns the addresses that a Service may come to show by writes of
// Berth that are on their way.
func (c *contests) landing(owner ipam.Owner, now time.Time) []netip.Addr {
	var addrs []netip.Addr
	for _, w := range c.own[owner] {
		if w.replaced.IsZero() || now.Before(w.replaced.Add(landingTime)) {
			addrs = append(addrs, addressesIn(w.ingress)...)
		}
	}
	return addrs
}

// judge compares what a Service has with what it should have. It returns the
// contest that is open about it, or nil, whether that has just begun, and
// whether to leave the addresses in its status alone for now.
func (c *contests) judge(svc *corev1.Service, want []corev1.LoadBalancerIngress, now time.Time) (open *contest, begun, leave bool) {
	owner := ownerOf(svc)
	has := svc.Status.LoadBalancer.Ingress
	if c.uids[owner] != svc.UID {
		c.forget(owner)
		c.uids[owner] = svc.UID
	}
	open = c.open[owner]
	if sameIngress(has, want) {
		if n := len(c.own[owner]); n > 0 && !sameIngress(c.own[owner][n-1].ingress, want) {
			c.note(owner, ownWrite{ingress: want, shown: true}, now) // what was to be written last is not any more
		}
		c.confirmed[owner] = want
		return open, false, false
	}
	late := slices.ContainsFunc(c.own[owner], func(own ownWrite) bool { return sameIngress(own.ingress, has) })
	if before, known := c.confirmed[owner]; known && !late && len(want) > 0 && sameIngress(before, want) {
		// It had what it should have, and nothing of Berth's has changed since.
		delete(c.confirmed, owner)
		if last, was := c.emptied[owner]; open == nil && len(has) == 0 && (!was || now.Sub(last) >= contestQuiet) {
			c.emptied[owner] = now
			c.wrote(owner, want, now)
			return nil, false, false
		}
		if open == nil {
			open, begun = &contest{message: overwritten(want, has)}, true
			c.open[owner] = open
		}
		open.strikes++
		open.last = now
	}
	// Without a contest, or if it shows what Berth wrote last and only wants have
	// changed, nobody is fought by writing.
	if before, known := c.confirmed[owner]; open == nil || late || known && sameIngress(before, has) {
		c.wrote(owner, want, now)
		return open, false, false
	}
	if now.Before(open.answered.Add(open.wait())) {
		return open, begun, true
	}
	open.answered = now
	c.wrote(owner, want, now)
	return open, begun, false
}

// answering says that an answer may still be on its way.
func (c *contest) answering(now time.Time) bool {
	return now.Before(c.answered.Add(contestAnswer))
}

// due returns the Services whose contest wants attention: time to write again, or
// what was held back, or to call it over.
func (c *contests) due(now time.Time) []ipam.Owner {
	var owners []ipam.Owner
	for owner, open := range c.open {
		_, settled := c.confirmed[owner]
		switch {
		case settled && now.Sub(open.last) >= contestQuiet:
			delete(c.open, owner)
		case open.held && !open.answering(now):
			open.held = false
		case settled || now.Before(open.answered.Add(open.wait())):
			continue
		}
		owners = append(owners, owner)
	}
	slices.SortFunc(owners, ipam.Owner.Compare)
	return owners
}

func overwritten(want, has []corev1.LoadBalancerIngress) string {
	return fmt.Sprintf("another controller has replaced %s by %s in status.loadBalancer.ingress; give the Service a loadBalancerClass so that only one serves it",
		renderIngress(want), renderIngress(has))
}

func renderIngress(ingress []corev1.LoadBalancerIngress) string {
	if len(ingress) == 0 {
		return "nothing"
	}
	var text string
	for i, in := range ingress {
		if i > 0 {
			text += ", "
		}
		if in.IP != "" {
			text += in.IP
		} else {
			text += in.Hostname
		}
	}
	return text
}
