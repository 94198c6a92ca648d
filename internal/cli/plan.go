package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/allocation"
)

// Change is a change of the configuration.
type Change struct {
	// Put are objects as they are to be, in the order in which they are applied: spec
	// and labels of those that there are become these, and annotations are added.
	Put []allocation.Object
	// Delete are deleted afterwards. Only kind and name of them count.
	Delete []allocation.Object
	// Unchecked are the kinds of those that the API server has not validated.
	Unchecked []string
}

// Plan is what a change would do.
type Plan struct {
	// Changes says that anything would change at all.
	Changes bool `json:"changes"`
	// Losses are what would be lost, in words.
	Losses []string `json:"losses,omitempty"`
	// Objects that the change is about, and others that come into force or are no
	// longer.
	Objects  []PlannedObject  `json:"objects,omitempty"`
	Services []PlannedService `json:"services,omitempty"`
	Sessions []PlannedSession `json:"sessions,omitempty"`
	Routes   []PlannedRoute   `json:"routes,omitempty"`
	// Notes are what the plan cannot know or takes for granted.
	Notes []string `json:"notes,omitempty"`
}

// What becomes of an object.
const (
	ObjectCreated = "Created"
	ObjectChanged = "Changed"
	ObjectDeleted = "Deleted"
	// ObjectAffected: nobody touches it, but it comes into force or is no longer.
	ObjectAffected = "Affected"
	ObjectKept     = "Unchanged"
)

// PlannedObject is what becomes of an object of the configuration.
type PlannedObject struct {
	Kind   string        `json:"kind"`
	Name   string        `json:"name"`
	Change string        `json:"change"`
	Before *ObjectStatus `json:"before,omitempty"`
	After  *ObjectStatus `json:"after,omitempty"`
}

// ObjectStatus says whether an object is in force, and why.
type ObjectStatus struct {
	InForce bool   `json:"inForce"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// PlanFor foresees what a change does. Unless all is asked for, the plan has what
// changes and nothing else.
func PlanFor(c *Cluster, change Change, all bool) (*Plan, error) {
	p := planner{change: change, all: all, plan: &Plan{}}
	if err := p.rehearse(c); err != nil {
		return nil, err
	}
	p.planObjects()
	p.planSessions()
	p.planServices()
	p.planRoutes()
	p.notes(c)
	p.plan.Changes = p.changes
	return p.plan, nil
}

// planner compares two states of a cluster.
type planner struct {
	change        Change
	all           bool
	before, after *foresight
	plan          *Plan
	changes       bool
	// broken are the sessions, by node and name, that end.
	broken map[sessionOf]bool
	// unsure are Services whose fate depends on how fast the objects are applied.
	unsure []string
}

// rehearse finds out what the cluster comes to with and without the change.
func (p *planner) rehearse(c *Cluster) error {
	one, err := c.rehearse(p.change)
	if err != nil {
		return err
	}
	p.before = foresee(c.with(one))
	slow, fast := p.change, Change{}
	for _, o := range slow.Put {
		o = withAnnotationsOf(one.Object(o), o)
		fast.Put = append(fast.Put, o)
		if err := one.Put(o); err != nil {
			return err
		}
	}
	for _, o := range slow.Delete {
		if one.Object(o) == nil {
			return fmt.Errorf("there is no %s %s to delete", KindOf(o), o.GetName())
		}
		if err := one.Delete(o); err != nil {
			return err
		}
	}
	p.after = foresee(c.with(one))
	if len(slow.Put)+len(slow.Delete) < 2 {
		return nil
	}
	other, err := c.rehearse(p.change)
	if err != nil {
		return err
	}
	if err := other.Put(fast.Put...); err != nil {
		return err
	}
	if err := other.Delete(slow.Delete...); err != nil {
		return err
	}
	p.compareSpeeds(c.with(other))
	return nil
}

// compareSpeeds notes which Services get something else when the controller sees all
// of the change at once.
func (p *planner) compareSpeeds(atOnce *Cluster) {
	for _, svc := range p.after.c.ours() {
		other := atOnce.service(svc.Namespace, svc.Name)
		if other == nil || !slices.Equal(addressesOf(svc), addressesOf(other)) {
			p.unsure = append(p.unsure, nameOf(svc))
		}
	}
}

// withAnnotationsOf returns o with the annotations that there are beside its own.
func withAnnotationsOf(before, o allocation.Object) allocation.Object {
	if before == nil {
		return o
	}
	o = o.DeepCopyObject().(allocation.Object)
	annotations := map[string]string{}
	maps.Copy(annotations, before.GetAnnotations())
	maps.Copy(annotations, o.GetAnnotations())
	if len(annotations) > 0 {
		o.SetAnnotations(annotations)
	}
	return o
}

// rehearse starts a rehearsal with what there is, and with the Secrets that are named
// there or will be.
func (c *Cluster) rehearse(change Change) (*allocation.Rehearsal, error) {
	k := c.class()
	objects := c.objects()
	for _, name := range c.secretNames(change) {
		objects = append(objects, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeBasicAuth,
			Data: map[string][]byte{corev1.BasicAuthPasswordKey: []byte(unknownPassword(name))},
		})
	}
	return allocation.NewRehearsal(objects, allocation.Premises{LoadBalancerClass: k.name, DefaultLoadBalancer: k.isDefault, Now: c.Now})
}

// secretNames returns the names of the Secrets that BGPPeers name, but for those of
// which the controller says that they are of no use.
func (c *Cluster) secretNames(change Change) []string {
	names, useless := map[string]bool{}, map[string]bool{}
	add := func(peer *v1beta1.BGPPeer) {
		if ref := peer.Spec.PasswordSecret; ref != nil {
			names[string(ref.Name)] = true
			if v := verdictOf(peer.Status.Conditions, peer.Generation); v.Current && strings.Contains(v.Message, "spec.passwordSecret: ") {
				useless[string(ref.Name)] = true
			}
		}
	}
	for _, peer := range c.BGPPeers {
		add(peer)
	}
	for _, o := range change.Put {
		if peer, is := o.(*v1beta1.BGPPeer); is {
			add(&v1beta1.BGPPeer{Spec: peer.Spec})
		}
	}
	maps.DeleteFunc(names, func(name string, _ bool) bool { return useless[name] })
	return slices.Sorted(maps.Keys(names))
}

// objects are what a controller reads, but for Secrets.
func (c *Cluster) objects() []allocation.Object {
	all := c.configuration()
	all = appendObjects(all, c.Services)
	all = appendObjects(all, c.Namespaces)
	all = appendObjects(all, c.Nodes)
	all = appendObjects(all, c.ServiceCIDRs)
	return appendObjects(all, c.NodeStates)
}

// configuration are the objects that Berth is configured by.
func (c *Cluster) configuration() []allocation.Object {
	var all []allocation.Object
	all = appendObjects(all, c.Pools)
	all = appendObjects(all, c.Reservations)
	all = appendObjects(all, c.L2Advertisements)
	all = appendObjects(all, c.BGPPeers)
	all = appendObjects(all, c.BGPAdvertisements)
	all = appendObjects(all, c.Communities)
	return appendObjects(all, c.BFDProfiles)
}

func appendObjects[T allocation.Object](all []allocation.Object, objects []T) []allocation.Object {
	for _, o := range objects {
		all = append(all, o)
	}
	return all
}

// with returns the cluster with the objects of a rehearsal in place of its own.
func (c *Cluster) with(r *allocation.Rehearsal) *Cluster {
	next := &Cluster{
		Now: c.Now, Namespace: c.Namespace, Pods: c.Pods, Lease: c.Lease, EndpointSlices: c.EndpointSlices, Unread: c.Unread,
		snapshot: r.Snapshot(),
	}
	for _, object := range r.Objects() {
		switch o := object.(type) {
		case *corev1.Service:
			next.Services = append(next.Services, o)
		case *corev1.Namespace:
			next.Namespaces = append(next.Namespaces, o)
		case *corev1.Node:
			next.Nodes = append(next.Nodes, o)
		case *networkingv1.ServiceCIDR:
			next.ServiceCIDRs = append(next.ServiceCIDRs, o)
		case *v1beta1.NodeState:
			next.NodeStates = append(next.NodeStates, o)
		default:
			next.addConfiguration(o)
		}
	}
	return next
}

func (c *Cluster) addConfiguration(object allocation.Object) {
	switch o := object.(type) {
	case *v1beta1.IPAddressPool:
		c.Pools = append(c.Pools, o)
	case *v1beta1.IPReservation:
		c.Reservations = append(c.Reservations, o)
	case *v1beta1.L2Advertisement:
		c.L2Advertisements = append(c.L2Advertisements, o)
	case *v1beta1.BGPPeer:
		c.BGPPeers = append(c.BGPPeers, o)
	case *v1beta1.BGPAdvertisement:
		c.BGPAdvertisements = append(c.BGPAdvertisements, o)
	case *v1beta1.Community:
		c.Communities = append(c.Communities, o)
	case *v1beta1.BFDProfile:
		c.BFDProfiles = append(c.BFDProfiles, o)
	}
}
