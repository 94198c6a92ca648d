package allocation

import (
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/k8s"
)

// Kinds are the kinds of objects that a Controller reads, beside ServiceCIDRs, which
// older clusters do not have.
func Kinds() []k8s.Kind {
	return []k8s.Kind{
		k8s.KindService, k8s.KindNamespace, k8s.KindNode,
		k8s.KindIPAddressPool, k8s.KindIPReservation, k8s.KindL2Advertisement, k8s.KindNodeState,
		k8s.KindBGPPeer, k8s.KindBGPAdvertisement, k8s.KindCommunity, k8s.KindBFDProfile, k8s.KindSecret,
	}
}

// addBGP adds what the configuration of BGP is made of. The controller speaks to
// no peer: it only says what is wrong with the objects.
func (c *Controller) addBGP(objects *config.Objects) {
	objects.BGPPeers = c.cache.BGPPeers.List()
	objects.BGPAdvertisements = c.cache.BGPAdvertisements.List()
	objects.Communities = c.cache.Communities.List()
	objects.BFDProfiles = c.cache.BFDProfiles.List()
	for _, object := range c.cache.Secrets.List() {
		objects.Secrets = append(objects.Secrets, config.NewSecret(object))
	}
	for _, object := range c.cache.Nodes.List() {
		objects.Nodes = append(objects.Nodes, config.NewNode(object))
	}
	objects.Before = c.snapshot
}

// reportBGP writes the status of every object of BGP whose status says something
// else than it should.
func (c *Controller) reportBGP() error {
	var errs []error
	report := func(j *judged, verdicts map[string]config.Verdict) { errs = append(errs, c.reportVerdict(j, verdicts)) }
	used := &c.census.uses
	for _, o := range c.cache.BGPPeers.List() {
		want, s := o.Status, used.sessions[o.Name]
		want.Up, want.Established, want.Sessions = s.String(), s.established, s.all
		report(&judged{k8s.KindBGPPeer, &o.ObjectMeta, &o.Status, &want, &want.Conditions}, c.verdicts.BGPPeers)
	}
	for _, o := range c.cache.BGPAdvertisements.List() {
		want, use := o.Status, used.bgp[o.Name]
		want.Services, want.Addresses = use.services, use.addresses
		report(&judged{k8s.KindBGPAdvertisement, &o.ObjectMeta, &o.Status, &want, &want.Conditions}, c.verdicts.BGPAdvertisements)
	}
	for _, o := range c.cache.Communities.List() {
		want := o.Status
		want.Advertisements = used.communities[o.Name]
		report(&judged{k8s.KindCommunity, &o.ObjectMeta, &o.Status, &want, &want.Conditions}, c.verdicts.Communities)
	}
	for _, o := range c.cache.BFDProfiles.List() {
		want := o.Status
		want.Peers = used.profiles[o.Name]
		report(&judged{k8s.KindBFDProfile, &o.ObjectMeta, &o.Status, &want, &want.Conditions}, c.verdicts.BFDProfiles)
	}
	return errors.Join(errs...)
}

// judged is an object whose status says, beside counts, what Berth thinks of it.
type judged struct {
	kind   k8s.Kind
	object *metav1.ObjectMeta
	// has is its status, want what that should be but for its conditions, which
	// conditions is part of.
	has, want  any
	conditions *[]metav1.Condition
}

// reportVerdict writes the status of an object with the verdict about it.
func (c *Controller) reportVerdict(j *judged, verdicts map[string]config.Verdict) error {
	verdict, found := verdicts[j.object.Name]
	if !found {
		return nil // it came just now: its event is on its way
	}
	*j.conditions = c.acceptance(*j.conditions, j.object.Generation, verdict)
	return c.report(j.kind, j.object.Name, j.has, j.want)
}
