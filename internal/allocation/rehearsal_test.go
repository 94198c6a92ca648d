package allocation

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
)

// shownBy is what a Service shows: its addresses, and the reason of its condition.
// The message of one that waits is as old as the last time that it was worth trying.
func shownBy(svc *corev1.Service) string {
	text := renderIngress(svc.Status.LoadBalancer.Ingress)
	if c := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated); c != nil {
		text += " " + string(c.Status) + " " + c.Reason
	}
	return text
}

func allShown(services []*corev1.Service) map[string]string {
	shown := map[string]string{}
	for _, svc := range services {
		shown[ownerOf(svc).String()] = shownBy(svc)
	}
	return shown
}

// rehearse starts a rehearsal with what there is.
func (c *chaos) rehearse() *Rehearsal {
	r, err := NewRehearsal(slices.Collect(maps.Values(c.api.objects)), Premises{
		LoadBalancerClass: ours.Name, DefaultLoadBalancer: ours.Default, Now: c.clock.Now(),
	})
	if err != nil {
		c.fatalf("rehearsing: %v", err)
	}
	return r
}

// rehearseChanges has a rehearsal go through what has changed since before.
func (c *chaos) rehearseChanges(r *Rehearsal, before map[k8s.Key]Object) {
	for _, key := range keysOf(before) {
		if c.api.objects[key] == nil {
			if err := r.Delete(before[key]); err != nil {
				c.fatalf("rehearsing that %s is deleted: %v", key, err)
			}
		}
	}
	for _, key := range keysOf(c.api.objects) {
		if o := c.api.objects[key]; o != before[key] {
			if err := r.Put(o); err != nil {
				c.fatalf("rehearsing that %s is changed: %v", key, err)
			}
		}
	}
}

// wantRehearsed checks that all Services show what a rehearsal says.
func (c *chaos) wantRehearsed(r *Rehearsal, what string) {
	c.rest()
	if diff := cmp.Diff(allShown(c.all()), allShown(ofKind[*corev1.Service](r.objects))); diff != "" {
		c.fatalf("%s, the rehearsal is wrong (-happened +rehearsed):\n%s", what, diff)
	}
}

// keepsForReasonsOfItsOwn says that a Service has an address and was refused what it
// asks for by now, for which a controller that starts does not ask again by itself:
// see waitsToMove.
func keepsForReasonsOfItsOwn(svc *corev1.Service) bool {
	said := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	return said != nil && said.Status == "False" && len(ingressOf(svc)) > 0 && !waitsToMove(svc, grantedTo(svc))
}

// TestRehearsalTellsWhatHappens: whatever the configuration is and whoever has
// what, a rehearsal of a change tells what the controller that is at work then does
// to every Service.
func TestRehearsalTellsWhatHappens(t *testing.T) {
	t.Parallel()
	if err := sameLives(); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		c := newChaos(t)
		c.replica.inOrder = true
		for range rapid.IntRange(1, 2).Draw(t, "pools") {
			c.putPool(t)
		}
		for range rapid.IntRange(1, 4).Draw(t, "Services") {
			c.createService(t)
			c.rest()
		}
		history := []func(*rapid.T){
			c.createService, c.editService, c.removeService, c.putPool, c.removePool, c.putReservation, c.removeReservation,
			c.editNamespace, c.editNode, c.hearHosts, c.passTime, func(*rapid.T) { c.rest() }, c.work,
		}
		for range rapid.IntRange(0, 12).Draw(t, "history") {
			history[rapid.IntRange(0, len(history)-1).Draw(t, "action")](t)
		}
		c.rest()

		if slices.ContainsFunc(c.all(), keepsForReasonsOfItsOwn) {
			t.Skip("what a controller does with such a Service depends on whether it has been restarted since")
		}
		r := c.rehearse()
		c.wantRehearsed(r, "without a change")
		changes := []func(*rapid.T){
			c.putPool, c.putPool, func(t *rapid.T) { c.deletePool(t) }, c.putReservation, c.removeReservation, c.createService, c.editService,
		}
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			before := maps.Clone(c.api.objects)
			changes[rapid.IntRange(0, len(changes)-1).Draw(t, "change")](t)
			c.rehearseChanges(r, before)
			c.wantRehearsed(r, "after the change")
		}
	})
}
