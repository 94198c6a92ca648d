package main

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/l2"
	"github.com/berth-lb/berth/internal/membership"
)

// An address that a Service gets while the speaker runs is announced when kube-proxy
// has had time to write its rules; what was there before the speaker, at once.
func TestFirstUseWaitsForKubeProxy(t *testing.T) {
	t.Parallel()
	const wait = 2 * detection
	for name, prepare := range map[string]func(s *stage, d *fakeDetector){
		"probing for hosts": func(*stage, *fakeDetector) {},
		"not probing":       func(s *stage, _ *fakeDetector) { s.speaker.conflicts.probes = false },
		"proxy ARP": func(s *stage, d *fakeDetector) {
			d.hosts[addr(lateAddress)] = foreign
			for i := range maxPerHost {
				s.speaker.conflicts.known[netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})] = &conflict{mac: foreign, ifname: "eth0", beforeUse: true, yields: true, checked: time.Now()}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				prepare(s, s.detectors())
				s.speaker.world.fresh.wait = wait
				s.group.view.Settled = true
				s.start()
				s.pass(detection)
				s.wantOwned(v4, v6)

				began := s.addLate()
				s.pass(soonPatience)
				s.wantLate(reasonPreparing, beingPrepared)
				s.pass(time.Until(began.Add(wait - time.Millisecond)))
				s.wantOwned(v4, v6)
				s.idle()
				s.wantOwned(v4, lateAddress, v6)
				s.wantLate(reasonAnnounced, lateAddress)
			})
		})
	}
}

const lateAddress = "192.0.2.20"

// addLate adds a Service "late" and returns when.
func (s *stage) addLate() time.Time {
	s.t.Helper()
	s.change(k8s.Key{Kind: k8s.KindEndpointSlice, Namespace: "default", Name: "late"}, func(o *apiObjects) {
		o.services = append(o.services, loadBalancer("late", lateAddress))
		o.slices = append(o.slices, sliceOf("late", "late", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
	})
	began := time.Now()
	s.change(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "late"}, func(*apiObjects) {})
	return began
}

func (s *stage) wantLate(parts ...string) {
	s.t.Helper()
	said := string(s.writer.pending[writerKey(serviceKey{"default", "late"})])
	for _, part := range parts {
		if !strings.Contains(said, part) {
			s.t.Errorf("says %s, want %q", said, part)
		}
	}
}

// That an address is about to be announced is not said where that is over at once.
func TestShortPreparationsAreNotTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.speaker.world.fresh.wait = soonPatience - 100*time.Millisecond
		s.group.view.Settled = true
		s.start()
		writes := s.writer.sets
		s.addLate()
		s.pass(time.Second)
		s.wantLate(reasonAnnounced)
		if n := s.writer.sets - writes; n != 1 {
			t.Errorf("%d writes, want one", n)
		}
	})
}

// Fresh are addresses that come to their first Service, but for what was there from
// the beginning and what a Service soon has back.
func TestFreshness(t *testing.T) {
	t.Parallel()
	const wait = 3 * time.Second
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type move struct {
		at            time.Duration
		service       string
		before, after []string
		beginning     bool
		unserved      bool
	}
	for name, test := range map[string]struct {
		moves []move
		at    time.Duration
		want  map[string]time.Duration
	}{
		"beginning":    {[]move{{service: "web", after: []string{v4}, beginning: true}}, 0, nil},
		"new":          {[]move{{service: "web", after: []string{v4, v6}}}, 0, map[string]time.Duration{v4: wait, v6: wait}},
		"unserved":     {[]move{{service: "web", after: []string{v4}, unserved: true}}, 0, nil},
		"served later": {[]move{{service: "web", after: []string{v4}, unserved: true}, {100, "web", []string{v4}, []string{v4}, false, false}}, 100, map[string]time.Duration{v4: wait + 100}},
		"unserved and soon back": {[]move{
			{service: "web", after: []string{v4}, unserved: true}, {100, "web", []string{v4}, nil, false, true}, {200, "web", nil, []string{v4}, false, false},
		}, 200, map[string]time.Duration{v4: wait + 200}},
		"served, and not, and again": {[]move{
			{service: "web", after: []string{v4}, beginning: true}, {100, "web", []string{v4}, []string{v4}, false, true}, {200, "web", []string{v4}, []string{v4}, false, false},
		}, 200, nil},
		"over":                    {[]move{{service: "web", after: []string{v4}}}, wait, nil},
		"another address":         {[]move{{service: "web", after: []string{v4}, beginning: true}, {100, "web", []string{v4}, []string{v4, v6}, false, false}}, 100, map[string]time.Duration{v6: wait + 100}},
		"joins another":           {[]move{{service: "web", after: []string{v4}, beginning: true}, {100, "api", nil, []string{v4}, false, false}}, 100, nil},
		"joins, the other leaves": {[]move{{service: "web", after: []string{v4}, beginning: true}, {100, "api", nil, []string{v4}, false, false}, {200, "web", []string{v4}, nil, false, false}}, 200, nil},
		"joins what is fresh":     {[]move{{service: "web", after: []string{v4}}, {100, "api", nil, []string{v4}, false, false}}, 100, map[string]time.Duration{v4: wait}},
		"soon back":               {[]move{{service: "web", after: []string{v4}, beginning: true}, {100, "web", []string{v4}, []string{v6}, false, false}, {200, "web", []string{v6}, []string{v4}, false, false}}, 200, map[string]time.Duration{v6: wait + 100}},
		"fresh and soon back":     {[]move{{service: "web", after: []string{v4}}, {100, "web", []string{v4}, nil, false, false}, {200, "web", nil, []string{v4}, false, false}}, 200, map[string]time.Duration{v4: wait}},
		"back after long":         {[]move{{service: "web", after: []string{v4}, beginning: true}, {100, "web", []string{v4}, nil, false, false}, {100 + overwritten, "web", nil, []string{v4}, false, false}}, 100 + overwritten, map[string]time.Duration{v4: wait + overwritten + 100}},
		"given to another":        {[]move{{service: "web", after: []string{v4}, beginning: true}, {100, "web", []string{v4}, nil, false, false}, {200, "api", nil, []string{v4}, false, false}}, 200, map[string]time.Duration{v4: wait + 200}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFreshness()
			f.wait = wait
			parse := func(texts []string) (all []netip.Addr) {
				for _, text := range texts {
					all = append(all, addr(text))
				}
				return all
			}
			for _, m := range test.moves {
				f.move(types.UID(m.service), parse(m.before), parse(m.after), start.Add(m.at), m.beginning)
				f.serve(&service{addresses: parse(m.after), backends: [families]*backends{{anywhere: !m.unserved}, {anywhere: !m.unserved}}}, start.Add(m.at))
			}
			var got map[string]time.Duration
			for a, until := range f.at(start.Add(test.at)) {
				if got == nil {
					got = map[string]time.Duration{}
				}
				got[a.String()] = until.Sub(start)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("fresh (-want +got):\n%s", diff)
			}
			if f.at(start.Add(10 * wait)); len(f.until)+len(f.left) > 0 {
				t.Errorf("remembers %v and %v for ever", f.until, f.left)
			}
		})
	}
}

// Routers are told when kube-proxy serves an address, and what they are told is not
// taken back because it may not serve all of its Services.
func TestRoutesWaitForKubeProxy(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	const a = "198.51.100.1"
	f.serve("web", a, false, "a")
	until := f.clock.Now().Add(time.Second)
	f.world.fresh.until[addr(a)] = until
	f.want("tor:")
	if !f.again.Equal(until) {
		t.Errorf("wants to be called at %v, want %v", f.again, until)
	}
	wantSaid := func(reason string) {
		t.Helper()
		st := f.plan(map[string][]string{"a": {toldOf(bgp.IPv4, "tor")}}).describe(f.world.servicesInOrder()[0], "a", nil)
		if st.reason != reason || st.soon != (reason == reasonPreparing) {
			t.Errorf("says %s %q, want %s", st.reason, st.message, reason)
		}
	}
	wantSaid(reasonPreparing)
	f.pass(time.Second)
	f.want("tor: " + a + "/32")
	wantSaid(reasonAnnounced)
	f.world.fresh.until[addr(a)] = f.clock.Now().Add(time.Second)
	f.want("tor: " + a + "/32")
}

// That another node announces an address for the first time is said once it has said
// so itself: it may still find another host there, and by what the condition says
// of it a speaker knows that it need not look.
func TestNobodySpeaksForAFirstOwner(t *testing.T) {
	t.Parallel()
	s := newScene()
	web := s.get("web")
	p := s.planAs("a")
	four, six := p.ownerOf(p.placements[addr(v4)]), p.ownerOf(p.placements[addr(v6)])
	if four == six {
		t.Fatalf("%s owns both addresses", four)
	}
	describe := func() statement { return s.planAs(four).describe(web, four, nil) }
	st := describe()
	if want := v6 + " is not announced: " + beingPrepared; st.reason != reasonPartly || !strings.HasSuffix(st.message, want) {
		t.Errorf("before the claim: says %s %q, want %q", st.reason, st.message, want)
	}
	if said := announcersIn(st.message, web.addresses); said[addr(v6)] != "" {
		t.Errorf("who reads %q takes %s for announced by %s", st.message, v6, said[addr(v6)])
	}
	// What it said before all were restarted stays, for it goes by that.
	web.announcers = map[netip.Addr]string{addr(v6): six}
	if st = describe(); !st.announced {
		t.Errorf("after a restart: says %s %q", st.reason, st.message)
	}
	web.announcers = nil
	s.claim(six, membership.Claim{Term: 1}, v6)
	if st = describe(); !st.announced {
		t.Errorf("after the claim: says %s %q", st.reason, st.message)
	}
	// Of two owners one after the other the former answers until the latter does.
	s.node(six).draining = true
	if st = describe(); !st.announced || strings.Contains(st.message, "from "+six) {
		t.Errorf("handing over: says %s %q", st.reason, st.message)
	}
}

// A speaker that waits for the others to come up says nothing of what it would
// announce alone: whoever announced it before goes by what the condition says.
func TestNothingIsSaidWhileForming(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.group.view.Settled, s.group.view.Known = true, 2
		s.start()
		s.wantOwned()
		if said := s.says(); said != "" {
			t.Errorf("says %s", said)
		}
		s.pass(formingPatience)
		s.wantOwned(v4, v6)
		s.wantSaid(reasonAnnounced)
	})
}

// A node that hears nobody on its network takes nothing, and says so when that lasts.
func TestIsolatedOwnerIsTold(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.get("web").addresses = d.get("web").addresses[:1]
	owner := d.owner(v4)
	d.round("a", "b", "c")
	d.claimed, d.held = map[string]map[netip.Addr]membership.Claim{}, map[string]l2.Desired{}
	d.standing.isolated = true
	if writes := d.round(owner); writes != 0 {
		t.Errorf("%d writes at once", writes)
	}
	d.want("web", metav1.ConditionTrue, reasonAnnounced, v4+" by ARP from "+owner+" (eth0)")
	d.clock.SetTime(d.clock.Now().Add(hesitantPatience))
	d.round(owner)
	d.want("web", metav1.ConditionFalse, reasonFailing, v4+" is not announced: "+hesitating)
}

// A Service that is deleted and created again has to be served anew.
func TestRecreatedServiceIsFresh(t *testing.T) {
	t.Parallel()
	objects := &apiObjects{
		services: []*corev1.Service{loadBalancer("web", v4)},
		slices:   []*discoveryv1.EndpointSlice{sliceOf("web", "web", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready"))},
	}
	w := newTestWorld(t, objects)
	w.fresh.wait = time.Minute
	for _, uid := range []types.UID{"one", "two"} {
		again := loadBalancer("web", v4)
		again.UID = uid
		objects.services = []*corev1.Service{again}
		objects.fill(t, w.cache)
		w.updateService(serviceKey{"default", "web"})
		if _, fresh := w.fresh.at(time.Now())[addr(v4)]; !fresh {
			t.Errorf("%s: not fresh", uid)
		}
		clear(w.fresh.until)
	}
}

// What serves an address first may come after it.
func TestFreshWhenServed(t *testing.T) {
	t.Parallel()
	objects := &apiObjects{services: []*corev1.Service{loadBalancer("web")}}
	w := newTestWorld(t, objects)
	w.fresh.wait = time.Minute
	objects.services = []*corev1.Service{loadBalancer("web", v4)}
	objects.fill(t, w.cache)
	w.updateService(serviceKey{"default", "web"})
	if fresh := w.fresh.at(time.Now()); len(fresh) > 0 {
		t.Errorf("fresh though nothing serves it: %v", fresh)
	}
	objects.slices = []*discoveryv1.EndpointSlice{sliceOf("web", "web", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready"))}
	objects.fill(t, w.cache)
	w.updateSlice("default", "web")
	if _, fresh := w.fresh.at(time.Now())[addr(v4)]; !fresh {
		t.Error("not fresh when it comes to be served")
	}
}
