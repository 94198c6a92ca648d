package main

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

// Speakers with another key may hold any address, so this one is of no use.
func TestRefusedSpeakerIsNotReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.group.set(func(v *membership.View) { v.Settled, v.Refused = false, []string{"b", "c"} })
		s.idle()
		s.want(v4, v6)
		if err := s.health.Ready(); err == nil || !strings.Contains(err.Error(), "on b, c have another membership key") {
			t.Errorf("ready: %v", err)
		}
		s.group.set(func(v *membership.View) { v.Settled, v.Refused = true, nil })
		s.idle()
		if err := s.health.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// A condition must not say that an address is announced when it is not.
func TestFailingInterfaceIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		says := func() string {
			s.writer.mu.Lock()
			defer s.writer.mu.Unlock()
			for _, patch := range s.writer.pending {
				return string(patch)
			}
			return ""
		}
		if !strings.Contains(says(), `"reason":"Announced"`) {
			t.Fatalf("reports %s", says())
		}
		failing := l2.InterfaceState{Name: "eth0", Protocol: l2.ARP, Err: errors.New("no raw sockets for you"), Since: time.Now()}
		s.l2.fare(failing)
		s.idle()
		if !strings.Contains(says(), `"reason":"Announced"`) {
			t.Errorf("reports what may pass in a moment: %s", says())
		}
		s.pass(2 * time.Second)
		s.idle()
		if got := says(); !strings.Contains(got, `"reason":"PartlyAnnounced"`) ||
			!strings.Contains(got, v4+" is not announced: its owner a cannot answer: no raw sockets for you; "+v6+" by NDP from a (eth0)") {
			t.Errorf("reports %s", got)
		}
		s.l2.fare()
		s.idle()
		if !strings.Contains(says(), `"reason":"Announced"`) {
			t.Errorf("all is well again, and it reports %s", says())
		}
	})
}

func TestLateAnnouncementsAreUnhealthy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.start()
		s.pass(time.Minute)
		if err := s.health.Healthy(); err != nil {
			t.Fatalf("idle, and not healthy: %v", err)
		}
		s.l2.lag.Store(int64(time.Minute))
		s.pass(10 * time.Second)
		if s.health.Healthy() == nil {
			t.Error("healthy though announcements are a minute late")
		}
		s.l2.lag.Store(0)
		s.pass(2 * time.Second)
		if err := s.health.Healthy(); err != nil {
			t.Errorf("announcements keep up again: %v", err)
		}
	})
}
