package cli

import (
	"fmt"
	"slices"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
)

// nearestPool says of the pool that comes nearest to being for a Service which has
// none why it is not, and what to do about it.
func (x *explainer) nearestPool(self config.Service) (why, fix string) {
	for _, pool := range byName(x.c.Pools) {
		if v := x.verdicts.IPAddressPools[pool.Name]; !v.Accepted && mayServe(pool, self.Namespace) {
			return fmt.Sprintf("pool %s is not in force: %s", pool.Name, v.Message), fmt.Sprintf("Mend IPAddressPool %s as that says.", pool.Name)
		}
	}
	for _, pool := range x.snapshot.Pools {
		if pool.Excludes(self) == "" && !pool.AutoAssign {
			return fmt.Sprintf("autoAssign of pool %s is false, and the Service does not ask for it", pool.Name), fmt.Sprintf(
				"Ask for it: set the annotation %s: %s of the Service, or autoAssign: true of the pool.", v1beta1.AnnotationAddressPool, pool.Name)
		}
	}
	for _, pool := range x.snapshot.Pools {
		if pool.Excludes(self) != "" && withoutServiceSelectors(pool).Excludes(self) == "" {
			return fmt.Sprintf("no serviceSelectors of pool %s match the labels of the Service", pool.Name), fmt.Sprintf(
				"Label the Service as spec.serviceAllocation.serviceSelectors of pool %s want it, or change these.", pool.Name)
		}
	}
	if len(x.snapshot.Pools) > 0 {
		return "those in force are for other namespaces than " + self.Namespace,
			"Create an IPAddressPool for this Service, or make one of those above be for its namespace by spec.serviceAllocation."
	}
	return "", ""
}

// mayServe says whether a pool that is not in force might be for a namespace
// otherwise.
func mayServe(pool *v1beta1.IPAddressPool, namespace string) bool {
	a := pool.Spec.ServiceAllocation
	return a == nil || len(a.Namespaces) == 0 || len(a.NamespaceSelectors) > 0 || slices.Contains(a.Namespaces, v1beta1.ObjectName(namespace))
}

func withoutServiceSelectors(pool *config.Pool) *config.Pool {
	allocation := *pool.Allocation
	allocation.ServiceSelectors = nil
	return &config.Pool{Allocation: &allocation}
}

// nearestAdvertisement says of the advertisement that comes nearest to being for an
// address that none is for why it is not, and what to do about it.
func (x *explainer) nearestAdvertisement(a *announcing) (why, fix string) {
	for _, adv := range x.candidates(a) {
		switch {
		case !adv.verdict.Accepted && adv.pools:
			return fmt.Sprintf(": %s is not in force: %s", adv.name, adv.verdict.Message), fmt.Sprintf("Mend %s as that says.", adv.name)
		case adv.pools && !adv.services:
			return fmt.Sprintf(": spec.serviceSelectors of %s do not match the labels of the Service", adv.name),
				fmt.Sprintf("Label the Service as spec.serviceSelectors of %s want it, or change these.", adv.name)
		}
	}
	return "", ""
}

// candidate is an advertisement, and how far it is for an address.
type candidate struct {
	name    string
	verdict config.Verdict
	// pools and services say that it is for the pool of the address, and for the
	// Services.
	pools, services bool
}

// candidates are all advertisements that are not for the address, in the order of
// their names.
func (x *explainer) candidates(a *announcing) []candidate {
	pools := announcedOf(x.svc).Pools
	// One that is not in force counts by what it names.
	names := func(all []v1beta1.ObjectName, selectors []v1beta1.LabelSelector) bool {
		return len(all)+len(selectors) == 0 || slices.ContainsFunc(pools, func(p string) bool { return slices.Contains(all, v1beta1.ObjectName(p)) })
	}
	var all []candidate
	for _, object := range byName(x.c.L2Advertisements) {
		c := candidate{name: "L2Advertisement " + object.Name, verdict: x.verdicts.L2Advertisements[object.Name]}
		c.pools = names(object.Spec.IPAddressPools, object.Spec.IPAddressPoolSelectors)
		if i := slices.IndexFunc(x.snapshot.L2Advertisements, func(l *config.L2Advertisement) bool { return l.Name == object.Name }); i >= 0 {
			adv := x.snapshot.L2Advertisements[i]
			c.pools, c.services = slices.ContainsFunc(pools, adv.SelectsPool), a.matchedBy(adv.ServiceSelectors)
		}
		all = append(all, c)
	}
	for _, object := range byName(x.c.BGPAdvertisements) {
		c := candidate{name: "BGPAdvertisement " + object.Name, verdict: x.verdicts.BGPAdvertisements[object.Name]}
		c.pools = names(object.Spec.IPAddressPools, object.Spec.IPAddressPoolSelectors)
		if i := slices.IndexFunc(x.snapshot.BGPAdvertisements, func(b *config.BGPAdvertisement) bool { return b.Name == object.Name }); i >= 0 {
			adv := x.snapshot.BGPAdvertisements[i]
			c.pools, c.services = slices.ContainsFunc(pools, adv.SelectsPool), a.matchedBy(adv.ServiceSelectors)
		}
		all = append(all, c)
	}
	return all
}
