package main

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/membership"
)

func TestNothingIsTakenBeforeTheViewSettles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.start()
		s.want()
		if s.health.Ready() == nil {
			t.Error("ready before the view has settled")
		}
		if last := s.group.told[len(s.group.told)-1]; !last.Abstains || len(last.Links) != 1 {
			t.Errorf("told the others %+v; wants to be counted out, with its link", last)
		}
		s.settle()
		s.want(v4, v6)
		if last := s.group.told[len(s.group.told)-1]; last.Abstains {
			t.Error("still wants to be counted out")
		}
		if err := s.health.Ready(); err != nil {
			t.Error(err)
		}
		if len(s.writer.pending) != 1 {
			t.Errorf("%d reports, want one", len(s.writer.pending))
		}
	})
}

func TestBurstMakesOnePlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		before := s.l2.applies
		for i := range 100 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}).String()
			svc := loadBalancer(a, a)
			s.objects.services = append(s.objects.services, svc)
			s.objects.slices = append(s.objects.slices, sliceOf(a, a, discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
		}
		s.objects.fill(t, s.cache)
		for _, svc := range s.objects.services[1:] {
			s.cache.Add(k8s.Key{Kind: k8s.KindEndpointSlice, Namespace: "default", Name: svc.Name})
			s.cache.Add(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: svc.Name})
		}
		s.idle()
		if len(s.l2.desired) != 102 {
			t.Errorf("answers for %d addresses, want 102", len(s.l2.desired))
		}
		if n := s.l2.applies - before; n != 1 {
			t.Errorf("applied %d times", n)
		}
		s.cache.Add(k8s.Key{Kind: k8s.KindNode, Name: "b"})
		s.idle()
		if n := s.l2.applies - before; n != 1 {
			t.Errorf("applied %d times after an event that changes nothing", n)
		}
	})
}

// A member that was out of sight may have answered for our addresses.
func TestAnnouncesAgainWhenAMemberIsGained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		if len(s.l2.announced) != 0 {
			t.Errorf("announced %v again though nobody was gained", s.l2.announced)
		}
		s.group.set(func(v *membership.View) {
			v.Members = append(v.Members, membership.Member{Node: "b", Known: true}) // has no link
		})
		s.idle()
		s.want(v4, v6)
		if want := []netip.Addr{addr(v4), addr(v6)}; !slices.Equal(s.l2.announced, want) {
			t.Errorf("announced %v again, want %v", s.l2.announced, want)
		}
		s.group.set(func(v *membership.View) { v.Members = v.Members[:1] })
		s.idle()
		if len(s.l2.announced) != 2 {
			t.Errorf("announced %v again because a member was lost", s.l2.announced)
		}
	})
}

func TestPodsMoveThePeers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.start()
		s.change(k8s.Key{Kind: k8s.KindPod, Namespace: "berth-system", Name: "speaker-b"}, func(o *apiObjects) {
			o.pods = []*corev1.Pod{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: "speaker-b"},
				Spec:       corev1.PodSpec{NodeName: "b"}, Status: corev1.PodStatus{PodIP: "192.0.2.2", Phase: corev1.PodRunning},
			}}
		})
		want := []membership.Peer{{Node: "b", Addr: netip.MustParseAddrPort("192.0.2.2:7956")}}
		if !slices.Equal(s.group.peers, want) || s.speaker.speakers != 2 {
			t.Errorf("peers are %v of %d speakers, want %v", s.group.peers, s.speaker.speakers, want)
		}
	})
}

func TestServiceGoneIsSilenced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.change(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "web"}, func(o *apiObjects) { o.services = nil })
		s.want()
		if len(s.writer.pending) != 0 {
			t.Error("a report for a Service that is gone was left to be sent")
		}
	})
}

// What is announced stays announced while the speaker hands over.
func TestStopsPlanningNotAnswering(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		applies := s.l2.applies
		s.stop()
		if s.l2.applies != applies {
			t.Error("applied something on the way out")
		}
		s.want(v4, v6)
	})
}
