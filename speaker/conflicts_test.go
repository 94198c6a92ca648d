package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ether"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

// detection is how long a detector takes to find out about an address.
const detection = 2 * time.Second

var foreign = ether.MAC{6, 0, 0, 0, 0, 1}

// fakeDetector finds the hosts that the test puts on the network.
type fakeDetector struct {
	mu        sync.Mutex
	hosts     map[netip.Addr]ether.MAC
	err       error
	asked     []string
	disregard []ether.MAC
}

func (d *fakeDetector) Detect(ctx context.Context, ifname string, addr netip.Addr, disregard ...ether.MAC) (ether.MAC, bool, error) {
	if !sleep(ctx, detection) {
		return ether.MAC{}, false, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked, d.disregard = append(d.asked, addr.String()+" on "+ifname), disregard
	mac, found := d.hosts[addr]
	return mac, found && !slices.Contains(disregard, mac), d.err
}

// questions returns what was asked since the last look, in any order.
func (d *fakeDetector) questions() []string {
	asked := slices.Sorted(slices.Values(d.asked))
	d.asked = nil
	return asked
}

// detectors gives a stage one that has not started a detector.
func (s *stage) detectors() *fakeDetector {
	d := &fakeDetector{hosts: map[netip.Addr]ether.MAC{}}
	s.speaker.conflicts = newConflicts(d, nil, true, log.NewNopLogger())
	return d
}

// says returns what the condition of default/web was last made to say.
func (s *stage) says() string {
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	return string(s.writer.pending[writerKey(serviceKey{"default", "web"})])
}

func (s *stage) wantSaid(parts ...string) {
	s.t.Helper()
	said := s.says()
	for _, part := range parts {
		if !strings.Contains(said, part) {
			s.t.Errorf("says %s, want %q", said, part)
		}
	}
}

// wantConflicts compares what the NodeState says, each "address MAC interface" and
// then "before use".
func (s *stage) wantConflicts(want ...string) {
	s.t.Helper()
	s.pass(checkInterval)
	var got []string
	for _, c := range s.speaker.nodeState.last().AddressConflicts {
		text := fmt.Sprintf("%s %s %s", c.Address, c.MAC, c.Interface)
		if c.BeforeUse {
			text += " before use"
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("conflicts are %q, want %q", got, want)
	}
}

// hear has another station speak for an address.
func (s *stage) hear(a string, mac ether.MAC) {
	s.l2.rivals <- l2.Rival{Addr: addr(a), Interface: "eth0", MAC: mac, At: time.Now()}
	s.idle()
}

func TestFirstUseWaitsForAnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		s.group.view.Settled = true
		s.group.view.Former = membership.NewClaims(claims{addr(v6): {Term: 1}})
		s.start()
		s.wantOwned(v6) // it was its own already
		s.wantClaims(claims{addr(v6): {Term: 1}})
		s.pass(soonPatience)
		s.wantSaid(`"reason":"PartlyAnnounced"`, v4+" is not announced: "+beingPrepared)
		s.pass(detection)
		s.wantOwned(v4, v6)
		s.wantClaims(claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
		s.wantSaid(`"reason":"Announced"`)
		s.pass(time.Hour)
		if got := d.questions(); !slices.Equal(got, []string{v4 + " on eth0"}) {
			t.Errorf("asked for %q", got)
		}
		if want := []ether.MAC{{2, 0, 0, 0, 0, 1}}; !slices.Equal(d.disregard, want) {
			t.Errorf("disregards %v, want %v", d.disregard, want)
		}
		s.wantConflicts()
	})
}

// An address that another host has is not announced, and the controller is told for
// as long as the host is there, be the Service gone.
func TestFirstUseFindsAHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		d.hosts[addr(v4)] = foreign
		s.group.view.Settled = true
		s.start()
		s.pass(detection)
		s.wantOwned(v6)
		s.wantClaims(claims{addr(v6): {Term: 1}})
		s.wantSaid(`"reason":"PartlyAnnounced"`, v4+" is not announced: another host has it ("+foreign.String()+" on eth0 of node a)")
		s.wantConflicts(v4 + " " + foreign.String() + " eth0 before use")

		kept := s.objects.services
		s.change(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "web"}, func(o *apiObjects) { o.services = nil })
		s.wantOwned()
		s.pass(10 * conflictRecheck)
		s.wantConflicts(v4 + " " + foreign.String() + " eth0 before use")
		d.mu.Lock()
		clear(d.hosts)
		d.mu.Unlock()
		s.pass(conflictRecheck + detection)
		s.wantConflicts()
		d.questions()
		s.pass(time.Hour)
		if got := d.questions(); len(got) != 0 {
			t.Errorf("asks for %q for ever", got)
		}

		s.change(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "web"}, func(o *apiObjects) { o.services = kept })
		s.wantOwned() // it asks anew
		s.pass(detection)
		s.wantOwned(v4, v6)
	})
}

// Of all addresses of a Service none is announced because others have them.
func TestAllAddressesConflict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		d.hosts[addr(v4)], d.hosts[addr(v6)] = foreign, foreign
		s.group.view.Settled = true
		s.start()
		s.pass(soonPatience)
		s.wantSaid(`"reason":"Preparing"`)
		s.pass(detection)
		s.wantSaid(`"reason":"AddressConflict"`)
		d.mu.Lock()
		clear(d.hosts)
		d.mu.Unlock()
		s.pass(conflictRecheck + detection)
		s.wantSaid(`"reason":"Announced"`)
		s.wantOwned(v4, v6)
	})
}

func TestFirstUseUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		d.err = errors.New("no raw sockets for you")
		var logged strings.Builder
		s.speaker.conflicts.logger = log.NewLogfmtLogger(&logged)
		s.group.view.Settled = true
		s.start()
		s.pass(detection)
		s.wantOwned(v4, v6)
		s.pass(time.Hour)
		if got := d.questions(); len(got) != 2 {
			t.Errorf("asked for %q", got)
		}
		if n := strings.Count(logged.String(), "level=warn"); n != 2 || !strings.Contains(logged.String(), "no raw sockets for you") {
			t.Errorf("logged %d warnings: %s", n, logged.String())
		}
	})
}

// Who does not own an address any more by the time it has found out says nothing.
func TestFirstUseOvertaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		s.group.view.Settled = true
		s.start()
		s.join("b", nil)
		s.claimAs("b", claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
		d.mu.Lock()
		d.hosts[addr(v4)] = foreign
		d.mu.Unlock()
		s.pass(detection)
		s.wantOwned()
		s.wantClaims(claims{})
		s.claimAs("b", claims{addr(v6): {Term: 1}}) // b has found it as well
		s.wantOwned()
	})
}

// Without a look before the first use, an address is given up all the same to who
// comes later.
func TestWithoutProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		s.speaker.conflicts.probes = false
		s.group.view.Settled = true
		s.objects.adverts[0].Spec.OnConflict = v1beta1.ConflictYield
		s.start()
		s.wantOwned(v4, v6)
		if got := d.questions(); len(got) > 0 {
			t.Errorf("looked for %q", got)
		}
		s.hear(v4, foreign)
		s.wantOwned(v6)
		s.pass(2 * conflictRecheck) // nobody has it
		s.wantOwned(v4, v6)
	})
}

// A speaker that is restarted knows what its former process told, and asks anew.
func TestRecallsConflicts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.objects.adverts[0].Spec.OnConflict = v1beta1.ConflictYield
		s.objects.fill(t, s.cache)
		d := s.detectors()
		d.hosts[addr(v4)], d.hosts[addr("192.0.2.77")], d.hosts[addr(v6)] = foreign, foreign, foreign
		long := metav1.NewTime(time.Now().Add(-time.Hour))
		s.speaker.recallsFrom = func(context.Context) ([]v1beta1.AddressConflict, error) {
			return []v1beta1.AddressConflict{
				{Address: "192.0.2.77", MAC: foreign.String(), Interface: "eth0", Since: long, LastSeen: long, BeforeUse: true}, // no Service has it any more
				{Address: "192.0.2.78", MAC: foreign.String(), Interface: "eth0", Since: long, LastSeen: long, BeforeUse: true}, // nor that host
				{Address: v4, MAC: foreign.String(), Interface: "eth0", Since: long, LastSeen: long},
				{Address: "none"},
			}, nil
		}
		s.group.view.Former = membership.NewClaims(claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
		s.start()
		s.settle()
		s.wantOwned(v6)
		s.wantConflicts(v4+" "+foreign.String()+" eth0", "192.0.2.77 "+foreign.String()+" eth0 before use",
			"192.0.2.78 "+foreign.String()+" eth0 before use")
		s.pass(detection)
		s.wantOwned(v6)
		s.wantConflicts(v4+" "+foreign.String()+" eth0", "192.0.2.77 "+foreign.String()+" eth0 before use")
		d.mu.Lock()
		clear(d.hosts)
		d.mu.Unlock()
		s.pass(conflictRecheck + detection)
		s.wantConflicts()
		s.wantOwned(v4, v6)
	})
}

// Speakers settle among themselves who has an address.
func TestRivalSpeaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.join("b", nil)
		s.join("c", nil)
		s.group.view.Settled = true
		s.group.view.Former = membership.NewClaims(claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
		gone := membership.Gone{Member: *s.group.view.Member("c")}
		s.group.view.Members, s.group.view.Gone = s.group.view.Members[:2], []membership.Gone{gone}
		s.start()
		s.group.met = nil
		s.hear(v4, ether.MAC{2, 0, 0, 0, 0xb, 'b'})
		s.hear(v4, ether.MAC{2, 0, 0, 0, 0xb, 'c'})
		s.hear("192.0.2.99", foreign) // not this node's
		if want := []string{"b", "c"}; !slices.Equal(s.group.met, want) {
			t.Errorf("met %q, want %q", s.group.met, want)
		}
		s.wantAnnounced(v4) // so that c hears it, which the membership has lost
		s.wantConflicts()
	})
}

// RFC 5227 section 2.4: a defence is one announcement, and no more in ten seconds.
func TestDefends(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled = true
		s.detectors()
		s.start()
		s.pass(detection)
		s.hear(v4, foreign)
		s.wantAnnounced(v4)
		s.wantConflicts(v4 + " " + foreign.String() + " eth0")
		for range 7 {
			s.hear(v4, foreign)
			s.pass(time.Second)
		}
		s.wantAnnounced()
		s.pass(2 * time.Second)
		s.hear(v4, foreign)
		s.wantAnnounced(v4)
		s.wantOwned(v4, v6)
		s.pass(conflictMemory - 2*time.Second)
		s.wantConflicts(v4 + " " + foreign.String() + " eth0")
		s.pass(2 * time.Second)
		s.wantConflicts()
		s.wantOwned(v4, v6)
	})
}

func TestYields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		s.group.view.Settled = true
		s.objects.adverts[0].Spec.OnConflict = v1beta1.ConflictYield
		s.objects.fill(t, s.cache)
		s.start()
		s.pass(detection)
		d.questions()
		d.mu.Lock()
		d.hosts[addr(v4)] = foreign
		d.mu.Unlock()
		s.hear(v4, foreign)
		s.wantOwned(v6)
		s.wantAnnounced()
		s.wantClaims(claims{addr(v4): {Term: 1, To: "a"}, addr(v6): {Term: 1}}) // so that nobody else takes it
		s.wantSaid(`"reason":"PartlyAnnounced"`, v4+" is not announced: another host has it")
		s.wantConflicts(v4 + " " + foreign.String() + " eth0")
		s.pass(10 * conflictRecheck)
		s.wantOwned(v6)
		if got := d.questions(); len(got) < 8 || len(got) > 10 {
			t.Errorf("looked %d times whether the address is free", len(got))
		}
		s.group.set(func(v *membership.View) { v.Settled = false })
		s.idle()
		s.settle()
		s.wantOwned(v6)
		d.mu.Lock()
		clear(d.hosts)
		d.mu.Unlock()
		s.pass(conflictRecheck + detection)
		s.wantOwned(v4, v6)
		s.wantConflicts()
		s.wantSaid(`"reason":"Announced"`)
		d.questions()
		s.pass(time.Hour)
		if got := d.questions(); len(got) != 0 {
			t.Errorf("asks for %q for ever", got)
		}
	})
}

// What a user asks for counts also while a conflict lasts.
func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		s.group.view.Settled = true
		s.start()
		s.pass(detection)
		d.mu.Lock()
		d.hosts[addr(v4)] = foreign
		d.mu.Unlock()
		s.hear(v4, foreign)
		s.wantAnnounced(v4)
		policy := func(p v1beta1.ConflictPolicy) {
			s.change(k8s.Key{Kind: k8s.KindL2Advertisement, Name: "all"}, func(o *apiObjects) { o.adverts[0].Spec.OnConflict = p })
		}
		policy(v1beta1.ConflictYield)
		s.wantOwned(v6)
		policy(v1beta1.ConflictDefend)
		s.wantOwned(v4, v6)
		s.pass(defendInterval)
		s.hear(v4, foreign)
		s.wantAnnounced(v4)
	})
}

// A node that has given an address up does not look after its conflict any more,
// nor does it find one that was never before the first use.
func TestConflictMovesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		s.join("b", nil)
		s.group.view.Settled = true
		s.group.view.Former = membership.NewClaims(claims{addr(v4): {Term: 1}, addr(v6): {Term: 1}})
		s.objects.adverts[0].Spec.OnConflict = v1beta1.ConflictYield
		s.objects.fill(t, s.cache)
		s.start()
		d.hosts[addr(v4)] = foreign
		s.hear(v4, foreign)
		s.wantOwned(v6)
		s.pass(conflictRecheck - 50*time.Millisecond + time.Second) // it is being looked for
		s.claimAs("b", claims{addr(v4): {Term: 2}})
		s.pass(detection)
		s.wantConflicts()
	})
}
