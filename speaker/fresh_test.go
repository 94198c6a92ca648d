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

	"github.com/berth-lb/berth/internal/bgp"
	"github.com/berth-lb/berth/internal/k8s"
	"github.com/berth-lb/berth/internal/membership"
)

// An address that a Service gets while the speaker runs is announced when kube-proxy
// has had time to write its rules; what was there before the speaker, at once.
func TestFirstUseWaitsForKubeProxy(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]time.Duration{"probing for hosts": detection, "not probing": proxySync} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				s.detectors()
				s.speaker.conflicts.probes = after == detection
				s.speaker.world.settle = proxySync
				s.group.view.Settled = true
				s.start()
				s.pass(detection)
				s.wantOwned(v4, v6)

				const late = "192.0.2.20"
				s.change(k8s.Key{Kind: k8s.KindEndpointSlice, Namespace: "default", Name: "late"}, func(o *apiObjects) {
					o.services = append(o.services, loadBalancer("late", late))
					o.slices = append(o.slices, sliceOf("late", "late", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
				})
				began := time.Now()
				s.change(k8s.Key{Kind: k8s.KindService, Namespace: "default", Name: "late"}, func(*apiObjects) {})
				said := func() string { return string(s.writer.pending[writerKey(serviceKey{"default", "late"})]) }
				if text := said(); !strings.Contains(text, reasonPreparing) || !strings.Contains(text, beingPrepared("a")) {
					t.Errorf("says %s", text)
				}
				s.pass(time.Until(began.Add(after - time.Millisecond)))
				s.wantOwned(v4, v6)
				s.idle()
				s.wantOwned(v4, late, v6)
				if text := said(); !strings.Contains(text, reasonAnnounced) {
					t.Errorf("says %s", text)
				}
			})
		})
	}
}

// Fresh are the addresses that a Service gets once everything was read, for a while.
func TestFreshAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		objects := &apiObjects{services: []*corev1.Service{loadBalancer("web", v4)}}
		w := newTestWorld(t, objects)
		w.settle = time.Second
		fresh := func(addresses ...string) map[netip.Addr]time.Duration {
			objects.services = []*corev1.Service{loadBalancer("web", addresses...)}
			objects.fill(t, w.cache)
			w.updateService(serviceKey{"default", "web"})
			left := map[netip.Addr]time.Duration{}
			for a, until := range w.services[serviceKey{"default", "web"}].fresh {
				left[a] = time.Until(until)
			}
			return left
		}
		for _, step := range []struct {
			addresses []string
			want      map[netip.Addr]time.Duration
		}{
			{[]string{v4}, map[netip.Addr]time.Duration{}},
			{[]string{v4, v6}, map[netip.Addr]time.Duration{addr(v6): time.Second}},
			{[]string{v6, "192.0.2.11"}, map[netip.Addr]time.Duration{addr(v6): 900 * time.Millisecond, addr("192.0.2.11"): time.Second}},
			{[]string{v4}, map[netip.Addr]time.Duration{addr(v4): time.Second}},
		} {
			if diff := cmp.Diff(step.want, fresh(step.addresses...), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("%q (-want +got):\n%s", step.addresses, diff)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// Routers are told when kube-proxy serves an address for any of its Services.
func TestRoutesWaitForKubeProxy(t *testing.T) {
	t.Parallel()
	f := newFabric(t, routedObjects(nil))
	const shared = "198.51.100.1"
	freshUntil := func(name string, until time.Time) {
		f.serve(name, shared, false, "a")
		f.world.services[serviceKey{"default", name}].fresh = map[netip.Addr]time.Time{addr(shared): until}
	}
	until := f.clock.Now().Add(time.Second)
	freshUntil("one", until)
	freshUntil("two", until.Add(time.Second))
	f.want("tor:")
	if !f.again.Equal(until) {
		t.Errorf("wants to be called at %v, want %v", f.again, until)
	}
	sessions := map[string][]string{"a": {toldOf(bgp.IPv4, "tor")}}
	if st := f.plan(sessions).describe(f.world.servicesInOrder()[0], "a", nil); st.announced || st.reason != reasonPreparing {
		t.Errorf("says %s %q", st.reason, st.message)
	}
	f.pass(time.Second)
	f.want("tor: 198.51.100.1/32")
	if st := f.plan(sessions).describe(f.world.servicesInOrder()[0], "a", nil); !st.announced {
		t.Errorf("says %s %q", st.reason, st.message)
	}
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
	st := s.planAs(four).describe(web, four, nil)
	if want := v6 + " is not announced: " + beingPrepared(six); st.reason != reasonPartly || !strings.HasSuffix(st.message, want) {
		t.Errorf("before the claim: says %s %q, want %q", st.reason, st.message, want)
	}
	if said := announcersIn(st.message, web.addresses); said[addr(v6)] != "" {
		t.Errorf("who reads %q takes %s for announced by %s", st.message, v6, said[addr(v6)])
	}
	s.claim(six, membership.Claim{Term: 1}, v6)
	if st = s.planAs(four).describe(web, four, nil); !st.announced {
		t.Errorf("after the claim: says %s %q", st.reason, st.message)
	}
	// Of two owners one after the other the former answers until the latter does.
	s.node(six).draining = true
	if st = s.planAs(four).describe(web, four, nil); !st.announced || strings.Contains(st.message, "from "+six) {
		t.Errorf("handing over: says %s %q", st.reason, st.message)
	}
}
