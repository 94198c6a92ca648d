package allocation

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// outcome is what a Service is to be told: its addresses and the condition.
type outcome struct {
	addresses []ipam.Assigned
	allocated bool
	reason    string
	message   string
	// renewed is the value of berth.dev/renew that was acted on.
	renewed string
	// sharedKey is the sharing key under which it has its addresses.
	sharedKey string
}

// allocatedOutcome describes a request that was met; conflicts tells who else has
// its addresses, and missing is why a PreferDualStack Service has one family only,
// or nil.
func allocatedOutcome(addresses []ipam.Assigned, conflicts string, missing error) outcome {
	o := outcome{addresses: addresses, allocated: true, reason: reasonAllocated, message: describe(addresses)}
	if slices.ContainsFunc(addresses, func(a ipam.Assigned) bool { return a.Pool == "" }) {
		o.reason = reasonOutOfPool
	}
	if conflicts != "" {
		o.reason = reasonAddressConflict
		o.message += "; " + conflicts
	}
	if missing != nil {
		o.message += "; " + missing.Error()
	}
	return o
}

// refusedOutcome describes a request that was not met; addresses are those that
// the Service keeps from before, and conflicts tells who else has these.
func refusedOutcome(addresses []ipam.Assigned, conflicts string, why *refusal) outcome {
	o := outcome{addresses: addresses, reason: why.reason, message: why.message}
	if conflicts != "" {
		o.message = conflicts + "; " + o.message
	}
	if len(addresses) > 0 {
		o.message = keeping(addresses) + o.message
	}
	return o
}

// A message begins with the addresses that the Service has, if it has any:
// where everybody else may write something else, this is where Berth finds them
// again (see grantedIn). Nothing that users write is ever at its beginning.
const (
	keeps       = "keeps "
	keepsEnd    = "; "
	fromPool    = " from pool "
	formerly    = " of pool "
	formerlyEnd = ", which has it no more"
	unknownFrom = ", which is in no pool any more"
)

func keeping(addresses []ipam.Assigned) string { return keeps + describe(addresses) + keepsEnd }

// describe renders addresses as "192.0.2.1 from pool a, 2001:db8::1 from pool b".
func describe(addresses []ipam.Assigned) string {
	texts := make([]string, 0, len(addresses))
	for _, a := range addresses {
		switch {
		case a.Pool != "":
			texts = append(texts, a.Address.String()+fromPool+a.Pool)
		case a.From != "":
			texts = append(texts, a.Address.String()+formerly+a.From+formerlyEnd)
		default:
			texts = append(texts, a.Address.String()+unknownFrom)
		}
	}
	return strings.Join(texts, ", ")
}

// grantedIn returns the addresses that a message says a Service has, with the
// pools that they are from in From: the inverse of describe.
func grantedIn(message string) []ipam.Assigned {
	var granted []ipam.Assigned
	rest := strings.TrimPrefix(message, keeps)
	for {
		end := strings.IndexAny(rest, " ,")
		if end < 0 {
			return granted
		}
		addr, err := ipam.ParseAddr(rest[:end])
		if err != nil {
			return granted
		}
		a := ipam.Assigned{Address: addr}
		rest = rest[end:]
		switch {
		case strings.HasPrefix(rest, fromPool):
			a.From, rest = word(rest[len(fromPool):])
		case strings.HasPrefix(rest, formerly):
			a.From, rest = word(rest[len(formerly):])
			rest = strings.TrimPrefix(rest, formerlyEnd)
		case strings.HasPrefix(rest, unknownFrom):
			rest = rest[len(unknownFrom):]
		default:
			return granted
		}
		granted = append(granted, a)
		var more bool
		if rest, more = strings.CutPrefix(rest, ", "); !more {
			return granted
		}
	}
}

// grantedTo returns the addresses that Berth has given a Service, as its condition
// has them.
func grantedTo(svc *corev1.Service) []ipam.Assigned {
	condition := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	if condition == nil {
		return nil
	}
	return grantedIn(condition.Message)
}

// word returns what is before the first separator, and the rest.
func word(text string) (first, rest string) {
	if end := strings.IndexAny(text, ",;"); end >= 0 {
		return text[:end], text[end:]
	}
	return text, ""
}

// ingress renders addresses as the status has them. Mode VIP tells kube-proxy
// that packets arrive with the address itself as their destination (KEP-1860).
func (o outcome) ingress() []corev1.LoadBalancerIngress {
	mode := corev1.LoadBalancerIPModeVIP
	ingress := make([]corev1.LoadBalancerIngress, 0, len(o.addresses))
	for _, a := range o.addresses {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.Address.String(), IPMode: &mode})
	}
	return ingress
}

// pools renders for the annotation which pools the addresses came from: the one
// of all, or one for each address in their order. A pool that is gone stays in
// it, because advertisements may name it. before is what it said so far.
func (o outcome) pools(before string) string {
	names := make([]string, len(o.addresses))
	for i, a := range o.addresses {
		if a.From == "" {
			return before // of an address that came before anybody took notes
		}
		names[i] = a.From
	}
	if len(slices.Compact(slices.Clone(names))) == 1 {
		return names[0]
	}
	return strings.Join(names, ",")
}

func (o outcome) condition(before *metav1.Condition, now metav1.Time) metav1.Condition {
	c := metav1.Condition{
		Type:               v1beta1.ConditionAddressAllocated,
		Status:             metav1.ConditionFalse,
		Reason:             o.reason,
		Message:            o.message,
		LastTransitionTime: now,
	}
	if o.allocated {
		c.Status = metav1.ConditionTrue
	}
	if before != nil && before.Status == c.Status {
		c.LastTransitionTime = before.LastTransitionTime
	}
	return c
}

// servicePatch is a strategic merge patch of a Service's status. It has the one
// annotation Berth writes beside it, so that a Service costs one write: the API
// server takes metadata through the status subresource. The uid keeps it from
// hitting a Service of the same name that came later.
type servicePatch struct {
	Metadata patchMetadata `json:"metadata"`
	Status   patchStatus   `json:"status"`
}

type patchMetadata struct {
	UID         string             `json:"uid"`
	Annotations map[string]*string `json:"annotations,omitempty"`
}

type patchStatus struct {
	// LoadBalancer is absent where ingress stays as it is.
	LoadBalancer *patchLoadBalancer `json:"loadBalancer,omitempty"`
	Conditions   []any              `json:"conditions,omitempty"`
}

type patchLoadBalancer struct {
	Ingress []corev1.LoadBalancerIngress `json:"ingress"`
}

type deletedCondition struct {
	Patch string `json:"$patch"`
	Type  string `json:"type"`
}

// patchFor returns the patch that makes the status of svc say o, or nil if it
// does already. The addresses in it are left alone on request.
func patchFor(svc *corev1.Service, o outcome, leaveIngress bool, now metav1.Time) ([]byte, error) {
	before := meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAddressAllocated)
	condition := o.condition(before, now)
	patch := servicePatch{Metadata: patchMetadata{UID: string(svc.UID)}}
	changed := false
	if before == nil || before.Status != condition.Status || before.Reason != condition.Reason || before.Message != condition.Message {
		patch.Status.Conditions = append(patch.Status.Conditions, condition)
		changed = true
	}
	if ingress := o.ingress(); !leaveIngress && !sameIngress(svc.Status.LoadBalancer.Ingress, ingress) {
		patch.Status.LoadBalancer = &patchLoadBalancer{Ingress: ingress}
		changed = true
	}
	for key, want := range map[string]string{
		v1beta1.AnnotationIPAllocatedFromPool: o.pools(svc.Annotations[v1beta1.AnnotationIPAllocatedFromPool]),
		v1beta1.AnnotationRenewed:             o.renewed,
		v1beta1.AnnotationSharedIPKey:         o.sharedKey,
	} {
		if had, has := svc.Annotations[key]; want != had || has && want == "" {
			patch.Metadata.set(key, want)
			changed = true
		}
	}
	if len(o.addresses) == 0 && meta.FindStatusCondition(svc.Status.Conditions, v1beta1.ConditionAnnounced) != nil {
		patch.Status.Conditions = append(patch.Status.Conditions, deletedCondition{Patch: "delete", Type: v1beta1.ConditionAnnounced})
		changed = true
	}
	if !changed {
		return nil, nil
	}
	return json.Marshal(patch)
}

// farewellFor returns the patch that removes everything Berth wrote on a
// Service that is not Berth's any more, or nil if there is nothing. Addresses
// are removed by the API server when the type changes; where only the class is
// not Berth's any more, those that Berth has put there.
func farewellFor(svc *corev1.Service) ([]byte, error) {
	patch := servicePatch{Metadata: patchMetadata{UID: string(svc.UID)}}
	if granted := addressesOf(grantedTo(svc)); len(granted) > 0 && slices.Equal(granted, ingressOf(svc)) {
		patch.Status.LoadBalancer = &patchLoadBalancer{Ingress: []corev1.LoadBalancerIngress{}}
	}
	for _, conditionType := range []string{v1beta1.ConditionAddressAllocated, v1beta1.ConditionAnnounced} {
		if meta.FindStatusCondition(svc.Status.Conditions, conditionType) != nil {
			patch.Status.Conditions = append(patch.Status.Conditions, deletedCondition{Patch: "delete", Type: conditionType})
		}
	}
	for _, key := range []string{v1beta1.AnnotationIPAllocatedFromPool, v1beta1.AnnotationRenewed, v1beta1.AnnotationSharedIPKey} {
		if _, has := svc.Annotations[key]; has {
			patch.Metadata.set(key, "")
		}
	}
	if len(patch.Status.Conditions)+len(patch.Metadata.Annotations) == 0 && patch.Status.LoadBalancer == nil {
		return nil, nil
	}
	return json.Marshal(patch)
}

func sameIngress(a, b []corev1.LoadBalancerIngress) bool {
	return len(a) == len(b) && equality.Semantic.DeepEqual(a, b)
}

// set sets an annotation, or removes it where value is "".
func (m *patchMetadata) set(key, value string) {
	if m.Annotations == nil {
		m.Annotations = map[string]*string{}
	}
	m.Annotations[key] = nil
	if value != "" {
		m.Annotations[key] = &value
	}
}

// marked says that somebody gave the Service its addresses who also gives them
// from pools: MetalLB, before Berth has said anything about it.
func marked(svc *corev1.Service) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(svc.Annotations)), func(key string) bool {
		return strings.HasSuffix(key, "/ip-allocated-from-pool")
	})
}
