package membership

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what this package counts.
type Metrics struct {
	members      prometheus.Gauge
	settled      prometheus.Gauge
	transitions  *prometheus.CounterVec
	joins        *prometheus.CounterVec
	decodeErrors prometheus.Counter
	keyRefused   prometheus.Counter
	gone         prometheus.Gauge
	claims       prometheus.Gauge
	verdicts     *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them; it panics if they are registered already, as MustRegister does.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		members: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_membership_members",
			Help: "Living speakers as this one sees them, itself included.",
		}),
		settled: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_membership_settled",
			Help: "1 if this speaker has spoken with every speaker it knows of, or found that it does not answer.",
		}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_membership_transitions_total",
			Help: "Other speakers that joined, left on purpose, or failed.",
		}, []string{"event"}),
		joins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_membership_joins_total",
			Help: "Attempts to exchange state with a speaker that was not a member.",
		}, []string{"result"}),
		decodeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_membership_decode_errors_total",
			Help: "Messages of other speakers that could not be read, or not wholly.",
		}),
		keyRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_membership_refused_total",
			Help: "Packets and connections refused because they were not encrypted with this speaker's key.",
		}),
		gone: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_membership_gone",
			Help: "Speakers that failed or left in the last ten minutes and have not come back.",
		}),
		claims: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_membership_claims",
			Help: "Addresses that the living speakers claim, this one included, each once for every speaker that claims it.",
		}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_membership_verdicts_total",
			Help: "Findings about silent or vanished speakers that were sent, received, or dropped because nobody read them.",
		}, []string{"event"}),
	}
	reg.MustRegister(m.members, m.settled, m.transitions, m.joins, m.decodeErrors, m.keyRefused, m.gone, m.claims, m.verdicts)
	for _, event := range []string{"sent", "received", "dropped"} {
		m.verdicts.WithLabelValues(event)
	}
	for _, event := range []string{"joined", "left", "failed"} {
		m.transitions.WithLabelValues(event)
	}
	for _, result := range []string{"ok", "failed"} {
		m.joins.WithLabelValues(result)
	}
	return m
}

func (m *Metrics) observe(v *View) {
	m.members.Set(float64(len(v.Members)))
	m.gone.Set(float64(len(v.Gone)))
	claims := 0
	for i := range v.Members {
		claims += v.Members[i].Claims.Len()
	}
	m.claims.Set(float64(claims))
	m.settled.Set(0)
	if v.Settled {
		m.settled.Set(1)
	}
}
