package main

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus/testutil"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berth-lb/berth/api/v1beta1"
	"github.com/berth-lb/berth/internal/ether"
)

// What cannot be found out keeps no address from being announced.
// A router that answers for every address must not take the whole pool.
func TestProxyARP(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		d := s.detectors()
		var logged strings.Builder
		s.speaker.conflicts.logger = log.NewLogfmtLogger(&logged)
		s.objects.services, s.objects.slices = nil, nil
		s.objects.adverts[0].Spec.OnConflict = v1beta1.ConflictYield
		for i := range maxPerHost + 3 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
			d.hosts[a] = foreign
			s.objects.services = append(s.objects.services, loadBalancer(a.String(), a.String()))
			s.objects.slices = append(s.objects.slices, sliceOf(a.String(), a.String(), discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
		}
		other := addr("192.0.2.200")
		d.hosts[other] = ether.MAC{6, 0, 0, 0, 0, 2}
		s.objects.services = append(s.objects.services, loadBalancer("other", other.String()))
		s.objects.slices = append(s.objects.slices, sliceOf("other", "other", discoveryv1.AddressTypeIPv4, endpointIn("a", "ready")))
		s.objects.fill(t, s.cache)
		s.speaker.reporter.services = s.cache.Services
		s.group.view.Settled = true
		s.start()
		s.pass(detection)
		if len(s.l2.desired) != 3 || isIn(s.l2.desired, other) {
			t.Errorf("answers for %v, want all but the first %d that one host has, and the one of the other", s.l2.desired, maxPerHost)
		}
		for a := range s.l2.desired {
			s.writer.mu.Lock()
			said := string(s.writer.pending[writerKey(serviceKey{"default", a.String()})])
			s.writer.mu.Unlock()
			if !strings.Contains(said, `"status":"True"`) || !strings.Contains(said, "proxy ARP?") {
				t.Errorf("of %s it says %s", a, said)
			}
		}
		if n := strings.Count(logged.String(), "proxy ARP?"); n != 1 {
			t.Errorf("%d log lines tell of it, want one:\n%s", n, logged.String())
		}
		s.pass(checkInterval)
		if got := testutil.ToFloat64(s.speaker.metrics.proxyARP); got != 1 {
			t.Errorf("%v hosts are counted, want one", got)
		}
		s.pass(time.Hour)
		if len(s.l2.desired) != 3 {
			t.Errorf("an hour later it answers for %d addresses", len(s.l2.desired))
		}
		if got := testutil.ToFloat64(s.speaker.metrics.proxyARP); got != 1 {
			t.Errorf("an hour later %v hosts are counted, want one", got)
		}
		former := s.speaker.conflicts.report()
		again := newStage(t).speaker.conflicts
		again.recall(former)
		yielding := 0
		for _, k := range again.known {
			if k.yields {
				yielding++
			}
		}
		if want := len(former) - 3; yielding != want || len(again.proxies()) != 1 {
			t.Errorf("after a restart %d of %d addresses are left to others, want %d; %d hosts have all", yielding, len(former), want, len(again.proxies()))
		}
	})
}
