package metallb

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Group is MetalLB's API group.
const Group = "metallb.io"

// Options say whose objects are meant.
type Options struct {
	// Namespace is MetalLB's own. What is elsewhere means nothing to it.
	Namespace string
	// BerthNamespace is where Berth looks for the Secrets of its peers.
	BerthNamespace string
}

// Object is one of Berth's objects and what is to be said about it.
type Object struct {
	// Object is of one of Berth's kinds, with its apiVersion and kind.
	Object metav1.Object
	// From is what it was made of, such as "BGPPeer metallb-system/tor".
	From string
	// Remarks say what is different with Berth.
	Remarks []string
}

// Result is what became of a configuration.
type Result struct {
	// Objects in the order in which they are best applied.
	Objects []*Object
	// Gaps are what could not be translated and is not in Objects.
	Gaps []string
	// Warnings are what has to be done beside applying the objects.
	Warnings []string
	// Remarks are what else there is to know.
	Remarks []string
}

// conversion is a Result that is being made.
type conversion struct {
	Options
	Result
	// numbers are the communities whose names Berth does not take.
	numbers map[string]string
}

// Convert turns MetalLB's objects into Berth's. The Services say which addresses
// are in use; without them nothing is said about these.
func Convert(objects []*unstructured.Unstructured, services []*corev1.Service, o Options) *Result {
	c := &conversion{Options: o, numbers: map[string]string{}}
	known := c.sorted(c.withoutLegacy(c.ofMetalLB(objects)))
	for _, object := range known {
		c.convert(object)
	}
	snapshot := c.judge()
	c.services(services, snapshot)
	return &c.Result
}

// kinds that are converted, in the order in which Berth's are best applied: names
// before what uses them.
var kinds = []string{"Community", "BFDProfile", "IPAddressPool", "BGPPeer", "L2Advertisement", "BGPAdvertisement"}

// reports are kinds that MetalLB writes itself, or that concern its installation.
var reports = map[string]string{
	"ServiceL2Status":    "what a Service's condition berth.dev/Announced says",
	"ServiceBGPStatus":   "what a Service's condition berth.dev/Announced says",
	"ConfigurationState": "what the condition Accepted of each object says",
	"MetalLB":            "how an operator installs MetalLB",
}

// ofMetalLB picks the configuration out of objects and says what else there was.
func (c *conversion) ofMetalLB(objects []*unstructured.Unstructured) []*unstructured.Unstructured {
	var ours []*unstructured.Unstructured
	ignored, others := map[string]int{}, 0
	for _, object := range objects {
		kind, group := object.GetKind(), object.GroupVersionKind().Group
		switch {
		case kind == "ConfigMap" && group == "" && object.GetName() == legacyName && c.isOwn(object):
			ours = append(ours, object)
		case kind == "FRRConfiguration" && strings.HasSuffix(group, Group):
			c.Gaps = append(c.Gaps, nameOf(object)+": it configures FRR, which Berth does not have; say what it does with BGPPeers and BGPAdvertisements")
		case group != Group:
			others++
		case reports[kind] != "":
			ignored[kind]++
		case !slices.Contains(append(kinds, legacyPool), kind):
			c.Gaps = append(c.Gaps, nameOf(object)+": there is no such kind that this program knows")
		case !c.isOwn(object):
			c.Remarks = append(c.Remarks, fmt.Sprintf("%s: ignored, as MetalLB reads its own namespace only, which is taken to be %s (--metallb-namespace)", nameOf(object), c.Namespace))
		default:
			ours = append(ours, object)
		}
	}
	for kind, what := range reports {
		if n := ignored[kind]; n > 0 {
			c.Remarks = append(c.Remarks, fmt.Sprintf("%s: %d ignored; here it is %s", kind, n, what))
		}
	}
	if others > 0 {
		c.Remarks = append(c.Remarks, fmt.Sprintf("objects of other kinds: %d ignored", others))
	}
	slices.Sort(c.Remarks)
	return ours
}

// isOwn says whether an object is in MetalLB's namespace. In files it may not say.
func (c *conversion) isOwn(object *unstructured.Unstructured) bool {
	return object.GetNamespace() == "" || object.GetNamespace() == c.Namespace
}

// sorted brings objects into the order of kinds and names, and leaves out those
// that would have the name of another.
func (c *conversion) sorted(objects []*unstructured.Unstructured) []*unstructured.Unstructured {
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(
			cmp.Compare(slices.Index(kinds, a.GetKind()), slices.Index(kinds, b.GetKind())),
			strings.Compare(a.GetName(), b.GetName()),
		)
	})
	return slices.CompactFunc(objects, func(a, b *unstructured.Unstructured) bool {
		same := a.GetKind() == b.GetKind() && a.GetName() == b.GetName()
		if same {
			c.Gaps = append(c.Gaps, fmt.Sprintf("%s: there is another %s of this name; only the first is converted", nameOf(b), b.GetKind()))
		}
		return same
	})
}

// source is one of MetalLB's objects on its way to become one of Berth's.
type source struct {
	object  *unstructured.Unstructured
	remarks []string
	gaps    []string
	// refused says that Berth can have no such object at all.
	refused bool
}

// remark says what is different with Berth.
func (s *source) remark(field, format string, args ...any) {
	s.remarks = append(s.remarks, field+": "+fmt.Sprintf(format, args...))
}

// leaveOut says that a field has no counterpart.
func (s *source) leaveOut(field, format string, args ...any) {
	s.gaps = append(s.gaps, field+": "+fmt.Sprintf(format, args...))
}

// refuse says that the object cannot be had without the field, or with it.
func (s *source) refuse(field, format string, args ...any) {
	s.refused = true
	s.leaveOut(field, format, args...)
}

// convert converts one object.
func (c *conversion) convert(object *unstructured.Unstructured) {
	s := &source{object: object}
	meta := metav1.ObjectMeta{Name: object.GetName(), Labels: object.GetLabels()}
	var made metav1.Object
	switch object.GetKind() {
	case "Community":
		made = &v1beta1.Community{ObjectMeta: meta, Spec: c.community(s)}
	case "BFDProfile":
		made = &v1beta1.BFDProfile{ObjectMeta: meta, Spec: bfdProfile(s)}
	case "IPAddressPool":
		made = &v1beta1.IPAddressPool{ObjectMeta: meta, Spec: ipAddressPool(s)}
	case "BGPPeer":
		made = &v1beta1.BGPPeer{ObjectMeta: meta, Spec: c.bgpPeer(s)}
	case "L2Advertisement":
		made = &v1beta1.L2Advertisement{ObjectMeta: meta, Spec: l2Advertisement(s)}
	case "BGPAdvertisement":
		made = &v1beta1.BGPAdvertisement{ObjectMeta: meta, Spec: c.bgpAdvertisement(s)}
	}
	checkName(s, "metadata.name", meta.Name)
	for _, gap := range s.gaps {
		c.Gaps = append(c.Gaps, nameOf(object)+": "+gap)
	}
	if s.refused || isEmpty(made) {
		return
	}
	typed, _ := made.(runtime.Object)
	typed.GetObjectKind().SetGroupVersionKind(v1beta1.GroupVersion().WithKind(object.GetKind()))
	for _, gap := range s.gaps {
		s.remarks = append(s.remarks, "left out: "+gap)
	}
	c.Objects = append(c.Objects, &Object{Object: made, From: nameOf(object), Remarks: s.remarks})
}

// isEmpty says that nothing is left of an object that has to have something.
func isEmpty(object metav1.Object) bool {
	community, is := object.(*v1beta1.Community)
	return is && len(community.Spec.Communities) == 0
}

// decode reads the spec of an object. Fields that no version of MetalLB is known to
// have had are gaps.
func decode[T any](s *source) T {
	var spec struct {
		Spec T `json:"spec,omitempty"`
	}
	content := map[string]any{}
	if from, has := s.object.Object["spec"]; has {
		content["spec"] = from
	}
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(content, &spec, true)
	if strict, is := runtime.AsStrictDecodingError(err); is {
		for _, problem := range strict.Errors() {
			s.leaveOut(fieldOf(problem), "there is no such field that this program knows")
		}
		err = nil
	}
	if err != nil {
		s.refuse("spec", "a value is of another type than MetalLB has there: %v", err)
	}
	return spec.Spec
}

// fieldOf returns the path in an error about an unknown field.
func fieldOf(err error) string {
	text := strings.TrimPrefix(err.Error(), "unknown field ")
	return strings.Trim(text, `"`)
}

// nameOf returns "BGPPeer metallb-system/tor".
func nameOf(object *unstructured.Unstructured) string {
	name := object.GetName()
	if ns := object.GetNamespace(); ns != "" {
		name = ns + "/" + name
	}
	if name == "" {
		name = "without a name"
	}
	return object.GetKind() + " " + name
}
