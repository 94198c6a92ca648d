package metricspage

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
)

// pair is a collector of its own kind.
type pair struct{ packets, sessions *prometheus.Desc }

func (p pair) Describe(ch chan<- *prometheus.Desc) {
	ch <- p.packets
	ch <- p.sessions
}

func (pair) Collect(chan<- prometheus.Metric) {}

func registerAll(reg prometheus.Registerer) {
	reg.MustRegister(
		prometheus.NewCounter(prometheus.CounterOpts{Name: "berth_plans_total", Help: "Plans made."}),
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_sent_bytes_total", Help: `Bytes "sent" | by C:\.`}, []string{"peer", "direction"}),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "berth_seen_timestamp_seconds", Help: "When it was seen."}),
		prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "berth_addresses", Help: "Addresses."}, []string{"pool"}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "berth_full_ratio", Help: "How full."}, func() float64 { return 1 }),
		prometheus.NewHistogram(prometheus.HistogramOpts{Name: "berth_plan_duration_seconds", Help: "How long."}),
		prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "berth_write_duration_seconds", Help: "How long."}, []string{"kind"}),
		pair{
			packets:  prometheus.NewDesc("berth_packets_total", "Packets.", []string{"peer"}, nil),
			sessions: prometheus.NewDesc("berth_sessions", "Sessions.", nil, nil),
		},
	)
}

func TestCommand(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	root := &cobra.Command{Use: "speaker"}
	root.AddCommand(Command(registerAll))
	root.SetArgs([]string{"metrics"})
	root.SetOut(&out)
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	want := `
## Of the speaker

| metric | type | labels | unit | meaning |
|---|---|---|---|---|
` + "| `berth_addresses` | gauge | `pool` |  | Addresses. |\n" +
		"| `berth_full_ratio` | gauge |  | ratio | How full. |\n" +
		"| `berth_packets_total` | counter | `peer` |  | Packets. |\n" +
		"| `berth_plan_duration_seconds` | histogram |  | seconds | How long. |\n" +
		"| `berth_plans_total` | counter |  |  | Plans made. |\n" +
		"| `berth_seen_timestamp_seconds` | gauge |  | seconds since 1970 | When it was seen. |\n" +
		"| `berth_sent_bytes_total` | counter | `peer`, `direction` | bytes | Bytes \"sent\" \\| by C:\\. |\n" +
		"| `berth_sessions` | gauge |  |  | Sessions. |\n" +
		"| `berth_write_duration_seconds` | histogram | `kind` | seconds | How long. |\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRegisteredTwice(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("two metrics have the same name")
		}
	}()
	r := &recorder{registry: prometheus.NewRegistry()}
	registerAll(r)
	registerAll(r)
}
