package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/allocation"
)

// KindOf returns the kind of an object.
func KindOf(o allocation.Object) string { return reflect.TypeOf(o).Elem().Name() }

// ObjectID tells objects apart: "Kind namespace/name".
func ObjectID(o allocation.Object) string { return KindOf(o) + " " + nameOf(o) }

// Live returns the object of the kind and name of o, nil if there is none.
func (c *Cluster) Live(o allocation.Object) allocation.Object {
	for _, object := range c.objects() {
		if object.GetName() == o.GetName() && ObjectID(object) == ObjectID(o) {
			return object
		}
	}
	return nil
}

// isRetained says that a reservation is one that the controller makes and removes.
func isRetained(o allocation.Object) bool { return o.GetLabels()[v1beta1.LabelRetained] == "true" }

// Others returns the objects of Berth's configuration that the change is not about,
// but for those that the controller makes itself.
func (c *Cluster) Others(change Change) []allocation.Object {
	named := change.named()
	return slices.DeleteFunc(c.configuration(), func(o allocation.Object) bool { return named[ObjectID(o)] || isRetained(o) })
}

// named are the IDs of the objects that the change is about.
func (c *Change) named() map[string]bool {
	named := map[string]bool{}
	for _, o := range slices.Concat(c.Put, c.Delete) {
		named[ObjectID(o)] = true
	}
	return named
}

// planObjects compares the objects of the configuration.
func (p *planner) planObjects() {
	before, after := byID(p.before.c), byID(p.after.c)
	named := p.change.named()
	ids := maps.Clone(before)
	maps.Copy(ids, after)
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		o := PlannedObject{Kind: KindOf(ids[id]), Name: nameOf(ids[id]), Before: objectStatus(before[id]), After: objectStatus(after[id])}
		o.Change = objectChange(before[id], after[id])
		isConfiguration := o.Before != nil || o.After != nil
		changed := o.Change != ObjectKept && named[id]
		if !changed && isConfiguration && o.Before != nil && o.After != nil {
			o.Change = ObjectKept
			if o.Before.InForce != o.After.InForce || o.Before.Reason != o.After.Reason {
				o.Change, changed = ObjectAffected, true
			}
		}
		p.changes = p.changes || changed
		if changed || p.all && (isConfiguration || named[id]) {
			p.plan.Objects = append(p.plan.Objects, o)
		}
		p.objectLoss(&o, named[id])
	}
}

// objectLoss notes that an object is not in force that was, or that somebody wants.
func (p *planner) objectLoss(o *PlannedObject, named bool) {
	if o.After == nil || o.After.InForce || o.After.Reason == v1beta1.ReasonExpired {
		return
	}
	if named && o.Change != ObjectKept || o.Before != nil && o.Before.InForce {
		p.lose("%s %s is not in force: %s: %s", o.Kind, o.Name, o.After.Reason, o.After.Message)
	}
}

func (p *planner) lose(format string, args ...any) {
	p.plan.Losses = append(p.plan.Losses, fmt.Sprintf(format, args...))
}

// byID returns configuration and Services by their IDs.
func byID(c *Cluster) map[string]allocation.Object {
	all := map[string]allocation.Object{}
	for _, o := range appendObjects(c.configuration(), c.Services) {
		all[ObjectID(o)] = o
	}
	return all
}

func objectChange(before, after allocation.Object) string {
	switch {
	case before == nil:
		return ObjectCreated
	case after == nil:
		return ObjectDeleted
	case before.GetGeneration() != after.GetGeneration() || specOf(before) != specOf(after):
		return ObjectChanged
	}
	return ObjectKept
}

// specOf returns what users write of an object.
func specOf(o allocation.Object) string {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // it has come as JSON
	}
	var doc struct {
		Metadata struct{ Labels, Annotations map[string]string }
		Spec     any
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		panic(err)
	}
	maps.DeleteFunc(doc.Metadata.Annotations, func(key, _ string) bool {
		return strings.HasPrefix(key, v1beta1.GroupName+"/") && KindOf(o) == "Service" && isWritten(key)
	})
	text, err = json.Marshal([]any{doc.Metadata.Labels, doc.Metadata.Annotations, doc.Spec})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// isWritten says that Berth itself writes an annotation.
func isWritten(annotation string) bool {
	switch annotation {
	case v1beta1.AnnotationIPAllocatedFromPool, v1beta1.AnnotationRenewed, v1beta1.AnnotationSharedIPKey:
		return true
	}
	return false
}

// objectStatus returns whether an object is in force; nil for one that is not there or
// has no such status.
func objectStatus(object allocation.Object) *ObjectStatus {
	var conditions []metav1.Condition
	switch o := object.(type) {
	case *v1beta1.IPAddressPool:
		conditions = o.Status.Conditions
	case *v1beta1.IPReservation:
		conditions = o.Status.Conditions
	case *v1beta1.L2Advertisement:
		conditions = o.Status.Conditions
	case *v1beta1.BGPPeer:
		conditions = o.Status.Conditions
	case *v1beta1.BGPAdvertisement:
		conditions = o.Status.Conditions
	case *v1beta1.Community:
		conditions = o.Status.Conditions
	case *v1beta1.BFDProfile:
		conditions = o.Status.Conditions
	default:
		return nil
	}
	v := verdictOf(conditions, object.GetGeneration())
	return &ObjectStatus{InForce: v.Accepted, Reason: v.Reason, Message: v.Message}
}
