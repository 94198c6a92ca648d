package main

import (
	"testing"
	"testing/synctest"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/netif"
)

func TestCarrierLostAndBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.want(v4, v6)
		down := s.links.links[0]
		up := down
		down.Carrier = false
		s.links.set(down)
		s.idle()
		s.want()
		if s.group.rejoins != 0 {
			t.Error("rejoined because the link was lost")
		}
		told := len(s.group.told)
		s.links.set(up)
		s.idle()
		s.want() // others may have them
		if s.group.rejoins != 1 {
			t.Errorf("rejoined %d times", s.group.rejoins)
		}
		if since := s.group.told[told:]; len(since) != 1 || !since[0].Abstains || len(since[0].Links) != 1 {
			t.Errorf("told the others %+v; the link must come with the wish to be counted out", since)
		}
		s.settle()
		s.want(v4, v6)
	})
}

func TestKeepsAnsweringInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.writer.pending = map[k8s.Key][]byte{}
		second := kernelLink(2, "eth1", "192.0.2.2/24")
		s.links.set(s.links.links[0], second) // puts the view in doubt
		s.idle()
		s.want(v4, v6)
		if s.group.view.Settled || s.group.view.Member("a").Info.Abstains {
			t.Error("who holds addresses must not ask to be counted out")
		}
		if len(s.writer.pending) != 0 {
			t.Error("reports though the view is in doubt")
		}
	})
}

// While one link is away, others have the addresses there. They must not give
// them up when it is back before this node takes them, though it still holds
// addresses on another link.
func TestRegainedLinkIsToldWhenTheViewHasSettled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const elsewhere = "198.51.100.10"
		s := newStage(t)
		s.objects.services = append(s.objects.services, loadBalancer("two", elsewhere))
		s.objects.slices = append(s.objects.slices, sliceOf("two-4", "two", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
		s.objects.fill(t, s.cache)
		eth0, eth1 := s.links.links[0], kernelLink(2, "eth1", "198.51.100.1/24")
		down := eth1
		down.Carrier = false
		s.links.links = []netif.Link{eth0, down}
		s.group.view.Settled = true
		s.start()
		s.want(v4, v6)
		s.links.set(eth0, eth1)
		s.idle()
		if s.group.rejoins != 1 || s.group.view.Settled {
			t.Fatalf("rejoined %d times", s.group.rejoins)
		}
		if told := s.group.view.Member("a").Info; len(told.Links) != 1 || told.Abstains {
			t.Errorf("told the others %+v though it takes nothing yet", told)
		}
		// What is lost meanwhile is told at once.
		narrower := eth0
		narrower.Prefixes = narrower.Prefixes[:1]
		s.links.set(narrower, eth1)
		s.idle()
		if told := s.group.view.Member("a").Info; len(told.Links) != 1 || len(told.Links[0].Prefixes) != 1 {
			t.Errorf("told the others %+v, want one link with one subnet", told)
		}
		s.want(v4)
		s.settle()
		s.want(v4, elsewhere)
		if told := s.group.view.Member("a").Info; len(told.Links) != 2 {
			t.Errorf("told the others %+v, want both links", told)
		}
	})
}

// The bridge of a node's Pods gets carrier with the first Pod.
func TestOtherLinksPutNothingInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.links.set(s.links.links[0], kernelLink(2, "cni0", "10.244.0.1/24"))
		s.idle()
		if s.group.rejoins != 0 || !s.group.view.Settled {
			t.Error("a link that no address can be announced on put the view in doubt")
		}
		if told := s.group.view.Member("a").Info; len(told.Links) != 2 {
			t.Errorf("told the others %+v, want both links", told)
		}
	})
}
