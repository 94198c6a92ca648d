package allocation

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
	"github.com/berth-lb/berth/internal/k8s"
)

// changed looks at every change of an object, whoever made it.
func (c *chaos) changed(key k8s.Key, before, after object) {
	switch o := after.(type) {
	case *v1beta1.IPAddressPool:
		if o.Spec.OnShrink == v1beta1.ShrinkReassign {
			c.reassigned[o.Name] = true
		}
		c.ranges[o.Name] = append(c.ranges[o.Name], o.Spec.Addresses...)
		c.recent = append(c.recent, o.Spec.Addresses...)
	case *v1beta1.IPReservation:
		if old, found := before.(*v1beta1.IPReservation); !found || old.Generation != o.Generation {
			// It may be older than others, by its name if not by its age.
			maps.DeleteFunc(c.held, func(name string, r *v1beta1.IPReservation) bool {
				return name == o.Name || overlap(r.Status.Addresses, o.Spec.Addresses)
			})
		}
	case *v1beta1.NodeState:
		c.heard()
	case *corev1.Service:
		if old, found := before.(*corev1.Service); found && c.api.writing {
			c.checkWrite(old, o)
		}
	}
	switch {
	case key.Kind == k8s.KindIPAddressPool && !c.api.writing:
		maps.DeleteFunc(c.held, func(_ string, r *v1beta1.IPReservation) bool { return r.Spec.Count != nil })
	case key.Kind == k8s.KindNodeState:
		c.heard()
	case after == nil:
		delete(c.held, key.Name)
	}
}

// heard notes which addresses other hosts have by now.
func (c *chaos) heard() {
	now := conflictsIn(ofKind[*v1beta1.NodeState](c.api.objects))
	for addr := range now {
		c.lately[addr.String()] = true
	}
	maps.DeleteFunc(c.quarantined, func(addr string, _ []types.UID) bool {
		_, stays := now[netip.MustParseAddr(addr)]
		return !stays
	})
}

// noteQuarantine takes down who has an address that another host has.
func (c *chaos) noteQuarantine() {
	c.quarantined, c.lately = map[string][]types.UID{}, map[string]bool{}
	for addr := range conflictsIn(ofKind[*v1beta1.NodeState](c.api.objects)) {
		c.quarantined[addr.String()] = nil
		for _, owner := range c.replica.controller.allocator.Owners(addr) {
			c.quarantined[addr.String()] = append(c.quarantined[addr.String()], c.api.objects[keyOf(owner)].GetUID())
		}
	}
	c.heard()
}

// checkConflicts checks that a Service which shares an address with another host
// is told so, and has a reason to.
func (c *chaos) checkConflicts(svc *corev1.Service, condition *metav1.Condition) {
	for _, addr := range ips(svc) {
		if _, found := c.quarantined[addr]; !found {
			continue
		}
		if !strings.Contains(condition.Message, addr+" is in use by the host ") {
			c.fatalf("%s/%s is not told that another host has %s: %s", svc.Namespace, svc.Name, addr, condition.Message)
		}
	}
}

// checkWrite checks one of Berth's writes to a Service.
func (c *chaos) checkWrite(before, after *corev1.Service) {
	had, has := ips(before), ips(after)
	c.note("  %s/%s shows %v (%s)", after.Namespace, after.Name, has, after.Annotations[v1beta1.AnnotationSharedIPKey])
	if slices.Equal(had, has) {
		return
	}
	l := c.lifeOf(after)
	lost := slices.DeleteFunc(slices.Clone(had), func(a string) bool { return slices.Contains(has, a) || c.foreign[a] || c.lately[a] })
	if len(lost) > 0 && !l.foreign && l.mayMove == "" && !c.reassigns(had) {
		c.fatalf("%s/%s did nothing to lose %v and has %v instead", after.Namespace, after.Name, lost, has)
	}
	l.foreign = false
	for _, addr := range has {
		if slices.Contains(had, addr) {
			continue
		}
		c.checkDouble(after, addr)
		if holders, found := c.quarantined[addr]; found && !slices.Contains(holders, after.UID) {
			c.fatalf("%s/%s is given %s, which another host has", after.Namespace, after.Name, addr)
		}
		if !l.had[addr] && !l.fooled {
			c.checkGiven(after, addr)
		}
		l.had[addr] = true
	}
}

// reassigns says whether a pool that moves Services has ever had one of the
// addresses.
func (c *chaos) reassigns(addrs []string) bool {
	for name := range c.reassigned {
		if slices.ContainsFunc(addrs, func(addr string) bool { return within(addr, c.ranges[name]) }) {
			return true
		}
	}
	return false
}

func overlap[S, T ~string](some []S, others []T) bool {
	return slices.ContainsFunc(some, func(a S) bool {
		r, err := ipam.ParseRange(string(a))
		return err == nil && slices.ContainsFunc(others, func(b T) bool {
			other, err := ipam.ParseRange(string(b))
			return err == nil && r.Overlaps(other)
		})
	})
}

func within[T ~string](addr string, ranges []T) bool {
	a := netip.MustParseAddr(addr)
	return slices.ContainsFunc(ranges, func(text T) bool {
		r, err := ipam.ParseRange(string(text))
		return err == nil && r.Contains(a)
	})
}

// checkDouble checks that all that show an address may share it.
func (c *chaos) checkDouble(svc *corev1.Service, addr string) {
	for _, other := range c.all() {
		if other.UID == svc.UID || !ours.Owns(other) || !slices.Contains(ips(other), addr) || c.foreign[addr] || c.lifeOf(other).unsure() {
			continue
		}
		mine, theirs := svc.Annotations[v1beta1.AnnotationSharedIPKey], other.Annotations[v1beta1.AnnotationSharedIPKey]
		if mine == "" && c.lifeOf(svc).replaced {
			continue // the write was on its way when a user dropped the key
		}
		// What was granted may still have to be written.
		if mine == "" || mine != theirs && mine != other.Annotations[v1beta1.AnnotationAllowSharedIP] {
			c.fatalf("%s/%s (key %q) is given %s, which %s/%s (key %q) shows", svc.Namespace, svc.Name, mine, addr, other.Namespace, other.Name, theirs)
		}
	}
}

// checkGiven checks that a Service may be given an address.
func (c *chaos) checkGiven(svc *corev1.Service, addr string) {
	if !within(addr, c.recent) {
		c.fatalf("%s/%s is given %s, which is in no pool", svc.Namespace, svc.Name, addr)
	}
	for _, r := range c.held {
		if r.Spec.Until != nil && !c.clock.Now().Before(r.Spec.Until.Time) || forService(r, svc) {
			continue
		}
		if within(addr, r.Status.Addresses) && !c.lifeOf(svc).joined[addr] && !c.sharesWithTarget(r, svc, addr) {
			c.fatalf("%s/%s is given %s, which reservation %s holds for %v", svc.Namespace, svc.Name, addr, r.Name, r.Spec.For)
		}
	}
}

func forService(r *v1beta1.IPReservation, svc *corev1.Service) bool {
	return string(r.Spec.For.Namespace) == svc.Namespace && (r.Spec.For.Service == "" || string(r.Spec.For.Service) == svc.Name)
}

// sharesWithTarget says whether one whom an address is reserved for shows it.
func (c *chaos) sharesWithTarget(r *v1beta1.IPReservation, svc *corev1.Service, addr string) bool {
	return slices.ContainsFunc(c.all(), func(other *corev1.Service) bool {
		return other.UID != svc.UID && forService(r, other) && slices.Contains(ips(other), addr)
	})
}

// told checks the events that nothing should ever bring about.
func (c *chaos) told(svc *corev1.Service, reason, message string) {
	c.note("  event %s for %s/%s: %s", reason, svc.Namespace, svc.Name, message)
	if c.replica != nil {
		allocator := c.replica.controller.allocator
		for _, a := range allocator.Allocation(ownerOf(svc)) {
			if len(allocator.Owners(a.Address)) > 1 {
				c.lifeOf(svc).joined[a.Address.String()] = true
			}
		}
	}
	switch {
	case reason == eventLost && len(c.foreign) == 0:
		c.fatalf("%s/%s is told that %s", svc.Namespace, svc.Name, message)
	case reason == eventContested && !c.lifeOf(svc).fooled:
		c.fatalf("%s/%s is told that %s, and nobody else has written to it", svc.Namespace, svc.Name, message)
	}
}

// checkRest checks what must hold when nothing is left to do.
func (c *chaos) checkRest() {
	for _, svc := range c.all() {
		c.checkService(svc)
	}
	c.checkSharing()
	c.checkNothingToDo()
	if len(c.replica.controller.contests.open) == 0 {
		c.checkSuccessor()
	}
	c.noteQuarantine()
	for _, svc := range c.all() {
		condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
		if ours.Owns(svc) && c.replica.controller.contests.open[ownerOf(svc)] == nil {
			c.checkConflicts(svc, condition)
		}
	}
	c.reassigned, c.recent, c.held = map[string]bool{}, nil, map[string]*v1beta1.IPReservation{}
	for _, o := range c.api.objects {
		switch o := o.(type) {
		case *v1beta1.IPAddressPool:
			c.changed(k8s.Key{}, nil, o)
		case *v1beta1.IPReservation:
			if meta.FindStatusCondition(o.Status.Conditions, v1beta1.ConditionAccepted).Reason != v1beta1.ReasonConflict {
				c.held[o.Name] = o
			}
		}
	}
}

// anyLeaving says whether a Service waits for another to let go of an address.
func (c *chaos) anyLeaving() bool {
	return slices.ContainsFunc(c.all(), func(svc *corev1.Service) bool {
		condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
		return condition != nil && condition.Reason == reasonAddressLeaving
	})
}

// checkService checks that a Service shows what it has been given, and forgets
// why it was allowed to move if it has what it wants.
func (c *chaos) checkService(svc *corev1.Service) {
	ctl := c.replica.controller
	l, owner := c.lifeOf(svc), ownerOf(svc)
	if !ours.Owns(svc) {
		l.mayMove = ""
		for name := range svc.Annotations {
			if written[name] {
				c.fatalf("%s is not Berth's any more and still has the annotation %s", owner, name)
			}
		}
		return
	}
	condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	if condition == nil {
		c.fatalf("%s is told nothing", owner)
	}
	if ctl.contests.open[owner] != nil {
		return
	}
	if condition.Reason == reasonAddressLeaving {
		c.fatalf("%s waits: %s", owner, condition.Message)
	}
	var has []string
	for _, a := range ctl.allocator.Allocation(owner) {
		has = append(has, a.Address.String())
	}
	if diff := cmp.Diff(has, ips(svc), cmpopts.EquateEmpty()); diff != "" {
		c.fatalf("what %s has and what it shows (-has +shows):\n%s", owner, diff)
	}
	l.foreign = false
	if condition.Status == metav1.ConditionTrue {
		l.mayMove = ""
	}
}

// checkSharing checks that Services which have what they want and show one address
// may share it.
func (c *chaos) checkSharing() {
	type user struct {
		svc  *corev1.Service
		port corev1.ServicePort
	}
	users := map[string][]user{}
	for _, svc := range c.all() {
		if !ours.Owns(svc) || !meta.IsStatusConditionTrue(svc.Status.Conditions, v1beta1.ConditionAddressAllocated) {
			continue
		}
		for _, addr := range ips(svc) {
			for _, p := range svc.Spec.Ports {
				for _, other := range users[addr] {
					if other.svc != svc && (other.port == p || sharingOf(other.svc, nil, "k").Backend != sharingOf(svc, nil, "k").Backend) {
						c.fatalf("%s/%s and %s/%s may not share %s", svc.Namespace, svc.Name, other.svc.Namespace, other.svc.Name, addr)
					}
				}
				users[addr] = append(users[addr], user{svc, p})
			}
		}
	}
}

// checkNothingToDo has everything dealt with again: nothing may come of it.
func (c *chaos) checkNothingToDo() {
	r := c.replica
	writes, events := len(r.writes), len(r.events)
	for _, key := range keysOf(c.api.objects) {
		r.controller.cache.Add(key)
	}
	r.rest()
	if more := surprising(r.writes[writes:]); len(more) > 0 {
		c.fatalf("dealing with all again brought these writes:\n%s", strings.Join(more, "\n"))
	}
	if more := r.events[events:]; len(more) > len(r.writes)-writes {
		c.fatalf("dealing with all again brought these events:\n%s", strings.Join(more, "\n"))
	}
}

// surprising returns the writes that do more than tell a Service that waits why
// it waits now: that is looked at again only when something becomes free.
func surprising(writes []string) []string {
	refusal := regexp.MustCompile(`^Service [^{]*\{"metadata":\{"uid":"[^"]*"\},"status":\{"conditions":\[\{"type":"berth.dev/AddressAllocated","status":"False",` +
		`"lastTransitionTime":"[^"]*","reason":"(PoolExhausted|NoPool|Address[A-Z][a-zA-Z]*|QuotaExceeded|PoolDisabled)","message":"([^"\\]|\\.)*"\}\]\}\}$`)
	return slices.DeleteFunc(slices.Clone(writes), refusal.MatchString)
}

// checkSuccessor starts another controller over what the API server has: it must
// come to the same conclusions, and so write nothing.
func (c *chaos) checkSuccessor() {
	fresh := c.replica.successor(c.clock)
	if more := surprising(fresh.writes); len(more) > 0 {
		c.fatalf("a successor writes:\n%s", strings.Join(more, "\n"))
	}
	if len(fresh.events) > len(fresh.writes) {
		c.fatalf("a successor tells:\n%s", strings.Join(fresh.events, "\n"))
	}
	if diff := cmp.Diff(maps.Collect(c.replica.controller.allocator.All()), maps.Collect(fresh.controller.allocator.All()), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		c.fatalf("a successor knows other allocations (-this +successor):\n%s", diff)
	}
}

func ips(svc *corev1.Service) []string {
	var out []string
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		out = append(out, ingress.IP)
	}
	return out
}
