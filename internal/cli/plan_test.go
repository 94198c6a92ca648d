package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/allocation"
)

// edited returns a copy of an object of the cluster with a change.
func edited[T allocation.Object](t *testing.T, c *Cluster, like T, name string, edit func(T)) T {
	t.Helper()
	like.SetName(name)
	live := c.Live(like)
	if live == nil {
		t.Fatalf("there is no %s", ObjectID(like))
	}
	o := live.DeepCopyObject().(T)
	edit(o)
	return o
}

func toDelete(o allocation.Object, name string) Change {
	o.SetName(name)
	return Change{Delete: []allocation.Object{o}}
}

func put(objects ...allocation.Object) Change { return Change{Put: objects} }

// planCases are changes of a healthy cluster.
func planCases(t *testing.T) map[string]func(c *Cluster) Change {
	return map[string]func(c *Cluster) Change{
		"nothing": func(c *Cluster) Change {
			return put(edited(t, c, &v1beta1.IPAddressPool{}, "gold", func(*v1beta1.IPAddressPool) {}))
		},
		"pool-shrinks": func(c *Cluster) Change {
			return put(edited(t, c, &v1beta1.IPAddressPool{}, "gold", func(p *v1beta1.IPAddressPool) {
				p.Spec.Addresses, p.Spec.OnShrink = []v1beta1.AddressRange{"192.0.2.8/29"}, v1beta1.ShrinkReassign
			}))
		},
		"pool-deleted": func(*Cluster) Change { return toDelete(&v1beta1.IPAddressPool{}, "gold") },
		"pool-overlaps": func(*Cluster) Change {
			return put(newPool("more", "198.51.100.128/25", "203.0.113.0/24"))
		},
		"pool-renamed": func(*Cluster) Change {
			change := put(newPool("generic", "198.51.100.0/24"))
			change.Delete = toDelete(&v1beta1.IPAddressPool{}, "general").Delete
			return change
		},
		"advertisement-for-one-node": func(c *Cluster) Change {
			return put(edited(t, c, &v1beta1.L2Advertisement{}, "ethernet", func(a *v1beta1.L2Advertisement) {
				a.Spec.NodeSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{corev1.LabelHostname: "node-2"}}}
				a.Spec.Interfaces = []v1beta1.InterfaceName{"eth1"}
			}))
		},
		"advertisement-deleted": func(*Cluster) Change { return toDelete(&v1beta1.L2Advertisement{}, "ethernet") },
		"attributes": func(c *Cluster) Change {
			return put(edited(t, c, &v1beta1.BGPAdvertisement{}, "fabric", func(a *v1beta1.BGPAdvertisement) {
				a.Spec.MED, a.Spec.Communities = ptr.To(int64(20)), nil
			}))
		},
		"peer-reset": func(c *Cluster) Change {
			return put(edited(t, c, &v1beta1.BGPPeer{}, "tor", func(p *v1beta1.BGPPeer) {
				p.Spec.HoldTime, p.Spec.BFDProfile = "9s", ""
				p.Spec.PasswordSecret = &v1beta1.SecretReference{Name: "tor"}
			}))
		},
		"peer-added": func(*Cluster) Change {
			return put(&v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "spine"}, Spec: v1beta1.BGPPeerSpec{MyASN: 64500, PeerASN: 64502, PeerAddress: "10.0.0.2", BFDProfile: "slow"}})
		},
		"peer-deleted":    func(*Cluster) Change { return toDelete(&v1beta1.BGPPeer{}, "tor") },
		"profile-deleted": func(*Cluster) Change { return toDelete(&v1beta1.BFDProfile{}, "fast") },
		"profile-changed": func(c *Cluster) Change {
			return put(edited(t, c, &v1beta1.BFDProfile{}, "fast", func(p *v1beta1.BFDProfile) { p.Spec.ReceiveInterval = ptr.To(int32(50)) }))
		},
		"service": func(*Cluster) Change {
			svc := newService("lab", "new")
			svc.Spec.Selector = map[string]string{"app": "new"}
			return put(svc)
		},
	}
}

func TestPlan(t *testing.T) {
	for name, change := range planCases(t) {
		t.Run(name, func(t *testing.T) {
			for _, format := range Formats() {
				c := healthy()
				plan, err := PlanFor(c, change(c), format == string(FormatWide))
				if err != nil {
					t.Fatal(err)
				}
				golden(t, "plan/"+name+"."+format, render(t, plan, Format(format)))
			}
		})
	}
}

// TestPlanOfNothing: what is there already changes nothing, whatever is wrong.
func TestPlanOfNothing(t *testing.T) {
	for name, c := range map[string]*Cluster{"healthy": healthy(), "troubled": troubled(), "empty": {Now: now}} {
		all := c.configuration()
		plan, err := PlanFor(c, Change{Put: all}, false)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Changes || len(plan.Losses)+len(plan.Objects)+len(plan.Services)+len(plan.Sessions)+len(plan.Routes) > 0 {
			t.Errorf("%s: %s", name, render(t, plan, FormatTable))
		}
	}
}

func TestPlanOfWhatIsNotThere(t *testing.T) {
	if _, err := PlanFor(healthy(), toDelete(&v1beta1.IPAddressPool{}, "nope"), false); err == nil || !strings.Contains(err.Error(), "IPAddressPool nope") {
		t.Errorf("got %v", err)
	}
}

func TestOthers(t *testing.T) {
	c := healthy()
	kept := &v1beta1.IPReservation{ObjectMeta: named("retained.shop.web")}
	kept.Labels = map[string]string{v1beta1.LabelRetained: "true"}
	c.Reservations = append(c.Reservations, kept)
	change := put(c.Pools[0])
	change.Delete = []allocation.Object{c.BGPPeers[0]}
	var names []string
	for _, o := range c.Others(change) {
		names = append(names, ObjectID(o))
	}
	if want := []string{"IPAddressPool general", "L2Advertisement ethernet", "BGPAdvertisement fabric", "BFDProfile fast"}; !slices.Equal(names, want) {
		t.Errorf("got %v", names)
	}
}

// BenchmarkPlan plans for 5,000 Services on 100 nodes, of which all get other
// addresses.
func BenchmarkPlan(b *testing.B) {
	c := healthy()
	for i := range 97 {
		name := fmt.Sprintf("extra-%d", i)
		c.Nodes = append(c.Nodes, newNode(name, fmt.Sprintf("10.0.1.%d", i)))
		c.Pods = append(c.Pods, berthPod("speaker", "speaker-"+name, name))
	}
	c.Services, c.EndpointSlices = nil, nil
	c.Pools = []*v1beta1.IPAddressPool{newPool("general", "10.1.0.0/16")}
	for i := range 5000 {
		svc := newService("shop", fmt.Sprintf("s%04d", i))
		give(svc, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String(), "general", "")
		c.Services = append(c.Services, svc)
		c.EndpointSlices = append(c.EndpointSlices, newEndpoints("shop", svc.Name, "node-1", "extra-7"))
	}
	pool := newPool("general", "10.2.0.0/16")
	pool.Spec.OnShrink = v1beta1.ShrinkReassign
	for b.Loop() {
		plan, err := PlanFor(c, put(pool), false)
		if err != nil || len(plan.Services) != 5000 {
			b.Fatalf("%d Services, %v", len(plan.Services), err)
		}
	}
}
