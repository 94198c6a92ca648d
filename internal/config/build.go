package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ipam"
)

// Objects are the custom resources as the API server has them, in any order.
type Objects struct {
	IPAddressPools   []*v1beta1.IPAddressPool
	IPReservations   []*v1beta1.IPReservation
	L2Advertisements []*v1beta1.L2Advertisement

	BGPPeers          []*v1beta1.BGPPeer
	BGPAdvertisements []*v1beta1.BGPAdvertisement
	Communities       []*v1beta1.Community
	BFDProfiles       []*v1beta1.BFDProfile
	// Secrets are those of Berth's namespace that may hold passwords of peers.
	Secrets []Secret
	// Nodes are those that verdicts about peers look at. They make no difference
	// to the snapshot.
	Nodes []Node
	// Before is the snapshot that was in force so far, or nil. What it says about
	// a BFDProfile, a Secret or a Community goes on to hold for those that use it
	// when the object is deleted: nobody loses a session or a route by it.
	Before *Snapshot

	// Taken are addresses that the cluster itself uses. No pool hands them out.
	Taken []Taken
	// Now decides which reservations are over.
	Now time.Time
}

// Taken is a range of addresses that the cluster itself uses.
type Taken struct {
	Range ipam.Range
	// By says for what, such as "node node-1" or "the Service CIDR".
	By string
}

// Verdict says whether one object is in force.
type Verdict struct {
	Accepted bool
	// Reason is one of the reasons of the Accepted condition in api/v1beta1.
	Reason string
	// Message tells a person what is wrong and what to do.
	Message string
}

// Verdicts are the verdicts about all objects, by name.
type Verdicts struct {
	IPAddressPools   map[string]Verdict
	IPReservations   map[string]Verdict
	L2Advertisements map[string]Verdict

	BGPPeers          map[string]Verdict
	BGPAdvertisements map[string]Verdict
	Communities       map[string]Verdict
	BFDProfiles       map[string]Verdict
}

// Build makes the snapshot of what is in force, and a verdict for every object.
func Build(objects Objects) (*Snapshot, Verdicts) {
	b := builder{
		snapshot: &Snapshot{},
		verdicts: Verdicts{
			IPAddressPools: map[string]Verdict{}, IPReservations: map[string]Verdict{}, L2Advertisements: map[string]Verdict{},
			BGPPeers: map[string]Verdict{}, BGPAdvertisements: map[string]Verdict{}, Communities: map[string]Verdict{}, BFDProfiles: map[string]Verdict{},
		},
	}
	b.pools(objects.IPAddressPools, objects.Taken)
	b.reservations(objects.IPReservations, objects.Now)
	b.advertisements(objects.L2Advertisements, objects.IPAddressPools)
	b.bgp(objects)
	for _, verdicts := range b.verdicts.all() {
		for name, v := range verdicts {
			v.Message = cut(v.Message)
			verdicts[name] = v
		}
	}
	return b.snapshot, b.verdicts
}

func (v Verdicts) all() []map[string]Verdict {
	return []map[string]Verdict{
		v.IPAddressPools, v.IPReservations, v.L2Advertisements,
		v.BGPPeers, v.BGPAdvertisements, v.Communities, v.BFDProfiles,
	}
}

// maxMessage is how many bytes a message has at most. A condition could take
// 32768, but nobody reads so many.
const maxMessage = 4096

// cut leaves out the end of a message that is too long for a condition, which
// would have the whole status refused.
func cut(message string) string {
	const rest = " … and more"
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage-len(rest)], "") + rest
}

type builder struct {
	snapshot *Snapshot
	verdicts Verdicts
}

// pools accepts pools from the oldest to the youngest, so that of two that
// overlap it is the younger that is refused, whatever was edited last.
func (b *builder) pools(objects []*v1beta1.IPAddressPool, taken []Taken) {
	for _, object := range byAge(objects) {
		pool, errs := newPool(object)
		if len(errs) > 0 {
			b.verdicts.IPAddressPools[object.Name] = invalid(errs)
			continue
		}
		if err := b.overlap(pool); err != nil {
			b.verdicts.IPAddressPools[object.Name] = Verdict{Reason: v1beta1.ReasonOverlap, Message: err.Error()}
			continue
		}
		b.snapshot.Pools = append(b.snapshot.Pools, pool)
		b.verdicts.IPAddressPools[object.Name] = accepted("the pool is in force" + pool.avoid(taken))
	}
	slices.SortFunc(b.snapshot.Pools, func(x, y *Pool) int { return strings.Compare(x.Name, y.Name) })
}

// byAge returns objects from the oldest to the youngest, by name where they are
// of the same age.
func byAge[T metav1.Object](objects []T) []T {
	sorted := slices.Clone(objects)
	slices.SortFunc(sorted, func(x, y T) int {
		created, other := x.GetCreationTimestamp(), y.GetCreationTimestamp()
		return cmp.Or(created.Compare(other.Time), strings.Compare(x.GetName(), y.GetName()))
	})
	return sorted
}

func (b *builder) overlap(pool *Pool) error {
	for _, other := range b.snapshot.Pools {
		for i, r := range pool.Ranges {
			for _, taken := range other.Ranges {
				if r.Overlaps(taken) {
					return fmt.Errorf("spec.addresses[%d]: %s overlaps %s of the older pool %s; remove one of the two", i, r, taken, other.Name)
				}
			}
		}
	}
	return nil
}

func (b *builder) advertisements(objects []*v1beta1.L2Advertisement, pools []*v1beta1.IPAddressPool) {
	for _, object := range objects {
		adv, errs := newL2Advertisement(object, pools)
		if len(errs) > 0 {
			b.verdicts.L2Advertisements[object.Name] = invalid(errs)
			continue
		}
		b.snapshot.L2Advertisements = append(b.snapshot.L2Advertisements, adv)
		b.verdicts.L2Advertisements[object.Name] = b.judgePools(object.Spec.IPAddressPools, len(object.Spec.IPAddressPoolSelectors) > 0)
	}
	slices.SortFunc(b.snapshot.L2Advertisements, func(x, y *L2Advertisement) int { return strings.Compare(x.Name, y.Name) })
}

// judgePools finds pools that an advertisement names and that are not in force.
// The advertisement stays: Services keep addresses of pools that are gone.
func (b *builder) judgePools(names []v1beta1.ObjectName, selects bool) Verdict {
	var unknown []string
	for i, name := range names {
		if _, found := b.snapshot.Pool(string(name)); !found {
			unknown = append(unknown, fmt.Sprintf("spec.ipAddressPools[%d]: no pool %s is in force", i, name))
		}
	}
	switch {
	case len(unknown) == 0:
		return accepted("the advertisement is in force")
	case len(unknown) == len(names) && !selects:
		return Verdict{Reason: v1beta1.ReasonUnknownPool, Message: few(unknown) + "; create the pool or correct the name"}
	}
	return accepted("the advertisement is in force for the other pools; " + few(unknown))
}

func accepted(message string) Verdict {
	return Verdict{Accepted: true, Reason: v1beta1.ReasonAccepted, Message: message}
}

func invalid(errs field.ErrorList) Verdict {
	messages := make([]string, len(errs))
	for i, err := range errs {
		messages[i] = err.Error()
	}
	return Verdict{Reason: v1beta1.ReasonInvalid, Message: strings.Join(messages, "; ")}
}

func newPool(object *v1beta1.IPAddressPool) (*Pool, field.ErrorList) {
	spec, path := &object.Spec, field.NewPath("spec")
	pool := &Pool{
		Name:                  object.Name,
		Labels:                object.Labels,
		AutoAssign:            ptr.Deref(spec.AutoAssign, true),
		Disabled:              spec.Disabled,
		Reassign:              spec.OnShrink == v1beta1.ShrinkReassign,
		ShareAcrossNamespaces: spec.ShareAcrossNamespaces,
	}
	var errs field.ErrorList
	if len(spec.Addresses) == 0 {
		errs = append(errs, field.Required(path.Child("addresses"), "a pool needs addresses, such as 192.0.2.0/24"))
	}
	ranges, more := newRanges(spec.Addresses, path.Child("addresses"))
	pool.Ranges, errs = ranges, append(errs, more...)
	excluded, more := newRanges(spec.ExcludeAddresses, path.Child("excludeAddresses"))
	errs = append(errs, more...)
	pool.Assignable = ipam.Subtract(pool.Ranges, excluded)
	if spec.AvoidBuggyIPs {
		pool.Assignable = ipam.WithoutBuggy(pool.Assignable)
	}
	if spec.ReuseDelay != "" {
		delay, err := time.ParseDuration(string(spec.ReuseDelay))
		if err != nil || delay < 0 {
			errs = append(errs, field.Invalid(path.Child("reuseDelay"), spec.ReuseDelay, "must be a duration such as 10m"))
		}
		pool.ReuseDelay = delay
	}
	if q := spec.Quota; q != nil {
		pool.AddressQuota, pool.ServiceQuota = int(ptr.Deref(q.AddressesPerNamespace, 0)), int(ptr.Deref(q.ServicesPerNamespace, 0))
	}
	if a := spec.ServiceAllocation; a != nil {
		allocation, more := newServiceAllocation(a, path.Child("serviceAllocation"))
		pool.Allocation = allocation
		errs = append(errs, more...)
	}
	return pool, errs
}

// avoid takes what the cluster itself uses out of the pool and says so.
func (p *Pool) avoid(taken []Taken) string {
	var cut []ipam.Range
	var texts []string
	for _, t := range taken {
		if !slices.ContainsFunc(p.Ranges, t.Range.Overlaps) {
			continue
		}
		cut = append(cut, t.Range)
		texts = append(texts, fmt.Sprintf("%s of %s", t.Range, t.By))
	}
	if len(cut) == 0 {
		return ""
	}
	p.Assignable = ipam.Subtract(p.Assignable, cut)
	const few = 8
	if more := len(texts) - few; more > 0 {
		texts = append(texts[:few], fmt.Sprintf("%d more", more))
	}
	return ", without what the cluster uses itself: " + strings.Join(texts, ", ")
}

func newRanges(from []v1beta1.AddressRange, path *field.Path) ([]ipam.Range, field.ErrorList) {
	var ranges []ipam.Range
	var errs field.ErrorList
	for i, text := range from {
		r, err := ipam.ParseRange(string(text))
		if err != nil {
			errs = append(errs, field.Invalid(path.Index(i), text, err.Error()))
			continue
		}
		if what, special := specialUse(r); special {
			errs = append(errs, field.Invalid(path.Index(i), text, "includes "+what+" addresses, which no Service can have"))
			continue
		}
		ranges = append(ranges, r)
	}
	return ranges, errs
}

// specialUse says which addresses of a range no host on a network can have (RFC
// 6890).
func specialUse(r ipam.Range) (what string, special bool) {
	for _, s := range []struct{ prefix, what string }{
		{"0.0.0.0/8", "unspecified"}, {"127.0.0.0/8", "loopback"}, {"169.254.0.0/16", "link-local"},
		{"224.0.0.0/4", "multicast"}, {"255.255.255.255/32", "broadcast"},
		{"::/128", "unspecified"}, {"::1/128", "loopback"}, {"fe80::/10", "link-local"}, {"ff00::/8", "multicast"},
	} {
		if r.Overlaps(ipam.RangeOf(netip.MustParsePrefix(s.prefix))) {
			return s.what, true
		}
	}
	return "", false
}

func newServiceAllocation(a *v1beta1.ServiceAllocation, path *field.Path) (*ServiceAllocation, field.ErrorList) {
	namespaceSelectors, errs := newSelectors(a.NamespaceSelectors, path.Child("namespaceSelectors"))
	serviceSelectors, more := newSelectors(a.ServiceSelectors, path.Child("serviceSelectors"))
	return &ServiceAllocation{
		Priority:           a.Priority,
		Namespaces:         plain(a.Namespaces),
		NamespaceSelectors: namespaceSelectors,
		ServiceSelectors:   serviceSelectors,
	}, append(errs, more...)
}

func newL2Advertisement(object *v1beta1.L2Advertisement, pools []*v1beta1.IPAddressPool) (*L2Advertisement, field.ErrorList) {
	spec, path := &object.Spec, field.NewPath("spec")
	selection, errs := newPoolSelection(spec.IPAddressPools, spec.IPAddressPoolSelectors, path, pools)
	nodeSelectors, more := newSelectors(spec.NodeSelectors, path.Child("nodeSelectors"))
	errs = append(errs, more...)
	serviceSelectors, more := newSelectors(spec.ServiceSelectors, path.Child("serviceSelectors"))
	errs = append(errs, more...)
	adv := &L2Advertisement{
		Name:     object.Name,
		AllPools: selection.AllPools, Pools: selection.Pools, Selects: selection.Selects, Existing: selection.Existing,
		NodeSelectors:    nodeSelectors,
		ServiceSelectors: serviceSelectors,
		Interfaces:       plain(spec.Interfaces),
		OnConflict:       cmp.Or(spec.OnConflict, v1beta1.ConflictDefend), // one from before there was the field has none
		Rebalance:        object.Annotations[v1beta1.AnnotationRebalance],
	}
	if known := []v1beta1.ConflictPolicy{v1beta1.ConflictDefend, v1beta1.ConflictYield}; !slices.Contains(known, adv.OnConflict) {
		errs = append(errs, field.NotSupported(path.Child("onConflict"), adv.OnConflict, known))
	}
	for i, p := range spec.PreferredNodeSelectors {
		selector, err := newSelector(p.Preference)
		if err != nil {
			errs = append(errs, field.Invalid(path.Child("preferredNodeSelectors").Index(i).Child("preference"), p.Preference, err.Error()))
			continue
		}
		adv.PreferredNodes = append(adv.PreferredNodes, PreferredNodes{Weight: p.Weight, Selector: selector})
	}
	return adv, errs
}

func newPoolSelection(names []v1beta1.ObjectName, from []v1beta1.LabelSelector, path *field.Path, pools []*v1beta1.IPAddressPool) (PoolSelection, field.ErrorList) {
	selectors, errs := newSelectors(from, path.Child("ipAddressPoolSelectors"))
	s := PoolSelection{AllPools: len(names)+len(from) == 0, Pools: plain(names), Selects: len(selectors) > 0}
	for _, pool := range pools {
		s.Existing = append(s.Existing, pool.Name)
		if matchesOne(selectors, labels.Set(pool.Labels)) {
			s.Pools = append(s.Pools, pool.Name)
		}
	}
	slices.Sort(s.Existing)
	slices.Sort(s.Pools)
	s.Pools = slices.Compact(s.Pools)
	return s, errs
}

func newSelectors(from []v1beta1.LabelSelector, path *field.Path) ([]labels.Selector, field.ErrorList) {
	var selectors []labels.Selector
	var errs field.ErrorList
	for i, s := range from {
		selector, err := newSelector(s)
		if err != nil {
			errs = append(errs, field.Invalid(path.Index(i), s, err.Error()))
			continue
		}
		selectors = append(selectors, selector)
	}
	return selectors, errs
}

func newSelector(from v1beta1.LabelSelector) (labels.Selector, error) {
	s := &metav1.LabelSelector{}
	for key, value := range from.MatchLabels {
		s = metav1.AddLabelToSelector(s, key, string(value))
	}
	for _, r := range from.MatchExpressions {
		s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: r.Key, Operator: r.Operator, Values: plain(r.Values),
		})
	}
	return metav1.LabelSelectorAsSelector(s)
}

func plain[S ~string](from []S) []string {
	var out []string
	for _, s := range from {
		out = append(out, string(s))
	}
	return out
}
