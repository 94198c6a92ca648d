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

// TestDefaultGateways: only nodes know their default gateways, and sessions with them
// tell.
func TestDefaultGateways(t *testing.T) {
	c := healthy()
	c.BGPPeers[0].Spec.PeerAddress, c.BGPPeers[0].Spec.PeerAddressFrom = "", &v1beta1.PeerAddressSource{DefaultGateway: v1beta1.FamilyIPv4}
	change := put(edited(t, c, &v1beta1.BGPPeer{}, "tor", func(p *v1beta1.BGPPeer) { p.Spec.HoldTime = "9s" }))
	if r := ReportRoutes(c); len(r.Routes) != 0 { // the sessions are those from when it had an address
		t.Errorf("got %+v", r)
	}
	plan, err := PlanFor(c, change, false)
	if err != nil || len(plan.Sessions) != 0 || len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], "default gateways") {
		t.Errorf("got %+v, %v", plan, err)
	}
	for _, state := range c.NodeStates[:2] {
		state.Status.BGPSessions[0].Name = "tor@10.0.0.1"
	}
	if r := ReportRoutes(c); len(r.Routes) != 1 || !slices.Equal(r.Routes[0].Nodes, []string{"node-1", "node-2"}) {
		t.Errorf("got %+v", r)
	}
	plan, err = PlanFor(c, change, false)
	if err != nil || len(plan.Notes) != 0 || len(plan.Sessions) != 1 || plan.Sessions[0].Change != SessionReset || !slices.Equal(plan.Sessions[0].Nodes, []string{"node-1", "node-2"}) {
		t.Errorf("got %+v, %v", plan, err)
	}
}

// TestOrderMatters: a note names Services that get something else when all objects come
// at once.
func TestOrderMatters(t *testing.T) {
	c := healthy()
	pending := newService("lab", "pending")
	take(pending, "PoolExhausted", "no address is free")
	c.Services = append(c.Services, pending)
	c.Pools = c.Pools[:1] // for shop only
	other := newPool("other", "203.0.113.0/24")
	preferred := newPool("preferred", "198.51.100.0/24")
	preferred.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{Priority: 1, Namespaces: []v1beta1.ObjectName{"lab"}}
	for _, test := range []struct {
		objects []allocation.Object
		gets    string
		notes   int
	}{
		{[]allocation.Object{other, preferred}, "203.0.113.0", 1},
		{[]allocation.Object{preferred, other}, "198.51.100.1", 0},
	} {
		plan, err := PlanFor(c, put(test.objects...), false)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(plan.Services, func(s PlannedService) bool { return s.Name == "pending" })
		if i < 0 || plan.Services[i].After.Addresses[0] != test.gets || len(plan.Notes) != test.notes {
			t.Errorf("got %s", render(t, plan, FormatWide))
		}
	}
}

// TestUselessSecret: a Secret of which the controller says that it is of no use is not
// taken to be there.
func TestUselessSecret(t *testing.T) {
	c := healthy()
	peer := c.BGPPeers[0]
	peer.Spec.PasswordSecret = &v1beta1.SecretReference{Name: "none"}
	set(&peer.Status.Conditions, v1beta1.ConditionAccepted, false, v1beta1.ReasonSecretNotUsable, "spec.passwordSecret: there is no Secret none")
	plan, err := PlanFor(c, put(edited(t, c, &v1beta1.BGPPeer{}, "tor", func(p *v1beta1.BGPPeer) { p.Spec.PasswordSecret.Name = "other" })), false)
	if err != nil || len(plan.Objects) != 1 || plan.Objects[0].Before.InForce || !plan.Objects[0].After.InForce || len(plan.Sessions) != 1 || plan.Sessions[0].Change != SessionAdded {
		t.Errorf("got %s, %v", render(t, plan, FormatWide), err)
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
