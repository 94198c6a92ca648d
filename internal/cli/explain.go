package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
)

// Explanation follows what has to work for an address to work, link by link.
type Explanation struct {
	// Subject is what is explained.
	Subject string `json:"subject"`
	Steps   []Step `json:"steps"`
	// State is that of the cause, and Cause what stands in the way; "" if nothing
	// does. Fix is the one thing to do about it.
	State State  `json:"state"`
	Cause string `json:"cause,omitempty"`
	Fix   string `json:"fix,omitempty"`
}

// Step is one link of the chain.
type Step struct {
	Name    string   `json:"name"`
	State   State    `json:"state"`
	Summary string   `json:"summary"`
	Details []string `json:"details,omitempty"`
}

// cause is something that stands in the way. The one of the lowest rank is what to
// fix first.
type cause struct {
	rank  int
	state State
	what  string
	fix   string
}

// Ranks of causes: what comes first in the chain makes the rest matter less.
const (
	rankClass = iota
	rankController
	rankAddress
	rankAdvertisement
	rankEndpoints
	rankNodes
	rankPeers
	rankAnnounced
	rankHint
)

// explainer explains one Service.
type explainer struct {
	c        *Cluster
	snapshot *config.Snapshot
	verdicts config.Verdicts
	svc      *corev1.Service
	steps    []Step
	causes   []cause
	// nearMiss says why the pool that is the nearest to being for the Service is not,
	// and nearFix what to do about it.
	nearMiss, nearFix string
}

func (x *explainer) step(name string, state State, summary string, details ...string) {
	x.steps = append(x.steps, Step{Name: name, State: state, Summary: summary, Details: details})
}

func (x *explainer) blame(rank int, state State, what, fix string) {
	x.causes = append(x.causes, cause{rank, state, what, fix})
}

// finish chooses the cause to name: of the worst state, the first of the chain.
func (x *explainer) finish(subject string) *Explanation {
	e := &Explanation{Subject: subject, Steps: x.steps, State: StateOK}
	slices.SortStableFunc(x.causes, func(a, b cause) int {
		if a.state != b.state {
			return b.state.rank() - a.state.rank()
		}
		return a.rank - b.rank
	})
	if len(x.causes) > 0 {
		e.State, e.Cause, e.Fix = x.causes[0].state, x.causes[0].what, x.causes[0].fix
	}
	return e
}

// ExplainService explains a Service.
func ExplainService(c *Cluster, namespace, name string) (*Explanation, error) {
	svc := c.service(namespace, name)
	if svc == nil {
		return nil, fmt.Errorf("there is no Service %s in namespace %s", name, namespace)
	}
	x := newExplainer(c, svc)
	x.chain()
	return x.finish("Service " + nameOf(svc)), nil
}

func newExplainer(c *Cluster, svc *corev1.Service) *explainer {
	x := &explainer{c: c, svc: svc}
	x.snapshot, x.verdicts = c.build()
	return x
}

func (x *explainer) chain() {
	if !x.explainClass() {
		return
	}
	x.explainController()
	x.explainPools()
	addresses := x.explainAddress()
	for _, addr := range addresses {
		x.explainAnnouncement(addr, len(addresses) > 1)
	}
	x.explainClient(addresses)
}

func (x *explainer) explainClass() bool {
	k, spec := x.c.class(), &x.svc.Spec
	switch {
	case spec.Type != corev1.ServiceTypeLoadBalancer:
		x.step("Class", StateError, fmt.Sprintf("of type %s, which has no external address", spec.Type))
		fix := "Set spec.type: LoadBalancer."
		if spec.Type == corev1.ServiceTypeExternalName { // it is a name in DNS, nothing that has an address
			fix = "Set spec.type: LoadBalancer, with spec.selector and spec.ports, and without spec.externalName."
		}
		x.blame(rankClass, StateError, "the Service is not of type LoadBalancer", fix)
		return false
	case k.owns(x.svc) && spec.LoadBalancerClass == nil:
		x.step("Class", StateOK, "no loadBalancerClass: Berth's, which serves those too")
	case k.owns(x.svc):
		x.step("Class", StateOK, k.name+": Berth's")
	case spec.LoadBalancerClass == nil:
		x.step("Class", StateError, "no loadBalancerClass, and Berth was told to leave such Services to others")
		x.blame(rankClass, StateError, "the Service is not Berth's", "Create it anew with spec.loadBalancerClass: "+k.name+" (the field cannot be changed later).")
		return false
	default:
		x.step("Class", StateError, fmt.Sprintf("%s: another controller's; Berth's is %s", *spec.LoadBalancerClass, k.name))
		x.blame(rankClass, StateError, "the Service is of another controller's class, "+*spec.LoadBalancerClass, "Create it anew with spec.loadBalancerClass: "+k.name+" (the field cannot be changed later).")
		return false
	}
	return true
}

func (x *explainer) explainController() {
	if x.c.isUnread("leases") {
		x.step("Controller", StateUnknown, "cannot read its Lease")
		return
	}
	leader, why := x.c.leader()
	if why == "" {
		x.step("Controller", StateOK, leader+" leads")
		return
	}
	x.step("Controller", StateError, why)
	fix := fmt.Sprintf("Get a controller to run: kubectl -n %s get pods -l %s=%s, and their logs.", x.c.Namespace, componentLabel, componentController)
	rank := rankController
	if condition(x.svc.Status.Conditions, v1beta1.ConditionAddressAllocated) != nil {
		rank = rankHint // it has had its say about this Service
	}
	x.blame(rank, StateError, "no controller leads: "+why, fix)
}

// explainPools tells of all pools whether they are for the Service.
func (x *explainer) explainPools() {
	wishes, err := config.ReadWishes(x.svc.Annotations, x.svc.Spec.LoadBalancerIP)
	x.explainWishes(wishes, err)
	self := config.Service{Namespace: x.svc.Namespace, Labels: x.svc.Labels}
	if ns := find(x.c.Namespaces, "", x.svc.Namespace); ns != nil {
		self.NamespaceLabels = labels.Set(ns.Labels)
	}
	given := announcedOf(x.svc).Pools
	var lines []string
	usable, n := 0, 0
	for _, pool := range x.snapshot.AutoAssignPools(self) {
		n++
		switch {
		case slices.Contains(given, pool.Name):
			usable++
			lines = append(lines, fmt.Sprintf("%d. %s: taken%s", n, pool.Name, x.room(pool)))
		case wishes.Pool != "" && wishes.Pool != pool.Name:
			lines = append(lines, fmt.Sprintf("%d. %s: not taken: the Service asks for %s", n, pool.Name, wishes.Pool))
		case pool.Disabled:
			lines = append(lines, fmt.Sprintf("%d. %s: not taken: it is disabled", n, pool.Name))
		case len(given) > 0:
			usable++
			lines = append(lines, fmt.Sprintf("%d. %s: not taken: not needed, or its turn did not come%s", n, pool.Name, x.room(pool)))
		default:
			usable++
			lines = append(lines, fmt.Sprintf("%d. %s: for this Service%s", n, pool.Name, x.room(pool)))
		}
	}
	for _, pool := range x.snapshot.Pools {
		why := pool.Excludes(self)
		switch {
		case why == "" && pool.AutoAssign:
			continue
		case slices.Contains(given, pool.Name):
			lines = append(lines, "-  "+pool.Name+": taken")
			usable++
		case why != "":
			lines = append(lines, "-  "+pool.Name+": not for this Service: "+why)
		case wishes.Pool == pool.Name || len(wishes.Addresses) > 0:
			lines = append(lines, "-  "+pool.Name+": only on request, as this is"+x.room(pool))
			usable++
		default:
			lines = append(lines, "-  "+pool.Name+": not for this Service: autoAssign is false, and it does not ask for the pool")
		}
	}
	for _, pool := range byName(x.c.Pools) {
		if v := x.verdicts.IPAddressPools[pool.Name]; !v.Accepted {
			lines = append(lines, "-  "+pool.Name+": not in force: "+v.Message)
		}
	}
	state := StateOK
	if usable == 0 {
		state = StateWarning
	}
	x.step("Pools", state, fmt.Sprintf("%d of %d in question", usable, len(x.c.Pools)), lines...)
	x.nearMiss, x.nearFix = x.nearestPool(self)
}

func (x *explainer) explainWishes(wishes config.Wishes, err error) {
	var asks []string
	if wishes.Pool != "" {
		asks = append(asks, "pool "+wishes.Pool)
	}
	for _, addr := range wishes.Addresses {
		asks = append(asks, addr.String())
	}
	if wishes.SharingKey != "" {
		asks = append(asks, "to share an address under the key "+wishes.SharingKey)
	}
	state, summary := StateOK, "nothing in particular"
	if len(asks) > 0 {
		summary = strings.Join(asks, ", ")
	}
	var details []string
	if err != nil {
		state, details = StateError, append(details, err.Error())
	}
	for _, unknown := range wishes.Unknown {
		state = worse(state, StateWarning)
		details = append(details, "the annotation "+unknown+" means nothing to Berth")
		x.blame(rankHint, StateWarning, "an annotation is ignored: "+unknown, "Correct its name, or remove it.")
	}
	x.step("Asks for", state, summary, details...)
}

// room says how much is left in a pool.
func (x *explainer) room(pool *config.Pool) string {
	object := find(x.c.Pools, "", pool.Name)
	if object == nil || object.Status.IPv4 == nil && object.Status.IPv6 == nil {
		return ""
	}
	left := families(object.Status.IPv4, object.Status.IPv6, func(s *v1beta1.PoolFamilyStatus) int64 { return s.Available })
	return " (available: " + left + ")"
}

// explainAddress tells what the controller has decided.
func (x *explainer) explainAddress() []netip.Addr {
	addresses := addressesOf(x.svc)
	c := condition(x.svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	if c == nil {
		x.step("Address", StateError, "the controller has not looked at the Service yet")
		x.blame(rankAddress, StateError, "the controller has said nothing about the Service", fmt.Sprintf(
			"Wait a moment; then look at the controller's log: kubectl -n %s logs -l %s=%s.", x.c.Namespace, componentLabel, componentController))
		return addresses
	}
	state := StateOK
	// Which pools were not even tried, and why, is said above.
	message, _, _ := strings.Cut(c.Message, "; not tried: ")
	fix := fixForAddress(c.Reason, x.svc)
	what := c.Reason + ": " + message
	switch {
	case c.Reason == "NoPool" && x.nearMiss != "":
		what, fix = what+": "+x.nearMiss, x.nearFix
	case c.Reason == "NoPool" && len(x.c.Pools) == 0:
		fix = "Create an IPAddressPool."
	case c.Reason == "PoolExhausted" && strings.Contains(message, "(has no "):
		fix = fmt.Sprintf("Add addresses of the Service's families %v to one of the pools in question, or change spec.ipFamilies.", x.svc.Spec.IPFamilies)
	}
	switch {
	case !isTrue(c):
		state = StateError
	case c.Reason == v1beta1.ReasonAddressConflict || c.Reason == reasonOutOfPool:
		state = StateWarning
	}
	if state != StateOK {
		x.blame(rankAddress, state, what, fix)
	}
	x.step("Address", state, c.Reason+": "+message)
	return addresses
}

// fixForAddress says what to do about a reason of the condition
// berth.dev/AddressAllocated.
func fixForAddress(reason string, svc *corev1.Service) string {
	switch reason {
	case "NoPool":
		return "Create an IPAddressPool for this Service, or make one of those above be for it."
	case "PoolExhausted":
		return "Add addresses to one of the pools in question, or delete Services that need none."
	case "UnknownPool":
		return "Create the pool or put it in force, or correct the annotation " + v1beta1.AnnotationAddressPool + "."
	case "PoolNotAllowed":
		return "Ask for another pool, or let the pool's serviceAllocation match this Service."
	case "AddressNotInPool":
		return "Ask for an address that is in a pool for this Service, or add it to one."
	case "AddressInUse":
		return "Ask for another address, or share this one: the same " + v1beta1.AnnotationAllowSharedIP + " on both Services, different ports, and under externalTrafficPolicy Local both that policy and the same selector."
	case "FamilyMismatch":
		return fmt.Sprintf("Ask for addresses of the Service's families %v, or change spec.ipFamilies.", svc.Spec.IPFamilies)
	case "AddressReserved":
		return "Ask for another address, or make the IPReservation be for this Service."
	case "AddressResting", "AddressLeaving":
		return "Wait: it gets the address as soon as it is free."
	case v1beta1.ReasonAddressConflict:
		return "Find the other host by its MAC address and give it another address, or exclude this one from the pool."
	case "QuotaExceeded":
		return "Raise the pool's quota, or delete Services of the namespace that need no address."
	case "PoolDisabled":
		return "Set disabled: false on the pool, or make another be for this Service."
	case reasonOutOfPool:
		return "Add the address to a pool again, or have another given by the annotation " + v1beta1.AnnotationRenew + "."
	case reasonContested:
		return "Find the other controller that writes the status (k3s's servicelb, MetalLB, a cloud controller) and stop it, or give the Service a loadBalancerClass."
	case "InvalidRequest":
		return "Correct what the message names."
	}
	return "See the message."
}

func (e *Explanation) text(p *Printer) {
	p.printf("%s\n\n", p.bold(e.Subject))
	for _, s := range e.Steps {
		p.printf("%s  %-14s %s\n", p.mark(s.State), s.Name, s.Summary)
		for _, line := range s.Details {
			p.printf("        %s\n", line)
		}
	}
	p.printf("\n")
	if e.Cause == "" {
		p.printf("%s\n", p.paint(StateOK, "Nothing to fix."))
		return
	}
	p.printf("Cause: %s\n", p.paint(e.State, e.Cause))
	p.printf("Fix:   %s\n", p.bold(e.Fix))
}
