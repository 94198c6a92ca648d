package allocation

import (
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
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
	for _, o := range c.cache.BGPPeers.List() {
		errs = append(errs, c.reportVerdict(k8s.KindBGPPeer, &o.ObjectMeta, c.verdicts.BGPPeers, o.Status.Conditions,
			func(conditions []metav1.Condition) any { return v1beta1.BGPPeerStatus{Conditions: conditions} }))
	}
	for _, o := range c.cache.BGPAdvertisements.List() {
		errs = append(errs, c.reportVerdict(k8s.KindBGPAdvertisement, &o.ObjectMeta, c.verdicts.BGPAdvertisements, o.Status.Conditions,
			func(conditions []metav1.Condition) any { return v1beta1.BGPAdvertisementStatus{Conditions: conditions} }))
	}
	for _, o := range c.cache.Communities.List() {
		errs = append(errs, c.reportVerdict(k8s.KindCommunity, &o.ObjectMeta, c.verdicts.Communities, o.Status.Conditions,
			func(conditions []metav1.Condition) any { return v1beta1.CommunityStatus{Conditions: conditions} }))
	}
	for _, o := range c.cache.BFDProfiles.List() {
		errs = append(errs, c.reportVerdict(k8s.KindBFDProfile, &o.ObjectMeta, c.verdicts.BFDProfiles, o.Status.Conditions,
			func(conditions []metav1.Condition) any { return v1beta1.BFDProfileStatus{Conditions: conditions} }))
	}
	return errors.Join(errs...)
}

// reportVerdict writes the verdict about an object whose status, which statusOf
// makes, is its conditions.
func (c *Controller) reportVerdict(kind k8s.Kind, object *metav1.ObjectMeta, verdicts map[string]config.Verdict, before []metav1.Condition, statusOf func([]metav1.Condition) any) error {
	verdict, judged := verdicts[object.Name]
	if !judged {
		return nil // it came just now: its event is on its way
	}
	return c.report(kind, object.Name, statusOf(before), statusOf(c.acceptance(before, object.Generation, verdict)))
}
