package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berth-lb/berth/api/v1beta1"
)

// The Services of a burst. Of those that are created in it every third is deleted
// at once, and another third each deletes an older Service, of which every second
// is created anew.
const (
	burstSize  = 1000
	burstOlder = burstSize / 3
	// burstSteady are older Services that nobody touches.
	burstSteady = 50
	// burstLeft is how many there are in the end.
	burstLeft = burstSize - (burstSize+2)/3 + (burstOlder+1)/2 + burstSteady
)

// burst is a burst under way. It is in one goroutine but for its operations.
type burst struct {
	*env
	recorder *recorder
	leader   string // the Pod that hangs
	node     string // where that is; "" if none hangs
}

// testBurst: a burst of creates and deletes, in the middle of which the leader is
// killed, hands over, hangs, and comes round, loses, doubles or moves nothing. The
// pool has not one address more than there are Services in the end.
func testBurst(e *env) {
	b := &burst{env: e}
	e.createPool(e.namespace, e.largeRanges(burstLeft), nil)
	b.settleOlder()
	e.Cleanup(b.thaw)
	began := time.Now()
	g, ctx := errgroup.WithContext(e.ctx)
	g.SetLimit(8)
	for i := range burstSize {
		b.disturb(i)
		g.Go(func() error { return b.operate(ctx, i) })
	}
	if err := g.Wait(); err != nil {
		e.Fatal(err)
	}
	e.Logf("%d creates and %d deletes took %s", burstSize+(burstOlder+1)/2, (burstSize+2)/3+burstOlder, time.Since(began).Round(time.Millisecond))
	b.waitSettled()
	e.waitLogged(b.leader, "no longer leading")
	e.waitPoolStatus(func(status v1beta1.IPAddressPoolStatus) bool {
		full := v1beta1.PoolFamilyStatus{Total: burstLeft, Assigned: burstLeft}
		return *status.IPv4 == full && *status.IPv6 == full && len(status.OutOfPool) == 0
	})
	b.recorder.expectNothingMoved()
	b.recorder.expectNone("burst", numberedNames("steady", burstSteady)...)
}

func numberedNames(name string, n int) []string { return strings.Split(numbered(name+"-%d", n), ", ") }

// settleOlder makes the Services that are there before the burst.
func (b *burst) settleOlder() {
	b.Helper()
	g, ctx := errgroup.WithContext(b.ctx)
	g.SetLimit(8)
	names := append(numberedNames("steady", burstSteady), numberedNames("old", burstOlder)...)
	for _, name := range names {
		g.Go(func() error { return b.try(ctx, name) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	b.spreadControllers()
	b.waitEach(len(names), func(conditions []metav1.Condition) bool {
		// With this the speakers have said what they have to say as well.
		return meta.FindStatusCondition(conditions, v1beta1.ConditionAnnounced) != nil
	})
	b.recorder = b.record()
}

// try creates a Service.
func (b *burst) try(ctx context.Context, name string) error {
	_, err := b.lab.kube.CoreV1().Services(b.namespace).Create(ctx, b.newService(name, withoutPods), metav1.CreateOptions{})
	return err
}

// operate is the ith operation.
func (b *burst) operate(ctx context.Context, i int) error {
	name, older := fmt.Sprintf("s-%d", i), fmt.Sprintf("old-%d", i/3)
	services := b.lab.kube.CoreV1().Services(b.namespace)
	if err := b.try(ctx, name); err != nil {
		return err
	}
	switch i % 3 {
	case 0:
		return services.Delete(ctx, name, metav1.DeleteOptions{})
	case 2:
		return nil
	}
	if err := services.Delete(ctx, older, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if i/3%2 > 0 {
		return nil
	}
	return b.try(ctx, older)
}

// disturb does to the controllers what is due at the ith operation.
func (b *burst) disturb(i int) {
	b.Helper()
	switch i {
	case burstSize / 4:
		if err := b.lab.Kill(b.env.leader().Spec.NodeName, "controller", syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
	case burstSize / 2:
		before := b.env.leader().Name
		if err := b.lab.kube.CoreV1().Pods(berthNamespace).Delete(b.ctx, before, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		b.waitOtherLeader(before, lease+2*retry)
	case burstSize * 3 / 4:
		b.spreadControllers()
		leader := b.env.leader()
		b.leader, b.node = leader.Name, leader.Spec.NodeName
		if err := b.lab.Kill(b.node, "controller", syscall.SIGSTOP); err != nil {
			b.Fatal(err)
		}
	case burstSize * 7 / 8:
		b.waitOtherLeader(b.leader, lease+2*retry)
		b.thaw()
	}
}

// thaw lets the leader that hangs go on.
func (b *burst) thaw() {
	if b.node == "" {
		return
	}
	if err := b.lab.Kill(b.node, "controller", syscall.SIGCONT); err != nil {
		b.Error(err)
	}
	b.node = ""
}

// waitSettled returns when every Service has its addresses.
func (b *burst) waitSettled() {
	b.Helper()
	b.waitEach(burstLeft, func(conditions []metav1.Condition) bool {
		return meta.IsStatusConditionTrue(conditions, v1beta1.ConditionAddressAllocated)
	})
}

// waitEach returns when there are n Services with conditions that are as wanted.
func (b *burst) waitEach(n int, wanted func([]metav1.Condition) bool) {
	b.Helper()
	b.waitFor("every Service to be settled", 2*time.Minute, func(ctx context.Context) (bool, string) {
		list, err := b.lab.kube.CoreV1().Services(b.namespace).List(ctx, listAll)
		if err != nil {
			return false, err.Error()
		}
		for _, service := range list.Items {
			if !wanted(service.Status.Conditions) {
				return false, fmt.Sprintf("%s of %d has %+v", service.Name, len(list.Items), service.Status)
			}
		}
		return len(list.Items) == n, fmt.Sprintf("%d Services", len(list.Items))
	})
}

// largeRanges returns n addresses per family far behind the slots of the tests.
func (e *env) largeRanges(n int) []v1beta1.AddressRange {
	var ranges []v1beta1.AddressRange
	for _, free := range e.lab.Plan().FreeRanges {
		from := advance(free.Addr(), 20_000)
		ranges = append(ranges, v1beta1.AddressRange(from.String()+"-"+advance(from, n-1).String()))
	}
	return ranges
}

// expectNothingMoved goes through everything that has happened and fails the test
// if a Service that once showed addresses ever showed others or none, or two showed
// the same at the same time.
func (r *recorder) expectNothingMoved() {
	r.e.Helper()
	showing := replay{shown: map[types.UID]string{}, holders: map[string]change{}}
	for _, c := range append(slices.Clone(r.before), r.writes("")...) {
		if err := showing.next(c); err != nil {
			r.e.Errorf("at %s: %v", c.at.Format("15:04:05.000"), err)
		}
	}
	r.e.Logf("%d Services have shown addresses", len(showing.shown))
	if len(showing.shown) < burstLeft {
		r.e.Errorf("only %d Services were seen with an address", len(showing.shown))
	}
}

// replay is what Services show, one change after the other.
type replay struct {
	shown   map[types.UID]string // also by Services that are gone
	holders map[string]change    // by address: who of those that live shows it
}

// next says what is wrong with a change.
func (p replay) next(c change) error {
	uid, now := c.service.UID, ingressText(c.service)
	before, shown := p.shown[uid]
	var errs []error
	if shown && now != before {
		errs = append(errs, fmt.Errorf("service %s went from %s to %q", c.service.Name, before, now))
	}
	if now != "" {
		p.shown[uid] = now
	}
	for _, address := range strings.Split(before, ",") {
		if p.holders[address].service != nil && p.holders[address].service.UID == uid {
			delete(p.holders, address)
		}
	}
	if c.kind == watch.Deleted || now == "" {
		return errors.Join(errs...)
	}
	for _, address := range strings.Split(now, ",") {
		if other, held := p.holders[address]; held {
			errs = append(errs, fmt.Errorf("services %s and %s both show %s", other.service.Name, c.service.Name, address))
		}
		p.holders[address] = c
	}
	return errors.Join(errs...)
}

// TestReplay: what expectNothingMoved stands on finds what it should.
func TestReplay(t *testing.T) {
	t.Parallel()
	showing := func(uid types.UID, ips ...string) *corev1.Service {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "of-" + string(uid), UID: uid}}
		for _, ip := range ips {
			service.Status.LoadBalancer.Ingress = append(service.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
		return service
	}
	for name, test := range map[string]struct {
		changes []change
		want    string
	}{
		"nothing": {[]change{
			{kind: watch.Added, service: showing("a")}, {kind: watch.Modified, service: showing("a", "1", "2")},
			{kind: watch.Modified, service: showing("a", "1", "2")}, {kind: watch.Deleted, service: showing("a", "1", "2")},
			{kind: watch.Added, service: showing("b", "2", "1")},
		}, ""},
		"moved":   {[]change{{kind: watch.Added, service: showing("a", "1")}, {kind: watch.Modified, service: showing("a", "2")}}, "of-a went from 1 to \"2\""},
		"lost":    {[]change{{kind: watch.Added, service: showing("a", "1")}, {kind: watch.Modified, service: showing("a")}}, "of-a went from 1 to \"\""},
		"half":    {[]change{{kind: watch.Added, service: showing("a", "1", "2")}, {kind: watch.Modified, service: showing("a", "1")}}, "of-a went from 1,2"},
		"doubled": {[]change{{kind: watch.Added, service: showing("a", "1", "2")}, {kind: watch.Added, service: showing("b", "2")}}, "of-a and of-b both show 2"},
	} {
		p := replay{shown: map[types.UID]string{}, holders: map[string]change{}}
		var errs []error
		for _, c := range test.changes {
			errs = append(errs, p.next(c))
		}
		found := ""
		if err := errors.Join(errs...); err != nil {
			found = err.Error()
		}
		if !strings.Contains(found, test.want) || (found == "") != (test.want == "") {
			t.Errorf("%s: found %q, want %q", name, found, test.want)
		}
	}
}
