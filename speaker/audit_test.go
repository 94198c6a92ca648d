package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/membership"
	"github.com/berth-lb/berth/internal/neighbor"
)

// silentAsker gets no answer for the addresses that it has an error for.
type silentAsker map[netip.Addr]error

func (a silentAsker) Ask(_ context.Context, t neighbor.Target, _ int, _ time.Duration) (ether.MAC, error) {
	return ether.MAC{}, a[t.Addr]
}

func TestAudits(t *testing.T) {
	t.Parallel()
	unheard, failures := fmt.Errorf("asking: %w", neighbor.ErrNoAnswer), 0
	asker := silentAsker{}
	a := newAudits(asker, log.NewNopLogger(), func() { failures++ })
	of := func(nodes ...string) map[string][]neighbor.Target {
		targets := map[string][]neighbor.Target{}
		for _, n := range nodes {
			targets[n] = []neighbor.Target{{Interface: "eth0", Addr: addr(map[string]string{"b": v4, "c": v6}[n])}}
		}
		return targets
	}
	ask := func(times int, node string) {
		for range times {
			target := of(node)[node][0]
			_, err := asker.Ask(t.Context(), target, 1, 0)
			a.note(node, err)
		}
	}
	expect := func(why string, news bool, mute ...string) {
		t.Helper()
		isNews := false
		select {
		case <-a.changed:
			isNews = true
		default:
		}
		if got := a.found(); !slices.Equal(got, mute) || isNews != news {
			t.Errorf("%s: %q are mute, news: %v; want %q, %v", why, got, isNews, mute, news)
		}
	}
	a.set(of("b", "c"))
	asker[addr(v4)] = unheard
	ask(auditFailures, "b")
	expect("never heard", false)
	asker[addr(v4)] = nil
	ask(1, "b")
	asker[addr(v4)] = unheard
	ask(auditFailures-1, "b")
	expect("not heard twice", false)
	asker[addr(v4)] = errors.New("no socket")
	ask(auditFailures, "b")
	expect("not asked", false)
	asker[addr(v4)] = unheard
	ask(1, "b")
	expect("not heard thrice", true, "b")
	ask(1, "c")
	expect("another is heard", false, "b")
	asker[addr(v4)] = nil
	ask(1, "b")
	expect("heard again", true)
	asker[addr(v4)] = unheard
	ask(auditFailures, "b")
	expect("not heard again", true, "b")
	a.set(of("c"))
	expect("not its stand-in any more", true)
	ask(auditFailures, "b")
	expect("asked for nothing", false)
	if _, remembers := a.failures["b"]; remembers {
		t.Error("remembers one that is not asked any more")
	}
	a.set(of("b", "c"))
	ask(auditFailures, "b")
	expect("another time, never heard", false)
	asker[addr(v4)] = nil
	ask(1, "b")
	asker[addr(v4)] = unheard
	ask(auditFailures-1, "b")
	expect("another time, not heard twice", false)
	if failures != 4*auditFailures+auditFailures-1 {
		t.Errorf("%d questions without an answer were counted", failures)
	}
}

// A speaker that others do not hear is unhealthy after a while, until they do.
func TestAccused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.join("b", nil)
		s.group.view.Settled = true
		s.start()
		accuse := func(mute ...string) {
			s.group.set(func(v *membership.View) { v.Member("b").Info.Mute = mute })
			s.idle()
		}
		accuse("a", "c")
		s.pass(accusedFor - 2*checkInterval)
		if err := s.health.Healthy(); err != nil {
			t.Errorf("accused for a moment: %v", err)
		}
		s.pass(20 * time.Second)
		if s.health.Healthy() == nil {
			t.Error("accused for long, and healthy")
		}
		accuse("c")
		s.pass(2 * checkInterval)
		if err := s.health.Healthy(); err != nil {
			t.Errorf("not accused any more: %v", err)
		}
	})
}
