package metallb

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/config"
)

// judge asks of each object whether it would be in force, as the controller does.
// What it refuses as invalid is not written; what is merely not in force, because
// it names what is not there, may be so with MetalLB too.
func (c *conversion) judge() *config.Snapshot {
	snapshot, verdicts := config.Build(c.built())
	sound := c.Objects[:0]
	for _, o := range c.Objects {
		v := verdictOf(verdicts, o.Object)
		switch {
		case !v.Accepted && v.Reason == v1beta1.ReasonInvalid:
			c.Gaps = append(c.Gaps, o.From+": "+v.Message)
			continue
		case !v.Accepted:
			o.Remarks = append(o.Remarks, "not in force: "+v.Message)
		case v.Reason == v1beta1.ReasonPartlyAccepted && !selectsNodes(o.Object):
			o.Remarks = append(o.Remarks, v.Message)
		}
		sound = append(sound, o)
	}
	if len(sound) == len(c.Objects) {
		return snapshot
	}
	c.Objects = sound
	snapshot, _ = config.Build(c.built())
	return snapshot
}

// selectsNodes says that a verdict may be about the nodes, of which nothing is
// known here.
func selectsNodes(object metav1.Object) bool {
	peer, is := object.(*v1beta1.BGPPeer)
	return is && len(peer.Spec.NodeSelectors) > 0
}

// built are the objects as package config takes them.
func (c *conversion) built() config.Objects {
	var objects config.Objects
	for _, o := range c.Objects {
		switch object := o.Object.(type) {
		case *v1beta1.IPAddressPool:
			objects.IPAddressPools = append(objects.IPAddressPools, object)
		case *v1beta1.L2Advertisement:
			objects.L2Advertisements = append(objects.L2Advertisements, object)
		case *v1beta1.BGPAdvertisement:
			objects.BGPAdvertisements = append(objects.BGPAdvertisements, object)
		case *v1beta1.Community:
			objects.Communities = append(objects.Communities, object)
		case *v1beta1.BFDProfile:
			objects.BFDProfiles = append(objects.BFDProfiles, object)
		case *v1beta1.BGPPeer:
			objects.BGPPeers = append(objects.BGPPeers, object)
			if ref := object.Spec.PasswordSecret; ref != nil { // nobody reads Secrets here
				objects.Secrets = append(objects.Secrets, config.Secret{Name: string(ref.Name), Password: "unknown"})
			}
		}
	}
	return objects
}

func verdictOf(v config.Verdicts, object metav1.Object) config.Verdict {
	name := object.GetName()
	switch object.(type) {
	case *v1beta1.IPAddressPool:
		return v.IPAddressPools[name]
	case *v1beta1.L2Advertisement:
		return v.L2Advertisements[name]
	case *v1beta1.BGPAdvertisement:
		return v.BGPAdvertisements[name]
	case *v1beta1.Community:
		return v.Communities[name]
	case *v1beta1.BFDProfile:
		return v.BFDProfiles[name]
	default:
		return v.BGPPeers[name]
	}
}

// pool returns the converted pool of that name.
func (c *conversion) pool(name string) (*Object, *v1beta1.IPAddressPool) {
	i := slices.IndexFunc(c.Objects, func(o *Object) bool {
		_, is := o.Object.(*v1beta1.IPAddressPool)
		return is && o.Object.GetName() == name
	})
	pool, _ := c.Objects[i].Object.(*v1beta1.IPAddressPool)
	return c.Objects[i], pool
}
