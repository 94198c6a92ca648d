package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/ownership"
)

type claims = map[netip.Addr]membership.Claim

// join has a speaker on b, fit for all addresses, be a member that claims some.
func (s *stage) join(node string, c claims) {
	link := ethernet("eth0", "192.0.2.2/24", "2001:db8::2/64")
	link.MAC = membership.MAC{2, 0, 0, 0, 0xb, node[0]}
	s.group.view.Members = append(s.group.view.Members, membership.Member{
		Node: node, Known: true, Info: membership.Info{Links: []membership.Link{link}}, Claims: membership.NewClaims(c),
	})
}

// claimAs has another member claim something else.
func (s *stage) claimAs(node string, c claims) {
	s.group.set(func(v *membership.View) { v.Member(node).Claims = membership.NewClaims(c) })
	s.idle()
}

func (s *stage) wantClaims(want claims) {
	s.t.Helper()
	if got := s.group.claims(); !maps.Equal(got, want) {
		s.t.Errorf("claims %v, want %v", got, want)
	}
}

// wantAnnounced compares what was announced again since the last look.
func (s *stage) wantAnnounced(addresses ...string) {
	s.t.Helper()
	var got []string
	for _, a := range s.l2.announced {
		got = append(got, a.String())
	}
	if !slices.Equal(got, addresses) {
		s.t.Errorf("announced %q again, want %q", got, addresses)
	}
	s.l2.announced = nil
}

// The others must hear what a speaker has resumed before they hear that it is
// back: they would take it for free.
func TestFormerClaimsAreResumed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.join("b", claims{addr(v6): {Term: 4}})
		s.group.view.Former = membership.NewClaims(claims{addr(v4): {Term: 3}, addr(v6): {Term: 3}})
		s.start()
		s.want()
		if len(s.group.claimed) != 0 {
			t.Errorf("claims %v though the view is in doubt", s.group.claimed)
		}
		s.settle()
		if want := []string{"abstains", "claims", "takes"}; !slices.Equal(s.group.said, want) {
			t.Errorf("said %q, want %q", s.group.said, want)
		}
		s.wantClaims(claims{addr(v4): {Term: 3}})
		if in, ok := s.l2.desired[addr(v6)]; !ok || !in.Armed {
			t.Errorf("%s is b's, and is %+v", v6, in)
		}
		s.wantOwned(v4)
	})
}

// wantOwned compares what the speaker answers for as the owner.
func (s *stage) wantOwned(addresses ...string) {
	s.t.Helper()
	var got []string
	for a, announcement := range s.l2.desired {
		if announcement.StandIn == nil {
			got = append(got, a.String())
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, addresses) {
		s.t.Errorf("owns %q, want %q", got, addresses)
	}
}

// Others stand in for a speaker until it answers for what it has resumed, or cannot
// for long.
func TestAbstainsUntilItAnswers(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string]bool{"answers": true, "cannot": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				s.join("b", nil)
				s.group.view.Former = membership.NewClaims(claims{addr(v4): {Term: 3}})
				s.group.view.Settled = true
				s.l2.waits = true
				s.start()
				expect := func(want ...string) {
					t.Helper()
					if !slices.Equal(s.group.said, want) {
						t.Errorf("said %q, want %q", s.group.said, want)
					}
				}
				expect("abstains", "claims")
				s.pass(resumePatience - 200*time.Millisecond)
				expect("abstains", "claims")
				if answers {
					s.l2.finish()
					s.idle()
				} else {
					s.pass(checkInterval)
				}
				if said := s.group.said; len(said) < 3 || said[2] != "takes" {
					t.Errorf("said %q", said)
				}
				s.wantOwned(v4) // b was here for the other one
			})
		})
	}
}

// Until this node answers, its predecessor does, and must not be told to stop.
func TestClaimsWhatItAnswersFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.l2.waits = true
		s.start()
		s.wantOwned(v4, v6)
		s.wantClaims(claims{})
		s.l2.waits = false
		s.l2.finish()
		s.idle()
		s.wantClaims(claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
	})
}

// A node that may own its addresses no more answers for them until its successor
// does, and no longer.
func TestHandsOver(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(s *stage){
		"excluded": func(s *stage) {
			s.change(k8s.Key{Kind: k8s.KindNode, Name: "a"}, func(o *apiObjects) {
				o.nodes[0].Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
			})
		},
		"drained": func(s *stage) {
			s.change(k8s.Key{Kind: k8s.KindNode, Name: "a"}, func(o *apiObjects) {
				o.nodes[0].Annotations = map[string]string{v1beta1.AnnotationDrain: "maintenance"}
			})
		},
		"endpoints elsewhere": func(s *stage) {
			s.objects.services[0].Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			s.change(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "web"}, func(o *apiObjects) {})
			s.objects.slices[0].Endpoints[0] = endpointIn("b", "ready")
			s.objects.slices[1].Endpoints[0] = endpointIn("b", "ready")
			for _, name := range []string{"web-4", "web-6"} {
				s.change(k8s.Key{Kind: k8s.KindEndpointSlice, Namespace: "default", Name: name}, func(o *apiObjects) {})
			}
		},
		"kube-proxy unwell": func(s *stage) {
			s.proxy.unwell = true
			signal(s.proxy.changed)
			s.idle()
		},
		"offered": func(s *stage) {
			s.group.view.Member("a").Claims = nil
			s.speaker.claims[addr(v4)] = membership.Claim{Term: 3, To: "b"}
			s.speaker.claims[addr(v6)] = membership.Claim{Term: 3, To: "b"}
			s.speaker.offered[addr(v4)], s.speaker.offered[addr(v6)] = time.Now(), time.Now()
			s.group.set(func(*membership.View) {})
			s.idle()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				s.group.view.Settled = true
				s.group.view.Former = membership.NewClaims(claims{addr(v4): {Term: 3}, addr(v6): {Term: 3}})
				s.join("b", nil)
				s.start()
				s.wantOwned(v4, v6)
				change(s)
				s.wantOwned(v4, v6)
				if place := makePlan(s.speaker.planInput(s.group.View())).placements[addr(v4)]; place.owner != 1 {
					t.Fatalf("the successor is %d", place.owner)
				}
				s.claimAs("b", claims{addr(v4): {Term: 4}})
				s.wantOwned(v6)
				s.claimAs("b", claims{addr(v4): {Term: 4}, addr(v6): {Term: 4}})
				s.wantOwned()
				s.wantClaims(claims{})
			})
		})
	}
}

// What a minority claims is provisional, and stays so until the others have been
// heard.
func TestMinorityHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled, s.group.view.Known = true, 3
		s.start()
		s.wantClaims(claims{})
		s.pass(formingPatience) // for the others
		provisional := claims{addr(v4): {Term: 1, Provisional: true}, addr(v6): {Term: 1, Provisional: true}}
		s.wantClaims(provisional)
		s.pass(time.Minute)
		s.join("b", nil)
		s.group.set(func(*membership.View) {})
		s.idle()
		s.wantClaims(provisional)
		s.pass(minorityHold - 200*time.Millisecond)
		s.wantClaims(provisional)
		s.pass(200 * time.Millisecond)
		s.wantClaims(claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
	})
}

// The winner of a dispute announces when it begins, and again when the other has
// fallen silent.
func TestDisputesAreAnnounced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.group.view.Former = membership.NewClaims(claims{addr(v4): {Term: 3}, addr(v6): {Term: 3}})
		s.join("b", nil)
		s.start()
		s.wantAnnounced()
		s.claimAs("b", claims{addr(v4): {Term: 2}})
		s.wantAnnounced(v4)
		s.claimAs("b", claims{addr(v4): {Term: 2, To: "c"}})
		s.wantAnnounced()
		s.claimAs("b", nil)
		s.wantAnnounced(v4)
		s.claimAs("b", claims{addr(v4): {Term: 4}})
		s.wantAnnounced() // it is the other's
		s.wantClaims(claims{addr(v6): {Term: 3}})
	})
}

// While a speaker is away, its first stand-in answers with its MAC; it is told in
// the NodeState.
func TestStandsIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.join("b", claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
		s.start()
		standIn := l2.Announcement{Interfaces: []string{"eth0"}, StandIn: map[string]l2.MAC{"eth0": {2, 0, 0, 0, 0xb, 'b'}}, Armed: true}
		expect := func(want l2.Announcement) {
			t.Helper()
			if got := s.l2.desired[addr(v4)]; !sameAnnouncement(got, want) {
				t.Errorf("does %+v, want %+v", got, want)
			}
		}
		expect(standIn)
		s.others.set("b", ownership.Up, true) // its connection has ended
		s.idle()
		standIn.Armed = false
		expect(standIn)
		s.group.set(func(v *membership.View) {
			v.Gone = append(v.Gone, membership.Gone{Member: *v.Member("b")})
			v.Members = v.Members[:1]
		})
		s.others.set("b", ownership.Orphaned, true)
		s.idle()
		expect(standIn)
		if !slices.Equal(s.speaker.reportLayer2().standingInFor, []string{"b"}) {
			t.Errorf("reports to stand in for %q", s.speaker.reportLayer2().standingInFor)
		}
		s.wantClaims(claims{})
		s.others.set("b", ownership.Down, true)
		s.idle()
		s.wantOwned(v4, v6)
		s.wantClaims(claims{addr(v4): {Term: 2}, addr(v6): {Term: 2}})
		if n := s.speaker.reportLayer2().standingInFor; len(n) != 0 {
			t.Errorf("reports to stand in for %q", n)
		}
	})
}

// Who is asked to stop names who stands in; where nobody can, the others had
// better take over.
func TestReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.speaker.world.load()
		expect := func(want bool, standIn string) {
			t.Helper()
			if returns, by := s.speaker.returns(); returns != want || by != standIn {
				t.Errorf("returns: %v, and meanwhile there is %q", returns, by)
			}
		}
		expect(false, "")
		s.join("b", nil)
		expect(true, "b")
		s.speaker.standIns = false
		expect(false, "")
		s.speaker.standIns = true
		delete(s.speaker.world.nodes, s.speaker.self)
		expect(false, "")
	})
}

func TestStandInLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		standIn bool
		limit   time.Duration
		valid   bool
	}{
		{true, time.Second, true},
		{true, membership.RememberGone, true},
		{true, membership.RememberGone + 1, false},
		{true, 0, false},
		{true, -time.Second, false},
		{false, 0, true},
	} {
		o := layer2Options{standIn: c.standIn, standInLimit: c.limit}
		if err := o.check(); (err == nil) != c.valid {
			t.Errorf("stand-in %v, limit %s: %v", c.standIn, c.limit, err)
		}
	}
}

// crowdedStage has a own six addresses, and b none.
func crowdedStage(t *testing.T) *stage {
	s := newStage(t)
	former := claims{}
	s.objects.services, s.objects.slices = nil, nil
	for i := range 6 {
		a := fmt.Sprintf("192.0.2.%d", 10+i)
		former[addr(a)] = membership.Claim{Term: 1}
		s.objects.services = append(s.objects.services, loadBalancer(a, a))
		s.objects.slices = append(s.objects.slices, sliceOf(a, a, discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
	}
	s.rebalance("1")
	s.objects.nodes = append(s.objects.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
	s.objects.fill(t, s.cache)
	s.group.view.Settled = true
	s.group.view.Former = membership.NewClaims(former)
	s.join("b", nil)
	s.start()
	return s
}

func (s *stage) rebalance(value string) {
	s.objects.adverts[0].Annotations = map[string]string{v1beta1.AnnotationRebalance: value}
}

func (s *stage) startRebalance(value string) {
	s.change(k8s.Key{Kind: k8s.KindL2Advertisement, Name: "all"}, func(*apiObjects) { s.rebalance(value) })
}

// offers returns what the speaker offers.
func (s *stage) offers() []netip.Addr {
	var all []netip.Addr
	for a, c := range s.group.claims() {
		if c.To != "" {
			all = append(all, a)
		}
	}
	return all
}

// A new value of the annotation has addresses be offered one at a time, until they
// are spread evenly.
func TestRebalance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := crowdedStage(t)
		s.pass(time.Minute)
		if offers := s.offers(); len(offers) != 0 {
			t.Fatalf("offers %v though the annotation was there before", offers)
		}
		s.startRebalance("2")
		var taken []netip.Addr
		for range 3 {
			offers := s.offers()
			if len(offers) != 1 || s.group.claims()[offers[0]].To != "b" {
				t.Fatalf("offers %v", offers)
			}
			if got := s.l2.desired[offers[0]]; got.StandIn != nil {
				t.Fatalf("does %+v for what it offers", got)
			}
			taken = append(taken, offers[0])
			theirs := claims{}
			for _, a := range taken {
				theirs[a] = membership.Claim{Term: 2}
			}
			s.claimAs("b", theirs)
			s.pass(2 * offerInterval)
		}
		if offers := s.offers(); len(offers) != 0 || len(s.group.claims()) != 3 {
			t.Errorf("offers %v of %v, though half have moved", offers, s.group.claims())
		}
		s.pass(2 * rebalancePatience)
		s.join("c", nil) // has nothing
		s.group.set(func(*membership.View) {})
		s.idle()
		if offers := s.offers(); len(offers) != 0 {
			t.Errorf("offers %v after the end of the rebalance", offers)
		}
		s.startRebalance("")
		if offers := s.offers(); len(offers) != 0 {
			t.Errorf("offers %v because the annotation was removed", offers)
		}
	})
}

// An offer that is not taken ends, and so does a rebalance in which none is.
func TestOfferNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := crowdedStage(t)
		s.startRebalance("2")
		first := s.offers()
		if len(first) != 1 {
			t.Fatalf("offers %v", first)
		}
		s.pass(offerPatience - 100*time.Millisecond)
		if offers := s.offers(); !slices.Equal(offers, first) {
			t.Fatalf("offers %v, not %v", offers, first)
		}
		s.pass(300 * time.Millisecond)
		if c := s.group.claims()[first[0]]; c.To != "" {
			t.Errorf("still offers %v", first)
		}
		s.pass(2 * rebalancePatience)
		if offers := s.offers(); len(offers) != 0 {
			t.Errorf("offers %v for ever", offers)
		}
		s.wantOwned("192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.14", "192.0.2.15")
	})
}

// The same, of a single address that is better off elsewhere.
func TestOnlyOfferNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.group.view.Former = membership.NewClaims(claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
		s.join("b", nil)
		s.objects.services[0].Status.LoadBalancer.Ingress = s.objects.services[0].Status.LoadBalancer.Ingress[:1]
		s.objects.nodes[1].Labels = map[string]string{"fast": "yes"}
		s.objects.adverts[0].Spec.PreferredNodeSelectors = []v1beta1.PreferredNodeSelector{
			{Weight: 10, Preference: v1beta1.LabelSelector{MatchLabels: map[string]v1beta1.LabelValue{"fast": "yes"}}},
		}
		s.objects.fill(t, s.cache)
		s.start()
		s.startRebalance("1")
		if offers := s.offers(); len(offers) != 1 {
			t.Fatalf("offers %v", offers)
		}
		s.pass(offerPatience + offerInterval)
		if offers := s.offers(); len(offers) != 0 {
			t.Errorf("still offers %v", offers)
		}
		s.pass(2 * rebalancePatience)
		if offers := s.offers(); len(offers) != 0 {
			t.Errorf("offers %v for ever", offers)
		}
	})
}
