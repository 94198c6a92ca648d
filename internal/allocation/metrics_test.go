package allocation

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/berth-lb/berth/internal/config"
	"github.com/berth-lb/berth/internal/k8s"
)

func TestMetricsOfObjects(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	expect := func(when string, series ...string) {
		t.Helper()
		want := ""
		if len(series) > 0 {
			want = "# HELP berth_config_object_accepted 1 if the custom resource is in force, 0 if it was rejected; its condition Accepted says why.\n" +
				"# TYPE berth_config_object_accepted gauge\n" + strings.Join(series, "\n") + "\n"
		}
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "berth_config_object_accepted"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	expect("at the start")
	m.judge(map[k8s.Kind]map[string]config.Verdict{
		k8s.KindIPAddressPool: {"good": {Accepted: true}, "bad": {}},
		k8s.KindBGPPeer:       {"good": {Accepted: true}},
	})
	expect("with three objects",
		`berth_config_object_accepted{kind="BGPPeer",name="good"} 1`,
		`berth_config_object_accepted{kind="IPAddressPool",name="bad"} 0`,
		`berth_config_object_accepted{kind="IPAddressPool",name="good"} 1`)
	m.judge(map[k8s.Kind]map[string]config.Verdict{
		k8s.KindIPAddressPool: {"bad": {Accepted: true}},
		k8s.KindBGPPeer:       {"good": {}},
	})
	expect("when one is gone and two have changed",
		`berth_config_object_accepted{kind="BGPPeer",name="good"} 0`,
		`berth_config_object_accepted{kind="IPAddressPool",name="bad"} 1`)
	m.StepDown()
	expect("without the lead")
	m.judge(map[k8s.Kind]map[string]config.Verdict{k8s.KindBGPPeer: {"good": {}}})
	expect("with the lead again", `berth_config_object_accepted{kind="BGPPeer",name="good"} 0`)
}

// What a standby exposes must not be added to what the leader does.
func TestStandbyCountsNothing(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.leader.Set(1)
	m.waiting.Set(3)
	m.addresses.WithLabelValues("default", "ipv4", "available").Set(7)
	m.pools = map[poolFamily]bool{{pool: "default"}: true}
	m.StepDown()
	const want = `
# HELP berth_controller_leader 1 if this controller leads, 0 if it stands by.
# TYPE berth_controller_leader gauge
berth_controller_leader 0
# HELP berth_services_waiting Services that lack an address that they ask for.
# TYPE berth_services_waiting gauge
berth_services_waiting 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "berth_controller_leader", "berth_services_waiting", "berth_pool_addresses"); err != nil {
		t.Error(err)
	}
}
