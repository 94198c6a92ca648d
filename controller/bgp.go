package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/k8s"
)

// bgpKinds are what the controller judges of BGP, and what that depends on.
func bgpKinds() []k8s.Kind {
	return []k8s.Kind{k8s.KindBGPPeer, k8s.KindBGPAdvertisement, k8s.KindCommunity, k8s.KindBFDProfile, k8s.KindSecret}
}

// addBGP adds what the configuration of BGP is made of. The controller speaks to
// no peer: it only says what is wrong with the objects.
func (c *controller) addBGP(objects *config.Objects) {
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
func (c *controller) reportBGP() error {
	for _, o := range c.cache.BGPPeers.List() {
		status := v1beta1.BGPPeerStatus{Conditions: c.accepting(&o.ObjectMeta, o.Status.Conditions, c.verdicts.BGPPeers)}
		if err := c.report(k8s.KindBGPPeer, o.Name, o.Status, status); err != nil {
			return err
		}
	}
	for _, o := range c.cache.BGPAdvertisements.List() {
		status := v1beta1.BGPAdvertisementStatus{Conditions: c.accepting(&o.ObjectMeta, o.Status.Conditions, c.verdicts.BGPAdvertisements)}
		if err := c.report(k8s.KindBGPAdvertisement, o.Name, o.Status, status); err != nil {
			return err
		}
	}
	for _, o := range c.cache.Communities.List() {
		status := v1beta1.CommunityStatus{Conditions: c.accepting(&o.ObjectMeta, o.Status.Conditions, c.verdicts.Communities)}
		if err := c.report(k8s.KindCommunity, o.Name, o.Status, status); err != nil {
			return err
		}
	}
	for _, o := range c.cache.BFDProfiles.List() {
		status := v1beta1.BFDProfileStatus{Conditions: c.accepting(&o.ObjectMeta, o.Status.Conditions, c.verdicts.BFDProfiles)}
		if err := c.report(k8s.KindBFDProfile, o.Name, o.Status, status); err != nil {
			return err
		}
	}
	return nil
}

func (c *controller) accepting(object *metav1.ObjectMeta, before []metav1.Condition, verdicts map[string]config.Verdict) []metav1.Condition {
	return c.acceptance(before, object.Generation, verdicts[object.Name])
}
