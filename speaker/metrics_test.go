package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetricsOfAPlan(t *testing.T) {
	t.Parallel()
	addr := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }
	reg := prometheus.NewRegistry()
	newMetrics(reg).observe(&plan{
		placements: map[netip.Addr]*placement{
			addr(1): {outcome: announced}, addr(2): {outcome: noNode}, addr(3): {outcome: noEndpoints}, addr(4): {outcome: notAdvertised},
			addr(5): {outcome: announced},
		},
		late:      map[netip.Addr]bool{addr(5): true},
		contested: map[netip.Addr]bool{addr(1): true},
	}, &conflicts{known: map[netip.Addr]*conflict{addr(6): {yields: true}, addr(7): {}, addr(8): {}}})
	const want = `
# HELP berth_speaker_address_conflicts Addresses that a foreign host on the network has, by whether this node answers for them all the same (defended) or leaves them to it (yielded).
# TYPE berth_speaker_address_conflicts gauge
berth_speaker_address_conflicts{state="defended"} 2
berth_speaker_address_conflicts{state="yielded"} 1
# HELP berth_speaker_addresses_contested Addresses of this node that another living speaker claims too.
# TYPE berth_speaker_addresses_contested gauge
berth_speaker_addresses_contested 1
# HELP berth_speaker_addresses_without_owner Addresses with endpoints, selected by an L2Advertisement, that no node answers for: none is eligible, or the one that is has not taken them.
# TYPE berth_speaker_addresses_without_owner gauge
berth_speaker_addresses_without_owner 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "berth_speaker_address_conflicts",
		"berth_speaker_addresses_contested", "berth_speaker_addresses_without_owner"); err != nil {
		t.Error(err)
	}
}
